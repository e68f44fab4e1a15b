"""The page that documents the API: an OpenAPI file, shown by Swagger UI. Its files come from a Python package."""

import mimetypes
from functools import lru_cache
from hashlib import sha256
from html import escape
from importlib.util import find_spec
from pathlib import Path

from werkzeug.wrappers import Request, Response

from services.kit.product import Product
from services.kit.web.catalogue import COMMON
from services.kit.web.compression import compressed, once
from services.kit.web.problems import nothing_here, only_reads

SWAGGER_UI = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
START = Path(__file__).parent / "static" / "start.js"
HTML = "text/html; charset=utf-8"
#: For how long a browser need not ask: not at all about what is ours, and a day about the files of Swagger UI.
OURS, SWAGGERS = "no-cache", "public, max-age=86400"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{name}: the API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png">
</head>
<body>
<p style="font: 16px sans-serif; max-width: 1420px; margin: 1em auto; padding: 0 20px">
Below each request, <em>Try it out</em> and <em>Execute</em> send it to this very server. The examples work as they
stand: begin with a <code>POST</code> that creates something, and all others are about what was created last.
<a href="/openapi.json">The description as a file</a>, <a href="/docs/problems">all problems</a>.
</p>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
PROBLEMS = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{name}: the problems</title>
</head>
<body>
<h1>The problems</h1>
<p>An error is a problem (RFC 9457). Its <code>type</code> is <code>urn:{name}:problem:</code> and one of these names:
</p>
<dl>
{entries}
</dl>
</body>
</html>
"""
ENTRY = '<dt id="{name}"><a href="#{name}"><code>{name}</code></a>, {status}</dt>\n<dd>{text}</dd>'


class Documentation:
    """Answers `/`, `/docs`, `/docs/problems` and `/openapi.json`. The pages load nothing from other hosts."""

    def __init__(self, product: Product) -> None:
        self.product = product

    def serves(self, path: str) -> bool:
        """Return whether `path` is one of the documentation's."""
        return path in ("/", "/openapi.json") or path.startswith("/docs")

    def answer(self, request: Request) -> Response:
        """Answer a request for one of the paths: compressed, and not again what the client has."""
        if answer := only_reads(request, self.product.name):
            return answer
        response = compressed(request, self._answer(request.path), once)
        return response.make_conditional(request) if response.status_code == 200 else response

    def _answer(self, path: str) -> Response:
        if path == "/":
            return Response(status=302, headers={"Location": "/docs"})
        if path == "/openapi.json" and self.product.openapi:
            return shown(*read(self.product.openapi), "application/json")
        if path == "/docs/problems":
            return shown(*tagged(self._problems()), HTML)
        if path in ("/docs", "/docs/"):
            return shown(*tagged(PAGE.format(name=self.product.name)), HTML)
        return self._file(path.removeprefix("/docs/"))

    def _problems(self) -> str:
        """Return the page of all types of problems, each of which is a place to link to."""
        meanings = sorted({**COMMON, **self.product.meanings}.items())
        entries = (ENTRY.format(name=name, status=one.status, text=escape(one.text)) for name, one in meanings)
        return PROBLEMS.format(name=self.product.name, entries="\n".join(entries))

    def _file(self, name: str) -> Response:
        spec = find_spec("swagger_ui")
        if name == START.name:
            return shown(*read(START), "text/javascript")
        if name in SWAGGER_UI and spec and spec.origin:
            file = Path(spec.origin).parent / "static" / name
            return shown(*read(file), mimetypes.guess_type(name)[0], SWAGGERS)
        return nothing_here().response(self.product.name)


@lru_cache
def read(file: Path) -> tuple[bytes, str]:
    """Return what a file holds, and its tag; both are kept, as the files of an installation do not change."""
    return tagged(file.read_bytes())


def tagged(body: str | bytes) -> tuple[bytes, str]:
    """Return a body as bytes, and a tag that another body would not have."""
    encoded = body.encode() if isinstance(body, str) else body
    return encoded, sha256(encoded).hexdigest()[:16]


def shown(body: bytes, tag: str, content_type: str | None, kept: str = OURS) -> Response:
    """Return the answer with a body whose tag is known."""
    response = Response(body, headers={"Cache-Control": kept}, content_type=content_type)
    response.set_etag(tag)
    return response
