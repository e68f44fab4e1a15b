"""What two or more services need, and nothing else. The list is closed:

config, container      the settings, checked before anything starts; draining
database, migrations   sessions with a deadline on every wait; how the tables come to be
http, web, problems    the `http` entrypoint, the server behind it, and its errors (RFC 9457)
pages, idempotency     keyset pagination; one effect for each Idempotency-Key
publisher, consumer    messages that the broker has confirmed; messages from the broker
rpc                    RPC with a deadline
outbox, events, inbox  events out, in the transaction of what they tell of; events in; those that failed
timers, metrics        work at a configured interval; what can be seen from outside
"""
