"""How many cases the property tests of this folder try, and what a case needs.

Each test has a share of one total: 1,500 in the suite, where the cases are the same ones every
time, and 100,000 in the long form, where they are drawn anew. A case that fails is printed with
a line that reproduces it.
"""

import collections
import contextlib
import functools
import os
import pathlib
import tempfile
import tracemalloc

from hypothesis import HealthCheck, settings

from hvi_tf.errors import UserError
from tests.faults import count

# Some spaces are exhausted before the share of their test.
SHORT, LONG = 1_500, 103_000

SHARES: dict[str, float] = {}  # of each test; `test_reliability` holds their sum to be 1
TRIED: collections.Counter = collections.Counter()  # the cases of each test in this process


def share(part):
    """Gives a property test its part of all cases; to be written above `given`."""
    total = count(SHORT, LONG)
    profile = settings(
        max_examples=max(1, round(part * total)),
        derandomize=total == SHORT,
        print_blob=True,
        database=None,  # no folder .hypothesis
        deadline=None,  # other processes share the machine
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test):
        SHARES[test.__name__] = part
        inner = test.hypothesis.inner_test

        @functools.wraps(inner)
        def counted(*arguments, **keywords):
            TRIED[test.__name__] += 1
            return inner(*arguments, **keywords)

        test.hypothesis.inner_test = counted
        return profile(test)

    return decorate


@contextlib.contextmanager
def folder():
    """An empty folder that this process is in; function-scoped fixtures are not made per case."""
    before = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as path:
        os.chdir(path)
        try:
            yield pathlib.Path(path)
        finally:
            os.chdir(before)


def outcome(function, *arguments, refusals=(UserError, ValueError)):
    """What it returns, or else the message of its refusal."""
    try:
        return function(*arguments), None
    except refusals as error:
        return None, str(error)


@contextlib.contextmanager
def peak_memory():
    """Gives a function that tells the most memory, in bytes, that was had inside."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
