"""The page that documents the API: an OpenAPI file, shown by Swagger UI. Its files come from a Python package."""

import mimetypes
from html import escape
from importlib.util import find_spec
from pathlib import Path

from werkzeug.exceptions import MethodNotAllowed
from werkzeug.wrappers import Request, Response

from services.kit.product import Product
from services.kit.web.catalogue import COMMON
from services.kit.web.problems import nothing_here, routing_problem

SWAGGER_UI = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{name}: the API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png">
</head>
<body>
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
START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui"});\n'


class Documentation:
    """Answers `/`, `/docs`, `/docs/problems` and `/openapi.json`. The pages load nothing from other hosts."""

    def __init__(self, product: Product) -> None:
        self.product = product

    def serves(self, path: str) -> bool:
        """Return whether `path` is one of the documentation's."""
        return path in ("/", "/openapi.json") or path.startswith("/docs")

    def answer(self, request: Request) -> Response:
        """Answer a request for one of the paths."""
        if request.method not in ("GET", "HEAD"):
            return routing_problem(MethodNotAllowed(["GET", "HEAD"])).response(self.product.name)
        if request.path == "/":
            return Response(status=302, headers={"Location": "/docs"})
        if request.path == "/openapi.json" and self.product.openapi:
            return Response(self.product.openapi.read_bytes(), content_type="application/json")
        if request.path == "/docs/problems":
            return Response(self._problems(), content_type="text/html; charset=utf-8")
        if request.path in ("/docs", "/docs/"):
            return Response(PAGE.format(name=self.product.name), content_type="text/html; charset=utf-8")
        return self._file(request.path.removeprefix("/docs/"))

    def _problems(self) -> str:
        """Return the page of all types of problems, each of which is a place to link to."""
        meanings = sorted({**COMMON, **self.product.meanings}.items())
        entries = (ENTRY.format(name=name, status=one.status, text=escape(one.text)) for name, one in meanings)
        return PROBLEMS.format(name=self.product.name, entries="\n".join(entries))

    def _file(self, name: str) -> Response:
        spec = find_spec("swagger_ui")
        if name == "start.js":
            return Response(START, content_type="text/javascript")
        if name in SWAGGER_UI and spec and spec.origin:
            file = Path(spec.origin).parent / "static" / name
            return Response(file.read_bytes(), content_type=mimetypes.guess_type(name)[0])
        return nothing_here().response(self.product.name)
