"""The order flow on FastAPI, asyncpg and aio-pika, written for speed.

An order is pending first; billing takes its money once, asked by an RPC over RabbitMQ; its status and its event are
committed in one transaction; the event is published with a confirm, then marked; then the client is answered. Letters
are deduplicated, then acknowledged.

One role a process:  ROLE=orders|billing|notifications DSN_BASE=... AMQP_URI=... uvicorn peer:app
DSN_BASE is the URL of PostgreSQL up to the name of a database; these are fastapi_orders and so on.
"""

import asyncio
import os
import uuid
from contextlib import asynccontextmanager

import aio_pika
import asyncpg
import orjson
from fastapi import FastAPI, HTTPException
from fastapi.responses import ORJSONResponse
from pydantic import BaseModel, Field

ROLE, AMQP_URI = os.environ["ROLE"], os.environ["AMQP_URI"]
DSN = os.environ["DSN_BASE"] + "fastapi_" + ROLE
POOL = int(os.environ.get("POOL", "20"))
RPC_S = 5
BILLING, NOTIFICATIONS = "fastapi.billing", "fastapi.notifications"
EVENTS = "fastapi.events"

SCHEMA = {
    "orders": """
        create table if not exists orders(id uuid primary key, user_id uuid not null, price bigint not null,
            status text not null, created_at timestamptz not null default now());
        create table if not exists outbox(id uuid primary key, topic text not null, body jsonb not null,
            published_at timestamptz);""",
    "billing": """
        create table if not exists accounts(user_id uuid primary key, balance bigint not null check (balance >= 0));
        create table if not exists entries(operation_id uuid primary key, user_id uuid not null,
            amount bigint not null, outcome text not null, created_at timestamptz not null default now());""",
    "notifications": """
        create table if not exists letters(event_id uuid primary key, user_id uuid not null, order_id uuid not null,
            kind text not null, created_at timestamptz not null default now());
        create index if not exists letters_user on letters(user_id, created_at);""",
}
PLACE = "insert into orders(id, user_id, price, status) values ($1, $2, $3, 'pending')"
END = "update orders set status = $2 where id = $1"
NOTE = "insert into outbox(id, topic, body) values ($1, $2, $3)"
MARK = "update outbox set published_at = now() where id = $1"
SEEN = "select outcome from entries where operation_id = $1"
TAKE = "update accounts set balance = balance - $2 where user_id = $1 and balance >= $2 returning balance"
ENTER = "insert into entries(operation_id, user_id, amount, outcome) values ($1, $2, $3, $4)"
OPEN = "insert into accounts values ($1, 0) on conflict do nothing"
DEPOSIT = "update accounts set balance = balance + $2 where user_id = $1 returning balance"
SEND = "insert into letters(event_id, user_id, order_id, kind) values ($1, $2, $3, $4) on conflict do nothing"
LETTERS = "select order_id, kind from letters where user_id = $1 order by created_at limit 50"

state = {}


async def publish(exchange, key, body, **properties):
    """Return when the broker has confirmed the message; raise DeliveryError if no queue takes it."""
    message = aio_pika.Message(orjson.dumps(body), delivery_mode=aio_pika.DeliveryMode.PERSISTENT, **properties)
    await state["exchanges"][exchange].publish(message, key, mandatory=True)


async def withdraw(user_id, amount, operation_id):
    """Take the money of an order once; return its outcome."""
    async with state["db"].acquire() as db, db.transaction():
        if row := await db.fetchrow(SEEN, operation_id):
            return row["outcome"]
        is_taken = await db.fetchval(TAKE, user_id, amount) is not None
        outcome = "paid" if is_taken else "rejected"
        await db.execute(ENTER, operation_id, user_id, -amount if is_taken else 0, outcome)
        return outcome


async def serve_billing(channel):
    queue = await channel.declare_queue(BILLING, durable=True)

    async def on_request(message):
        async with message.process(requeue=True):
            asked = orjson.loads(message.body)
            outcome = await withdraw(uuid.UUID(asked["user_id"]), asked["amount"], uuid.UUID(asked["operation_id"]))
            reply = aio_pika.Message(orjson.dumps({"outcome": outcome}), correlation_id=message.correlation_id)
            # Not mandatory: the process that has asked may be gone, and the request would come again for ever.
            await channel.default_exchange.publish(reply, message.reply_to, mandatory=False)

    await queue.consume(on_request)


async def serve_notifications(channel):
    exchange = await channel.declare_exchange(EVENTS, "topic", durable=True)
    queue = await channel.declare_queue(NOTIFICATIONS, durable=True)
    await queue.bind(exchange, "order.*")

    async def on_event(message):
        async with message.process(requeue=True):
            event = orjson.loads(message.body)
            ids = [uuid.UUID(event[name]) for name in ("event_id", "user_id", "order_id")]
            await state["db"].execute(SEND, *ids, event["kind"])

    await queue.consume(on_event)


async def serve_orders(channel):
    events = await channel.declare_exchange(EVENTS, "topic", durable=True)
    state["exchanges"] = {"rpc": channel.default_exchange, "events": events}
    replies = await channel.declare_queue(exclusive=True)
    state["reply_to"], state["pending"] = replies.name, {}

    async def on_reply(message):
        waiting = state["pending"].pop(message.correlation_id, None)
        if waiting and not waiting.done():
            waiting.set_result(orjson.loads(message.body))

    await replies.consume(on_reply, no_ack=True)


SERVE = {"orders": serve_orders, "billing": serve_billing, "notifications": serve_notifications}


@asynccontextmanager
async def lifespan(_):
    state["db"] = await asyncpg.create_pool(DSN, min_size=POOL, max_size=POOL)
    async with state["db"].acquire() as db:
        await db.execute(SCHEMA[ROLE])
    connection = await aio_pika.connect_robust(AMQP_URI)
    # Without on_return_raises, a message that no queue takes counts as published.
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    await channel.set_qos(prefetch_count=POOL)
    await SERVE[ROLE](channel)
    yield
    await connection.close()
    await state["db"].close()


app = FastAPI(lifespan=lifespan, default_response_class=ORJSONResponse)


class NewOrder(BaseModel):
    user_id: uuid.UUID
    price: int = Field(gt=0)


class Money(BaseModel):
    amount: int = Field(gt=0)


async def ask_billing(order_id, order):
    """Ask for the money of an order, and wait RPC_S for the outcome."""
    correlation_id = str(order_id)
    answer = state["pending"][correlation_id] = asyncio.get_running_loop().create_future()
    try:
        request = {"user_id": str(order.user_id), "amount": order.price, "operation_id": correlation_id}
        await publish("rpc", BILLING, request, correlation_id=correlation_id, reply_to=state["reply_to"])
        return (await asyncio.wait_for(answer, RPC_S))["outcome"]
    finally:
        state["pending"].pop(correlation_id, None)


if ROLE == "orders":

    @app.post("/orders", status_code=201)
    async def create(order: NewOrder):
        order_id, event_id = uuid.uuid4(), uuid.uuid4()
        db = state["db"]
        await db.execute(PLACE, order_id, order.user_id, order.price)
        outcome = await ask_billing(order_id, order)
        topic = f"order.{outcome}"
        event = {
            "event_id": str(event_id),
            "user_id": str(order.user_id),
            "order_id": str(order_id),
            "kind": outcome,
        }
        async with db.acquire() as connection, connection.transaction():
            await connection.execute(END, order_id, outcome)
            await connection.execute(NOTE, event_id, topic, orjson.dumps(event).decode())
        await publish("events", topic, event)
        await db.execute(MARK, event_id)
        return {"id": str(order_id), "status": outcome}


if ROLE == "billing":

    @app.post("/billing/accounts/{user_id}", status_code=201)
    async def open_account(user_id: uuid.UUID):
        await state["db"].execute(OPEN, user_id)
        return {"balance": 0}

    @app.post("/billing/accounts/{user_id}/deposit")
    async def deposit(user_id: uuid.UUID, money: Money):
        balance = await state["db"].fetchval(DEPOSIT, user_id, money.amount)
        if balance is None:
            raise HTTPException(404)
        return {"balance": balance}


if ROLE == "notifications":

    @app.get("/notifications")
    async def letters(user_id: uuid.UUID):
        rows = await state["db"].fetch(LETTERS, user_id)
        return [{"order_id": str(row["order_id"]), "kind": row["kind"]} for row in rows]
