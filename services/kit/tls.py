"""What settings say of TLS to PostgreSQL and to RabbitMQ, and whether they can be meant so.

What would encrypt nothing, or trust anybody, though it looks as if it did not, is refused before anything starts.
"""

import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL

from services.kit.hosts import NODE_SEPARATOR

#: The values of libpq's `sslmode` that encrypt, or fail. (PostgreSQL manual, section "SSL Support".)
ENCRYPTING = ("require", "verify-ca", "verify-full")
NOT_ENCRYPTING = ("disable", "allow", "prefer")
DATABASE_FILES = ("sslrootcert", "sslcert", "sslkey")
SYSTEM = "system"  # in the place of a file: the authorities that the machine trusts


class BrokerFiles(NamedTuple):
    """The files of TLS to the broker, which are read at each new connection. None: not given."""

    AMQP_CA_FILE: str | None = None  # None: the authorities that the machine trusts
    AMQP_CERT_FILE: str | None = None
    AMQP_KEY_FILE: str | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "BrokerFiles":
        """Return the files that a configuration names."""
        return cls(*(config.get(name) or None for name in cls._fields))

    def options(self, uri: str) -> dict[str, Any]:
        """Return how to make the connection to a node, as the AMQP library and Nameko (AMQP_SSL) take it."""
        return {
            "ca_certs": self.AMQP_CA_FILE,
            "certfile": self.AMQP_CERT_FILE,
            "keyfile": self.AMQP_KEY_FILE,
            "cert_reqs": ssl.CERT_REQUIRED,
            "server_hostname": host_of(uri),  # which is checked, as it is given
        }

    def check(self) -> None:
        """Raise ValueError, with a line that names the key, for files that cannot be used."""
        if bool(self.AMQP_CERT_FILE) != bool(self.AMQP_KEY_FILE):
            raise ValueError("AMQP_CERT_FILE: either both this and AMQP_KEY_FILE should be given, or none")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.AMQP_CA_FILE:
                context.load_verify_locations(self.AMQP_CA_FILE)
        except OSError as error:
            raise ValueError(f"AMQP_CA_FILE: cannot be used: {_why(error)}") from None
        try:
            if self.AMQP_CERT_FILE:  # without a password, OpenSSL would ask for the one of a key at the terminal
                context.load_cert_chain(self.AMQP_CERT_FILE, self.AMQP_KEY_FILE, password="")
        except OSError as error:
            raise ValueError(f"AMQP_CERT_FILE: cannot be used with AMQP_KEY_FILE: {_why(error)}") from None


NO_FILES = BrokerFiles()


def is_encrypted(uri: str) -> bool:
    """Return whether the connection to a node of the broker is encrypted."""
    return urlsplit(uri).scheme == "amqps"


def host_of(uri: str) -> str:
    """Return the name of a node, as its certificate has to have it."""
    return unquote(urlsplit(uri).hostname or "")


def check_broker(uris: str, files: BrokerFiles) -> None:
    """Raise ValueError, with a line that names the key, if TLS to the broker cannot be meant so."""
    nodes = uris.split(NODE_SEPARATOR)
    encrypted = [uri for uri in nodes if is_encrypted(uri)]
    if any(files) and not encrypted and not uris.startswith("embedded:"):
        [key, *_] = [name for name, file in zip(files._fields, files, strict=True) if file]
        raise ValueError(f"{key}: is of no use, as AMQP_URI is not amqps://")
    if not encrypted:
        return
    if len(encrypted) < len(nodes):
        raise ValueError("AMQP_URI: should be amqps:// for all nodes or for none")
    for uri in encrypted:
        if not host_of(uri):
            raise ValueError("AMQP_URI: should name a host, which the certificate is checked for")
        if urlsplit(uri).query:
            raise ValueError("AMQP_URI: should have no parameters: AMQP_CA_FILE and so on name the files of TLS")
    files.check()


def check_database(url: URL) -> None:
    """Raise ValueError if what a URL says of TLS cannot be meant so. libpq does the rest."""
    mode = url.query.get("sslmode")
    if mode is not None and mode not in (*ENCRYPTING, *NOT_ENCRYPTING):
        raise ValueError(f"should have an sslmode of {', '.join((*NOT_ENCRYPTING, *ENCRYPTING))}")
    for name in DATABASE_FILES:
        file = url.query.get(name)
        if file is None or (name == "sslrootcert" and file == SYSTEM):
            continue
        if mode not in ENCRYPTING:
            raise ValueError(f"has {name}, and would do without TLS: it should have sslmode=verify-full too")
        try:
            with open(str(file), "rb"):
                pass
        except OSError as error:
            raise ValueError(f"names a file as {name} that cannot be read: {_why(error)}") from None


def _why(error: OSError) -> str:
    """Return what is wrong with a file, without its name."""
    reason = getattr(error, "reason", None)  # of OpenSSL
    return str(reason or error.strerror or type(error).__name__)
