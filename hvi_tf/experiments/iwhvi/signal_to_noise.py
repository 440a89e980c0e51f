"""The signal-to-noise ratio of a gradient: |mean| / standard deviation of every parameter.

Rainforth et al. 2018; Sobolev & Vetrov 2019, appendix D.2.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf.errors import UserError
from hvi_tf.inference import gradients
from hvi_tf.inference.methods import Counts, Method
from hvi_tf.inference.model import Model, ParameterGroups
from hvi_tf.inference.objective import record


class Ratios(NamedTuple):
    """The mean ratio over parameters, and the ends of their middle 90%."""

    mean: float
    low: float
    high: float


def summarize(ratios: np.ndarray) -> Ratios:
    """Summarizes ratios `[P]` or `[minibatches, P]` over parameters.

    Minibatches are averaged first. Parameters that are NaN everywhere are left out.
    """
    ratios = np.atleast_2d(ratios)
    known = ~np.isnan(ratios).all(axis=0)
    per_parameter = np.nanmean(ratios[:, known], axis=0)
    low, high = np.percentile(per_parameter, [5, 95])
    return Ratios(float(per_parameter.mean()), float(low), float(high))


class Moments(NamedTuple):
    """Mean and standard deviation of every parameter's gradient over new draws, `[E, P]`."""

    mean: np.ndarray
    deviation: np.ndarray  # standard deviation

    @property
    def ratios(self) -> np.ndarray:
        """Returns |mean| / deviation; NaN for a parameter without noise."""
        quiet = np.full_like(self.mean, np.nan)
        return np.divide(np.abs(self.mean), self.deviation, out=quiet, where=self.deviation > 0)


def make_ratios(*arguments: Any, **settings: Any) -> Callable[[tf.Tensor, tf.Tensor], np.ndarray]:
    """Returns a compiled function like that of `make_moments`, for the ratios `[E, P]`.

    A parameter without noise, such as the weight of a pixel that is always black, has ratio NaN.
    Even without a signal, the |mean| of n draws is about 0.8 / sqrt(n) standard deviations.
    """
    moments = make_moments(*arguments, **settings)
    return lambda x, seed: moments(x, seed).ratios


def make_moments(
    model: Model,
    method: Method,
    variables: ParameterGroups,
    group: str,
    estimators: Sequence[str],
    *,
    K: int,
    M: int = 1,
    draws: int,
    backward_samples: Sequence[int] = (0,),
    minibatch: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = lambda x, seed: x,
) -> Callable[[tf.Tensor, tf.Tensor], Moments]:
    """Returns a compiled function of (x, seed) that measures moments of a group's gradients.

    All estimators see the same draws, so their moments are comparable.

    Args:
        model: the callables.
        method: a method of the table.
        variables: the parameter groups.
        group: name of the group, such as eta.
        estimators: keys of `gradients.ESTIMATORS`.
        K: draws of psi besides psi_0.
        M: draws of z.
        draws: number of gradients, each with new draws.
        backward_samples: numbers of differentiated terms. E counts the estimators for each.
        minibatch: (x, seed) -> the observations `[B, ...]` of one gradient; x itself by default.

    Returns:
        The function; seed is int32 `[2]`.

    Raises:
        UserError: for a single draw, which has no standard deviation.
    """
    if draws < 2:
        raise UserError(f"--set=draws={draws}: a signal-to-noise ratio needs at least 2")

    def flat_gradients(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        flat = []
        for count in backward_samples:
            tape, objective = record(
                model,
                method,
                x,
                variables,
                Counts(K=K, M=M),
                seed,
                backward_samples=count,
                estimators=estimators,
            )
            for name in estimators:
                ascent = getattr(gradients.ESTIMATORS[name](tape, objective, variables), group)
                flat.append(tf.concat([tf.reshape(g, [-1]) for g in ascent], axis=0))
        return tf.cast(tf.stack(flat), tf.float64)

    size = sum(int(np.prod(v.shape)) for v in getattr(variables, group))
    shape = [len(backward_samples) * len(estimators), size]

    @tf.function
    def moments(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean = tf.zeros(shape, tf.float64)
        squares = tf.zeros_like(mean)
        for i in tf.range(draws):  # Welford's update avoids differences of large sums
            x_seed, own = tf.unstack(tf.random.split(tf.random.fold_in(seed, i), 2))
            before = flat_gradients(minibatch(x, x_seed), own) - mean
            mean += before / tf.cast(i + 1, tf.float64)
            squares += before * before * tf.cast(i, tf.float64) / tf.cast(i + 1, tf.float64)
        return mean, squares

    def measure(x: tf.Tensor, seed: tf.Tensor) -> Moments:
        mean, squares = (value.numpy() for value in moments(x, seed))
        return Moments(mean, np.sqrt(squares / (draws - 1)))

    return measure
