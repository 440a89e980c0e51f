"""The signal-to-noise ratio of a gradient: |mean| / standard deviation, of every parameter.

Rainforth et al. 2018; Sobolev & Vetrov 2019, appendix D.2.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import gradients
from hvi_tf.gradients import ParameterGroups
from hvi_tf.methods import Method
from hvi_tf.sampling import Model


class Ratios(NamedTuple):
    """Over parameters: the mean ratio and the ends of the middle 90%."""

    mean: float
    low: float
    high: float


def summarize(ratios: np.ndarray) -> Ratios:
    """Of ratios `[P]`, or `[minibatches, P]`, which are averaged over minibatches first.

    Parameters that are NaN everywhere are left out.
    """
    ratios = np.atleast_2d(ratios)
    known = ~np.isnan(ratios).all(axis=0)
    per_parameter = np.nanmean(ratios[:, known], axis=0)
    low, high = np.percentile(per_parameter, [5, 95])
    return Ratios(float(per_parameter.mean()), float(low), float(high))


def make_ratios(
    model: Model,
    method: Method,
    variables: ParameterGroups,
    group: str,
    estimators: Sequence[str],
    *,
    K: int,
    M: int = 1,
    draws: int,
    minibatch: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = lambda x, seed: x,
) -> Callable[[tf.Tensor, tf.Tensor], np.ndarray]:
    """A compiled function of (x, seed) that measures the ratios `[E, P]`.

    Every estimator sees the same draws, so that their ratios compare. A parameter without
    noise, such as the weight of a pixel that is always black, has the ratio NaN. The |mean|
    of n draws is at least about 0.8 / sqrt(n) standard deviations, signal or none.

    Args:
        model: the callables.
        method: the row of the table.
        variables: the parameter groups.
        group: whose ratios, such as eta.
        estimators: keys of `gradients.ESTIMATORS`.
        K: draws of psi besides psi_0.
        M: draws of z.
        draws: gradients, all of fresh draws.
        minibatch: (x, seed) -> the observations `[B, ...]` of one gradient; x itself if they
            are the same for all.

    Returns:
        The function; seed is int32 `[2]`.
    """

    def flat_gradients(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        tape, objective = gradients.record(model, method, x, variables, K=K, M=M, seed=seed)
        found = []
        for name in estimators:
            ascent = getattr(gradients.ESTIMATORS[name](tape, objective, variables), group)
            found.append(tf.concat([tf.reshape(g, [-1]) for g in ascent], axis=0))
        return tf.cast(tf.stack(found), tf.float64)

    size = sum(int(np.prod(v.shape)) for v in getattr(variables, group))

    @tf.function
    def moments(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean = tf.zeros([len(estimators), size], tf.float64)
        squares = tf.zeros_like(mean)
        for i in tf.range(draws):  # Welford's update: no difference of large sums
            x_seed, own = tf.unstack(tf.random.split(tf.random.fold_in(seed, i), 2))
            before = flat_gradients(minibatch(x, x_seed), own) - mean
            mean += before / tf.cast(i + 1, tf.float64)
            squares += before * before * tf.cast(i, tf.float64) / tf.cast(i + 1, tf.float64)
        return mean, squares

    def measure(x: tf.Tensor, seed: tf.Tensor) -> np.ndarray:
        mean, squares = (value.numpy() for value in moments(x, seed))
        deviation = np.sqrt(squares / (draws - 1))
        quiet = np.full_like(mean, np.nan)
        return np.divide(np.abs(mean), deviation, out=quiet, where=deviation > 0)

    return measure
