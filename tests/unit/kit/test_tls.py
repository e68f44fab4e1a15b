"""TLS to PostgreSQL and RabbitMQ: what the settings may say, and what is sent to a server that does not speak it."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server, socket
from typing import Any

import amqp
import psycopg2
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from services.kit.amqp.nodes import Nodes
from services.kit.amqp.sockets import spare_system_calls, written_together
from services.kit.amqp.tls import NotTrusted, Socket
from services.kit.config import BadConfiguration, check
from services.kit.tls import BrokerFiles
from tests.certificates import Authority
from tests.unit.kit.test_config import config
from tests.unit.kit.test_sockets import frame

PLAIN, TLS = "amqp://u:p@broker", "amqps://u:p@broker"
DATABASE = "postgresql://u:p@database/orders"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def refusal(**settings: Any) -> str:
    with pytest.raises(BadConfiguration) as caught:
        check({**config(), **settings})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_can_be_read_are_taken(authority: Authority):
    ours = authority.sign("ours")
    files = {"AMQP_CA_FILE": authority.file, "AMQP_CERT_FILE": ours.certificate, "AMQP_KEY_FILE": ours.key}
    url = f"{DATABASE}?sslmode=verify-full&sslrootcert={authority.file}&sslcert={ours.certificate}&sslkey={ours.key}"
    broker = {"AMQP_URI": f"{TLS};{TLS}", **{name: str(file) for name, file in files.items()}}
    assert check({**config(), **broker, "DB_URIS": {"orders:Base": url}}).AMQP_CA_FILE == str(authority.file)
    check({**config(), "AMQP_URI": TLS, "DB_URIS": {"orders:Base": f"{DATABASE}?sslmode=require&sslrootcert=system"}})
    check({**config(), **broker, "AMQP_URI": "embedded://localhost/"})  # which has no connections


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"AMQP_URI": f"{TLS};{PLAIN}"}, "AMQP_URI: should be amqps:// for all nodes or for none"),
        ({"AMQP_URI": "amqps:///vhost"}, "AMQP_URI: should name a host, which the certificate is checked for"),
        ({"AMQP_URI": f"{TLS}/?ssl_cert_reqs=none"}, "AMQP_URI: should have no parameters"),
        ({"AMQP_URI": PLAIN, "AMQP_CA_FILE": "/none"}, "AMQP_CA_FILE: is of no use, as AMQP_URI is not amqps://"),
        ({"AMQP_URI": TLS, "AMQP_CA_FILE": "/none"}, "AMQP_CA_FILE: cannot be used: No such file or directory"),
        ({"AMQP_URI": TLS, "AMQP_CA_FILE": __file__}, "AMQP_CA_FILE: cannot be used: "),
        ({"AMQP_URI": TLS, "AMQP_KEY_FILE": "/none"}, "AMQP_CERT_FILE: either both this and AMQP_KEY_FILE"),
        ({"AMQP_URI": TLS, "AMQP_CERT_FILE": "/none", "AMQP_KEY_FILE": "/none"}, "AMQP_CERT_FILE: cannot be used"),
    ],
)
def test_what_would_not_do_what_it_says_stops_the_start(settings: dict[str, str], why: str):
    assert refusal(**settings).startswith(f"config.yaml: {why}")


@pytest.mark.parametrize(
    "query, why",
    [
        ("sslmode=verify_full", "should have an sslmode of disable, allow, prefer, require, verify-ca, verify-full"),
        ("sslrootcert=/none", "has sslrootcert, and would do without TLS: it should have sslmode=verify-full too"),
        ("sslrootcert=system&sslmode=prefer&sslkey=/none", "has sslkey, and would do without TLS"),
        ("sslmode=verify-full&sslrootcert=/none", "names a file as sslrootcert that cannot be read: No such file"),
    ],
)
def test_a_database_url_that_would_not_do_what_it_says_stops_the_start(query: str, why: str):
    refused = refusal(DB_URIS={"orders:Base": f"{DATABASE}?{query}"})
    assert refused.startswith(f"config.yaml: DB_URIS: orders:Base {why}")


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(authority: Authority, tmp_path: Path):
    ours, locked = authority.sign("locked"), tmp_path / "locked.key"
    key = load_pem_private_key(ours.key.read_bytes(), None)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    refused = refusal(AMQP_URI=TLS, AMQP_CERT_FILE=str(ours.certificate), AMQP_KEY_FILE=str(locked))
    assert refused.startswith("config.yaml: AMQP_CERT_FILE: cannot be used with AMQP_KEY_FILE: ")


@contextmanager
def serving(serve: Callable[[socket], None]) -> Iterator[int]:
    """The port of a server that treats its one client like this."""
    with create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with listener.accept()[0] as connection:
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_a_database_without_tls_gets_nothing_but_the_question(mode: str, authority: Authority):
    heard = []

    def refuse(connection: socket) -> None:
        heard.append(connection.recv(100))
        connection.sendall(b"N")
        heard.append(connection.recv(100))

    with serving(refuse) as port, pytest.raises(psycopg2.OperationalError, match="server does not support SSL"):
        psycopg2.connect(
            f"postgresql://u:p@127.0.0.1:{port}/orders?sslmode={mode}&sslrootcert={authority.file}&gssencmode=disable"
        )
    assert [len(one) for one in heard] == [8, 0]


def answer_in_plain_text(connection: socket, heard: list[bytes]) -> None:
    """Do what RabbitMQ does with what it cannot read."""
    heard.append(connection.recv(65_536))
    connection.sendall(b"AMQP\0\0\x09\x01")


def test_a_broker_without_tls_gets_no_password():
    heard: list[bytes] = []
    with (
        serving(lambda connection: answer_in_plain_text(connection, heard)) as port,
        pytest.raises(NotTrusted, match="^127.0.0.1: it speaks no TLS at this port$"),
    ):
        Nodes(f"amqps://guest:secret@127.0.0.1:{port}").connect(3, 0, lambda connection: connection)
    assert heard[0][0] == 0x16  # a handshake of TLS
    assert b"secret" not in heard[0]


@pytest.mark.parametrize("mistake", ["another name", "another authority"])
def test_a_broker_that_is_somebody_else_gets_no_password(authority: Authority, tmp_path: Path, mistake: str):
    signer = Authority(tmp_path) if mistake == "another authority" else authority
    certificate = signer.sign("somebody", "elsewhere.example" if mistake == "another name" else "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    heard = []

    def serve(connection: socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as encrypted:
                heard.append(encrypted.recv(1000))
        except ssl.SSLError:
            heard.append(b"")

    with serving(serve) as port, pytest.raises(NotTrusted, match=r"^127.0.0.1: its certificate is refused: "):
        nodes = Nodes(f"amqps://guest:secret@127.0.0.1:{port}", BrokerFiles(str(authority.file)))
        nodes.connect(3, 0, lambda connection: connection)
    assert heard == [b""]


def test_of_all_nodes_the_one_that_is_not_trusted_is_named():
    with serving(lambda connection: answer_in_plain_text(connection, [])) as port:
        nodes = Nodes(f"amqps://localhost:{port};amqps://localhost:1")
        with pytest.raises(NotTrusted, match="^localhost: "):
            nodes.connect(3, 0, lambda connection: connection)


@contextmanager
def connected(authority: Authority, serve: Callable[[Any], object]) -> Iterator[Any]:
    """Our end of an encrypted connection to a server that does this with its own."""
    server = authority.sign("server", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server)

    def run(connection: socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            assert encrypted.recv(8, 0) == b"AMQP\0\0\x09\x01"
            serve(encrypted)

    with serving(run) as port:
        files = BrokerFiles(str(authority.file))
        ours = Socket(f"localhost:{port}", connect_timeout=5, ssl=files.options(f"amqps://localhost:{port}"))
        ours.connect()
        yield ours


class Kombus:
    """kombu's connection, of which only the socket is there."""

    def __init__(self, transport: Socket) -> None:
        self.connection = amqp.Connection()
        self.connection.client_properties = {"capabilities": {}}
        self.connection._transport = transport


def test_frames_that_tls_holds_already_are_read_without_waiting_for_more(authority: Authority):
    frames = [bytes([number]) * 1000 for number in range(15)]  # one record of TLS, of which a part is read at a time
    done = threading.Event()

    def serve(broker: ssl.SSLSocket) -> None:
        broker.sendall(b"".join(map(frame, frames)))
        done.wait(5)

    with connected(authority, serve) as ours:
        spare_system_calls(Kombus(ours))
        with ours.having_timeout(2):
            assert [bytes(ours.read_frame()[2]) for _ in frames] == frames
        done.set()
        ours.close()


def test_a_frame_that_comes_in_parts_is_read_whole_and_a_timeout_loses_nothing_of_it(authority: Authority):
    whole, go_on = frame(b"x" * 40_000), threading.Event()

    def serve(broker: ssl.SSLSocket) -> None:
        broker.sendall(whole[:20_000])
        go_on.wait(5)
        broker.sendall(whole[20_000:])

    with connected(authority, serve) as ours:
        spare_system_calls(Kombus(ours))
        with pytest.raises(TimeoutError), ours.having_timeout(0.1):
            ours.read_frame()
        go_on.set()
        with ours.having_timeout(5):
            assert bytes(ours.read_frame()[2]) == b"x" * 40_000
        ours.close()


def test_what_is_written_together_arrives_whole_and_in_order(authority: Authority):
    sent = [bytes([number]) * 30_000 for number in range(100)]
    got = bytearray()

    def serve(broker: ssl.SSLSocket) -> None:
        while len(got) < 3_000_000:
            got.extend(broker.recv(100_000))

    with connected(authority, serve) as ours:
        with written_together(Kombus(ours)):
            for one in sent:
                ours.write(memoryview(one))
        wait_until = time.monotonic() + 10
        while len(got) < 3_000_000 and time.monotonic() < wait_until:
            time.sleep(0.01)
        ours.close()
    assert got == b"".join(sent)


def test_a_connection_is_closed_without_waiting_for_a_silent_broker(authority: Authority):
    done = threading.Event()
    with connected(authority, lambda broker: done.wait(5)) as ours:
        assert ours.sock.gettimeout() is None  # as without TLS; deadlines are set around what waits
        ours.sock.settimeout(3)
        began = time.monotonic()
        ours.close()
        assert time.monotonic() - began < 1
        done.set()
