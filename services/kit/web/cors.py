"""What pages of other origins may do: those of CORS_ORIGINS, without cookies. (Fetch standard, "CORS protocol".)"""

from collections.abc import Collection

from werkzeug.wrappers import Request, Response

METHODS = "GET, POST"
SENT = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, X-Request-Id, traceparent"
SHOWN = (
    "ETag, Idempotent-Replayed, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, "
    "WWW-Authenticate, X-Request-Id"
)
KEPT_S = 600  # how long a browser may remember the answer to a preflight


class Cors:
    """Answers the preflights of allowed origins, and lets them see our answers."""

    def __init__(self, origins: Collection[str]) -> None:
        self.origins = origins

    def preflight(self, request: Request) -> Response | None:
        """Return the answer to a preflight of an allowed origin; None for any other request."""
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asks or self._allowed(request) is None:
            return None
        headers = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": SENT,
            "Access-Control-Max-Age": str(KEPT_S),
        }
        return Response(status=204, headers=headers)

    def show(self, request: Request, response: Response) -> None:
        """Let the page that has sent `request` see the answer, if its origin is allowed."""
        if not self.origins:
            return
        response.headers.add("Vary", "Origin")
        if origin := self._allowed(request):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = SHOWN

    def _allowed(self, request: Request) -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin in self.origins else None
