// The spans that the page remembers: a bounded number of the newest, and which belong together.

export const KEPT = 10_000

export class Spans {
  constructor (kept = KEPT) {
    this.kept = kept
    this.spans = new Map() // by id, the oldest first
    this.byTrace = new Map()
    this.byParent = new Map()
    this.byLink = new Map() // ids of spans that link to a trace
    this.byOrder = new Map() // traces of an order: a request that is repeated begins another one
    this.orderOf = new Map() // by trace
  }

  /** Add spans, and return how many were new. */
  add (spans) {
    let fresh = 0
    for (const span of spans) {
      if (this.spans.has(span.id)) continue
      fresh += 1
      this.spans.set(span.id, span)
      for (const [index, key] of this.#keys(span)) put(index, key, span.id)
      const order = span.attributes['shop.order.id']
      if (order) {
        put(this.byOrder, order, span.trace)
        this.orderOf.set(span.trace, order)
      }
      if (this.spans.size > this.kept) this.#forget(this.spans.values().next().value)
    }
    return fresh
  }

  #keys (span) {
    const keys = [[this.byTrace, span.trace], ...span.links.map(([trace]) => [this.byLink, trace])]
    if (span.parent) keys.push([this.byParent, span.parent])
    return keys
  }

  #forget (span) {
    this.spans.delete(span.id)
    for (const [index, key] of this.#keys(span)) take(index, key, span.id)
    if (this.byTrace.has(span.trace)) return
    take(this.byOrder, this.orderOf.get(span.trace), span.trace)
    this.orderOf.delete(span.trace)
  }

  /** Return the traces of an order. */
  tracesOf (order) {
    return [...this.byOrder.get(order) ?? []]
  }

  /**
   * Return the spans of some traces, and of the rounds that worked for them together with others: those are in the trace
   * of the first of their items, and link to all.
   */
  of (traces) {
    const ids = new Set()
    const visit = (id) => {
      if (ids.has(id)) return
      ids.add(id)
      for (const child of this.byParent.get(id) ?? []) visit(child)
    }
    for (const trace of traces) {
      for (const id of this.byTrace.get(trace) ?? []) ids.add(id)
    }
    for (const trace of traces) {
      for (const id of this.byLink.get(trace) ?? []) visit(id)
    }
    return [...ids].map((id) => this.spans.get(id)).filter((span) => span)
  }
}

function put (index, key, id) {
  if (!index.has(key)) index.set(key, new Set())
  index.get(key).add(id)
}

function take (index, key, id) {
  const ids = index.get(key)
  ids?.delete(id)
  if (ids?.size === 0) index.delete(key)
}
