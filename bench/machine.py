"""What the results were measured on."""

import os
import platform
import re
from pathlib import Path

import amqp
import psutil

from bench.contenders import Servers
from services.local.net import HOST


def describe(folder: Path) -> dict[str, str]:
    """Return hardware and versions, without the name of the machine."""
    with Servers(folder) as servers:
        with amqp.Connection(f"{HOST}:{servers.rabbitmq.port}") as connection:
            rabbitmq = connection.server_properties
        postgres = servers.ask("postgres", "show server_version")
    kernel = re.match(r"[\d.]+\d", platform.release())
    return {
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {kernel[0] if kernel else ''}".strip(),
        "Python": platform.python_version(),
        "PostgreSQL": postgres,
        "RabbitMQ": f"{rabbitmq['version']} on Erlang: {rabbitmq['platform']}",
    }


def processor() -> str:
    """Return the model of the processor, as Linux names it."""
    named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return named[1].strip() if named else platform.machine()
