"""Options and fixtures of all tests."""

import contextlib
import os
import pathlib
import random

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--vary-seed",
        action="store_true",
        help="draw the seed of the statistical tests at random, to calibrate their error rates",
    )


@pytest.fixture(scope="session")
def seed(request):
    """The seed of every statistical test; fixed unless --vary-seed is given."""
    if not request.config.getoption("--vary-seed"):
        return 20190513
    value = random.SystemRandom().randrange(2**31 - 1)
    print(f"--vary-seed drew {value}")
    return value


@pytest.fixture(scope="module")
def victims():
    """Starts runs of the command that a test may kill."""
    from tests.faults.victims import Victims

    with Victims() as started:
        yield started


@pytest.fixture
def eager():
    """Runs functions without tracing, which takes longer than a few tiny steps."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def interrupted(monkeypatch):
    """A context in which a signal asks every loop to stop, and a loop stops."""
    from hvi_tf.runtime.interrupts import Interrupted, StopRequest

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as patch:
            patch.setattr(StopRequest, "requested", True, raising=False)
            patch.setattr(StopRequest, "__init__", lambda self: None)
            with pytest.raises(Interrupted):
                yield

    return context


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory):
    """A folder in which TFDS has prepared MNIST from the packaged files."""
    from hvi_tf.config.settings import DataConfig
    from hvi_tf.data import datasets

    folder = tmp_path_factory.mktemp("tfds")
    datasets.load(DataConfig(data_dir=str(folder)))
    return folder


@pytest.fixture(scope="session")
def data_files():
    """The folder that HVI_TEST_DATA names, with one folder of real files per data set."""
    folder = os.environ.get("HVI_TEST_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("needs real pixels: HVI_TEST_DATA names no folder with omniglot/ and others")
    return pathlib.Path(folder)
