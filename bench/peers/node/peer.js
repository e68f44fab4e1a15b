/*
 * The order flow on Fastify, node-postgres and amqplib, written for speed.
 *
 * An order is pending first; billing takes its money once, asked by an RPC over RabbitMQ; its status and its event are
 * committed by one statement; the event is published with a confirm, then marked; then the client is answered. Letters
 * are deduplicated, then acknowledged.
 *
 * One role a process:  ROLE=orders|billing|notifications PORT=... DSN_BASE=... AMQP_URI=... node peer.js
 * DSN_BASE is the URL of PostgreSQL up to the name of a database; these are node_orders and so on.
 *
 * It listens once all else is ready, and ends when it loses the broker: whatever has started it starts it again.
 */
import { randomUUID } from 'node:crypto'
import amqp from 'amqplib'
import Fastify from 'fastify'
import pg from 'pg'

const { ROLE, DSN_BASE, AMQP_URI, PORT } = process.env
const POOL = Number(process.env.POOL ?? 20)
const RPC_MS = 5000
const QUEUE = { billing: 'node.billing', notifications: 'node.notifications' }
const EVENTS = 'node.events'
const REPLIES = 'amq.rabbitmq.reply-to' // RabbitMQ's direct reply-to: answers need no queue

const SCHEMA = {
  orders: `
    create table if not exists orders(id uuid primary key, user_id uuid not null, price bigint not null,
        status text not null, created_at timestamptz not null default now());
    create table if not exists outbox(id uuid primary key, topic text not null, body jsonb not null,
        published_at timestamptz);`,
  billing: `
    create table if not exists accounts(user_id uuid primary key, balance bigint not null check (balance >= 0));
    create table if not exists entries(operation_id uuid primary key, user_id uuid not null,
        amount bigint not null, outcome text not null, created_at timestamptz not null default now());`,
  notifications: `
    create table if not exists letters(event_id uuid primary key, user_id uuid not null, order_id uuid not null,
        kind text not null, created_at timestamptz not null default now());
    create index if not exists letters_user on letters(user_id, created_at);`
}

// Each is prepared once on a connection, by its name, and is a transaction by itself.
const SQL = {
  place: "insert into orders(id, user_id, price, status) values ($1, $2, $3, 'pending')",
  finish: `with done as (update orders set status = $2 where id = $1)
           insert into outbox(id, topic, body) values ($3, $4, $5)`,
  mark: 'update outbox set published_at = now() where id = $1',
  withdraw: `
    with seen as (select outcome from entries where operation_id = $1),
    taken as (update accounts set balance = balance - $3 where user_id = $2 and balance >= $3
              and not exists (select from seen) returning user_id),
    noted as (insert into entries(operation_id, user_id, amount, outcome)
              select $1, $2, case when exists (select from taken) then -$3::bigint else 0 end,
                     case when exists (select from taken) then 'paid' else 'rejected' end
              where not exists (select from seen) returning outcome)
    select outcome from seen union all select outcome from noted`,
  open: 'insert into accounts values ($1, 0) on conflict do nothing',
  deposit: 'update accounts set balance = balance + $2 where user_id = $1 returning balance',
  send: 'insert into letters(event_id, user_id, order_id, kind) values ($1, $2, $3, $4) on conflict do nothing',
  letters: 'select order_id, kind from letters where user_id = $1 order by created_at limit 50'
}

pg.types.setTypeParser(pg.types.builtins.INT8, Number)
const pool = new pg.Pool({ connectionString: `${DSN_BASE}node_${ROLE}`, max: POOL, min: POOL, idleTimeoutMillis: 0 })
const db = async (name, ...values) => (await pool.query({ name, text: SQL[name], values })).rows

const encode = body => Buffer.from(JSON.stringify(body))
const decode = message => JSON.parse(message.content.toString())

/** Handle the messages of `queue`, POOL at once; what fails is delivered again. */
async function consume (channel, queue, handle) {
  await channel.assertQueue(queue, { durable: true })
  await channel.prefetch(POOL)
  await channel.consume(queue, async message => {
    if (message === null) die(new Error(`${queue} was deleted`))
    try {
      await handle(decode(message), message.properties)
      channel.ack(message)
    } catch (error) {
      console.error(error)
      channel.nack(message)
    }
  })
}

/** Return a function that asks `queue` and gives its answer, or fails after RPC_MS. */
async function caller (channel, queue) {
  const waiting = new Map()
  const settle = (id, how, value) => { waiting.get(id)?.[how](value) }
  channel.on('return', ({ properties }) => settle(properties.correlationId, 'reject', new Error(`no ${queue}`)))
  await channel.consume(REPLIES, m => settle(m.properties.correlationId, 'resolve', decode(m)), { noAck: true })
  return (correlationId, body) => new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer of ${queue}`)), RPC_MS)
    waiting.set(correlationId, { resolve, reject, timer })
    channel.publish('', queue, encode(body), { correlationId, replyTo: REPLIES, persistent: true, mandatory: true })
  }).finally(() => {
    clearTimeout(waiting.get(correlationId).timer)
    waiting.delete(correlationId)
  })
}

/** Return a function that publishes to `exchange`, and ends when the broker has confirmed that very message. */
function publisher (channel, exchange) {
  const returned = new Set() // the broker returns what no queue takes, and then confirms it
  channel.on('return', ({ properties }) => returned.add(properties.messageId))
  return (messageId, key, body) => new Promise((resolve, reject) => {
    channel.publish(exchange, key, encode(body), { messageId, persistent: true, mandatory: true }, error => {
      if (error || returned.delete(messageId)) reject(error ?? new Error(`no queue takes ${key}`))
      else resolve()
    })
  })
}

const uuid = { type: 'string', format: 'uuid' }
const money = { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER }
const object = properties => ({ type: 'object', required: Object.keys(properties), properties })
const text = { type: 'string' }
const balance = object({ balance: { type: 'integer' } })

const roles = {
  async orders (app, connection) {
    const events = await connection.createConfirmChannel()
    await events.assertExchange(EVENTS, 'topic', { durable: true })
    const publish = publisher(events, EVENTS)
    const askBilling = await caller(await connection.createChannel(), QUEUE.billing)

    const response = { 201: object({ id: uuid, status: text }) }
    const schema = { body: object({ user_id: uuid, price: money }), response }
    app.post('/orders', { schema }, async ({ body: { user_id, price } }, reply) => {
      const id = randomUUID()
      const event_id = randomUUID()
      await db('place', id, user_id, price)
      const { outcome } = await askBilling(id, { user_id, amount: price, operation_id: id })
      const event = { event_id, user_id, order_id: id, kind: outcome }
      await db('finish', id, outcome, event_id, `order.${outcome}`, event)
      await publish(event_id, `order.${outcome}`, event)
      await db('mark', event_id)
      reply.code(201)
      return { id, status: outcome }
    })
  },

  async billing (app, connection) {
    const channel = await connection.createChannel()
    await consume(channel, QUEUE.billing, async (b, { replyTo, correlationId }) => {
      const [{ outcome }] = await db('withdraw', b.operation_id, b.user_id, b.amount)
      channel.publish('', replyTo, encode({ outcome }), { correlationId }) // before the ack, on its channel
    })

    const params = object({ user_id: uuid })
    const opening = { params, response: { 201: balance } }
    app.post('/billing/accounts/:user_id', { schema: opening }, async ({ params }, reply) => {
      await db('open', params.user_id)
      reply.code(201)
      return { balance: 0 }
    })
    const depositing = { params, body: object({ amount: money }), response: { 200: balance } }
    app.post('/billing/accounts/:user_id/deposit', { schema: depositing }, async ({ params, body }, reply) => {
      const [account] = await db('deposit', params.user_id, body.amount)
      return account ?? reply.callNotFound()
    })
  },

  async notifications (app, connection) {
    const channel = await connection.createChannel()
    await channel.assertExchange(EVENTS, 'topic', { durable: true })
    await channel.assertQueue(QUEUE.notifications, { durable: true })
    await channel.bindQueue(QUEUE.notifications, EVENTS, 'order.*')
    await consume(channel, QUEUE.notifications, b => db('send', b.event_id, b.user_id, b.order_id, b.kind))

    const response = { 200: { type: 'array', items: object({ order_id: uuid, kind: text }) } }
    app.get('/notifications', { schema: { querystring: object({ user_id: uuid }), response } },
      ({ query }) => db('letters', query.user_id))
  }
}

function die (error) {
  console.error(error)
  process.exit(1)
}

const warm = await Promise.all(Array.from({ length: POOL }, () => pool.connect()))
await warm[0].query(SCHEMA[ROLE])
warm.forEach(client => client.release())
pool.on('error', console.error) // of an idle connection, which the pool replaces

const connection = await amqp.connect(AMQP_URI, { noDelay: true })
const lost = () => die(new Error('lost the broker'))
connection.on('error', console.error).on('close', lost)

const app = Fastify()
app.setErrorHandler((error, _, reply) => {
  const status = error.statusCode === 400 ? 422 : error.statusCode ?? 500 // bad input is 422 with all peers
  if (status >= 500) console.error(error)
  reply.code(status).send({ detail: error.message })
})
await roles[ROLE](app, connection)
await app.listen({ port: Number(PORT), host: '127.0.0.1' })

process.once('SIGTERM', async () => {
  connection.off('close', lost)
  await app.close()
  await connection.close()
  await pool.end()
})
