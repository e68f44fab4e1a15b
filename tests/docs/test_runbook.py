"""The runbook says of each kind of violation what it means."""

import re

import pytest

from services.local.stack import ROOT
from services.ops.violations import Kind

PAGE = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_violation_has_its_row(kind: Kind):
    assert re.search(rf"^\| `{re.escape(kind)}` \| .+ \| .+ \|$", PAGE, re.M)


def test_no_row_is_about_a_violation_that_the_audit_does_not_know():
    table = PAGE.partition("| the audit says |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([^`]+)`", table, re.M)) == {str(kind) for kind in Kind}
