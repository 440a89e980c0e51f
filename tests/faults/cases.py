"""The numbers of cases of this folder's property tests, and helpers of these tests.

Each test has a share of one total: 1,500 in the suite, where the cases are the same every time,
and 100,000 in the long form, where each run draws new ones. A failing case is printed with a line
that reproduces it.
"""

import collections
import contextlib
import functools
import os
import pathlib
import tempfile
import tracemalloc

from hypothesis import HealthCheck, settings

from hvi_tf import randomness
from hvi_tf.errors import UserError
from hvi_tf.evaluation import jobs
from tests.faults import count

# More than 100,000, because some tests run out of distinct cases before their share ends.
SHORT, LONG = 1_500, 103_000

TRIED: collections.Counter = collections.Counter()  # cases of each test in this process


def share(part):
    """Gives a property test its part of all cases; write it above `given`.

    `test_reliability` checks that the parts sum to 1.
    """
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
    """Enters an empty working folder; a function-scoped fixture would not be made for each case."""
    before = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as path:
        os.chdir(path)
        try:
            yield pathlib.Path(path)
        finally:
            os.chdir(before)


def outcome(function, *arguments, refusals=(UserError, ValueError)):
    """Returns (result, None) of a call, or (None, message) if it raises one of `refusals`."""
    try:
        return function(*arguments), None
    except refusals as error:
        return None, str(error)


@contextlib.contextmanager
def peak_memory():
    """Yields a function that returns the peak of memory allocated inside, in bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def scoring_job(path):
    """Returns a job of scoring 5 of 20 images, whose scores are stored in `path`."""
    return jobs.Job(
        title="",
        path=path,
        check=lambda: None,
        identity={"step": 1},
        names=("log_likelihood", "ess"),
        purpose=randomness.Purpose.EVALUATE,
        images=5,
        available=20,
        score=None,
    )
