"""Look-ups of host names that block neither the event loop nor a deadline while the name server is silent.

The C library's look-up blocks its thread. eventlet's replacement treats an exception that is raised into it, such as
one of our deadlines, as a failure of the name server, and asks the next server. So the C library runs in a native
thread, once at a time for each name, and only the callers wait.
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import eventlet
import eventlet.green.socket
from eventlet import Timeout, patcher
from eventlet.event import Event as Signal
from eventlet.hubs import trampoline

LOOK_UP_S = 3.0
KEEP_S = 5.0

_native_socket = patcher.original("socket")
_native_threading = patcher.original("threading")
"".encode("idna")  # loads the codec that each look-up needs here, rather than in a native thread

Answer = list[Any]


class Names:
    """Look-ups by `look_up`, a getaddrinfo that may block. Answers are kept for `keep_s` seconds."""

    def __init__(self, look_up: Callable[..., Answer] = _native_socket.getaddrinfo, keep_s: float = KEEP_S) -> None:
        self._look_up = look_up
        self._keep_s = keep_s
        self._known: dict[tuple[Any, ...], tuple[float, Answer]] = {}
        self._under_way: dict[tuple[Any, ...], Signal] = {}

    def getaddrinfo(
        self,
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
        timeout_s: float = LOOK_UP_S,
    ) -> Answer:
        """Do what socket.getaddrinfo does; raise socket.gaierror without an answer in `timeout_s` seconds."""
        try:  # an address needs no look-up
            return list(_native_socket.getaddrinfo(host, port, family, type, proto, flags | socket.AI_NUMERICHOST))
        except OSError:
            pass
        question = (host, port, family, type, proto, flags)
        until, answer = self._known.get(question, (0.0, []))
        if time.monotonic() < until:
            return answer
        if question not in self._under_way:
            self._under_way[question] = Signal()
            eventlet.spawn_n(self._ask, question)
        silent = socket.gaierror(socket.EAI_AGAIN, f"the name server did not answer in {timeout_s:g} s")
        with Timeout(timeout_s, silent):
            return list(self._under_way[question].wait())

    def addresses(self, host: str, timeout_s: float) -> list[str]:
        """Return the IP addresses of `host`, the preferred one first."""
        found = self.getaddrinfo(host, None, type=socket.SOCK_STREAM, timeout_s=timeout_s)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def _ask(self, question: tuple[Any, ...]) -> None:
        """Look a name up in a native thread, whose end of a pipe is closed when it is done."""
        reader, writer = os.pipe()
        answers: list[Answer | BaseException] = []

        def look_up() -> None:
            try:
                answers.append(self._look_up(*question))
            except BaseException as error:
                answers.append(error)
            finally:
                os.close(writer)

        _native_threading.Thread(target=look_up, name="name look-up", daemon=True).start()
        trampoline(reader, read=True)
        os.close(reader)
        [answer] = answers
        asked = self._under_way.pop(question)
        if isinstance(answer, BaseException):
            asked.send_exception(answer)
        else:
            self._known[question] = time.monotonic() + self._keep_s, answer
            asked.send(answer)


NAMES = Names()


def install() -> None:
    """Make everything in this process that eventlet has monkey-patched, kombu above all, use these look-ups."""
    if patcher.is_monkey_patched("socket"):
        socket.getaddrinfo = NAMES.getaddrinfo
        eventlet.green.socket.getaddrinfo = NAMES.getaddrinfo  # for its create_connection
