// Breaking: the processes of the stack, and what may be done to them.

import { announce, byId, h } from './dom.js'
import { ask } from './api.js'
import { SIGNS } from './diagram.js'

const DOWN_S = 10
const before = new Map()

/** Show the processes. */
export function drawParts (status, isConnected) {
  const said = byId('break-said')
  const box = byId('parts')
  if (!status?.parts) {
    said.textContent = status?.mode === 'embedded'
      ? 'Here everything runs in one process, so there is nothing to kill. Start make stack: it has a process for each service.'
      : 'The stack does not answer.'
    return box.replaceChildren()
  }
  said.textContent = status.may_change
    ? 'What dies is started again by the stack.'
    : 'To break something, open the page by the URL that was printed at the start: it has the token.'
  status.parts.forEach(tell)
  if (box.children.length !== status.parts.length) box.replaceChildren(...status.parts.map((part) => item(part)))
  status.parts.forEach((part, index) => update(box.children[index], part, status.may_change && isConnected))
}

function tell (part) {
  const was = before.get(part.name)
  before.set(part.name, part.state)
  if (was && was !== part.state) announce(`${part.name} is ${part.state}`)
}

function item (part) {
  const act = (action, query = '') => () => ask(`parts/${part.name}/${action}${query}`, 'POST').catch((error) => announce(error.message))
  const button = (action, text, query) =>
    h('button', { type: 'button', 'data-action': text, 'aria-label': `${text} ${part.name}`, onclick: act(action, query) }, text)
  return h('li', { 'data-part': part.name },
    h('span', { class: 'sign', 'aria-hidden': 'true' }),
    h('strong', {}, part.name), ' ', h('span', { class: 'part-state' }),
    h('span', { class: 'buttons' },
      button('kill', 'Kill'),
      part.kind === 'service' ? null : button('kill', `Kill for ${DOWN_S} s`, `?down_s=${DOWN_S}`),
      button('freeze', 'Freeze'), button('thaw', 'Thaw'), button('restart', 'Restart')))
}

function update (element, part, mayChange) {
  element.className = part.state
  element.querySelector('.sign').textContent = SIGNS[part.state]
  const soon = part.starts_in_s ? `, comes back in ${Math.ceil(part.starts_in_s)} s` : ''
  const text = { running: 'running', starting: 'coming back', frozen: 'frozen', dead: `dead${soon}` }[part.state]
  element.querySelector('.part-state').textContent = part.pid ? `${text}, process ${part.pid}` : text
  for (const button of element.querySelectorAll('button')) button.disabled = !mayChange || part.state === 'dead'
  element.querySelector('[data-action=Freeze]').hidden = part.state === 'frozen'
  element.querySelector('[data-action=Thaw]').hidden = part.state !== 'frozen'
}
