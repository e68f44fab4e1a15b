// The sequence diagram in SVG, and the same as a table.

import { byId, h, svg, table } from './dom.js'

const LANE = 84
const LEFT = 52
const ROW = 24
const NAMES = 26 // the height of the names of the lanes
/** The states of a part of the stack, as signs. */
export const SIGNS = { running: '●', starting: '◐', frozen: '❄', dead: '✕' }
export const MOST = 250 // messages that are drawn, the last ones

const x = (lanes, name) => LEFT + LANE / 2 + lanes.indexOf(name) * LANE

/** Draw the first `shown` of `messages`, the last of them marked if `marks`; or say `nothing`. */
export function draw (messages, shown, lanes, marks, nothing) {
  const first = Math.max(0, shown - MOST)
  const drawn = messages.slice(first, shown)
  const origin = messages[0]?.at ?? 0
  const width = LEFT + lanes.length * LANE
  const height = Math.max(drawn.length, 3) * ROW + 12
  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': spoken(drawn, first) })
  const names = svg('svg', { class: 'names', viewBox: `0 0 ${width} ${NAMES}`, 'aria-hidden': 'true' })
  for (const lane of lanes) {
    const at = x(lanes, lane)
    picture.append(svg('line', { class: 'lane', x1: at, x2: at, y1: 0, y2: height }))
    names.append(svg('text', { class: 'lane-name', 'data-lane': lane, x: at, y: 17, 'text-anchor': 'middle' }, lane))
  }
  drawn.forEach((one, index) => {
    picture.append(row(one, index * ROW + ROW / 2 + 4, one.at - origin, lanes, marks && first + index === shown - 1))
  })
  if (!drawn.length) {
    picture.append(svg('text', { class: 'empty', x: width / 2, y: ROW + 8, 'text-anchor': 'middle' }, nothing))
  }
  const box = byId('diagram')
  box.replaceChildren(names, picture)
  if (marks || drawn.length > 12) box.scrollTop = box.scrollHeight
  drawTable(drawn, first, origin)
}

/** Show above the lanes which parts of the stack do not run. */
export function markLanes (parts) {
  for (const name of byId('diagram').querySelectorAll('[data-lane]')) {
    const lane = name.dataset.lane
    const state = parts.find((part) => part.name === (lane === 'databases' ? 'database' : lane))?.state ?? 'running'
    name.classList.toggle('down', state !== 'running')
    name.textContent = state === 'running' ? lane : `${SIGNS[state]} ${lane}`
  }
}

function row (one, y, ms, lanes, isLast) {
  const from = x(lanes, one.from)
  const to = x(lanes, one.to)
  const classes = ['message', one.kind, one.failed ? 'failed' : '', isLast ? 'last' : ''].join(' ').trim()
  const group = svg('g', { class: classes })
  group.append(svg('text', { class: 'time', x: LEFT - 4, y: y + 4, 'text-anchor': 'end' }, timeOf(ms)))
  const text = one.kind === 'commit' && !one.failed ? `${one.label} ✓` : one.label
  if (from === to) {
    group.append(
      svg('circle', { cx: from, cy: y, r: 4 }),
      svg('text', { x: from + 9, y: y + 4 }, shortened(text, from < LEFT + 4 * LANE ? 44 : 26)))
  } else {
    const way = Math.sign(to - from)
    group.append(
      svg('line', { x1: from, x2: to - way * 6, y1: y, y2: y }),
      svg('path', { class: 'head', d: `M${to} ${y}l${-way * 7} -4v8z` }),
      svg('text', { x: from + way * 8, y: y - 4, 'text-anchor': way > 0 ? 'start' : 'end' }, shortened(text, Math.abs(to - from) / 5.6)))
    if (one.failed) group.append(svg('path', { class: 'cross', d: `M${to - way * 14 - 5} ${y - 5}l10 10m0 -10l-10 10` }))
  }
  group.append(svg('title', {}, sentence(one, ms)))
  return group
}

const shortened = (text, most) => text.length <= most ? text : `${text.slice(0, Math.max(3, most - 1))}…`

export const timeOf = (ms) => ms < 1000 ? `${ms.toFixed(1)} ms` : `${(ms / 1000).toFixed(2)} s`

const sentence = (one, ms) =>
  `${timeOf(ms)}: ${one.from === one.to ? one.from : `${one.from} to ${one.to}`}: ${one.label}${one.note ? `, ${one.note}` : ''}${one.failed ? ', failed' : ''}`

function spoken (drawn, first) {
  const last = drawn.at(-1)
  return last ? `${first + drawn.length} messages and commits; the last: ${last.from} to ${last.to}, ${last.label}` : 'Nothing yet'
}

function drawTable (drawn, first, origin) {
  if (!byId('as-table').open) return byId('messages').replaceChildren()
  byId('messages').replaceChildren(table('Messages and commits', [
    ['no.', (one) => String(first + drawn.indexOf(one) + 1)],
    ['time', (one) => timeOf(one.at - origin)],
    ['from', (one) => one.from],
    ['to', (one) => one.to],
    ['what', (one) => h('span', {}, `${one.label}${one.note ? `, ${one.note}` : ''}${one.failed ? ' (failed)' : ''}`)]
  ], drawn))
}
