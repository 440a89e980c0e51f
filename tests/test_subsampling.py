"""Backward passes through a few terms: the mean of every gradient stays as it is."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds, subsampling
from tests.test_gradients import assert_unbiased, replicate_gradients

CASES = [
    ("iwhvi", "reparameterized", dict(K=6), 2),
    ("iwhvi", "dreg", dict(K=6), 2),
    ("iwhvi", "dreg", dict(K=6), 1),
    ("diwhvi", "dreg", dict(K=4, M=4, inner=0.4, outer=0.7), 2),  # of k and of m
    ("diwhvi", "reparameterized", dict(K=1, M=4), 2),  # of m alone
    ("diwhvi", "gdreg", dict(K=4, M=3, inner=0.6), 2),
    ("iwhvi", "gdreg", dict(K=4, L=3, prior=True), 2),
    ("iwae", "reparameterized", dict(M=5), 2),
    ("iwae", "iwae-dreg", dict(M=5), 2),
    ("sivi", "gdreg", dict(K=5, M=2), 2),
    ("sivi-equicomp", "stl", dict(K=5, M=3), 2),
    ("sivi-equisample", "reparameterized", dict(K=2, M=3), 2),
    ("dsivi", "gdreg", dict(K=5, L=2, prior=True), 2),
]


@pytest.mark.parametrize(("method", "estimator", "case", "count"), CASES)
def test_the_mean_of_every_gradient_stays(method, estimator, case, count, seed):
    """Paired z-scores over 4,000 replicates; seen to fail without the weights 1 / (S v)."""
    fewer = f"{estimator} {count}"
    result = replicate_gradients([estimator, fewer], method, seed=seed, **case)
    for group in ("theta", "phi", "eta", "rho"):
        if getattr(result[estimator], group).size:
            assert_unbiased(result[fewer], result[estimator], group, must_differ=False)
    assert np.abs(result[fewer].phi - result[estimator].phi).max() > 1e-3


@pytest.mark.parametrize("method", ["diwhvi", "sivi-equicomp", "iwae"])
def test_enough_samples_are_all_terms(method):
    K = 0 if method == "iwae" else 3
    result = replicate_gradients(
        ["reparameterized", "reparameterized 3"], method, K=K, M=3, replicates=5
    )
    for full, same in zip(*result.values(), strict=True):
        np.testing.assert_array_equal(full, same)


def test_systematic_resampling_draws_floor_or_one_more(seed):
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


def test_terms_of_no_weight_are_no_danger():
    """One term has all of the weight; the others' underflow to 0."""
    log_q_z = tf.constant([[[0.0]], [[-1e4]], [[3.0]], [[-1e4]]])
    zeros = tf.zeros_like(log_q_z)
    d = bounds.LogDensities(tf.zeros([1, 1]), tf.zeros([1, 1, 1]), log_q_z, zeros, zeros)
    kept = subsampling.keep(d, 3, 1, 2, tf.constant([0, 1]))
    np.testing.assert_array_equal(kept.k[:, 0, 0], [1, 1])
    gradient = bounds.LogDensities(*(tf.ones_like(value) for value in d))
    np.testing.assert_allclose(kept.upstream(gradient).log_q_z[:, 0, 0], [1.0, 0.5, 0.5])
