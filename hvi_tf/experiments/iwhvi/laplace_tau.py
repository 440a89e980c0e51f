"""Trained taus for the Laplace of section 6.1 of Sobolev & Vetrov 2019, which are stored."""

import functools
import math
import pathlib

import keras
import numpy as np
import tensorflow as tf

from hvi_tf import bounds, randomness
from hvi_tf.examples.laplace import entropy_model
from hvi_tf.experiments.harness.experiment import Settings
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import gradients, methods, sampling
from hvi_tf.inference.counts import Counts
from hvi_tf.storage import npz

# The K and estimator of tau's training; the paper names neither.
TRAINING_K, ESTIMATOR, LEARNING_RATE, BATCH_SIZE = 5, "dreg", 1e-3, 100


def truth(dim: int) -> float:
    """Returns E log q(z) of a Laplace(0, 1) in `dim` dimensions, in nats."""
    return -dim * (1.0 + math.log(2.0))


class Trainer:
    """A model with a trainable tau whose graphs are traced once for all weights."""

    def __init__(self, dim: int, hidden: tuple[int, ...]) -> None:
        self._dim, self._hidden = dim, hidden
        self._model, self._variables = entropy_model(dim, hidden)
        self._optimizer = keras.optimizers.Adam(LEARNING_RATE)
        self._optimizer.build(list(self._variables.eta))
        self._iwhvi = methods.look_up("iwhvi")

    @property
    def weights(self) -> list[np.ndarray]:
        """Returns the weights of tau's network."""
        return [v.numpy() for v in self._variables.eta]

    def adopt(self, weights: list[np.ndarray]) -> None:
        """Puts weights into tau's network."""
        for variable, value in zip(self._variables.eta, weights, strict=True):
            variable.assign(value)

    def begin(self, seed: int) -> None:
        """Sets new initial weights and a new state of the optimizer."""
        _, fresh = entropy_model(self._dim, self._hidden, seed)
        self.adopt([v.numpy() for v in fresh.eta])
        for variable in self._optimizer.variables:
            if variable is not self._optimizer.learning_rate:
                variable.assign(tf.zeros_like(variable))

    @tf.function
    def train(self, seed: tf.Tensor, first: tf.Tensor, last: tf.Tensor) -> None:
        """Runs the steps `first` to `last`, each on new draws of z."""
        for step in tf.range(first, last):
            _, ascent = gradients.value_and_gradients(
                self._model,
                self._iwhvi,
                tf.zeros([BATCH_SIZE, 1]),
                self._variables,
                Counts(K=TRAINING_K),
                tf.random.fold_in(seed, step),
                estimator=ESTIMATOR,
            )
            self._optimizer.apply([-g for g in ascent.eta], list(self._variables.eta))

    @tf.function
    def log_ratios(
        self, name: str, K: int, draws: int, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns beta `[K+1, draws]` and the exact log q(z) `[draws]` for new draws of z."""
        x, method = tf.zeros([draws, 1]), methods.look_up(name)
        sample = sampling.draw(self._model, method, x, Counts(K=K), seed)
        densities = densities_lib.log_densities(self._model, method, x, sample)
        log_q = -tf.reduce_sum(tf.abs(sample.z[0]), axis=-1) - self._dim * math.log(2.0)
        return bounds.inner_log_ratios(densities)[:, 0], log_q


@functools.cache
def trainer(dim: int, hidden: tuple[int, ...]) -> Trainer:
    """Returns one trainer for all cells of a process."""
    return Trainer(dim, hidden)


def trained_weights(
    settings: Settings, repetition: int, runs: pathlib.Path
) -> dict[int, list[np.ndarray]]:
    """Returns weights of tau by the number of steps, from `runs` or a new training."""
    dim, hidden, steps = settings["dim"], tuple(settings["hidden"]), sorted(settings["steps"])
    name = f"laplace-{dim}d-{'x'.join(map(str, hidden))}-{'-'.join(map(str, steps))}steps"
    path = runs / name / f"{repetition}.npz"
    if path.exists():
        stored = npz.read_arrays(path)
        return {n: [stored[f"{n}_{i}"] for i in range(len(stored) // len(steps))] for n in steps}
    own = trainer(dim, hidden)
    own.begin(repetition)
    seed = randomness.fold(repetition, randomness.Purpose.TRAIN)
    done, weights = 0, {}
    for n in steps:
        own.train(seed, tf.constant(done), tf.constant(n))
        done, weights[n] = n, own.weights
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{n}_{i}": w for n, ws in weights.items() for i, w in enumerate(ws)}
    npz.write_arrays(path, arrays)
    return weights
