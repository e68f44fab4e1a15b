"""Consistency for Nameko: what two or more services need, with nothing of this shop in it. README.md says why.

errors              what can go wrong, by what it tells about the outcome; everything else stands on it
product             what the kit has to know of the product that is built with it
config, container   the settings, checked before anything starts; draining
event               what every event has in common
batching, busy      many calls in one round; which keys were found locked a moment ago
timers, recovery    work at an interval; what was left pending is recovered
waiting             requests that wait until a row is no longer pending
metrics, dns        what Prometheus sees; look-ups of host names that do not block the event loop
outage, seams       outages in the log, and pauses in them; the types of what Nameko hands over
web                 the `http` entrypoint, its server, health, `/docs`, gzip, problems, pages; calls of other services
amqp                messages that the broker has confirmed, RPC with a deadline, events in
outbox, inbox       events out, written by the statement that changes a row; events that failed
db                  sessions with deadlines, prepared statements, Idempotency-Keys, migrations
"""
