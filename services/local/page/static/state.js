// What the databases say of the order that is looked at.

import { byId, clock, h, money, short, table } from './dom.js'

const NAMES = {
  order: 'Order', account: 'Account', ledger: 'Ledger of the account', outbox: 'Outbox', inbox: 'Inbox', letters: 'Letters'
}
const COLUMNS = {
  order: [
    ['status', (one) => h('span', { class: `status ${one.status}` }, one.status)],
    ['reason', (one) => one.reason?.replaceAll('_', ' ')],
    ['price', (one) => money(one.price)],
    ['trouble', (one) => one.trouble]
  ],
  account: [['user', (one) => short(one.user_id)], ['balance', (one) => money(one.balance)]],
  ledger: [
    ['operation', (one) => h(one.is_of_this_order ? 'strong' : 'span', {}, `${one.kind}${one.is_of_this_order ? ' (this)' : ''}`)],
    ['amount', (one) => money(one.amount)],
    ['outcome', (one) => one.outcome?.replaceAll('_', ' ')],
    ['balance', (one) => one.balance === null ? '' : money(one.balance)]
  ],
  outbox: [
    ['of', (one) => one.service],
    ['event', (one) => one.type],
    ['state', (one) => one.state]
  ],
  inbox: [
    ['handler', (one) => `${one.service}.${one.handler}`],
    ['attempts', (one) => String(one.attempts)],
    ['state', (one) => one.state],
    ['reason', (one) => one.reason]
  ],
  letters: [['kind', (one) => one.kind.replace('_', ' ')], ['subject', (one) => one.subject], ['stored', (one) => clock(one.created_at)]]
}

/** Show the rows; `state` is null while no order is looked at. */
export function drawState (state) {
  const box = byId('tables')
  if (!state) return box.replaceChildren(h('p', {}, 'Select an order.'))
  box.replaceChildren(...Object.keys(NAMES).map((name) => part(name, state[name])))
}

function part (name, rows) {
  if (rows === 'away') return h('p', { class: 'away' }, `${NAMES[name]}: the database is away.`)
  if (!rows.length) return h('p', { class: 'none' }, `${NAMES[name]}: no row.`)
  return table(NAMES[name], COLUMNS[name], rows)
}
