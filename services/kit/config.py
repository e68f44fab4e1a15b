"""The settings of `config.yaml`, checked before anything starts."""

import re
from ipaddress import ip_network
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from services.kit.hosts import NODE_SEPARATOR
from services.kit.tls import BrokerFiles, check_broker, check_database

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=10_000)]
QueueType = Literal["classic", "quorum"]
Secret = SecretStr | None  # which no log shows; None or empty: not set

#: How tokens may be signed: with a key that who checks them has as well, by its least length in bytes (RFC 7518,
#: section 3.2), or with one whose other half is public.
SHARED = {"HS256": 32, "HS384": 48, "HS512": 64}
PUBLIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
INTERNAL_TOKEN_LENGTH = 32

ESCAPED = "in a password, @ is written %40, : %3A, / %2F, ? %3F and # %23"


class BadConfiguration(Exception):
    """A setting is missing, unknown or out of range; the message is one line that names the key."""


class Settings(BaseModel):
    """Every key that a service reads; `config.yaml` says what each means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    AMQP_URI: str
    AMQP_CA_FILE: str | None
    AMQP_CERT_FILE: str | None
    AMQP_KEY_FILE: str | None
    HEARTBEAT: Seconds
    QUEUE_TYPE: QueueType
    WEB_SERVER_ADDRESS: str | None  # None: somebody else listens, and calls `Server.app`
    SERVICE_CONTAINER_CLS: str
    DB_URIS: dict[str, str]
    SERVICE_URLS: dict[str, str | None]  # of those that are called by HTTP; None or empty: not known
    max_workers: Count
    REQUEST_TIMEOUT_S: Seconds
    WORKER_WAIT_S: Seconds
    RPC_TIMEOUT_S: Seconds
    DB_TIMEOUT_S: Seconds
    DB_CONNECTIONS: Count
    LOCK_TIMEOUT_S: Seconds
    DB_BEHIND_POOLER: bool
    PUBLISH_TIMEOUT_S: Seconds
    DRAIN_TIMEOUT_S: Seconds
    RECOVERY_INTERVAL_S: Seconds
    RECOVERY_AFTER_S: Seconds
    RECOVERY_BATCH: Count
    STUCK_AFTER_S: Seconds
    OUTBOX_GATHER_S: Annotated[float, Field(ge=0, le=10)]
    OUTBOX_INTERVAL_S: Seconds
    OUTBOX_BATCH: Count
    OUTBOX_LEASE_S: Seconds
    OUTBOX_KEEP_S: Seconds
    INBOX_INTERVAL_S: Seconds
    INBOX_LEASE_S: Seconds
    ACCOUNT_WAIT_S: Seconds
    EVENT_BATCH: Count
    EVENT_RETRY_PAUSES_S: Annotated[list[Seconds], Field(min_length=1, max_length=20)]
    MAX_CALLS: Count
    MAX_CONNECTIONS: Count
    MAX_STREAMS: Count
    MAX_CONNECTIONS_PER_ADDRESS: Annotated[int, Field(ge=0, le=10_000)]
    RATE_LIMIT: Annotated[int, Field(ge=0, le=1_000_000)]
    RATE_LIMIT_WINDOW_S: Annotated[int, Field(ge=1, le=86_400)]
    TRUSTED_PROXIES: list[str]
    CORS_ORIGINS: list[str]
    BODY_LIMIT_BYTES: Annotated[int, Field(ge=1024, le=2**30)]
    AUTH: Literal["off", "jwt"]
    AUTH_JWKS: str | None
    AUTH_KEY: Secret
    AUTH_ALGORITHMS: list[str]
    AUTH_ISSUER: str | None
    AUTH_AUDIENCE: str | None
    AUTH_LEEWAY_S: Annotated[float, Field(ge=0, le=120)]
    INTERNAL_TOKEN: Secret
    LOGGING: dict[str, Any]

    @field_validator("AMQP_URI")
    @classmethod
    def _is_amqp(cls, uris: str) -> str:
        for uri in uris.split(NODE_SEPARATOR):
            if not uri.startswith(("amqp://", "amqps://", "pyamqp://", "embedded://")) or not _has_port_in_place(uri):
                raise ValueError(
                    f"should be a URI like amqp://user:password@host:5672/vhost, or several with ; between; {ESCAPED}"
                )
        return uris

    @field_validator("WEB_SERVER_ADDRESS")
    @classmethod
    def _is_address(cls, address: str | None) -> str | None:
        port = (address or "0:0").rpartition(":")[2]
        if not port.isdigit() or int(port) > 65_535:
            raise ValueError("should be host:port")
        return address

    @field_validator("DB_URIS")
    @classmethod
    def _are_postgresql(cls, uris: dict[str, str]) -> dict[str, str]:
        for key, uri in uris.items():
            try:
                url = make_url(uri)
                known = url.get_backend_name() == "postgresql" and "@" not in (url.host or "")
            except (ArgumentError, ValueError):
                known = False
            if not known:
                raise ValueError(
                    f"{key} should be a URL like postgresql+psycopg2://user:password@host:5432/database; {ESCAPED}"
                )
            try:
                check_database(url)
            except ValueError as error:
                raise ValueError(f"{key} {error}") from None
        return uris

    @field_validator("SERVICE_URLS")
    @classmethod
    def _are_http(cls, urls: dict[str, str | None]) -> dict[str, str | None]:
        for service, url in urls.items():
            if url and not _is_base_url(url):
                raise ValueError(f"{service} should be a URL like http://host:8000")
        return urls

    @field_validator("CORS_ORIGINS")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not _is_base_url(origin) or urlsplit(origin).path:
                raise ValueError("each should be an origin like https://shop.example.com")
        return origins

    @field_validator("TRUSTED_PROXIES")
    @classmethod
    def _are_networks(cls, networks: list[str]) -> list[str]:
        for one in networks:
            try:
                is_some = ip_network(one).prefixlen > 0
            except ValueError:
                is_some = False
            if not is_some:  # and not everybody
                raise ValueError("each should be a network like 10.0.0.0/8, or an address")
        return networks

    @field_validator("AUTH", mode="before")
    @classmethod
    def _is_a_word(cls, auth: Any) -> Any:
        return "off" if auth is False else auth  # as YAML reads it

    @field_validator("AUTH_JWKS")
    @classmethod
    def _is_safe_place(cls, place: str | None) -> str | None:
        """Take a file, and a URL from where nobody else can put keys in the place of the provider's."""
        if place and "://" in place:
            parts = urlsplit(place) if _is_base_url(place) else None
            if parts is None or (parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost")):
                raise ValueError("should be a file, or a URL like https://login.example.com/jwks")
        return place

    @field_validator("AUTH_KEY", "INTERNAL_TOKEN")
    @classmethod
    def _is_one_word(cls, secret: Secret) -> Secret:
        text = secret.get_secret_value() if secret else ""
        if not re.fullmatch(r"[\x21-\x7e]*", text):
            raise ValueError("should be printable ASCII characters without spaces")
        return secret if text else None

    @field_validator("INTERNAL_TOKEN")
    @classmethod
    def _is_long(cls, secret: Secret) -> Secret:
        if secret and len(secret) < INTERNAL_TOKEN_LENGTH:
            raise ValueError(f"should have {INTERNAL_TOKEN_LENGTH} characters or more")
        return secret

    @model_validator(mode="after")
    def _encrypt_as_they_say(self) -> "Settings":
        check_broker(self.AMQP_URI, BrokerFiles(self.AMQP_CA_FILE, self.AMQP_CERT_FILE, self.AMQP_KEY_FILE))
        return self

    @model_validator(mode="after")
    def _can_check_tokens(self) -> "Settings":
        if self.AUTH == "off":
            return self
        if bool(self.AUTH_JWKS) == bool(self.AUTH_KEY):
            raise ValueError("AUTH_JWKS: either this or AUTH_KEY should be given, as AUTH is jwt")
        for key in ("AUTH_ISSUER", "AUTH_AUDIENCE"):
            if not getattr(self, key):
                raise ValueError(f"{key}: should be given, as AUTH is jwt")
        known = tuple(SHARED) if self.AUTH_KEY else PUBLIC
        if not set(self.AUTH_ALGORITHMS) <= set(known):
            source = "AUTH_KEY" if self.AUTH_KEY else "AUTH_JWKS"
            raise ValueError(f"AUTH_ALGORITHMS: should be of {', '.join(known)}, as the key is {source}")
        least = max(SHARED[one] for one in self.algorithms) if self.AUTH_KEY else 0
        if self.AUTH_KEY and len(self.AUTH_KEY) < least:
            raise ValueError(f"AUTH_KEY: should have {least} characters or more")
        return self

    @property
    def algorithms(self) -> list[str]:
        """By which of them a token may be signed."""
        return self.AUTH_ALGORITHMS or (["HS256"] if self.AUTH_KEY else ["RS256", "ES256", "EdDSA"])

    @model_validator(mode="after")
    def _are_in_proportion(self) -> "Settings":
        for longer, shorter in (
            ("RECOVERY_AFTER_S", "REQUEST_TIMEOUT_S"),
            ("REQUEST_TIMEOUT_S", "RPC_TIMEOUT_S"),
            ("DRAIN_TIMEOUT_S", "REQUEST_TIMEOUT_S"),
            ("OUTBOX_LEASE_S", "PUBLISH_TIMEOUT_S"),
            ("INBOX_LEASE_S", "DB_TIMEOUT_S"),
            ("ACCOUNT_WAIT_S", "OUTBOX_LEASE_S"),
            ("MAX_CONNECTIONS", "MAX_STREAMS"),
        ):
            if getattr(self, longer) <= getattr(self, shorter):
                raise ValueError(f"{longer} should be above {shorter}")
        if 0 < self.MAX_CONNECTIONS_PER_ADDRESS <= self.MAX_CALLS:  # else services could not call each other
            raise ValueError("MAX_CONNECTIONS_PER_ADDRESS should be above MAX_CALLS, or 0")
        return self


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port  # raises ValueError if it is none
    except ValueError:
        return False
    is_plain = url.isascii() and url.isprintable() and not set(" @?#") & set(url)
    return is_plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


def _has_port_in_place(uri: str) -> bool:
    """Whether a port is a number. A password with / or # in it ends up where the port belongs, and then in errors."""
    try:
        return urlsplit(uri).port != 0
    except ValueError:
        return False


def check(config: dict[str, Any]) -> Settings:
    """Return the settings in `config`, or raise BadConfiguration with one line that names the first wrong key.

    The line never repeats a value: it may be a password.
    """
    try:
        return Settings.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    why = "this key is not known" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    raise BadConfiguration(f"config.yaml: {key}: {why}" if key else f"config.yaml: {why}")
