"""Records how many cases the property tests have tried."""

from tests.faults import cases, record


def pytest_sessionfinish():
    if cases.TRIED:
        record("inputs", cases=cases.TRIED.total())
