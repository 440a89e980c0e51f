"""Runs to be killed; and what the property tests have tried, which is a figure of its own."""

import pytest

from tests.faults import cases, record
from tests.faults.victims import Victims


@pytest.fixture(scope="module")
def victims():
    with Victims() as found:
        yield found


def pytest_sessionfinish():
    if cases.TRIED:
        record("inputs", cases=cases.TRIED.total())
