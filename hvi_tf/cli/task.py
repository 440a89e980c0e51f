"""The task that a command line describes; this module does not import TensorFlow."""

import pathlib
from typing import Any, NamedTuple

from hvi_tf.config.config import Config
from hvi_tf.storage.workdir import Workdir


class Task(NamedTuple):
    """The task of a command, with checked settings.

    Attributes:
        mode: train, fit_tau, evaluate, export or sample.
        config: configuration of the run; for fit_tau, of the run with the frozen p and q.
        path: path of the workdir.
        run: the open workdir, for a mode that needs a trained run.
        given: the settings on the command line, by name.
        saved_model: path of the SavedModel that is scored instead of the checkpoint.
        device_report: whether to print devices, threads, XLA and precision.
        check_determinism: whether to train ten steps twice, and do nothing else.
    """

    mode: str
    config: Config
    path: pathlib.Path
    run: Workdir | None
    given: dict[str, Any]
    saved_model: pathlib.Path | None = None
    device_report: bool = False
    check_determinism: bool = False
