"""The configuration of `nameko shell`, which makes its connections to the broker by itself."""

import json
from collections.abc import Mapping
from pathlib import Path

from services.kit.hosts import NODE_SEPARATOR
from services.kit.tls import BrokerFiles, is_encrypted
from services.ops import running

OF_NAMEKO = ("ca_certs", "certfile", "keyfile", "server_hostname")  # the rest is what the AMQP library does by itself


def config_file(environment: Mapping[str, str]) -> Path:
    """Return the configuration for the stack with this environment; with TLS, a copy that says so in Nameko's words."""
    config = running.ROOT / "config.yaml"
    uri = environment["AMQP_URI"].split(NODE_SEPARATOR)[0]
    if not is_encrypted(uri):
        return config
    options = BrokerFiles.of(environment).options(uri)
    copy = running.FOLDER / "shell.yaml"
    tls = json.dumps({name: options[name] for name in OF_NAMEKO})
    copy.write_text(f"{config.read_text()}\nAMQP_SSL: {tls}\n")
    return copy
