"""What two or more services need, and nothing else. The list is closed:

config, container      the settings, checked before anything starts; draining
database, migrations   sessions with deadlines, errors by what they say of the outcome; how the tables come to be
names                  look-ups of host names that do not stop the event loop
http, web, protocol    the `http` entrypoint, the server behind it, HTTP on one of its connections
problems               every error that a client can see (RFC 9457)
batching, busy         many calls in one round; what was found locked a moment ago
pages, idempotency     keyset pagination; one effect for each Idempotency-Key
publisher, consumer    messages that the broker has confirmed; messages from the broker
rpc                    RPC with a deadline
outbox, events, inbox  events out, in the transaction of what they tell of; events in; those that failed
timers, recovery       work at a configured interval; what was left pending is finished
metrics                what can be seen from outside
"""
