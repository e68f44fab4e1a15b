// The eight steps of the assignment, as services/scenario.py takes them.

import { announce, byId, h, pause } from './dom.js'
import { curl, newKey, send, written } from './api.js'

const END_MS = 40_000
const AGAIN_MS = 150

/** What a step expects did not come. */
class Unexpected extends Error {}

function expect (holds, what) {
  if (!holds) throw new Unexpected(`expected that ${what}`)
}

/** Send a POST until it has a usable answer: what got none is sent again under its key. */
export async function post (path, body, show = () => {}) {
  const key = newKey()
  const deadline = Date.now() + END_MS
  for (;;) {
    const exchange = await send('POST', path, body, key)
    show(exchange)
    if (exchange.status >= 200 && exchange.status < 300) return exchange
    if ((exchange.status !== 0 && exchange.status < 500) || Date.now() > deadline) {
      throw new Unexpected(`the answer to POST ${path} is ${exchange.status || exchange.reason}`)
    }
    await pause(1000)
  }
}

/** Ask for what is at `path` until it is as `isThere` wants it. */
export async function until (path, isThere, show = () => {}) {
  const deadline = Date.now() + END_MS
  for (;;) {
    const exchange = await send('GET', path)
    if (exchange.status === 200 && isThere(exchange.answer)) {
      show(exchange)
      return exchange.answer
    }
    if (Date.now() > deadline) throw new Unexpected(`what GET ${path} shows did not come in time`)
    await pause(AGAIN_MS)
  }
}

/** A user with `balance` on the account. */
export async function newUser (balance, show = () => {}) {
  const created = await post('/users', { name: 'Ada', email: `ada-${newKey()}@example.com` }, show)
  const user = await until(`/users/${created.answer.id}`, (one) => one.status === 'active')
  if (balance) await post(`/billing/accounts/${user.id}/deposit`, { amount: balance }, show)
  return user
}

export class Steps {
  /** `watch` is told what to look at. */
  constructor (watch) {
    this.watch = watch
    this.user = null
    this.order = null
    this.done = 0
    this.isBusy = false
    this.steps = [
      ['Create a user; billing opens an account', (show) => this.createUser(show)],
      ['Deposit money', (show) => this.deposit(show)],
      ['Place an order that the account can pay', (show) => this.placeOrder(show, 300, 'paid', null)],
      ['See that the money was taken', (show) => this.balanceIs(show, 700)],
      ['See the letter of happiness', (show) => this.letterIs(show, 'order_paid')],
      ['Place an order that the account cannot pay', (show) => this.placeOrder(show, 701, 'rejected', 'insufficient_funds')],
      ['See that the balance has not changed', (show) => this.balanceIs(show, 700)],
      ['See the letter of grief', (show) => this.letterIs(show, 'order_rejected')]
    ]
    byId('steps').append(...this.steps.map(([title], index) => h('li', {},
      h('button', { type: 'button', class: 'step', onclick: () => this.#guarded(() => this.play(index)) }, title),
      h('span', { class: 'result' }),
      h('div', { class: 'exchanges' }))))
    byId('play-all').addEventListener('click', () => this.#guarded(() => this.playAll()))
    this.#enable()
  }

  async #guarded (work) {
    if (this.isBusy) return
    this.isBusy = true
    this.#enable()
    try {
      await work()
    } finally {
      this.isBusy = false
      this.#enable()
    }
  }

  #enable () {
    byId('play-all').disabled = this.isBusy
    const buttons = byId('steps').querySelectorAll('button.step')
    buttons.forEach((button, index) => { button.disabled = this.isBusy || index > this.done })
  }

  /** Play all steps, with a new user, up to the first that fails. */
  async playAll () {
    byId('follow').checked = true
    this.done = 0
    for (const item of byId('steps').children) this.#clear(item)
    for (const index of this.steps.keys()) {
      if (!await this.play(index)) return announce(`Step ${index + 1} failed`)
    }
    announce('All eight steps hold')
  }

  #clear (item) {
    item.className = ''
    item.querySelector('.result').textContent = ''
    item.querySelector('.exchanges').replaceChildren()
  }

  /** Play one step; return whether it holds. */
  async play (index) {
    const item = byId('steps').children[index]
    this.#clear(item)
    const result = item.querySelector('.result')
    result.textContent = 'under way'
    const show = (exchange) => item.querySelector('.exchanges').append(shown(exchange))
    try {
      await this.steps[index][1](show)
      this.done = Math.max(this.done, index + 1)
      result.textContent = 'holds'
      item.className = 'holds'
      return true
    } catch (error) {
      result.textContent = `failed: ${error.message}`
      item.className = 'fails'
      return false
    }
  }

  async createUser (show) {
    const created = await post('/users', { name: 'Ada', email: `ada-${newKey()}@example.com` }, show)
    this.watch.lookAtTrace(created.trace)
    this.user = await until(`/users/${created.answer.id}`, (one) => one.status === 'active')
    await this.balanceIs(show, 0)
  }

  async deposit (show) {
    const exchange = await post(`/billing/accounts/${this.user.id}/deposit`, { amount: 1000 }, show)
    this.watch.lookAtTrace(exchange.trace)
    await this.balanceIs(show, 1000)
  }

  async placeOrder (show, price, status, reason) {
    const exchange = await post('/orders', { user_id: this.user.id, price }, show)
    this.watch.look(exchange.answer.id, this.user.id)
    this.order = exchange.answer
    if (this.order.status === 'pending') {
      this.order = await until(`/orders/${this.order.id}`, (one) => one.status !== 'pending', show)
    }
    expect(this.order.status === status && this.order.reason === reason, `the order is ${status}`)
  }

  async balanceIs (show, balance) {
    const exchange = await send('GET', `/billing/accounts/${this.user.id}`)
    show(exchange)
    expect(exchange.answer?.balance === balance, `the balance is ${balance}`)
  }

  async letterIs (show, kind) {
    const mine = (page) => page.items.filter((one) => one.order_id === this.order.id && one.email)
    const page = await until(`/notifications?user_id=${this.user.id}`, (answer) => mine(answer).length > 0, show)
    expect(mine(page).map((one) => one.kind).join() === kind, `there is one letter, ${kind}`)
  }
}

/** Return an exchange as an element: the request and the answer as sent, and the line for a shell. */
export function shown (exchange) {
  return h('details', {},
    h('summary', {}, `${exchange.method} ${exchange.path.slice(0, 60)} → ${exchange.status || 'no answer'}`),
    h('pre', { tabindex: '0' }, written(exchange)),
    h('pre', { class: 'curl', tabindex: '0' }, curl(exchange)))
}
