"""The scripts of pgbench are the statements of the services, with a value for each parameter."""

import pytest

from bench import limits


@pytest.mark.parametrize("batch", limits.SQL_BATCHES)
def test_each_parameter_of_our_statements_has_a_value(batch: int):
    scripts = limits.scripts(batch)
    assert list(scripts) == ["orders", "billing", "notifications"]
    assert all("$" not in script for script in scripts.values())
