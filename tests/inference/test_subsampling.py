"""Backward passes through a few terms leave the mean of every gradient unchanged."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.inference import subsampling
from hvi_tf.inference.counts import Counts
from tests.oracles.unbiased import assert_unbiased, replicate_gradients

CASES = [
    ("iwhvi", "reparameterized", dict(K=6), 2),
    ("iwhvi", "dreg", dict(K=6), 2),
    ("iwhvi", "dreg", dict(K=6), 1),
    ("diwhvi", "dreg", dict(K=4, M=4, inner=0.4, outer=0.7), 2),  # over k and m
    ("diwhvi", "reparameterized", dict(K=1, M=4), 2),  # over m
    ("diwhvi", "gdreg", dict(K=4, M=3, inner=0.6), 2),
    ("iwhvi", "gdreg", dict(K=4, L=3, prior=True), 2),
    ("diwhvi", "gdreg", dict(K=1, M=4, L=3, prior=True), 2),
    ("diwhvi", "reparameterized", dict(K=0, M=4), 2),
    ("iwae", "reparameterized", dict(M=5), 2),
    ("iwae", "iwae-dreg", dict(M=5), 2),
    ("sivi", "gdreg", dict(K=5, M=2), 2),
    ("sivi-equicomp", "stl", dict(K=5, M=3), 2),
    ("sivi-equisample", "reparameterized", dict(K=2, M=3), 2),
    ("dsivi", "gdreg", dict(K=5, L=2, prior=True), 2),
]


@pytest.mark.parametrize(("method", "estimator", "case", "count"), CASES)
def test_fewer_backward_samples_keep_the_mean_of_every_gradient(
    method, estimator, case, count, seed
):
    """Paired z-scores are small. The test was seen to fail without the weights 1 / (S v)."""
    fewer = f"{estimator} {count}"
    result = replicate_gradients([estimator, fewer], method, seed=seed, **case)
    for group in ("theta", "phi", "eta", "rho"):
        if getattr(result[estimator], group).size:
            assert_unbiased(result[fewer], result[estimator], group, must_differ=False)
    assert np.abs(result[fewer].phi - result[estimator].phi).max() > 1e-3


def test_all_terms_are_kept_once_where_the_count_is_not_smaller():
    d = bounds.LogDensities(tf.zeros([5, 2]), *[tf.zeros([n, 5, 2]) for n in (1, 4, 4, 4)])
    kept = subsampling.keep(d, Counts(3, 5), 3, tf.constant([0, 1]))  # all K, and 3 of M
    np.testing.assert_array_equal(kept.k[:, 0, 0], [0, 1, 2])
    assert (kept.k.shape, kept.k_weight) == ((3, 3, 2), 1.0)
    np.testing.assert_allclose(kept.m_weight, 5 / 3)
    kept = subsampling.keep(d, Counts(3, 5), 5, tf.constant([0, 1]))
    assert (kept.m, kept.m_weight, kept.k_weight) == (None, 1.0, 1.0)


def test_systematic_resampling_draws_each_term_floor_or_floor_plus_1_times(seed):
    weights = np.random.default_rng(seed).dirichlet(np.full(7, 0.3), size=(2, 5000))
    drawn = subsampling.systematic_resampling(
        tf.constant(np.moveaxis(weights, -1, 0)), 4, tf.constant([seed, 3])
    )
    times = np.stack([(drawn.numpy() == i).sum(axis=0) for i in range(7)], axis=-1)
    expected = 4 * weights
    assert np.all(times >= np.floor(expected - 1e-9))
    assert np.all(times <= np.floor(expected + 1e-9) + 1)
    error = (times - expected).mean(axis=(0, 1)) / ((times - expected).std(axis=(0, 1)) / 100)
    assert np.abs(error).max() < 4.8


def test_terms_of_zero_weight_are_not_drawn():
    """One term has all the weight. The weights of the others underflow to 0."""
    log_q_z = tf.constant([[[0.0]], [[-1e4]], [[3.0]], [[-1e4]]])
    zeros = tf.zeros_like(log_q_z)
    d = bounds.LogDensities(tf.zeros([1, 1]), tf.zeros([1, 1, 1]), log_q_z, zeros, zeros)
    kept = subsampling.keep(d, Counts(3, 1), 2, tf.constant([0, 1]))
    np.testing.assert_array_equal(kept.k[:, 0, 0], [1, 1])
    gradient = bounds.LogDensities(*(tf.ones_like(value) for value in d))
    np.testing.assert_allclose(kept.upstream(gradient).log_q_z[:, 0, 0], [1.0, 0.5, 0.5])
