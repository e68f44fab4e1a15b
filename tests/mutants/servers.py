"""Harm to what lives with several servers: a standby, a pooler, a database that was restored."""

from tests.mutants.change import Change

CHANGES = [
    Change(
        "old-primary-is-not-marked",
        "a primary whose standby was promoted takes writes again when it is started",
        "local/pair.py",
        "        (self.folder / FENCED).touch()\n",
        "",
        ("integration/test_pair.py",),
    ),
    Change(
        "frozen-processes-outlive-the-fence",
        "a frozen process of the old primary goes on when it is thawed",
        "local/server.py",
        "for pid in holders_of(self.folder / LOCK):",
        "for pid in ():",
        ("integration/test_pair.py::test_a_promoted_standby_takes_writes_and_the_fenced_primary_becomes_its_standby",),
    ),
    Change(
        "commits-do-not-wait-for-the-standby",
        "what was acknowledged is lost with the primary",
        "local/pair.py",
        "        if self.synchronous:\n            self.set_synchronous(self.primary, True)",
        "        self.set_synchronous(self.primary, False)",
        ("integration/test_pair.py::test_commits_wait_for_the_standby",),
    ),
    Change(
        "no-deadline-behind-a-pooler",
        "a statement behind a pooler lasts as long as it likes",
        "kit/db/session.py",
        "return first + statement, parameters",
        "return statement, parameters",
        ("faults/test_pooler.py::test_every_statement_carries_the_deadlines_of_the_session",),
    ),
    Change(
        "a-repair-refuses-for-good",
        "a payment that the account cannot cover now is refused for ever",
        "ops/reconcile.py",
        "if balance is None or balance < movement.amount:",
        "if balance is None:",
        ("faults/test_restore.py",),
    ),
    Change(
        "a-repair-tells-twice",
        "an event that the outbox still holds is written anew",
        "ops/reconcile.py",
        "[id_ for id_ in ids if id_ not in held]",
        "list(ids)",
        ("faults/test_restore.py",),
    ),
    Change(
        "any-host-is-the-broker",
        "a broker with a certificate for another host gets our password",
        "kit/tls.py",
        '"server_hostname": host_of(uri),',
        "",
        ("unit/kit/test_tls.py::test_a_broker_that_is_somebody_else_gets_no_password",),
    ),
    Change(
        "some-nodes-are-plain",
        "a process that goes on at another node sends everything in plain text",
        "kit/tls.py",
        "    if len(encrypted) < len(nodes):",
        "    if False:",
        ("unit/kit/test_tls.py::test_what_would_not_do_what_it_says_stops_the_start",),
    ),
    Change(
        "tls-says-farewell",
        "a process stands still when it leaves a frozen broker",
        "kit/amqp/tls.py",
        "    def _shutdown_transport(self) -> None:",
        "    def _say_no_farewell(self) -> None:",
        ("unit/kit/test_tls.py::test_a_connection_is_closed_without_waiting_for_a_silent_broker",),
    ),
]
