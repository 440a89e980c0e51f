"""What the property tests have tried is a figure of its own."""

from tests.faults import cases, record


def pytest_sessionfinish():
    if cases.TRIED:
        record("inputs", cases=cases.TRIED.total())
