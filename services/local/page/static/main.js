// The page: what its parts are told, and when.

import { announce, byId, h, soon } from './dom.js'
import { actWith, ask, takeToken } from './api.js'
import { drawParts } from './breaking.js'
import { markLanes } from './diagram.js'
import { Lessons } from './lessons.js'
import { LANES } from './messages.js'
import { drawState } from './state.js'
import { Steps } from './steps.js'
import { Watch, drawOrders, drawUsers } from './watch.js'

const STATUS_MS = 1000
const STATE_MS = 2000
const ENOUGH = 20 // answers of a burst, before it is in the middle
const LOST_MS = 15_000 // so long it is said that spans are lost
const THEME = 'nameko-hw-theme'

takeToken()
const watch = new Watch()
const lessons = new Lessons(watch)
new Steps(watch) // eslint-disable-line no-new
let status = null

// --- what comes by itself

const stream = new EventSource('/page/spans')
stream.addEventListener('spans', (event) => {
  watch.add(JSON.parse(event.data))
  lookSoon()
})
stream.addEventListener('lost', () => {
  watch.isLost = true
  drawNotice()
  setTimeout(() => { watch.isLost = false; drawNotice() }, LOST_MS)
})
stream.onopen = () => drawNotice()
stream.onerror = () => drawNotice()

function drawNotice () {
  const texts = []
  if (stream.readyState !== EventSource.OPEN) texts.push('The page is not connected; it tries again.')
  if (status?.collector) texts.push(`The traces go to ${status.collector}, so no diagram can be drawn here.`)
  if (watch.isLost) texts.push('Some older spans are no longer in memory.')
  const away = status?.parts?.filter((one) => one.state !== 'running') ?? []
  if (away.length) texts.push(`${away.map((one) => `${one.name} is ${one.state === 'starting' ? 'coming back' : one.state}`).join(', ')}.`)
  const text = texts.join(' ')
  if (byId('notice').textContent !== text) byId('notice').textContent = text
  byId('notice').hidden = !text
}

// --- what is asked for

let isAsking = false

async function lookAtStatus () {
  if (document.hidden || isAsking) return
  isAsking = true
  try {
    status = await ask('status')
    actWith(status.token)
    watch.lanes = status.has_broker ? LANES : LANES.filter((lane) => lane !== 'broker')
  } catch {
    status = null
  } finally {
    isAsking = false
  }
  drawWhere()
  drawAudit()
  drawBurst()
  drawNotice()
  drawParts(status, status !== null)
  watch.parts = status?.parts ?? []
  markLanes(watch.parts)
  lessons.update(status)
}

function drawWhere () {
  if (!status) {
    byId('where').textContent = 'not connected'
    return
  }
  const dropped = Object.values(status.spans.dropped).reduce((sum, one) => sum + one, 0)
  byId('where').textContent = `${status.mode} mode, style ${status.style}, ${status.spans.received} spans` +
    (dropped ? `, ${dropped} dropped as nonsense` : '') + (status.may_change ? '' : ', without the token: only to look at')
}

let audited = null

function drawAudit () {
  const audit = status?.audit
  byId('run-audit').disabled = !status?.may_change || audit.is_running
  if (!audit) return
  const at = audit.at ? ` at ${new Date(audit.at).toLocaleTimeString('en-GB')}` : ''
  const text = audit.is_running
    ? 'is running…'
    : { clean: `clean${at}: no violations`, violations: `violations found${at}`, away: `a database is away${at}` }[audit.verdict] ?? 'not run yet'
  const verdict = byId('verdict')
  const shown = `${text}${audit.lines?.length ?? 0}`
  if (verdict.dataset.shown === shown) return
  verdict.dataset.shown = shown
  verdict.className = audit.is_running ? '' : audit.verdict ?? ''
  verdict.replaceChildren(audit.lines?.length && !audit.is_running
    ? h('details', {}, h('summary', {}, text), h('pre', { tabindex: '0' }, audit.lines.join('\n')))
    : text)
  if (!audit.is_running && audited !== audit.at) announce(`The audit: ${text}`)
  audited = audit.at
}

byId('run-audit').addEventListener('click', () => act('audit'))
byId('burst').addEventListener('click', async () => {
  await act('burst')
  if (byId('kill-billing').checked) await killInTheMiddle().catch((error) => announce(error.message))
})

/** Kill billing once some of the orders have been answered; a hand would be too slow. */
async function killInTheMiddle () {
  for (;;) {
    const { burst } = await ask('status') // and not what was asked for last, which may be older than the burst
    const answered = Object.values(burst.answers).reduce((sum, one) => sum + one, 0)
    if (!burst.is_running || (burst.user_id && answered >= ENOUGH)) break
  }
  await act('parts/billing/kill')
}

async function act (path) {
  try {
    await ask(path, 'POST')
    await lookAtStatus()
  } catch (error) {
    announce(error.message)
  }
}

let wasBurst = false

function drawBurst () {
  const burst = status?.burst
  byId('burst').disabled = !status?.may_change || burst.is_running
  byId('and-kill').hidden = !status?.parts
  if (!burst || (!burst.user_id && !burst.failed && !burst.is_running)) return
  const list = (counts) => Object.entries(counts).map(([name, count]) => `${count} × ${name}`).join(', ') || 'none yet'
  byId('burst-said').hidden = false
  byId('burst-said').textContent = `${burst.is_running ? 'Under way: ' : 'Done: '}answers ${list(burst.answers)}; ` +
    `different orders ${burst.orders}; ended ${list(burst.ended)}${burst.failed ? `; failed: ${burst.failed}` : ''}.`
  if (wasBurst && !burst.is_running) {
    announce(byId('burst-said').textContent)
    act('audit')
  }
  wasBurst = burst.is_running
}

let newest = null
let followed = null // the order that was the newest one

async function lookAtOrders () {
  if (document.hidden) return
  const user = byId('user').value
  try {
    const answer = await ask(`orders${user ? `?user_id=${user}` : ''}`)
    newest = answer
    drawUsers(answer.users)
    const first = answer.orders !== 'away' && answer.orders[0]
    if (first && first.id !== followed && watch.follows && !watch.paused && watch.replaying === null) {
      followed = first.id
      watch.look(first.id, first.user_id)
    }
    drawNewest()
  } catch {
    // the notice says that the page is not connected
  }
}

function drawNewest () {
  if (newest) drawOrders(newest, watch.order, (one) => { watch.look(one.id, one.user_id, true); drawNewest() })
}

async function lookAtState () {
  if (document.hidden) return
  const order = watch.order
  if (!order) return drawState(null)
  try {
    const state = await ask(`orders/${order}${watch.user ? `?user_id=${watch.user}` : ''}`)
    if (order === watch.order) drawState(state)
  } catch {
    // the notice says that the page is not connected
  }
}

const lookSoon = soon(() => { lookAtOrders(); lookAtState() }, 300)
let looked = null
watch.onChange(() => {
  if (watch.order === looked) return
  looked = watch.order
  drawNewest()
  lookAtState()
})
byId('user').addEventListener('change', () => lookAtOrders())
byId('follow').addEventListener('change', () => { followed = null; lookAtOrders() })
setInterval(lookAtStatus, STATUS_MS)
setInterval(lookSoon, STATE_MS)
document.addEventListener('visibilitychange', () => { lookAtStatus(); lookSoon() })
lookAtStatus()
lookSoon()

// --- tabs (WAI-ARIA Authoring Practices, tabs) and theme

const tabs = [...document.querySelectorAll('[role=tab]')]

function choose (tab) {
  for (const one of tabs) {
    one.setAttribute('aria-selected', String(one === tab))
    one.tabIndex = one === tab ? 0 : -1
    byId(one.getAttribute('aria-controls')).hidden = one !== tab
  }
}

tabs.forEach((tab, index) => {
  tab.addEventListener('click', () => choose(tab))
  tab.addEventListener('keydown', (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (!by) return
    const next = tabs[(index + by + tabs.length) % tabs.length]
    choose(next)
    next.focus()
  })
})

const isDark = () => (localStorage.getItem(THEME) ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark'

function drawTheme () {
  document.documentElement.dataset.theme = isDark() ? 'dark' : 'light'
  byId('theme').setAttribute('aria-pressed', String(isDark()))
}

byId('theme').addEventListener('click', () => {
  localStorage.setItem(THEME, isDark() ? 'light' : 'dark')
  drawTheme()
})
drawTheme()
