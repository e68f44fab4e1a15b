"""The pages link to the right lines of the code, and quote it as it is."""

from pathlib import Path

import pytest

from tests.docs.lines import LINK, QUOTE, ROOT, Broken, Lines, lines_of, misquoted, pages, renewed

CODE = """\
LIMIT = 10
SQL = \"\"\"
    insert into things
    values ($1)\"\"\"


class Shop:
    @entrypoint(
        "POST"
    )
    def sell(self):
        return LIMIT

    def close(self):
        pass


class Office:
    def close(self):
        pass
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "code.py"
    file.write_text(CODE)
    return file


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_lines_are_right(page: Path) -> None:
    assert renewed(page) == page.read_text(), "`python -m tests.docs.lines` renews them"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_code_is_quoted_as_it_is(page: Path) -> None:
    assert misquoted(page) == []


def test_the_readme_is_short_links_to_lines_and_quotes_the_flow() -> None:
    readme = (ROOT / "README.md").read_text()
    assert 150 <= len(readme.splitlines()) <= 200
    assert len(LINK.findall(readme)) > 10
    assert [quote["path"] for quote in QUOTE.finditer(readme)] == [
        "services/orders/service.py",
        "services/orders/broker.py",
    ]


@pytest.mark.parametrize(
    "name, lines",
    [
        ("LIMIT", (1, 1)),
        ("SQL", (2, 4)),
        ("Shop", (7, 15)),
        ("sell", (8, 12)),
        ("Shop.sell", (8, 12)),
        ("Office.close", (19, 20)),
        ("insert into", (3, 3)),
        ("insert into … values", (3, 4)),
    ],
)
def test_lines_are_found_by_a_name_or_a_text(code: Path, name: str, lines: tuple[int, int]) -> None:
    assert lines_of(code, name) == Lines(*lines)


@pytest.mark.parametrize("name", ["close", "pass", "nowhere", "values … insert", "Office.sell"])
def test_what_is_not_in_one_place_is_an_error(code: Path, name: str) -> None:
    with pytest.raises(Broken):
        lines_of(code, name)


def page_with(code: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tests.docs.lines.ROOT", code.parent)
    page = code.parent / "page.md"
    page.write_text(text)
    return page


def test_numbers_are_renewed(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_with(code, "See [`sell`](code.py#L1-L2), and [`LIMIT`](code.py#L9).", monkeypatch)
    assert renewed(page) == "See [`sell`](code.py#L8-L12), and [`LIMIT`](code.py#L1)."


@pytest.mark.parametrize("link", ["[here](code.py#L1)", "[`sell`](gone.py#L1)", "[`nobody`](code.py#L1)"])
def test_a_link_that_no_number_makes_right_is_an_error(code: Path, link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Broken, match="page.md"):
        renewed(page_with(code, link, monkeypatch))


@pytest.mark.parametrize(
    "block, is_right",
    [
        ("def sell(self):\n    return LIMIT\n...\ndef close(self):\n    pass", True),
        ("    LIMIT = 10\n\nclass Office:", True),
        ("def sell(self):\n    return 11", False),
        ("class Office:\n...\nclass Shop:", False),
        ("def sell(self):\nreturn LIMIT", False),
    ],
)
def test_a_quotation_is_compared(code: Path, block: str, is_right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_with(code, f"<!-- quoted from code.py -->\n```python\n{block}\n```\n", monkeypatch)
    assert (misquoted(page) == []) == is_right
