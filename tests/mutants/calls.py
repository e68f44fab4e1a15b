"""Harm to the calls between services by HTTP."""

from tests.mutants.change import Change

CLIENT = "kit/web/client.py"
TESTS = ("unit/kit/test_http_client.py",)
CIRCUIT = ("unit/kit/test_circuit.py",)

CHANGES = [
    Change(
        "call-without-deadline",
        "a service that is silent keeps a worker for ever",
        CLIENT,
        "with Timeout(timeout_s, late)",
        "with Timeout(None, late)",
        TESTS,
    ),
    Change(
        "calls-without-bound",
        "a service that is slow takes all workers of its callers",
        CLIENT,
        "Semaphore(self._limit)",
        "Semaphore(1000)",
        TESTS,
    ),
    Change(
        "no-worker-left",
        "with few workers, calls to a service that is slow take all of them",
        CLIENT,
        "min(settings.MAX_CALLS, settings.max_workers - 1)",
        "settings.MAX_CALLS",
        TESTS,
    ),
    Change(
        "slots-never-given-back",
        "after MAX_CALLS in all no call is sent any more",
        CLIENT,
        "            self._slots.release()\n",
        "            pass\n",
        TESTS,
    ),
    Change(
        "clients-not-shared",
        "a service that is slow takes as many workers as there are users of its client times MAX_CALLS",
        CLIENT,
        "return type(self), self.target",
        "return object()",
        TESTS,
    ),
    Change(
        "circuit-never-opens",
        "each call to a service that is away takes the whole deadline",
        CLIENT,
        "self._failures >= FAILURES",
        "False",
        CIRCUIT,
    ),
    Change(
        "many-probe",
        "when the pause is over, all calls go to a service that is still away",
        CLIENT,
        "(self._is_probing or ",
        "(",
        CIRCUIT,
    ),
    Change(
        "probe-never-ends",
        "a probe that is interrupted is the last call to the service",
        CLIENT,
        "            self._is_probing &= not is_probe\n",
        "            pass\n",
        CIRCUIT,
    ),
    Change(
        "late-failures-lengthen-the-pause",
        "the calls that were under way when the outage began make its first pause the longest",
        CLIENT,
        " and not self.is_open",
        "",
        CIRCUIT,
    ),
    Change(
        "failures-add-up",
        "rare failures stop all calls in the end",
        CLIENT,
        "self._failures, self._pause_s = 0, 0.0",
        "pass",
        CIRCUIT,
    ),
    Change(
        "broken-connection-not-replaced",
        "the restart of a service makes calls fail that could be answered",
        CLIENT,
        "            # The pool hands out first what it was given last, here the place of the connection that broke.\n",
        "            raise\n",
        TESTS,
    ),
    Change(
        "half-an-answer",
        "an answer that was cut off is believed if it happens to be JSON",
        CLIENT,
        "response.read(ANSWER_LIMIT_BYTES + 1)",
        "response.read(ANSWER_LIMIT_BYTES + 1, decode_content=False)",
        TESTS,
    ),
    Change(
        "redirect-followed",
        "a payment is sent to whatever a redirect names",
        CLIENT,
        "retries=False, redirect=False",
        "retries=3, redirect=True",
        TESTS,
    ),
    Change(
        "starts-without-an-address",
        "a service that lacks an address starts, and then answers every request with an error",
        CLIENT,
        "        if not settings.SERVICE_URLS.get(self.target):",
        "        if False:",
        TESTS,
    ),
]
