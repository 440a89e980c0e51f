"""Log-densities of all pairs against SciPy in float64, at scales that cancel in float32."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf.inference import pairs
from hvi_tf.models.distributions import DiagonalNormal

pytestmark = pytest.mark.quick

M, N, B, D = 4, 5, 3, 6


def drawn(scale, dtype=np.float64, seed=0):
    """Returns means and scales `[M, B, D]`, and values `[N, B, D]` near one of the means."""
    rng = np.random.default_rng(seed)
    loc = rng.normal(size=(M, B, D))
    scales = scale * rng.uniform(0.5, 2.0, size=(M, B, D))
    which = rng.integers(M, size=N)
    values = loc[which] + scales[which] * rng.normal(size=(N, B, D))
    return (a.astype(dtype) for a in (loc, scales, values))


def expected(loc, scale, values):
    """Returns the log-densities `[M, N, B]` by SciPy."""
    loc, scale, values = (a.astype(np.float64) for a in (loc, scale, values))
    return scipy.stats.norm.logpdf(values, loc[:, None], scale[:, None]).sum(axis=-1)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0])
def test_near_pairs_are_exact_in_float32(scale):
    """The error is at most 1e-3 nats for all pairs that have a weight."""
    loc, scales, values = drawn(scale, np.float32)
    log_prob = pairs.log_prob(DiagonalNormal(tf.constant(loc), tf.constant(scales)), values)
    assert log_prob.dtype == tf.float32
    exact = expected(loc, scales, values)
    near = exact > exact.max(axis=0) - 50.0
    assert near.any(axis=0).all()
    np.testing.assert_allclose(log_prob.numpy()[near], exact[near], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        DiagonalNormal,
        tfd.MultivariateNormalDiag,
        lambda loc, scale: tfd.Independent(tfd.Normal(loc, scale), 1),
        lambda loc, scale: tfd.Independent(tfd.Normal(loc, scale[0, 0]), 1),  # one scale for all
    ],
)
def test_gaussians_of_every_class_are_exact(make):
    loc, scale, values = drawn(0.5)
    log_prob = pairs.log_prob(make(tf.constant(loc), tf.constant(scale)), tf.constant(values))
    if log_prob.shape == (M, N, B) and make(loc, scale).stddev().shape == loc.shape:
        scale = make(loc, scale).stddev().numpy()
    np.testing.assert_allclose(log_prob, expected(loc, scale, values), rtol=1e-9)


def test_other_distributions_are_exact():
    loc, scale, values = drawn(0.5)
    laplace = tfd.Independent(tfd.Laplace(tf.constant(loc), tf.constant(scale)), 1)
    log_prob = pairs.log_prob(laplace, tf.constant(values))
    exact = scipy.stats.laplace.logpdf(values, loc[:, None], scale[:, None]).sum(axis=-1)
    np.testing.assert_allclose(log_prob, exact, rtol=1e-9)


def test_gradients_equal_those_of_the_densities():
    loc, scale, values = map(tf.constant, drawn(0.5))
    inputs = [loc, scale, values]
    upstream = tf.constant(np.random.default_rng(1).normal(size=(M, N, B)))

    def gradients(log_prob):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            values_of_pairs = log_prob(tfd.Independent(tfd.Normal(loc, scale), 1))
        return tape.gradient(values_of_pairs, inputs, output_gradients=upstream)

    by_pairs = gradients(lambda p: pairs.log_prob(p, values))
    direct = gradients(lambda p: tf.transpose(p.log_prob(values[:, None]), [1, 0, 2]))
    for one, other in zip(by_pairs, direct, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)
