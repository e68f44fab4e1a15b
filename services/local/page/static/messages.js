// From spans to what a sequence diagram shows: messages and commits, in the order in which they happened.

export const LANES = ['client', 'users', 'orders', 'billing', 'notifications', 'broker', 'databases']

/** Return the messages of some spans: { at, from, to, label, kind, failed, note }, by time in milliseconds. */
export function messagesOf (spans, lanes = LANES) {
  const byId = new Map(spans.map((span) => [span.id, span]))
  const served = new Set(spans.filter((span) => span.kind === 'server').map((span) => span.parent))
  const messages = spans.flatMap((span) => ofSpan(span, byId.get(span.parent), served))
  return messages
    .filter((one) => lanes.includes(one.from) && lanes.includes(one.to))
    .sort((one, other) => one.at - other.at || one.rank - other.rank)
}

function ofSpan (span, parent, served) {
  const a = span.attributes
  const start = span.start
  const end = span.start + span.ms
  const make = (at, from, to, label, kind, more = {}) =>
    ({ at, rank: at === start ? 0 : 1, from, to, label, kind, failed: false, note: '', span: span.id, service: span.service, ...more })
  const failed = span.error !== null
  const me = span.service
  if (span.kind === 'server' && a['http.request.method']) {
    const caller = parent?.kind === 'client' ? parent.service : 'client'
    const status = a['http.response.status_code']
    return [
      make(start, caller, me, span.name, 'request'),
      make(end, me, caller, String(status ?? span.error ?? ''), 'reply', { failed: failed || status >= 500 })
    ]
  }
  if (span.kind === 'server') {
    // the caller may have the reply before the server has acknowledged the request, which ends its span
    const sent = parent?.kind === 'client' ? Math.min(end, parent.start + parent.ms) : end
    return [
      make(start, 'broker', me, span.name, 'request'),
      make(sent, me, 'broker', failed ? span.error : 'reply', 'reply', { failed })
    ]
  }
  if (a['db.system.name']) {
    const name = a['db.query.summary'] ?? span.name
    const label = failed ? `${name}: ${span.error}` : name
    return [make(end, me, 'databases', label, 'commit', { failed, note: `in ${a['db.namespace'] ?? me}` })]
  }
  if (a['rpc.system'] || a['rpc.system.name']) {
    return [
      make(start, me, 'broker', span.name, 'request'),
      make(end, 'broker', me, failed ? `no answer: ${span.error}` : 'reply', 'reply', { failed, rank: 2 })
    ]
  }
  if (a['messaging.operation.type'] === 'send') {
    const count = a['messaging.batch.message_count'] ?? 1
    const label = `${count} ${count === 1 ? 'event' : 'events'} to ${a['messaging.destination.name'] ?? ''}`
    return [make(start, me, 'broker', label, 'event', { failed, note: failed ? span.error : '' })]
  }
  if (span.kind === 'consumer') return ofEvent(span, make, end)
  if (span.kind === 'client') {
    if (served.has(span.id) && !failed) return []
    return [make(failed ? end : start, me, me, failed ? `${span.name}: no answer` : span.name, 'note', { failed })]
  }
  const size = a['batch.size'] ?? 0
  if (span.name.startsWith('recover ')) return [make(start, me, me, `recovery takes ${size === 1 ? 'it' : `${size}, this one too`}`, 'note')]
  if (size > 1) return [make(start, me, me, `a round of ${size}: ${span.name.split('.').pop()}`, 'note')]
  return []
}

function ofEvent (span, make, end) {
  const type = span.name.split(':').pop()
  const attempt = span.attributes['kit.attempt'] ?? 1
  const from = attempt > 1 ? 'databases' : 'broker'
  const label = attempt > 1 ? `${type}, attempt ${attempt}, from the inbox` : type
  const messages = [make(span.start, from, span.service, label, 'event')]
  if (span.attributes['kit.duplicate']) {
    messages.push(make(end, span.service, span.service, 'known already: dropped', 'note', { note: 'duplicate' }))
  } else if (span.error !== null) {
    messages.push(make(end, span.service, span.service, `failed: ${span.error}`, 'note', { failed: true }))
  }
  return messages
}
