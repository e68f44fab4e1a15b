"""Answers in JSON."""

from collections.abc import Mapping
from typing import Any

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response


class JsonResponse(Response):
    """An answer in JSON, whose headers are sent as they are.

    Werkzeug looks at all headers of each answer for what may have to be changed; of ours, that is only a 304.
    """

    def __init__(
        self, body: str, status: int, headers: Mapping[str, str], content_type: str = "application/json"
    ) -> None:
        super().__init__(body, status, {**headers, "Content-Type": content_type})

    def get_wsgi_headers(self, environ: Any) -> Headers:
        return super().get_wsgi_headers(environ) if self.status_code == 304 else self.headers
