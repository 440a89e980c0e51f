"""A run from its configuration: the data, the model and the workdir, trained or resumed.

The command line and the experiments both go through here.
"""

import functools
from typing import NamedTuple

from hvi_tf.config import config as config_lib
from hvi_tf.config import identity
from hvi_tf.config.config import Config
from hvi_tf.config.settings import DataConfig
from hvi_tf.data import datasets
from hvi_tf.data.datasets import Dataset
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import devices
from hvi_tf.runtime import replicas as distribution
from hvi_tf.runtime.startup import StartUp
from hvi_tf.storage import provenance
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import loop
from hvi_tf.training.checkpoints import Checkpoints
from hvi_tf.training.loop import TrainingResult


class Run(NamedTuple):
    """A model at its best checkpoint, and what it was made of."""

    config: Config
    data: Dataset
    model: VAE
    workdir: Workdir
    step: int  # of the checkpoint
    training: TrainingResult | None  # None if this process trained nothing


def with_data(config: Config) -> tuple[Config, Dataset]:
    """The data of a configuration, which is told what this machine and they decide.

    Raises:
        UserError: if the data cannot be had, or cannot be trained on as configured.
    """
    config = config_lib.resolve_jit(config, devices.has_gpu())
    data, digests = _load(config.data)
    provenance.record_data(config.data, digests)
    config = identity.with_digest(config, data.digest)
    loop.check_data(config, data)
    return config, data


@functools.lru_cache(maxsize=2)  # an experiment trains one model after another
def _load(config: DataConfig) -> tuple[Dataset, dict[str, str]]:
    data = datasets.load(config)
    return data, data.digests()


def train(
    config: Config, data: Dataset, model: VAE, workdir: Workdir, start_up: StartUp | None = None
) -> Run:
    """Trains to the end of the schedule, from the latest checkpoint if there is one.

    Args:
        config: of the run.
        data: its images.
        model: with its initial weights.
        workdir: of the run.
        start_up: for a line at the first step that tells what took how long.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
        UserError: if the disk is full, or a step is not finite and --on_nonfinite is to stop.
    """
    training = loop.train(config, model, data, workdir, start_up)
    return at_best(config, data, model, workdir)._replace(training=training)


def at_best(config: Config, data: Dataset, model: VAE, workdir: Workdir) -> Run:
    """The run with the weights of its best checkpoint."""
    distribution.barrier()  # the chief may still be writing it
    step = Checkpoints(model, workdir).restore_best()
    distribution.check_same("best checkpoints, of steps", step)
    return Run(config, data, model, workdir, step, None)
