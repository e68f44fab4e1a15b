// Making elements, and telling a screen reader what happens.

/** Return an element; `properties` are its attributes, or listeners if they begin with "on"; children may be text. */
export function h (name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children)
}

/** The same for SVG. */
export function svg (name, properties = {}, ...children) {
  return filled(document.createElementNS('http://www.w3.org/2000/svg', name), properties, children)
}

function filled (element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else if (value === true) element.setAttribute(name, '')
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value)
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined))
  return element
}

export const byId = (id) => document.getElementById(id)

/** Return a table. `columns` are [heading, function of a row that returns text or an element]. */
export function table (caption, columns, rows, ofRow = () => ({})) {
  return h('table', {},
    h('caption', {}, caption),
    h('thead', {}, h('tr', {}, columns.map(([heading]) => h('th', { scope: 'col' }, heading)))),
    h('tbody', {}, rows.map((row) => h('tr', ofRow(row), columns.map(([, cell]) => h('td', {}, cell(row) ?? ''))))))
}

const SPEAK_EVERY_MS = 3000
let toSay = null
let spokeAt = 0
let timer = null

/** Have a screen reader say something, at most every three seconds; of what comes meanwhile only the last is said. */
export function announce (text) {
  toSay = text
  if (timer === null) timer = setTimeout(say, Math.max(0, spokeAt + SPEAK_EVERY_MS - Date.now()))
}

function say () {
  timer = null
  spokeAt = Date.now()
  byId('live').textContent = toSay
}

/** Return a function that calls `work` soon, and once for many calls. */
export function soon (work, ms = 150) {
  let waiting = null
  return () => {
    waiting ??= setTimeout(() => { waiting = null; work() }, ms)
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
export const short = (id) => (id ?? '').slice(0, 8)
export const money = (amount) => (amount / 100).toFixed(2)
export const clock = (time) => time ? new Date(time.replace(' ', 'T')).toLocaleTimeString('en-GB') : ''
