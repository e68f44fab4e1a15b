"""What the page may do to the processes of the stack that serves it: list, kill, freeze, thaw and restart them.

The process that has started them listens on a Unix socket in the stack's folder, which only its own user may open. One
line of JSON asks, one answers. A part is named, never a process id, so nothing else on the machine can be reached.
"""

import glob
import json
import os
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

from services.kit.web.problems import Problem, unavailable
from services.local.net import accepts
from services.local.server import CannotStart

if TYPE_CHECKING:
    from services.local.server import Server
    from services.local.stack import Stack

FILE = "control"
ANSWER_S = 2.0
LINE_BYTES = 1000
LONGEST_DOWN_S = 60.0
ACTIONS = ("kill", "freeze", "thaw", "restart")
PROMOTE = "promote"
PROMOTED_S = 90.0

Part = dict[str, Any]


class NoSuchPart(ValueError):
    """What was asked for is no action, or about nothing that this stack has started."""


class Control:
    """Does it, in the process of the stack."""

    def __init__(self, stack: "Stack") -> None:
        self.stack = stack
        self._frozen: dict[str, int] = {}  # by the name of the part, the process that was frozen

    def parts(self) -> list[Part]:
        """Return every part, with its state: running, starting, frozen or dead."""
        services = [self._part(name, "service", self.stack.supervisor.pid(name), port) for name, port in self._ports()]
        servers = [self._part(name, name, one.pid if one.running else None) for name, one in self.stack.servers.items()]
        return services + servers

    def _part(self, name: str, kind: str, pid: int | None, port: int | None = None) -> Part:
        if pid is None:
            state = "dead"
        elif self._frozen.get(name) == pid:
            state = "frozen"
        else:
            is_up = accepts(port) if port else self.stack.servers[name].is_up
            state = "running" if is_up else "starting"
        return {"name": name, "kind": kind, "pid": pid, "state": state, "starts_in_s": self._starts_in_s(name, pid)}

    def _starts_in_s(self, name: str, pid: int | None) -> float | None:
        if pid is not None:
            return None
        server = self.stack.servers.get(name)
        start_at = self.stack.starts_at(server) if server else self.stack.supervisor.starts_at(name)
        return round(max(0.0, start_at - time.monotonic()), 1)

    def _ports(self) -> Iterator[tuple[str, int]]:
        from services.local.stack import name_of

        for service, ports in self.stack.ports.items():
            yield from ((name_of(service, number), port) for number, port in enumerate(ports, start=1))

    def do(self, action: str, name: str, down_s: float) -> None:
        """Do something to a part; a part that is killed stays down for `down_s` seconds. Raises NoSuchPart."""
        server = self.stack.servers.get(name)
        if action not in ACTIONS or not (server or name in dict(self._ports())) or not 0 <= down_s <= LONGEST_DOWN_S:
            raise NoSuchPart
        act = {"kill": self._kill, "freeze": self._freeze, "thaw": self._thaw, "restart": self._restart}[action]
        act(name, server, down_s)

    def _kill(self, name: str, server: "Server | None", down_s: float) -> None:
        self._thaw(name, server, 0)  # what a killed server leaves has to notice it
        if server is None:
            self.stack.supervisor.kill(name, down_s)
        elif server.running:
            self.stack.hold_down(server, down_s)
            os.kill(server.pid, signal.SIGKILL)

    def _freeze(self, name: str, server: "Server | None", _: float) -> None:
        pid = self._signal(name, server, signal.SIGSTOP)
        if pid is not None:
            self._frozen[name] = pid

    def _thaw(self, name: str, server: "Server | None", _: float) -> None:
        self._frozen.pop(name, None)
        self._signal(name, server, signal.SIGCONT)

    def _restart(self, name: str, server: "Server | None", _: float) -> None:
        self._thaw(name, server, 0)
        if server is None:
            threading.Thread(target=self._restart_service, args=(name,), daemon=True).start()
        elif server.running:
            os.kill(server.pid, server.stop_signal)  # the stack starts it again

    def promote(self) -> str:
        """Make the standby of the database its primary; return the reason if that cannot be done, else nothing."""
        self._frozen.pop("database", None)
        try:
            self.stack.promote()
        except (CannotStart, TimeoutError, psycopg2.Error) as error:
            return str(error).strip() or type(error).__name__
        return ""

    def _restart_service(self, name: str) -> None:
        with suppress(TimeoutError):
            self.stack.supervisor.restart(name)

    def _signal(self, name: str, server: "Server | None", number: signal.Signals) -> int | None:
        """Send a signal to a part with all its processes, and return the id of the first; None if it does not run."""
        if server is None:
            return self.stack.supervisor.signal(name, number)
        if not server.running:
            return None
        pid = server.pid
        os.kill(pid, number)  # first, so that a frozen one makes no more
        for child in children_of(pid):
            with suppress(ProcessLookupError):
                os.kill(child, number)
        return pid

    def thaw_all(self) -> None:
        """Let everything run on, so that it can be stopped."""
        for name in list(self._frozen):
            self._thaw(name, self.stack.servers.get(name), 0)


def children_of(pid: int) -> list[int]:
    """Return the ids of the processes that `pid` has started; none where there is no /proc."""
    found = []
    for stat in map(Path, glob.iglob("/proc/[0-9]*/stat")):
        with suppress(OSError):  # it has ended
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(stat.parent.name))
    return found


class ControlServer:
    """Answers on the socket, in a thread of its own."""

    def __init__(self, control: Control, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._server = socketserver.ThreadingUnixStreamServer(str(path), _handler(control))
        finally:
            os.umask(mask)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.path.unlink(missing_ok=True)


def _handler(control: Control) -> Callable[..., socketserver.BaseRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        timeout = ANSWER_S

        def handle(self) -> None:
            with suppress(OSError):
                self.wfile.write(json.dumps(answer(control, self.rfile.readline(LINE_BYTES))).encode() + b"\n")

    return Handler


def answer(control: Control, line: bytes) -> Any:
    """Return what one line is answered: the parts, the end of a promotion, or true; null for what cannot be done."""
    try:
        asked = json.loads(line)
        if asked["action"] == "list":
            return control.parts()
        if asked["action"] == PROMOTE:
            return control.promote()
        control.do(str(asked["action"]), str(asked["part"]), float(asked.get("down_s", 0.2)))
        return True
    except (ValueError, KeyError, TypeError, OSError):
        return None


class ControlClient:
    """Asks on the socket, from the process that serves the page."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def parts(self) -> list[Part] | None:
        """Return every part; None if the stack does not answer."""
        try:
            return list(self._ask({"action": "list"}))
        except (OSError, ValueError, TypeError):
            return None

    def do(self, action: str, part: str, down_s: float | None = None) -> None:
        """Have something done to a part. Raises Problem."""
        try:
            done = self._ask({"action": action, "part": part} | ({} if down_s is None else {"down_s": down_s}))
        except (OSError, ValueError):
            raise unavailable("The stack does not answer.") from None
        if not done:
            raise Problem(404, "no-such-part", "There is no such part of this stack, or no such action.")

    def promote(self) -> str:
        """Have the standby made the primary; return the reason if that cannot be done, else nothing."""
        return str(self._ask({"action": PROMOTE}, PROMOTED_S))

    def _ask(self, request: dict[str, Any], timeout_s: float = ANSWER_S) -> Any:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(self.path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                return json.loads(lines.readline())
