"""A TCP proxy between a client and its server that does harm to connections: as a whole by its `mode`, or to one
request and its reply by a rule.

It need not know much of what it carries, only where a request begins and where its reply ends. PostgreSQL's simple
query protocol takes turns, so a reply ends with ReadyForQuery. What AMQP answers to a publish is a confirm. An answer
of HTTP has come when its headers have.
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from services.local.net import HOST, free_port

CHUNK = 65_536
SWITCHED_S = 10


class Mode(StrEnum):
    """What becomes of all connections."""

    PASS = "pass"
    REFUSE = "refuse"  # nobody listens; connections that are open stay
    BLACK_HOLE = "black hole"  # new connections are accepted and never answered; those that are open are held
    HOLD = "hold"  # nothing is forwarded until the mode is another one, nothing is lost


class Fault(StrEnum):
    """What becomes of a request that a rule takes. Every cut is an RST to both ends."""

    CUT_BEFORE = "cut before the request"
    CUT_REQUEST = "cut in the middle of the request"
    LOSE_REPLY = "reply lost"  # the server has answered in full, nobody hears it
    CUT_REPLY = "cut in the middle of the reply"
    DELAY = "delay"


@dataclass
class Rule:
    """Does `fault` to requests that contain `match`, `count` times (None: without end), each with `probability`."""

    fault: Fault
    match: bytes = b""
    count: int | None = 1
    probability: float = 1.0
    delay_s: float = 0.0
    done: int = 0

    def takes(self, request: bytes, dice: random.Random) -> bool:
        if self.done == self.count or self.match not in request or dice.random() >= self.probability:
            return False
        self.done += 1
        return True


class Protocol(NamedTuple):
    """Which bytes of a client are a request, and whether the bytes of a server are the whole reply to it."""

    is_request: Callable[[bytes], Any]
    is_reply: Callable[[bytes], Any]


ANY = Protocol(bool, bool)
POSTGRES = Protocol(re.compile(rb"\AQ").search, re.compile(rb"Z\x00\x00\x00\x05[ITE]\Z").search)
AMQP = Protocol(re.compile(rb"\x00\x3c\x00\x28").search, re.compile(rb"\x00\x3c\x00[\x50\x78]").search)

HTTP = Protocol(re.compile(rb"\A(GET|PUT) ").search, re.compile(rb"\r\n\r\n").search)


@dataclass(eq=False)
class Pair:
    """A client's connection and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    fate: Fault | None = None  # of the reply that is awaited
    reply: bytes = b""  # ... as far as it has come
    is_cut: bool = False

    def cut(self) -> None:
        """Reset both connections."""
        self.is_cut = True
        for writer in filter(None, (self.client, self.server)):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass(eq=False)
class Proxy:
    """Listens at `port` for the server at `server_port`, both of this machine: `with Proxy(5432) as proxy:`."""

    server_port: int
    protocol: Protocol = ANY
    seed: int = 0
    port: int = field(default_factory=free_port)
    rules: list[Rule] = field(default_factory=list)
    done: Counter[Fault] = field(default_factory=Counter)

    def __enter__(self) -> "Proxy":
        self.dice = random.Random(self.seed)
        self._mode = Mode.PASS
        self._pairs: set[Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._do(self._switch(mode))

    def add(self, fault: Fault, match: bytes = b"", **options: Any) -> Rule:
        """Add a rule; what it has done is counted in its `done`."""
        rule = Rule(fault, match, **options)
        self.rules.append(rule)
        return rule

    def cut(self, share: float = 1.0) -> int:
        """Reset all connections, or each with this probability; say how many."""
        return self._do(self._cut(share))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SWITCHED_S)

    async def _start(self) -> None:
        self._flows = asyncio.Event()
        self._flows.set()
        self._listener = await asyncio.start_server(self._serve, HOST, self.port, limit=CHUNK, backlog=500)

    async def _stop(self) -> None:
        self._listener.close()
        await self._cut(1.0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in the next turn of the loop

    async def _switch(self, mode: Mode) -> None:
        before, self._mode = self._mode, mode
        if mode == Mode.REFUSE:
            self._listener.close()
        elif before == Mode.REFUSE:
            self._listener = await asyncio.start_server(self._serve, HOST, self.port, limit=CHUNK, backlog=500)
        if mode in (Mode.HOLD, Mode.BLACK_HOLE):
            self._flows.clear()
        else:
            self._flows.set()

    async def _cut(self, share: float) -> int:
        chosen = [pair for pair in self._pairs if self.dice.random() < share]
        for pair in chosen:
            pair.cut()
        return len(chosen)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        pair = Pair(client)
        self._pairs.add(pair)
        try:
            if self._mode == Mode.BLACK_HOLE:
                await reader.read()  # until the client gives up
                return
            await self._flows.wait()
            answers, pair.server = await asyncio.open_connection(HOST, self.server_port, limit=CHUNK)
            ways = [
                asyncio.ensure_future(self._requests(pair, reader, pair.server)),
                asyncio.ensure_future(self._replies(pair, answers)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pair.cut()  # there is no server
        finally:
            self._pairs.discard(pair)
            if pair.is_cut:
                pair.cut()  # also the connection to the server, if it came only now
            for writer in filter(None, (pair.client, pair.server)):
                writer.close()

    async def _requests(self, pair: Pair, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            await self._flows.wait()
            fault, delay_s = self._fault(chunk)
            if delay_s:
                await asyncio.sleep(delay_s)
            if fault == Fault.CUT_BEFORE:
                return pair.cut()
            if fault == Fault.CUT_REQUEST:
                chunk = chunk[: len(chunk) // 2]
            elif fault in (Fault.LOSE_REPLY, Fault.CUT_REPLY):
                pair.fate, pair.reply = fault, b""
            server.write(chunk)
            await server.drain()
            if fault == Fault.CUT_REQUEST:
                return pair.cut()

    async def _replies(self, pair: Pair, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(CHUNK):
            await self._flows.wait()
            if pair.fate is not None:
                pair.reply += chunk
                if not self.protocol.is_reply(pair.reply):
                    continue
                if pair.fate == Fault.LOSE_REPLY:
                    return pair.cut()
                chunk = pair.reply[: len(pair.reply) // 2]
            pair.client.write(chunk)
            await pair.client.drain()
            if pair.fate is not None:
                return pair.cut()

    def _fault(self, chunk: bytes) -> tuple[Fault | None, float]:
        """What is to be done to a request, and for how long it is delayed."""
        if self.rules and self.protocol.is_request(chunk):
            for rule in self.rules:
                if rule.takes(chunk, self.dice):
                    self.done[rule.fault] += 1
                    return rule.fault, rule.delay_s
        return None, 0
