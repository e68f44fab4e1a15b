"""Plays the scenario inside the cluster: each request goes to the service of its path, as through the ingress."""

import json
import os
import sys

from requests.adapters import HTTPAdapter

from services.local.demo import Scenario
from services.local.gateway import ROUTES

BASE = "http://nameko-hw"
ADDRESSES = json.loads(os.environ["ADDRESSES"])


class ByPath(HTTPAdapter):
    """Sends a request to the service that answers at its path."""

    def send(self, request, **options):
        path = request.url.removeprefix(BASE)
        first = path.partition("?")[0].split("/")[1]
        request.url = ADDRESSES[ROUTES[first]] + path
        return super().send(request, **options)


scenario = Scenario(BASE)
scenario.session.mount(BASE, ByPath())
sys.exit(scenario.play())
