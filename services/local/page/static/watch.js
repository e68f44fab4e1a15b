// Watching: which order or request is looked at, its diagram, and how it is played.

import { announce, byId, h, money, clock, short, soon, table } from './dom.js'
import { draw, markLanes } from './diagram.js'
import { LANES, messagesOf } from './messages.js'
import { Spans } from './spans.js'

const SLOWLY_MS = 700

export class Watch {
  constructor () {
    this.spans = new Spans()
    this.lanes = LANES
    this.order = null // the id of the order that is looked at
    this.user = null
    this.traces = [] // of a request that is looked at and that is about no order
    this.messages = []
    this.shown = 0
    this.paused = false
    this.replaying = null
    this.isLost = false
    this.parts = [] // of the stack, as they are now
    this.listeners = []
    this.redraw = soon(() => this.refresh())
    byId('pause').addEventListener('click', () => this.pause(!this.paused))
    byId('back').addEventListener('click', () => this.step(-1))
    byId('forward').addEventListener('click', () => this.step(1))
    byId('replay').addEventListener('click', () => this.replaying === null ? this.replay() : this.live())
    byId('as-table').addEventListener('toggle', () => this.show())
    this.show()
  }

  get follows () { return byId('follow').checked }

  /** Call `listener` when something else is looked at, or something has come. */
  onChange (listener) { this.listeners.push(listener) }

  /** Take spans that came. */
  add (spans) {
    if (this.spans.add(spans)) this.redraw()
  }

  /** Look at an order, and at nothing else. */
  look (order, user, byHand = false) {
    if (byHand) byId('follow').checked = false
    if (order === this.order) return
    this.order = order
    this.user = user
    this.traces = []
    this.live()
  }

  /** Look at the trace of a request that is about no order. */
  lookAtTrace (trace) {
    this.order = null
    this.traces = [trace]
    this.live()
  }

  refresh () {
    const traces = this.order ? this.spans.tracesOf(this.order) : this.traces
    const before = this.messages.length
    this.messages = messagesOf(this.spans.of(traces), this.lanes)
    if (!this.paused && this.replaying === null) this.shown = this.messages.length
    this.show()
    if (this.messages.length > before && !this.paused) {
      const last = this.messages.at(-1)
      announce(`${last.from} to ${last.to}: ${last.label}`)
    }
    this.listeners.forEach((listener) => listener())
  }

  show () {
    this.shown = Math.min(this.shown, this.messages.length)
    const nothing = this.messages.length || !this.order ? 'Press “Play all”.' : 'No span of this order has ended yet, or all are forgotten.'
    draw(this.messages, this.shown, this.lanes, this.paused || this.replaying !== null, nothing)
    markLanes(this.parts)
    byId('position').textContent = `${this.shown} of ${this.messages.length}`
    byId('pause').textContent = this.paused ? 'Go on' : 'Pause'
    byId('pause').setAttribute('aria-pressed', String(this.paused))
    byId('replay').textContent = this.replaying === null ? 'Replay slowly' : 'Stop replaying'
    byId('diagram-heading').textContent = this.order ? `What happened to order ${short(this.order)}` : 'What happened'
  }

  pause (paused) {
    this.#stopReplay()
    this.paused = paused
    this.refresh()
  }

  step (by) {
    this.#stopReplay()
    this.paused = true
    this.shown = Math.max(0, Math.min(this.messages.length, this.shown + by))
    this.show()
    const one = this.messages[this.shown - 1]
    announce(one ? `${this.shown}: ${one.from} to ${one.to}: ${one.label}` : 'the beginning')
  }

  replay () {
    this.paused = false
    this.shown = 0
    this.replaying = setInterval(() => {
      if (this.shown >= this.messages.length) return this.live()
      this.shown += 1
      this.show()
    }, SLOWLY_MS)
    this.show()
  }

  live () {
    this.#stopReplay()
    this.paused = false
    this.refresh()
  }

  #stopReplay () {
    clearInterval(this.replaying)
    this.replaying = null
  }
}

/** Show the newest orders; `select` is called with the one that is chosen. */
export function drawOrders (answer, selected, select) {
  const box = byId('orders')
  if (answer.orders === 'away') return box.replaceChildren(h('p', { class: 'away' }, 'The database of orders is away.'))
  if (!answer.orders.length) return box.replaceChildren(h('p', {}, 'No order yet.'))
  const focused = document.activeElement?.dataset?.order
  box.replaceChildren(table('The newest orders', [
    ['order', (one) => h('button', {
      type: 'button', class: 'link', 'data-order': one.id, 'aria-pressed': String(one.id === selected), onclick: () => select(one)
    }, short(one.id))],
    ['placed', (one) => clock(one.created_at)],
    ['price', (one) => money(one.price)],
    ['status', (one) => h('span', { class: `status ${one.status}` }, one.reason ? `${one.status}: ${one.reason.replaceAll('_', ' ')}` : one.status)]
  ], answer.orders, (one) => one.id === selected ? { class: 'selected' } : {}))
  if (focused) box.querySelector(`[data-order="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true })
}

/** Show the users of the newest users in the filter, and keep the one that is chosen. */
export function drawUsers (users) {
  const select = byId('user')
  if (users === 'away' || document.activeElement === select) return
  const chosen = select.value
  const options = users.map((one) => h('option', { value: one.id }, `${one.name}, ${short(one.id)}`))
  if (chosen && !users.some((one) => one.id === chosen)) options.push(h('option', { value: chosen }, short(chosen)))
  select.replaceChildren(h('option', { value: '' }, 'all users'), ...options)
  select.value = chosen
}
