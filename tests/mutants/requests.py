"""Harm to what goes over the broker and over HTTP: publisher, RPC, server, front door."""
from tests.mutants.change import Change

CHANGES = [
    Change(
        "nack-ignored", "a message that the broker has not taken counts as taken",
        "common/publisher.py", "        self.refused |= before - self.waiting\n", "",
        ("unit/test_publisher.py",)),
    Change(
        "under-way-sent-again", "what was under way when the connection died is sent twice",
        "common/publisher.py", "            if not was_idle:\n                raise\n", "            pass\n",
        ("unit/test_publisher.py",)),
    Change(
        "not-mandatory", "the broker drops an event that no queue takes, and confirms it",
        "common/publisher.py", "mandatory=True)", "mandatory=False)",
        ("unit/test_publisher.py",)),
    Change(
        "transient-events", "events that wait in a queue are lost when the broker is killed",
        "common/publisher.py", '{"delivery_mode": 2,', '{"delivery_mode": 1,',
        ("unit/test_publisher.py",)),
    Change(
        "channel-kept-after-an-error", "a late confirm is taken for that of the next message",
        "common/publisher.py", "        except BaseException:\n            self._close()\n            raise",
        "        except BaseException:\n            raise",
        ("unit/test_publisher.py",)),
    Change(
        "replies-never-forgotten", "each call without a reply leaks memory",
        "common/rpc.py", "        self._reply_events.pop(correlation_id, None)", "        pass",
        ("unit/test_rpc.py::test_replies_are_forgotten_when_nobody_waits_for_them_any_more",)),
    Change(
        "acknowledged-without-a-reply", "a caller whose reply could not be sent waits in vain",
        "common/rpc.py", "self.queue_consumer.requeue_message(message)", "self.queue_consumer.ack_message(message)",
        ("unit/test_rpc.py::test_a_request_is_acknowledged_only_after_its_reply",)),
    Change(
        "nobody-serves-it", "a call of a service that was never started waits for its whole deadline",
        "common/rpc.py", "                if not routed:", "                if False:",
        ("unit/test_rpc.py::test_a_service_that_was_never_started_is_not_waited_for_and_a_request_expires",)),
    Change(
        "body-of-the-limit-refused", "a body of BODY_LIMIT_BYTES is refused",
        "common/http.py", "    if len(body) > limit:", "    if len(body) >= limit:",
        ("unit/test_http.py",)),
    Change(
        "length-of-the-limit-refused", "a body that says that it has BODY_LIMIT_BYTES is refused",
        "common/http.py", "(request.content_length or 0) > limit", "(request.content_length or 0) >= limit",
        ("unit/test_http.py",)),
    Change(
        "chunks-without-limit", "a body in chunks that is one byte too long is taken",
        "common/http.py", "    if len(body) > limit:", "    if len(body) > limit + 1:",
        ("unit/test_http.py",)),
    Change(
        "short-key-limit", "a key of 255 characters is refused",
        "common/http.py", r"([\x20-\x7e]{0,253}[\x21-\x7e])?", r"([\x20-\x7e]{0,252}[\x21-\x7e])?",
        ("unit/test_http.py",)),
    Change(
        "long-key-limit", "a key of 256 characters is taken",
        "common/http.py", r"([\x20-\x7e]{0,253}[\x21-\x7e])?", r"([\x20-\x7e]{0,254}[\x21-\x7e])?",
        ("unit/test_http.py",)),
    Change(
        "request-without-deadline", "a request whose work hangs is never answered",
        "common/http.py", "with Timeout(timeout_s, Unavailable(", "with Timeout(None, Unavailable(",
        ("unit/test_http.py",)),
    Change(
        "ready-while-it-stops", "a service that is about to stop is sent requests",
        "common/web.py", "        if not self._is_accepting:\n            return Problem",
        "        if False:\n            return Problem",
        ("integration/test_http_server.py::test_a_service_that_is_about_to_stop_is_not_ready",)),
    Change(
        "connections-never-given-back", "after MAX_CONNECTIONS in all nobody is served any more",
        "common/web.py", "            self._connections -= 1\n", "            pass\n",
        ("integration/test_http_server.py::test_a_connection_that_is_too_many_is_told_so",)),
    Change(
        "keyless-request-sent-twice", "a deposit without a key whose replica dies is made twice",
        "local/frontdoor.py", '"Idempotency-Key" in request.headers', "True",
        ("unit/test_front_doors.py::test_a_request_is_sent_again_only_if_it_has_one_effect",)),
    Change(
        "request-never-expires", "a request that nobody waits for any more is carried out when its server comes back",
        "common/rpc.py", "\"expiration\": str(int(timeout_s * 1000)),\n",
        "\n",
        ("unit/test_rpc.py::test_a_service_that_was_never_started_is_not_waited_for_and_a_request_expires",)),
    Change(
        "outage-is-a-refusal", "an outage of billing's database is the trouble of each order, and an alarm",
        "common/rpc.py", "    if isinstance(error, NotNow):",
        "    if False:",
        ("unit/test_rpc.py::test_a_server_that_cannot_answer_now_has_refused_nothing",)),
    Change(
        "waits-for-a-worker-for-ever", "under overload requests pile up rather than be refused",
        "common/http.py", "with Timeout(settings.WORKER_WAIT_S,",
        "with Timeout(None,",
        ("unit/test_http.py",)),
    Change(
        "kept-connection-not-closed", "a client that keeps its connection is cut off when its service stops",
        "common/web.py", "        self._serv.keepalive = False  #",
        "        #",
        ("faults/test_draining.py::test_a_client_that_keeps_its_connection_is_told_to_close_it",)),
    Change(
        "next-replica-not-asked", "a request that meets a dead replica is refused, while another one runs",
        "local/frontdoor.py", "            except ConnectionRefusedError:\n                continue",
        "            except ConnectionRefusedError:\n                break",
        ("unit/test_front_doors.py",)),
    Change(
        "drains-for-ever", "a service that hangs is never stopped",
        "common/container.py", "with Timeout(self.settings.DRAIN_TIMEOUT_S,",
        "with Timeout(None,",
        ("unit/test_container.py",)),
]
