"""For mkdocs: the page reference.md gets Swagger UI, from the package that the services have, and openapi.json with it.

The description stands in a script, since a page that was opened as a file may not fetch another file.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

FOLDER = "reference"
FILES = ("swagger-ui.css", "swagger-ui-bundle.js")
OPENAPI = Path(__file__).parents[1] / "openapi.json"
START = 'SwaggerUIBundle({{spec: {spec}, dom_id: "#reference", supportedSubmitMethods: [], deepLinking: true}});\n'
HERE = """
<link rel="stylesheet" href="{folder}/swagger-ui.css">
<div id="reference"></div>
<script src="{folder}/swagger-ui-bundle.js"></script>
<script src="{folder}/start.js"></script>
"""


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the files of Swagger UI to the site."""
    spec = find_spec("swagger_ui")
    assert spec and spec.origin
    static = Path(spec.origin).parent / "static"
    for name in FILES:
        files.append(File.generated(config, f"{FOLDER}/{name}", abs_src_path=str(static / name)))
    start = START.format(spec=OPENAPI.read_text())
    files.append(File.generated(config, f"{FOLDER}/start.js", content=start))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page, reference.md with what shows the description."""
    return markdown + HERE.format(folder=FOLDER) if page.file.src_uri == "reference.md" else markdown
