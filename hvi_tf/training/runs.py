"""A run from its configuration: the data, the model and the workdir, trained or resumed.

The command line and the experiments both train through this module.
"""

import functools
from typing import NamedTuple

from hvi_tf.config import config as config_lib
from hvi_tf.config import identity
from hvi_tf.config.config import Config
from hvi_tf.config.settings import DataConfig
from hvi_tf.data import datasets, pipeline, pixels
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import devices, replicas
from hvi_tf.runtime.progress import counted
from hvi_tf.runtime.startup import StartUp
from hvi_tf.storage import provenance
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import loop
from hvi_tf.training.checkpoints import Checkpoints
from hvi_tf.training.loop import TrainingResult


class Run(NamedTuple):
    """A model at its best checkpoint, with its configuration, data and workdir."""

    config: Config
    model: VAE
    data: Dataset
    workdir: Workdir
    step: int  # of the checkpoint
    training: TrainingResult | None  # None if this process did not train it


def with_data(config: Config) -> tuple[Config, Dataset]:
    """Loads the data; returns them with the configuration, completed by data and machine.

    Raises:
        UserError: if the data cannot be loaded, or cannot be trained on as configured.
    """
    config = config_lib.resolve_jit(config, devices.has_gpu())
    data, digests = _load(config.data)
    provenance.record_data(config.data, digests)
    config = identity.with_digest(config, data.digest)
    check_data(config, data)
    return config, data


@functools.lru_cache(maxsize=2)  # because an experiment trains many models on the same data
def _load(config: DataConfig) -> tuple[Dataset, dict[str, str]]:
    data = datasets.load(config)
    return data, data.digests()


def check_data(config: Config, data: Dataset) -> None:
    """Checks that the images can be trained on as configured.

    Raises:
        UserError: if the likelihood, a network or the batch size does not suit them.
    """
    name = config.data.dataset
    pixels.check(data, name)
    pixels.check_networks(config.model, data.image_shape, name)
    pipeline.check_likelihood(data.train.dtype, name, config.model.likelihood)
    _check_batch_size(config.training.batch_size, replicas.replicas())
    _check_free_bits(config, replicas.replicas())
    if config.training.batch_size > len(data.train):
        raise UserError(
            f"--batch_size={config.training.batch_size}: {name} has only "
            f"{counted(len(data.train), 'training image')}; give at most that"
        )


def _check_batch_size(size: int, count: int) -> None:
    if size % count:
        lower = size // count * count
        fitting = f"{lower} or {lower + count}" if lower else f"{count}"
        raise UserError(
            f"--batch_size={size}: {count} replicas cannot share it evenly; give {fitting}"
        )


def _check_free_bits(config: Config, count: int) -> None:
    for name in ("inner_free_bits", "outer_free_bits"):
        value = getattr(config.training, name)
        if value and count > 1:
            raise UserError(
                f"--{name}={value}: compares the mean of a whole batch, which no replica sees; "
                "leave out --strategy"
            )


def train_to_best(
    config: Config, model: VAE, data: Dataset, workdir: Workdir, start_up: StartUp | None = None
) -> Run:
    """Trains as `loop.train` does, then restores the best checkpoint.

    Args:
        config: the run's configuration.
        model: the model with its initial weights.
        data: the images to train on.
        workdir: the run's workdir.
        start_up: prints the durations of the start at the first step.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
        UserError: if the disk is full, or a step is not finite under --on_nonfinite=stop.
    """
    training = loop.train(config, model, data, workdir, start_up)
    return at_best(config, model, data, workdir)._replace(training=training)


def at_best(config: Config, model: VAE, data: Dataset, workdir: Workdir) -> Run:
    """Restores the best checkpoint of a run."""
    replicas.barrier()  # until the chief has written it
    step = Checkpoints(model, workdir).restore_best()
    replicas.check_same("best checkpoints, of steps", step)
    return Run(config, model, data, workdir, step, None)
