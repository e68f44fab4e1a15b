"""Harm to events and letters: outbox, relay, handlers, inbox."""
from tests.mutants.change import Change

CHANGES = [
    Change(
        "outage-counts-as-attempt", "an outage of the database makes dead letters of good events",
        "common/events.py", "        elif is_outage(error):\n            self.inbox.left()",
        "        elif False:\n            self.inbox.left()",
        ("unit/test_events.py",)),
    Change(
        "acknowledged-without-a-row", "an event that could not be kept is acknowledged: its letter is lost",
        "common/events.py", "                self._hold([delivery], error)\n                return False",
        "                self.queue_consumer.ack_message(message)\n                return True",
        ("unit/test_events.py",)),
    Change(
        "batch-tried-again-whole", "one bad event stops all that come with it",
        "common/events.py", "            self._alone.extend(batch)", "            self._waiting[:0] = batch",
        ("unit/test_events.py",)),
    Change(
        "attempt-keeps-its-slot", "after a few attempts in an outage the inbox never tries anything again",
        "common/events.py", "self.inbox.left()  # no fault of the event's", "pass  #",
        ("unit/test_events.py",)),
    Change(
        "no-pause-in-an-outage", "an outage of the database is a hot loop",
        "common/events.py", "        self._pause_s = longer(self._pause_s)\n", "",
        ("unit/test_events.py",)),
    Change(
        "broken-acknowledgement-ends-the-service", "a connection that is lost at the wrong moment ends the container",
        "common/consumer.py", "except (AMQPError, KombuError, OSError) as error:", "except AMQPError as error:",
        ("unit/test_events.py",)),
    Change(
        "inbox-claims-in-turn", "one row that is locked stops the inboxes of all replicas",
        "common/inbox.py", "order by next_attempt_at limit 1 for update skip locked",
        "order by next_attempt_at limit 1 for update",
        ("integration/test_locks.py::test_what_somebody_holds_is_passed_over",)),
    Change(
        "attempt-counted-twice", "two replicas that make one attempt count two, or bury what was handled again",
        "common/inbox.py", "where id = $1 and attempts = $2 and next_attempt_at is not null", "where id = $1",
        ("integration/test_locks.py::test_an_attempt_that_two_replicas_have_made_counts_once",)),
    Change(
        "letters-stored-in-no-order", "two batches of letters wait for each other",
        "notifications/store.py", "order by event_id  --", "--",
        ("integration/test_locks.py::test_rounds_that_insert_the_same_never_wait_for_each_other",)),
    Change(
        "message-key-knows-the-subject-only", "another message under a used key is answered 201, and never stored",
        "notifications/store.py",
        "claim(session, Letter, key, request, kind=Kind.MESSAGE)",
        'claim(session, Letter, key, {"subject": request.pop("subject")}, kind=Kind.MESSAGE, **request)',
        ("integration/test_http_contract.py::test_a_key_of_a_message_knows_all_of_it",)),
    Change(
        "no-give-back", "events whose confirms failed wait for their lease rather than for the broker",
        "common/relay.py", "self._give_back(events, 0 if", "(events, 0 if",
        ("unit/test_relay.py",)),
    Change(
        "events-claimed-in-turn", "the relays of two replicas wait for each other",
        "common/relay.py", "order by claimed_until, id limit $1 for update skip locked",
        "order by claimed_until, id limit $1 for update",
        ("integration/test_locks.py::test_what_somebody_holds_is_passed_over",)),
    Change(
        "unroutable-counts-as-published", "an event that no queue has taken is marked: its letter is lost",
        "common/relay.py", "zip(sent, taken, strict=True) if is_taken],", "zip(sent, taken, strict=True)],",
        ("unit/test_relay.py",)),
    Change(
        "waiting-events-removed", "events that wait for the broker for a day are removed: their letters are lost",
        "common/relay.py", "from looked_at where published_at <", "from looked_at where created_at <",
        ("integration/test_databases.py::test_only_old_events_that_were_published_are_removed_and_so_many_at_a_time",)),
    Change(
        "nothing-published-at-the-end", "what is in memory when the service stops waits for its lease",
        "common/relay.py", "        if is_last or now >= self._look_at:", "        if now >= self._look_at:",
        ("unit/test_relay.py::test_what_is_in_memory_is_published_before_the_service_stops",)),
    Change(
        "second-address-fails", "an event that comes twice is a dead letter",
        "notifications/store.py", "\n                          .on_conflict_do_nothing().returning(Contact",
        "\n                          .returning(Contact",
        ("integration/test_locks.py::test_an_address_that_comes_again_is_no_news",)),
    Change(
        "handled-row-stays", "an event that was handled from the inbox is handled again for ever",
        "common/inbox.py", "            REMOVE.run(connection, row.id)",
        "            pass",
        ("integration/test_events.py::test_an_event_whose_handler_fails_for_a_while_is_handled_in_the_end",)),
    Change(
        "attempts-begin-anew", "an event that is delivered again is tried for ever",
        "common/inbox.py", "on conflict (handler, key) do nothing",
        "on conflict (handler, key) do update set attempts = 1",
        ("integration/test_locks.py::test_an_event_that_fails_and_is_delivered_again_goes_on_with_its_attempts",)),
    Change(
        "one-at-a-time-for-ever", "after an outage of the broker events are published one at a time",
        "common/relay.py", "        self._batch = min(2 * self._batch, self.settings.OUTBOX_BATCH)\n",
        "",
        ("unit/test_relay.py",)),
    Change(
        "refused-counts-as-published", "an event that the broker refused is marked: its letter is lost",
        "common/relay.py", "                is_taken = False",
        "                is_taken = True",
        ("unit/test_relay.py",)),
    Change(
        "replayed-letter-dies-at-once", "a dead letter that is replayed has no attempts left",
        "dead_letters.py", "update inbox set attempts = 0, next_attempt_at",
        "update inbox set next_attempt_at",
        ("integration/test_locks.py::test_a_dead_letter_is_replayed_with_all_its_attempts",)),
]
