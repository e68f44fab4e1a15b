// Five experiments: a prediction first, then the experiment, then what was seen.

import { announce, byId, h, money, pause } from './dom.js'
import { ask, newKey, send } from './api.js'
import { newUser, post, shown, until } from './steps.js'

const PRICE = 300
const RECOVERED_MS = 60_000
const SEEN_MS = 30_000
const LOOK_MS = 250

/** Ask the page's server until `isSo` of its answer; the last answer. */
async function seen (path, isSo, ms = SEEN_MS) {
  const deadline = Date.now() + ms
  for (;;) {
    const answer = await ask(path).catch(() => null)
    if (answer && isSo(answer)) return answer
    if (Date.now() > deadline) throw new Error('what was expected did not come in time')
    await pause(LOOK_MS)
  }
}

const part = (status, name) => status.parts?.find((one) => one.name === name)
const is = (name, state) => (status) => part(status, name)?.state === state
const payments = (state) => state.ledger.filter((one) => one.is_of_this_order && one.outcome === 'accepted').length
const readable = (state) => ['order', 'ledger', 'letters', 'outbox'].every((name) => Array.isArray(state[name]))

/** Return the state of an order once it has ended and its letter is there. */
const healed = (order) => seen(`orders/${order}`,
  (state) => readable(state) && state.order[0]?.status !== 'pending' && state.letters.length > 0, RECOVERED_MS)

async function lostAnswer ({ log, exchange, watch }) {
  const user = await newUser(1000)
  log('A user has 10.00 on the account.')
  try {
    await ask('parts/billing/freeze', 'POST')
    log('Billing is frozen. It will get the request, and nobody will wait for its answer any more.')
    const placed = await send('POST', '/orders', { user_id: user.id, price: PRICE }, newKey())
    exchange(placed)
    if (!placed.answer?.id) throw new Error(`the order was answered ${placed.status || placed.reason}`)
    watch.look(placed.answer.id, user.id)
    log(`An order for ${money(PRICE)} was answered ${placed.status}: ${placed.answer.status}.`)
    await ask('parts/billing/thaw', 'POST')
    log('Billing runs again, and finds the request. Orders asks a second time later, under the same id.')
    const state = await healed(placed.answer.id)
    const count = payments(state)
    log(`The ledger has ${count} payment of this order; the order is ${state.order[0].status}.`)
    return { answer: count === 1 ? 'once' : count > 1 ? 'twice' : 'never', seen: `${count} payment, the order is ${state.order[0].status}, ${state.letters.length} letter` }
  } finally {
    await ask('parts/billing/thaw', 'POST').catch(() => {})
  }
}

async function letterTwice ({ log, exchange, watch }) {
  const user = await newUser(1000)
  const placed = await post('/orders', { user_id: user.id, price: PRICE }, exchange)
  const order = placed.answer.id
  watch.look(order, user.id)
  await healed(order)
  log('An order is paid, and its letter is stored.')
  const marked = (state) => readable(state) && state.outbox.length > 0 && state.outbox.every((one) => one.published_at)
  const before = await seen(`orders/${order}`, marked)
  const again = await ask(`orders/${order}/publish-again`, 'POST')
  log(`Its ${again.events === 1 ? 'event is' : 'events are'} due once more in the outbox, as after a crash right after publishing.`)
  const times = (state) => state.outbox.map((one) => one.published_at).join()
  const state = await seen(`orders/${order}`, (now) => marked(now) && times(now) !== times(before))
  await pause(1000) // for the handler: that nothing more comes cannot be waited for
  const now = await seen(`orders/${order}`, readable)
  log(`The relay has published it again. There ${now.letters.length === 1 ? 'is 1 letter' : `are ${now.letters.length} letters`}.`)
  return { answer: now.letters.length === 1 ? 'one' : 'two', seen: `${now.letters.length} letter after ${state.outbox.length} event was delivered twice` }
}

async function sameKey ({ log, exchange, watch }) {
  const user = await newUser(1000)
  const key = newKey()
  log(`The same request is sent three times at once, with the Idempotency-Key ${key}.`)
  const sent = await Promise.all([1, 2, 3].map(() => send('POST', '/orders', { user_id: user.id, price: PRICE }, key)))
  sent.forEach(exchange)
  const ids = new Set(sent.map((one) => one.answer?.id).filter((id) => id))
  if (ids.size === 0) throw new Error('none of the three was answered')
  const [order] = ids
  watch.look(order, user.id)
  const replayed = sent.filter((one) => one.answerHeaders['idempotent-replayed']).length
  log(`The answers name ${ids.size} order. ${replayed} of them say Idempotent-Replayed.`)
  const state = await healed(order)
  log(`The ledger has ${payments(state)} payment; the balance is ${money(state.account[0].balance)}.`)
  return { answer: ids.size === 1 && payments(state) === 1 ? 'one' : ids.size === 1 ? 'paid-thrice' : 'three', seen: `${ids.size} order, ${payments(state)} payment` }
}

async function brokerAway ({ log, exchange, watch }) {
  const user = await newUser(1000)
  await ask('parts/broker/kill?down_s=10', 'POST')
  await seen('status', is('broker', 'dead'))
  log('The broker is dead, and will be for ten seconds.')
  const placed = await send('POST', '/orders', { user_id: user.id, price: PRICE }, newKey())
  exchange(placed)
  log(`An order is answered ${placed.status || placed.reason}: ${placed.answer?.status ?? placed.answer?.title ?? ''}.`)
  const paidIn = await send('POST', `/billing/accounts/${user.id}/deposit`, { amount: 100 }, newKey())
  exchange(paidIn)
  log(`A deposit, which needs no broker, is answered ${paidIn.status}.`)
  if (!placed.answer?.id) throw new Error('the order was not taken')
  watch.look(placed.answer.id, user.id)
  await seen('status', is('broker', 'running'), RECOVERED_MS)
  log('The broker is back.')
  const state = await healed(placed.answer.id)
  log(`The order is ${state.order[0].status}, with ${payments(state)} payment and ${state.letters.length} letter.`)
  return { answer: placed.status === 202 && payments(state) === 1 ? 'later' : 'lost', seen: `answered ${placed.status}, then ${state.order[0].status} with ${state.letters.length} letter` }
}

async function without ({ log, choice }) {
  await ask(`without/${choice}`, 'POST')
  let told = 0
  const status = await seen('status', (now) => {
    if (now.without.what !== choice) throw new Error('the server of the page knows nothing of it: it was started again, or plays another')
    for (const step of now.without.steps.slice(told)) {
      log(step.step)
      if (step.verdict) log(step.verdict, true)
    }
    told = now.without.steps.length
    return told > 0 && !now.without.is_running
  }, 200_000)
  const last = status.without.steps.at(-1)
  if (last.failed) throw new Error(last.step)
  const [violation] = last.violations
  const answer = /letters are/.test(violation) ? 'letters' : /was told of/.test(violation) ? 'told' : /no such order/.test(violation) ? 'strays' : 'other'
  return { answer, seen: violation }
}

const WITHOUT_CHOICES = [
  ['inbox', 'the two unique columns of letters'],
  ['outbox', 'the event in the same statement as the status'],
  ['operation', 'the order’s id as the id of its payment'],
  ['pending', 'the condition that an order ends once']
]

/** The lessons: `needs` is what the stack has to have. */
export const LESSONS = [
  {
    id: 'lost-answer',
    title: 'A payment whose answer was lost',
    story: 'Orders asks billing to pay, and gets no answer. Was it paid, or not? Here billing is frozen when it is asked, until orders has given up. Then it goes on with the request that it has.',
    question: 'How often will the user pay in the end?',
    options: [['never', 'Never: orders gave up'], ['once', 'Once'], ['twice', 'Twice: orders asks again']],
    why: 'The id of the order is the id of the payment. Billing keeps the outcome under it, so asking again only reads it. The order was stored before billing was asked, so it cannot be forgotten.',
    needs: ['parts', 'asks'],
    run: lostAnswer
  },
  {
    id: 'letter-twice',
    title: 'A letter that was delivered twice',
    story: 'A relay publishes an event, and dies before it has noted that. Whoever comes next publishes it again. Here an event that was handled is made due once more.',
    question: 'How many letters will there be?',
    options: [['one', 'One'], ['two', 'Two']],
    why: 'A letter carries the ids of its event and of its order, and both are unique columns. The second insert meets them and does nothing. In the diagram it says “known already: dropped”.',
    needs: [],
    run: letterTwice
  },
  {
    id: 'same-key',
    title: 'The same key, three times',
    story: 'A client gets no answer and sends its request again; so does the library that it uses. Here one request is sent three times at once, under one Idempotency-Key.',
    question: 'What will there be?',
    options: [['three', 'Three orders'], ['paid-thrice', 'One order, paid three times'], ['one', 'One order, paid once']],
    why: 'The key is a unique column of the orders. All three insert; the database lets one of them through, and the others read what it has stored.',
    needs: [],
    run: sameKey
  },
  {
    id: 'broker-away',
    title: 'The broker is away for ten seconds',
    story: 'Without the broker, orders cannot ask billing, and no event can be published. Here it is killed, and an order is placed while it is dead.',
    question: 'What becomes of the order?',
    options: [['refused', 'It is refused'], ['lost', 'It is taken, and lost or never told of'], ['later', 'It is answered 202, and paid later']],
    why: 'The order is a row, pending. The timer called recovery asks billing when it can. The event of its end is a row too, and waits in the outbox for a broker that takes it.',
    needs: ['parts', 'broker', 'asks'],
    run: brokerAway
  },
  {
    id: 'without',
    title: 'Take a safeguard out',
    story: 'Is any of this needed? The page starts a second stack, with databases of its own, without one of the safeguards. Then it does what the safeguard is for, and asks the audit. It takes half a minute or more.',
    choices: WITHOUT_CHOICES,
    question: 'What will the audit find?',
    options: [['nothing', 'Nothing'], ['letters', 'An order with two letters'], ['told', 'An order that was told of twice'], ['strays', 'A payment without an order']],
    why: 'Each safeguard is one line or one constraint, and without it something breaks. That is what the tests of the audit try, too.',
    needs: [],
    run: without
  }
]

/** Return why a lesson cannot be played here, or an empty text. */
export function missing (lesson, status) {
  if (!status) return 'The page is not connected.'
  if (!status.may_change) return 'It needs the token in the URL that was printed at the start.'
  if (lesson.needs.includes('broker') && !status.has_broker) return 'This style has no broker: start make stack.'
  if (lesson.needs.includes('asks') && status.style === 'events') return 'In this style nobody asks for a payment: start make stack STYLE=broker.'
  if (lesson.needs.includes('parts') && !part(status, 'billing')) return 'It needs processes to break: start make stack.'
  if (lesson.needs.includes('broker') && !part(status, 'broker')) return 'The stack has no broker of one node: start make stack.'
  return ''
}

export class Lessons {
  constructor (watch) {
    this.watch = watch
    this.status = null
    this.isBusy = false
    byId('lessons').append(...LESSONS.map((lesson) => this.#element(lesson)))
  }

  /** Take what the server says, and show which lessons can be played. */
  update (status) {
    this.status = status
    for (const lesson of LESSONS) {
      const box = byId(`lesson-${lesson.id}`)
      const why = missing(lesson, status)
      box.querySelector('.missing').textContent = why
      box.querySelector('.start').disabled = Boolean(why) || this.isBusy || !box.querySelector('input[name^=predict]:checked')
    }
  }

  #element (lesson) {
    const choose = (name, legend, options, checked) => h('fieldset', {}, h('legend', {}, legend), options.map(([value, text], index) =>
      h('label', {}, h('input', { type: 'radio', name: `${name}-${lesson.id}`, value, checked: checked && index === 0 }), ` ${text}`)))
    const code = h('details', { class: 'code' }, h('summary', {}, 'The lines of code'))
    code.addEventListener('toggle', () => code.open && this.#showCode(lesson, code), { once: true })
    return h('details', { class: 'lesson', id: `lesson-${lesson.id}`, onchange: () => this.update(this.status) },
      h('summary', {}, lesson.title),
      h('p', {}, lesson.story),
      lesson.choices ? choose('choice', 'Take out', lesson.choices, true) : null,
      choose('predict', lesson.question, lesson.options, false),
      h('p', { class: 'missing' }),
      h('button', { type: 'button', class: 'start main', disabled: true, onclick: () => this.#play(lesson) }, 'Start the experiment'),
      h('ol', { class: 'log' }),
      h('div', { class: 'outcome' }),
      code)
  }

  async #showCode (lesson, box) {
    const snippets = await ask(`code/${lesson.id}`)
    box.append(...snippets.map((one) => h('figure', {},
      h('figcaption', {}, `${one.file}, line ${one.first}: ${one.name}`),
      h('pre', { tabindex: '0' }, one.text))))
  }

  async #play (lesson) {
    const box = byId(`lesson-${lesson.id}`)
    const predicted = box.querySelector('input[name^=predict]:checked').value
    const choice = box.querySelector('input[name^=choice]:checked')?.value
    const log = box.querySelector('.log')
    const outcome = box.querySelector('.outcome')
    log.replaceChildren()
    outcome.replaceChildren(h('p', {}, 'Under way…'))
    this.isBusy = true
    this.update(this.status)
    const say = (text, isOutput) => {
      log.append(h('li', {}, isOutput ? h('pre', { tabindex: '0' }, text) : text))
      if (!isOutput) announce(text)
    }
    const exchange = (one) => log.append(h('li', {}, shown(one)))
    try {
      const { answer, seen } = await lesson.run({ log: say, exchange, watch: this.watch, choice })
      const text = (value) => lesson.options.find(([one]) => one === value)?.[1] ?? value
      outcome.replaceChildren(
        h('p', { class: answer === predicted ? 'right' : 'wrong' },
          h('strong', {}, answer === predicted ? 'As you predicted. ' : 'Not as you predicted. '),
          `You said: ${text(predicted)}. Seen: ${text(answer)} (${seen}).`),
        h('p', {}, lesson.why))
      outcome.dataset.answer = answer
      announce(`Seen: ${text(answer)}`)
      if (lesson.id !== 'without') ask('audit', 'POST').catch(() => {})
    } catch (error) {
      outcome.replaceChildren(h('p', { class: 'wrong' }, `The experiment did not work: ${error.message}.`))
    } finally {
      this.isBusy = false
      this.update(this.status)
    }
  }
}
