"""Harm to what is done together, again or later: rounds, recovery, the database, names."""
from tests.mutants.change import Change

CHANGES = [
    Change(
        "item-of-one-who-gave-up", "a request that was answered 503 is carried out all the same",
        "common/batching.py", "            self._waiting.pop(done, None)\n", "            pass\n",
        ("unit/test_batching.py",)),
    Change(
        "round-without-deadline", "a round that hangs holds up all requests for ever",
        "common/batching.py", "with Timeout(self._deadline_s,", "with Timeout(None,",
        ("unit/test_batching.py",)),
    Change(
        "one-round-for-all-keys", "orders of a busy account hold up those of other busy accounts",
        "common/batching.py", "self._batched.batcher(self._batched.key(item)).call(item)",
        "self._batched.batcher(None).call(item)",
        ("unit/test_batching.py",)),
    Change(
        "round-done-again-after-any-error", "a round that may have been done is done again: orders doubled",
        "common/batching.py", "        except self._again as error:", "        except Exception as error:",
        ("unit/test_batching.py",)),
    Change(
        "busy-for-ever", "an account that was locked once is never waited for again",
        "common/busy.py", "self._until.get(key, 0.0) > time.monotonic()", "self._until.get(key, 0.0) > 0",
        ("unit/test_busy.py",)),
    Change(
        "one-refusal-stops-recovery", "one order that billing refuses to look at stops the recovery of all others",
        "common/recovery.py", "not isinstance(result, NotYet | RpcRefused)", "not isinstance(result, NotYet)",
        ("unit/test_order_flow.py",)),
    Change(
        "trouble-is-not-noted", "an order that cannot be settled is tried at full speed, and nobody can see why",
        "common/recovery.py", "            note(troubles)\n", "",
        ("unit/test_order_flow.py",)),
    Change(
        "one-batch-at-a-time", "recovery does one batch an interval: thousands of orders wait for minutes",
        "common/recovery.py", 'if len(rows) < config["RECOVERY_BATCH"] or any', "if True or any",
        ("unit/test_order_flow.py",)),
    Change(
        "read-only-is-no-outage", "a read-only database is a defect: 500, and its connections are kept",
        "common/database.py", '"25006", "25P03"', '"25P03"',
        ("integration/test_database.py::test_a_server_that_can_do_nothing_is_left",)),
    Change(
        "cancelled-is-a-defect", "a statement that the server broke off is answered 500",
        "common/database.py", '"55P03", "57014")', '"55P03")',
        ("integration/test_database.py::test_what_the_server_rolled_back_may_be_tried_again",)),
    Change(
        "small-pool", "requests wait for connections, and fail, while the database is idle",
        "common/database.py", '"pool_size": settings.max_workers + 4,', '"pool_size": 5,',
        ("integration/test_database.py::"
         "test_the_pool_has_a_connection_for_each_worker_and_a_few_more_and_is_then_used_up",)),
    Change(
        "values-in-the-log", "addresses and letters get into the log",
        "common/database.py", "    _hide_values(original)\n", "",
        ("integration/test_database.py::test_an_error_holds_no_value_of_a_statement",)),
    Change(
        "names-kept-for-ever", "the address of a server that has moved is never looked up again",
        "common/names.py", "        if time.monotonic() < until:", "        if answer:",
        ("unit/test_names.py::test_a_name_is_looked_up_once_at_a_time_and_kept_for_a_while",)),
    Change(
        "row-twice-on-two-pages", "the last item of a page is the first of the next",
        "common/pages.py", "tuple_(moment, id_) < tuple_", "tuple_(moment, id_) <= tuple_",
        ("integration/test_http_contract.py::test_a_list_is_read_page_by_page",)),
    Change(
        "autocommit-stays", "sessions commit each statement by itself: a crash leaves half of what belongs together",
        "common/database.py", "            self._set(False)",
        "            self._set(True)",
        ("integration/test_database.py::test_a_session_is_one_transaction_also_after_single_statements",)),
    Change(
        "old-primary-kept", "after a failover the connections to the old primary are used on",
        "common/database.py", "context.is_disconnect = context.is_disconnect or kind is DatabaseAway",
        "context.is_disconnect = context.is_disconnect",
        ("integration/test_database.py::test_a_server_that_can_do_nothing_is_left",)),
    Change(
        "silent-server-waited-for", "a frozen database hangs requests for ever",
        "common/database.py", "timeout=max(0, deadline - time.monotonic()), timeout_exc",
        "timeout=None, timeout_exc",
        ("integration/test_database.py::test_a_server_that_falls_silent_is_given_up_and_is_an_outage",)),
]
