"""The list of harmful changes is that of the code as it is."""

from collections import Counter

import pytest

from tests.mutants.__main__ import CHANGES, TESTS, places
from tests.mutants.change import Change


@pytest.mark.parametrize("change", CHANGES, ids=[change.name for change in CHANGES])
def test_a_change_is_one_of_the_code(change: Change) -> None:
    assert places(change) == 1, f"{change.file} does not hold what is to be changed"
    assert change.old != change.new and change.tests
    for test in change.tests:
        assert (TESTS / test.partition("::")[0]).exists(), test


def test_names_are_given_once() -> None:
    assert [name for name, count in Counter(change.name for change in CHANGES).items() if count > 1] == []
