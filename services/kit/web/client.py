"""Calls of other services by HTTP, bounded in time and in number.

A call is a GET, or a PUT under an id that its caller has chosen, so it may be sent again: what it asks for is done
once. Whatever is not an answer leaves the outcome unknown, and the caller finds out by asking again.

A callee that is silent must not take all workers of its callers (Nygard, "Release It!", 2018): a call has a deadline,
only so many calls are under way to one service (bulkhead), and after some failures in a row no call is sent for a
while, then one, to find out (circuit breaker).

What a crash leaves: a call that may be carried out, and nothing here. Whoever wanted it has a pending row, or an event
in an outbox.
"""

import json
import logging
import time
from typing import Any, NamedTuple

import urllib3
from eventlet import Timeout
from eventlet.semaphore import Semaphore
from nameko.extensions import DependencyProvider, Extension
from pydantic import BaseModel
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError

from services.kit.config import BadConfiguration, Settings
from services.kit.errors import CallFailed, Unavailable
from services.kit.outage import Outage, next_pause_s
from services.kit.seams import Container

log = logging.getLogger(__name__)

SLOT_S = 0.5  # how long a call waits until fewer calls are under way
FAILURES = 3  # in a row, after which no call is sent for a while
ANSWER_LIMIT = 2**20  # bytes
NO_ANSWER = (408, 429)  # and everything from 500 on


class CallUnavailable(Unavailable):
    """No usable answer came: the call may have been carried out, or not."""


class Answer(NamedTuple):
    """A status below 500, and the JSON of the body."""

    status: int
    body: Any


class HttpClient(Extension):
    """Calls one other service, whose address SERVICE_URLS has."""

    container: Container

    def __init__(self, target: str) -> None:
        self.target = target
        self._failures = 0
        self._pause_s = 0.0
        self._closed_until = 0.0  # no call is sent before

    def check(self, settings: Settings) -> None:
        """Raise BadConfiguration if the address of the service is not known."""
        if not settings.SERVICE_URLS.get(self.target):
            raise BadConfiguration(
                f"config.yaml: SERVICE_URLS.{self.target}: should be the address of {self.target}, "
                f"like http://{self.target}:8000; set {self.target.upper()}_URL"
            )

    def setup(self) -> None:
        settings = self.container.settings
        at_once = max(1, min(settings.MAX_CALLS, settings.max_workers - 1))
        url = urllib3.util.parse_url(settings.SERVICE_URLS[self.target] or "")
        self._path = (url.path or "").rstrip("/")
        self._pool = urllib3.connection_from_url(url.url, maxsize=at_once, block=False, retries=False)
        self._slots = Semaphore(at_once)
        self._outage = Outage(f"calls of {self.container.service_name}", self.target)

    def stop(self) -> None:
        self._pool.close()

    def call(self, method: str, path: str, operation: str, body: BaseModel | None = None) -> Answer:
        """Send a request and return its answer, within RPC_TIMEOUT_S.

        `operation` is a name for the metrics. Raise CallUnavailable if there is no answer, CallFailed for one that
        cannot be read.
        """
        started, outcome = time.monotonic(), "replied"
        try:
            return self._call(method, path, body)
        except CallFailed as error:
            outcome = "refused"  # the label of a metric, which it shares with RPCs
            log.error("a call was not answered as it should, its outcome is unknown: %s", error)
            raise
        except Unavailable as error:
            outcome = "failed"
            if not self._outage.is_on:
                log.warning("%s.%s has an unknown outcome: %s", self.target, operation, error)
            raise
        finally:
            self.container.metrics.rpcs.labels(
                self.container.service_name, f"{self.target}.{operation}", outcome
            ).observe(time.monotonic() - started)

    def _call(self, method: str, path: str, body: BaseModel | None) -> Answer:
        timeout_s = self.container.settings.RPC_TIMEOUT_S
        self._pass_breaker(timeout_s)
        with Timeout(SLOT_S, CallUnavailable(f"too many calls of {self.target} are under way; nothing was sent")):
            self._slots.acquire()
        try:
            with Timeout(timeout_s, CallUnavailable(f"{self.target} did not answer in {timeout_s:g} s")):
                status, raw = self._send_twice(method, path, body)
        except CallUnavailable as error:
            self._note_failure(error)
            raise
        finally:
            self._slots.release()
        self._note_answer()
        return self._read(status, raw)

    def _pass_breaker(self, probe_s: float) -> None:
        """Raise CallUnavailable while no call may be sent; let one pass when the pause is over."""
        now = time.monotonic()
        if now < self._closed_until:
            raise CallUnavailable(f"{self.target} has not answered lately; nothing was sent")
        if self._outage.is_on:
            self._closed_until = now + probe_s  # this one finds out, and nobody else until it has

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._pause_s = next_pause_s(self._pause_s)
            self._closed_until = time.monotonic() + self._pause_s
            self._outage.begin(str(error))

    def _note_answer(self) -> None:
        self._failures, self._pause_s, self._closed_until = 0, 0.0, 0.0
        self._outage.end()

    def _send_twice(self, method: str, path: str, body: BaseModel | None) -> tuple[int, bytes]:
        """Send a request, and once more if its connection broke: a kept one may have died without being noticed."""
        try:
            return self._send(method, path, body)
        except (ProtocolError, NewConnectionError):
            pass
        except HTTPError as error:
            raise CallUnavailable(f"{self.target}: {type(error).__name__}") from error
        try:
            return self._send(method, path, body)
        except HTTPError as error:
            raise CallUnavailable(f"{self.target}: {type(error).__name__}") from error

    def _send(self, method: str, path: str, body: BaseModel | None) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
        content = body.model_dump_json().encode() if body else None
        response = self._pool.urlopen(
            method, self._path + path, content, headers, redirect=False, preload_content=False, timeout=None
        )
        is_read = False
        try:
            raw = response.read(ANSWER_LIMIT + 1)
            is_read = len(raw) <= ANSWER_LIMIT
        finally:
            if is_read:
                response.release_conn()
            else:
                response.close()
        return response.status, raw

    def _read(self, status: int, raw: bytes) -> Answer:
        if status >= 500 or status in NO_ANSWER:
            raise CallUnavailable(f"{self.target} answered {status}")
        if len(raw) > ANSWER_LIMIT:
            raise CallFailed(f"{self.target}: the answer is too long")
        try:
            return Answer(status, json.loads(raw))
        except ValueError:
            raise CallFailed(f"{self.target}: the answer {status} is not JSON") from None


class HttpProxy(DependencyProvider):
    """Another service: `billing = HttpProxy("billing")`, then `self.billing.put("/payments/7", payment, "payment")`.

    An answer below 500 is returned. CallUnavailable and CallFailed leave the outcome unknown.
    """

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
