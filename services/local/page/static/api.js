// Requests: to the shop, as any client sends them, and to the page's own server.

const TOKEN = 'nameko-hw-token'

/** Take the token out of the address, so that it is not in a screenshot or a bookmark, and keep it for this tab. */
export function takeToken () {
  const given = new URLSearchParams(location.hash.slice(1)).get('token')
  if (given) {
    sessionStorage.setItem(TOKEN, given)
    history.replaceState(null, '', location.pathname)
  }
}

/** Ask the page's own server; the answer's JSON, or an Error with its detail. */
export async function ask (path, method = 'GET') {
  const token = sessionStorage.getItem(TOKEN)
  const headers = token ? { Authorization: `Bearer ${token}` } : {}
  const answer = await fetch(`/page/${path}`, { method, headers })
  const body = await answer.json()
  if (!answer.ok) throw new Error(body.detail ?? `the answer is ${answer.status}`)
  return body
}

let shopsToken = null

/** Send this token with requests to the shop from now on; none if it asks for none. */
export function actWith (token) {
  shopsToken = token
}

const hex = (octets) => [...crypto.getRandomValues(new Uint8Array(octets))].map((one) => one.toString(16).padStart(2, '0')).join('')

/** A new Idempotency-Key. */
export const newKey = () => `page-${hex(12)}`

/**
 * Send a request to the shop. The exchange that is returned has what was sent and what came, also when nothing came.
 * Its trace begins here: the services take it up from the header traceparent (W3C Trace Context).
 */
export async function send (method, path, body, key) {
  const trace = hex(16)
  const headers = {}
  if (body) {
    headers['Content-Type'] = 'application/json'
    headers['Idempotency-Key'] = key ?? newKey()
  }
  const exchange = { method, path, headers: { ...headers }, hasToken: Boolean(shopsToken), body, trace, status: 0, answer: null, answerHeaders: {} }
  try {
    const answer = await fetch(path, {
      method,
      headers: { ...headers, ...(shopsToken && { Authorization: `Bearer ${shopsToken}` }), traceparent: `00-${trace}-${hex(8)}-01` },
      body: body && JSON.stringify(body)
    })
    exchange.status = answer.status
    exchange.reason = answer.statusText
    for (const name of ['location', 'idempotent-replayed', 'retry-after']) {
      if (answer.headers.has(name)) exchange.answerHeaders[name] = answer.headers.get(name)
    }
    exchange.answer = await answer.json()
  } catch (error) {
    exchange.reason = `no answer: ${error.message}`
  }
  return exchange
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`

/** Return the line by which a shell sends the same. */
export function curl ({ method, path, headers, hasToken, body }) {
  const parts = ['curl', '-s', quoted(location.origin + path)]
  if (method !== 'GET' && !(method === 'POST' && body)) parts.push('-X', method)
  for (const [name, value] of Object.entries(headers)) parts.push('-H', quoted(`${name}: ${value}`))
  if (hasToken) parts.push('-H', '"Authorization: Bearer $(.venv/bin/nameko-hw token --sub me --scope admin)"')
  if (body) parts.push('-d', quoted(JSON.stringify(body)))
  return parts.join(' ')
}

/** Return the request and the answer as text. */
export function written (exchange) {
  const lines = [`> ${exchange.method} ${exchange.path}`]
  for (const [name, value] of Object.entries(exchange.headers)) lines.push(`> ${name}: ${value}`)
  if (exchange.body) lines.push(`> ${JSON.stringify(exchange.body)}`)
  lines.push('', `< ${exchange.status || ''} ${exchange.reason ?? ''}`)
  for (const [name, value] of Object.entries(exchange.answerHeaders)) lines.push(`< ${name}: ${value}`)
  if (exchange.answer) lines.push(JSON.stringify(exchange.answer, null, 2))
  return lines.join('\n')
}
