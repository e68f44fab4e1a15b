"""AMQP over TLS: the AMQP library's, on connections that end without asking the broker, and errors in one line."""

import ssl
from typing import Any

from amqp import transport
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from services.kit.tls import host_of


class NotTrusted(OSError):
    """TLS to a node of the broker failed; the message is one line."""


class Socket(transport.SSLTransport):
    """A socket with TLS that differs from one without by nothing but what is sent."""

    def _setup_transport(self) -> None:
        super()._setup_transport()
        self.sock.settimeout(None)  # the library would leave the deadline of connecting

    def _shutdown_transport(self) -> None:
        """Close without TLS's own farewell: its answer would have to be waited for, and frames tell where AMQP ends."""


class Connection(pyamqp.Connection):
    """A connection on such a socket."""

    def Transport(self, *args: Any, **options: Any) -> Socket:
        host, connect_timeout, ssl, read_timeout, write_timeout = args
        return Socket(host, connect_timeout, ssl, read_timeout=read_timeout, write_timeout=write_timeout, **options)


class Transport(pyamqp.SSLTransport):
    """What kombu connects by, where a URI is `amqps://`."""

    Connection = Connection


TRANSPORT_ALIASES["amqps"] = f"{__name__}:Transport"


def explained(error: Exception, uri: str) -> Exception:
    """Return an error of TLS in our own words, and every other one as it is. kombu wraps what it raises."""
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    if not isinstance(cause, ssl.SSLError):
        return error
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = f"its certificate is refused: {cause.verify_message}"
    elif cause.reason == "WRONG_VERSION_NUMBER":
        why = "it speaks no TLS at this port"
    else:
        why = f"TLS failed: {cause.reason or cause}"
    return NotTrusted(f"{host_of(uri)}: {why}")
