"""Every link of the pages leads somewhere, and the README to everything that the assignment asks for."""

import re
from pathlib import Path

import pytest

from tests.docs.idl import ASYNCAPI, DOCS, OPENAPI, ROOT
from tests.docs.lines import pages

LINK = re.compile(r"\]\(([^()\s]+)\)")


def prose(page: Path) -> str:
    """The text of `page` without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What the headings of `page` are called in a link, by the rule of GitHub and of mkdocs alike."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets(page: Path) -> set[Path]:
    """The files and folders that `page` links to."""
    found = LINK.findall(prose(page))
    return {(page.parent / link.partition("#")[0]).resolve() for link in found if "://" not in link and link[0] != "#"}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [target for target in targets(page) if not target.exists()] == []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if anchor and "://" not in link and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_every_page_picture_and_description_is_two_clicks_from_the_readme_at_most() -> None:
    readme = ROOT / "README.md"
    assert {
        DOCS / "index.md",
        DOCS / "assignment.ru.md",
        ROOT / "helm/README.md",
        ROOT / "postman/README.md",
    } <= targets(readme)
    near = targets(readme) | targets(DOCS / "index.md")
    wanted = [*DOCS.glob("*.md"), *DOCS.glob("diagrams/*.svg"), *OPENAPI.values(), *ASYNCAPI.values()]
    assert [path.name for path in wanted if path not in near] == []


def test_the_page_for_the_assignment_leads_to_all_that_it_asks_for() -> None:
    asked = targets(DOCS / "assignment.ru.md")
    pictures = [path for path in DOCS.glob("diagrams/*.svg") if path.stem != "order-life"]
    collection = ROOT / "postman/nameko-hw.postman_collection.json"
    assert {*pictures, *OPENAPI.values(), *ASYNCAPI.values(), DOCS / "system.svg", collection} <= asked
    text = (DOCS / "assignment.ru.md").read_text()
    assert "helm install nameko-hw ./helm --namespace nameko-hw" in text
    assert "{{baseUrl}}" in text and "http://arch.homework" in collection.read_text()
    names = set(re.findall(r'"name": "(Step \d\. [^"]+)"', collection.read_text()))
    assert {name.partition(". ")[2] for name in names} <= {
        re.sub(r"^Step \d\. ", "", one) for one in re.findall(r"[^|;]+", text) for one in [one.strip()]
    }
