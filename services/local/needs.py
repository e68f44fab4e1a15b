"""What the system must have before our own packages can be installed: found at once, and installed where we may.

Run before there is a virtual environment, so the standard library is all that it uses:

    python -m services.local.needs run|stack|test|model|npm|bench|screenshots
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from services.local.installing import LOGS, Failed, not_ours, say, watched
from services.ops.errors import CommandError

DEBIAN_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # that in /usr/sbin changes the user
DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")  # a folder for each version
ALSO_LOOK_IN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/opt/homebrew/bin")
POLICY = Path("/usr/sbin/policy-rc.d")  # Debian's packages ask it before they start a service
UNITS = Path("/etc/systemd/system")
SERVICES = (
    "rabbitmq-server.service",
    "epmd.service",
    "epmd.socket",
    "nginx.service",
    "pgbouncer.service",
    "postgresql.service",
    "prometheus.service",
)  # of our packages
NODE = (18,)
GO_PATH = Path("/usr/share/gocode")  # where Debian's packages put the libraries
GO_LIBRARIES = ("jackc/pgx/v4", "rabbitmq/amqp091-go", "google/uuid")


class NotInstalled(CommandError):
    """A program that we need is missing; the message says how to install it."""


@dataclass(frozen=True)
class Need:
    """Something of the system: how to see that it is missing, and who brings it."""

    what: str
    is_there: Callable[[], bool]
    packages: tuple[str, ...]  # Debian's
    elsewhere: str = ""  # how to get it on other systems

    def line(self) -> str:
        """Say what is missing and what to do."""
        ways = [f"sudo apt-get install {' '.join(self.packages)} (Debian, Ubuntu)"] if self.packages else []
        return f"{self.what} is missing: {' or '.join([*ways, *filter(None, [self.elsewhere])])}"


def rabbitmq_server() -> Path | None:
    """RabbitMQ's start script, or None when it is not installed."""
    if DEBIAN_SCRIPT.exists():
        return DEBIAN_SCRIPT
    found = shutil.which("rabbitmq-server", path=search_path())
    return Path(found) if found else None


def search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *ALSO_LOOK_IN])


def chromium() -> str | None:
    """Return the path of a Chromium, or None when there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name, path=search_path()))), None)


def postgresql_programs() -> Path | None:
    """Return the folder of the programs of the system's PostgreSQL, or None when there is none."""
    servers = sorted(DEBIAN_POSTGRESQL.glob("*/bin/postgres"), key=lambda file: float(file.parts[-3]))
    found = shutil.which("postgres", path=search_path()) if not servers else str(servers[-1])
    return Path(found).parent if found else None


def go_libraries_are_there() -> bool:
    return all((GO_PATH / "src" / "github.com" / name).is_dir() for name in GO_LIBRARIES)


def node_version() -> tuple[int, ...]:
    """The version of Node.js; empty when there is none."""
    with suppress(OSError):
        said = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
        return tuple(map(int, re.findall(r"\d+", said)))
    return ()


VENV = Need(
    "Python's module venv",
    lambda: importlib.util.find_spec("ensurepip") is not None,
    (f"python3.{sys.version_info.minor}-venv",),
)
SETPRIV = Need(
    "setpriv, by which root starts PostgreSQL as another user,",
    lambda: os.geteuid() != 0 or shutil.which("setpriv") is not None,
    ("util-linux",),
)
RABBITMQ = Need(
    "RabbitMQ",
    lambda: rabbitmq_server() is not None,
    ("rabbitmq-server",),
    "sudo dnf install rabbitmq-server (Fedora) or brew install rabbitmq (macOS)",
)
NPM = Need(
    "npm, with Node.js 18 or later,",
    lambda: shutil.which("npm") is not None and bool(node_version()),
    ("nodejs", "npm"),
    "https://nodejs.org",
)
NEW_NODE = Need("Node.js 18 or later", lambda: not node_version() or node_version() >= NODE, (), "https://nodejs.org")
SPIN = Need("SPIN", lambda: shutil.which("spin") is not None, ("spin",), "https://spinroot.com")
GCC = Need("gcc", lambda: shutil.which("gcc") is not None, ("gcc", "libc6-dev"))
NGINX = Need(
    "nginx",
    lambda: shutil.which("nginx", path=search_path()) is not None,
    ("nginx-light",),
    "sudo dnf install nginx (Fedora) or brew install nginx (macOS)",
)
PGBOUNCER = Need(
    "PgBouncer",
    lambda: shutil.which("pgbouncer", path=search_path()) is not None,
    ("pgbouncer",),
    "sudo dnf install pgbouncer (Fedora) or brew install pgbouncer (macOS)",
)
PROMETHEUS = Need(
    "Prometheus, with promtool,",
    lambda: all(shutil.which(program, path=search_path()) for program in ("prometheus", "promtool")),
    ("prometheus",),
    "brew install prometheus (macOS)",
)
POSTGRESQL = Need(  # the one of our wheel speaks no TLS
    "A PostgreSQL of the system",
    lambda: postgresql_programs() is not None,
    ("postgresql",),
    "sudo dnf install postgresql-server (Fedora) or brew install postgresql (macOS)",
)
CHROMIUM = Need(
    "Chromium",
    lambda: chromium() is not None,
    ("chromium", "fonts-dejavu-core"),  # a browser without a font draws none
    "sudo dnf install chromium (Fedora)",
)
WRK = Need("wrk", lambda: shutil.which("wrk") is not None, ("wrk",), "brew install wrk (macOS)")
GO = Need(
    "Go, with the libraries of its peer in bench/,",
    lambda: shutil.which("go") is not None and go_libraries_are_there(),
    (
        "golang-go",
        "golang-github-jackc-pgx-v4-dev",
        "golang-github-rabbitmq-amqp091-go-dev",
        "golang-github-google-uuid-dev",
    ),
)

OF = {
    "run": (VENV, SETPRIV),
    "stack": (VENV, SETPRIV, RABBITMQ),
    "test": (VENV, SETPRIV, RABBITMQ, NGINX, PGBOUNCER, NPM, NEW_NODE),
    "model": (VENV, SPIN, GCC),
    "npm": (NPM, NEW_NODE),
    "bench": (VENV, SETPRIV, RABBITMQ, WRK),
    "screenshots": (VENV, SETPRIV, RABBITMQ, CHROMIUM),
}
#: ... and what is tested only where the system has it.
SKIPPED_WITHOUT = {
    SPIN: "the model",
    GCC: "the model",
    PROMETHEUS: "the alert rules and the dashboard",
    CHROMIUM: "the page in a browser",
    POSTGRESQL: "TLS",
}


def ensure(needs: Iterable[Need]) -> None:
    """Install Debian's packages of all that is missing, if we are root or sudo lets us.

    Services in them are neither started nor left enabled. Raises NotInstalled with a line for each that is missing.
    """
    missing = [need for need in needs if not need.is_there()]
    packages = [package for need in missing for package in need.packages]
    as_root = _as_root() if packages and shutil.which("apt-get") else None
    failed = ""
    if as_root is not None:
        try:
            _apt_get(as_root, packages)
        except Failed as error:
            failed = f"\n{error}"
        importlib.invalidate_caches()
        missing = [need for need in missing if not need.is_there()]
    if missing:
        lines = [need.line() for need in missing]
        if len(missing) > 1 and packages:
            lines.append(f"All at once: sudo apt-get install {' '.join(packages)}")
        raise NotInstalled("\n".join(lines) + failed)


def _as_root() -> list[str] | None:
    """Return the prefix of a command that needs root: empty for root, None if we cannot be."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True).returncode == 0:
        return sudo
    return None


def _apt_get(as_root: list[str], packages: list[str]) -> None:
    apt_get = [
        *as_root,
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=60",
        "-o",
        "APT::Status-Fd=1",
    ]
    say(f"Missing: Debian's {', '.join(packages)}")
    with _no_service_stays(as_root):
        with suppress(Failed):  # an update may fail in part and still be enough
            watched(
                "Debian's lists of packages",
                [*apt_get, "update"],
                LOGS / "apt-update.log",
                _apt_percent,
                verb="Reading",
            )
        watched(
            "Debian's packages",
            [*apt_get, "install", "-y", "--no-install-recommends", *packages],
            LOGS / "apt-install.log",
            _apt_percent,
        )


def _apt_percent(output: str) -> str:
    """How far apt-get is, from the lines of its APT::Status-Fd."""
    lines = re.findall(r"^(dl|pm)status:[^:]*:([\d.]+):", output, re.M)
    if not lines:
        return "looking"
    phase, percent = lines[-1]
    return f"{float(percent):.0f} % {'fetched' if phase == 'dl' else 'unpacked and set up'}"


@contextmanager
def _no_service_stays(as_root: list[str]) -> Iterator[None]:
    """Keep Debian's packages from starting services, now and at the next boot.

    A policy that already exists is respected, and so is a service that was there before.
    """
    before = _enabled()
    policy_is_ours = not POLICY.exists()
    if policy_is_ours:
        subprocess.run(
            [*as_root, "install", "-m", "755", "/dev/stdin", str(POLICY)], input=b"#!/bin/sh\nexit 101\n", check=True
        )
    try:
        yield
    finally:
        if policy_is_ours:
            subprocess.run([*as_root, "rm", "-f", str(POLICY)], check=True)
        for unit in sorted(_enabled() - before):
            subprocess.run(
                [
                    *as_root,
                    "env",
                    "DPKG_MAINTSCRIPT_PACKAGE=nameko-hw",  # without it the helper refuses
                    "deb-systemd-helper",
                    "disable",
                    unit,
                ],
                capture_output=True,
            )


def _enabled() -> set[str]:
    """Which services of our packages start at the next boot."""
    return {link.name for link in UNITS.glob("*.wants/*") if link.name in SERVICES}


def main() -> None:
    try:
        ensure(OF[sys.argv[1]])
        if sys.argv[1] == "test":
            for need in SKIPPED_WITHOUT:
                with suppress(NotInstalled):  # without it, some tests are skipped
                    ensure([need])
    except NotInstalled as missing:
        sys.exit(str(missing))
    except PermissionError as error:
        sys.exit(not_ours(error))
    except KeyboardInterrupt:
        sys.exit(130)
    if sys.argv[1] == "test":
        for need, skipped in SKIPPED_WITHOUT.items():
            if not need.is_there():
                say(f"{need.what} is not installed: the tests of {skipped} will be skipped")


if __name__ == "__main__":
    main()
