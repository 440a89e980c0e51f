"""What a command line asks for, once its flags are known to be good; TensorFlow is not needed."""

import pathlib
from typing import Any, NamedTuple

from hvi_tf.config.config import Config
from hvi_tf.storage.workdir import Workdir


class Task(NamedTuple):
    """What is asked for.

    Attributes:
        mode: train, fit_tau, evaluate, export or sample.
        config: of the run; for fit_tau that of the run whose model is kept.
        path: of the workdir.
        run: in it, if there has to be one.
        given: the settings that the command line names.
        saved_model: to be scored in the place of the checkpoint.
        device_report: whether to tell what is computed on what.
        check_determinism: whether to do ten steps twice, and nothing else.
    """

    mode: str
    config: Config
    path: pathlib.Path
    run: Workdir | None
    given: dict[str, Any]
    saved_model: pathlib.Path | None = None
    device_report: bool = False
    check_determinism: bool = False
