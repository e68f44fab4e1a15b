"""Calls to another service by HTTP, with a deadline, few at a time, and none for a while if there are no answers.

In a service class `billing = HttpProxy("billing")`, then `self.billing.put(path, body, "put_payment")`. An answer is a
status below 500, and JSON. After anything else the outcome is unknown: CallUnavailable, or CallFailed if somebody
should look at the answer. Every call is a GET, or a PUT under an id that the caller chose. So it may be sent twice, and
the caller finds out what became of it by asking again under the same id.

A service that is slow or silent does not take all workers of its callers. (Nygard, "Release It!", 2018: timeouts,
bulkheads, circuit breakers.)

urllib3 takes half the processor time of httpx, and closes a connection on which a call was interrupted. But its pool
grows by one when the wait for a connection is interrupted, so callers wait for a slot, and never for the pool.

What a crash leaves: nothing on disk here. A call that was under way may be carried out. What the caller committed
before it, a pending order or an event in the outbox, makes somebody call again under the same id.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from eventlet import Timeout
from eventlet.semaphore import Semaphore
from nameko.extensions import DependencyProvider, SharedExtension
from pydantic import BaseModel
from urllib3 import connection_from_url
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError
from urllib3.util import parse_url

from services.kit import tracing
from services.kit.config import BadConfiguration, Settings
from services.kit.errors import CallFailed, Unavailable
from services.kit.outage import Outage, next_pause_s
from services.kit.seams import Container
from services.kit.tracing import Kind
from services.kit.web.auth.internal import check_internal

log = logging.getLogger(__name__)

SLOT_WAIT_S = 0.5
ANSWER_LIMIT_BYTES = 2**20
FAILURES = 3  # in a row, before calls fail at once
NOT_NOW = (408, 429)  # like 5xx: the service cannot answer now


class CallUnavailable(Unavailable):
    """The service cannot answer now, or the call was not sent."""


class NoAnswer(CallUnavailable):
    """The deadline is over, or there was no connection, or it broke: nothing shows that the service is alive."""


class Answer(NamedTuple):
    """The answer to a call: a status below 500, and the JSON of the body."""

    status: int
    body: Any


class Circuit:
    """Stops calls to a service after FAILURES in a row without an answer, for a pause that doubles from 0.5 s to 5 s.

    Then one call is let through. An answer ends the outage, no answer begins the next pause.
    """

    def __init__(self, target: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._outage = Outage(f"calls to {target}", target)
        self._clock = clock
        self._failures = 0
        self._pause_s = self._paused_until = 0.0
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        return self._outage.is_on

    @contextmanager
    def passed(self, call: str) -> Iterator[None]:
        """Let a call through, or raise CallUnavailable. A NoAnswer inside is a failure, anything else is not."""
        is_probe = self.is_open
        if is_probe and (self._is_probing or self._clock() < self._paused_until):
            raise CallUnavailable(f"{call} was not sent: the service is away")
        self._is_probing |= is_probe
        try:
            yield
        except NoAnswer as error:
            self._failures += 1
            if is_probe or (self._failures >= FAILURES and not self.is_open):
                self._pause_s = next_pause_s(self._pause_s)
                self._paused_until = self._clock() + self._pause_s
                self._outage.begin(str(error))
            raise
        finally:
            self._is_probing &= not is_probe

    def answered(self) -> None:
        """Note that the service is alive."""
        self._failures, self._pause_s = 0, 0.0
        self._outage.end()


class HttpClient(SharedExtension):
    """Calls the service `target`; there is one client for each in a container, whoever uses it."""

    container: Container

    def __init__(self, target: str) -> None:
        self.target = target

    @property
    def sharing_key(self) -> Any:
        return type(self), self.target

    def check(self, settings: Settings) -> None:
        """Raise BadConfiguration if the address of the service is not known, or what it asks us for."""
        if not settings.SERVICE_URLS.get(self.target):
            raise BadConfiguration(
                f"config.yaml: SERVICE_URLS.{self.target}: should be the address of {self.target}, "
                f"like http://{self.target}:8000; set {self.target.upper()}_URL"
            )
        check_internal(settings)

    def setup(self) -> None:
        settings = self.container.settings
        url = settings.SERVICE_URLS[self.target] or ""
        self._prefix = (parse_url(url).path or "").rstrip("/")
        self._limit = max(1, min(settings.MAX_CALLS, settings.max_workers - 1))  # some workers are left for the rest
        self._slots = Semaphore(self._limit)
        self._circuit = Circuit(self.target)
        secret = settings.INTERNAL_TOKEN
        self._authorization = {"Authorization": f"Bearer {secret.get_secret_value()}"} if secret else {}
        self._pool = connection_from_url(url, maxsize=self._limit, timeout=None)

    def stop(self) -> None:
        self._pool.close()

    def call(self, method: str, path: str, operation: str, body: BaseModel | None = None) -> Answer:
        """Send a request and return its answer, in RPC_TIMEOUT_S, or raise CallUnavailable or CallFailed.

        `operation` is a constant that names the call in metrics.
        """
        call, outcome, started = f"{self.target}.{operation}", "replied", time.monotonic()
        try:
            with self.container.tracer.span(
                f"{method} {operation}", Kind.CLIENT, attributes={"http.request.method": method}
            ) as span:
                status, content = self._answer(method, path, body, call)
                span.set_attribute("http.response.status_code", status)
                return read(call, status, content)
        except CallFailed as error:
            outcome = "refused"
            log.error("an answer cannot be used, its call's outcome is unknown: %s", error)
            raise
        except Unavailable as error:
            outcome = "failed"
            if not self._circuit.is_open:  # which is logged when it begins
                log.warning("a call got no answer: %s", error)
            raise
        finally:
            observed = self.container.metrics.rpcs.labels(self.container.service_name, call, outcome)
            observed.observe(time.monotonic() - started)

    def _answer(self, method: str, path: str, body: BaseModel | None, call: str) -> tuple[int, bytes]:
        """Return the status and the body of an answer, whatever they are, or raise CallUnavailable."""
        timeout_s = self.container.settings.RPC_TIMEOUT_S
        late = NoAnswer(f"{call} was not answered in {timeout_s:g} s")
        with Timeout(timeout_s, late), self._slot(call), self._circuit.passed(call):
            try:
                answer = self._send_twice(method, path, body)
            except HTTPError as error:
                raise NoAnswer(f"{call}: {error}") from error
            self._circuit.answered()
            return answer

    @contextmanager
    def _slot(self, call: str) -> Iterator[None]:
        if not self._slots.acquire(timeout=SLOT_WAIT_S):
            raise CallUnavailable(f"{call} was not sent: {self._limit} calls are under way")
        try:
            yield
        finally:
            self._slots.release()

    def _send_twice(self, method: str, path: str, body: BaseModel | None) -> tuple[int, bytes]:
        """Send a request. If there is no connection, or it breaks, send it once more, on a new one."""
        try:
            return self._send(method, path, body)
        except (ProtocolError, NewConnectionError):
            # The pool hands out first what it was given last, here the place of the connection that broke.
            return self._send(method, path, body)

    def _send(self, method: str, path: str, body: BaseModel | None) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", **self._authorization, **tracing.headers()}
        headers |= {"Content-Type": "application/json"} if body else {}
        content = body.model_dump_json().encode() if body else None
        path = self._prefix + path
        sent = self._pool.urlopen(method, path, content, headers, retries=False, redirect=False, preload_content=False)
        with closing(sent) as response:  # a connection that was not read to its end is not used again
            return response.status, response.read(ANSWER_LIMIT_BYTES + 1)


def read(call: str, status: int, body: bytes) -> Answer:
    """Return the answer; raise CallUnavailable or CallFailed if there is none in it."""
    if status >= 500 or status in NOT_NOW:
        raise CallUnavailable(f"{call}: the answer is {status}")
    if len(body) > ANSWER_LIMIT_BYTES:
        raise CallFailed(f"{call}: the answer {status} is longer than {ANSWER_LIMIT_BYTES} bytes")
    try:
        return Answer(status, json.loads(body))
    except (ValueError, RecursionError):
        raise CallFailed(f"{call}: the answer {status} is not JSON") from None


class HttpProxy(DependencyProvider):
    """Another service, as workers see it. CallUnavailable and CallFailed leave the outcome unknown."""

    def __init__(self, target: str) -> None:
        self.client = HttpClient(target)

    def get_dependency(self, worker_ctx: Any) -> "HttpProxy":
        return self

    def get(self, path: str, operation: str) -> Answer:
        return self._call("GET", path, None, operation)

    def put(self, path: str, body: BaseModel | None, operation: str) -> Answer:
        return self._call("PUT", path, body, operation)

    def _call(self, method: str, path: str, body: BaseModel | None, operation: str) -> Answer:
        return self.client.call(method, path, operation, body)
