"""A Gaussian encoder for the decoder of a trained run, for bounds that need one."""

from typing import Any

import keras
import tensorflow as tf

import hvi_tf as hvi
from hvi_tf import randomness
from hvi_tf.config import config as config_lib
from hvi_tf.data import pipeline
from hvi_tf.experiments.harness import trained
from hvi_tf.experiments.harness.experiment import Context
from hvi_tf.inference import methods
from hvi_tf.models.vae import VAE, make_vae
from hvi_tf.storage import npz
from hvi_tf.training.runs import Run


def fit(run: Run, context: Context, steps: int) -> VAE:
    """Returns the trained decoder with a Gaussian encoder fitted to it, for IWAE and BSVI."""
    config = config_lib.make(**trained.recipe("mnist_vae", bound="iwae", M=5))
    model = make_vae(config, run.model.x_dim)
    model.decoder.set_weights(run.model.decoder.get_weights())
    path = context.runs / f"{run.workdir.path.name}-encoder{steps}.npz"
    variables = model.encoder.variables
    if path.exists():
        weights = npz.read_arrays(path)
        for i, variable in enumerate(variables):
            variable.assign(weights[f"{i}"])
        return model
    batches = iter(
        pipeline.training_batches(
            run.data.train, config.training.batch_size, config.training.seed, 0, steps
        )
    )
    _ascend(model, batches, steps)
    npz.write_arrays(path, {f"{i}": v.numpy() for i, v in enumerate(variables)})
    return model


def _ascend(model: VAE, batches: Any, steps: int) -> None:
    """Maximizes the IWAE bound over the encoder, while the decoder stays fixed."""
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps))
    variables = hvi.ParameterGroups(phi=model.encoder.trainable_variables)
    optimizer.build(list(variables.phi))
    iwae = methods.look_up("iwae")

    @tf.function
    def train() -> None:
        for step in tf.range(steps):
            _, ascent = hvi.value_and_gradients(
                model.callables,
                iwae,
                next(batches),
                variables,
                K=0,
                M=5,
                seed=randomness.fold(model.seed, randomness.Purpose.TRAIN, step),
                estimator="iwae-dreg",
            )
            optimizer.apply([-g for g in ascent.phi], list(variables.phi))

    train()
