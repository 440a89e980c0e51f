"""Pareto k of weights with known tails."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.bounds import diagnostics

pytestmark = pytest.mark.quick


def largest(log_weights):
    n = diagnostics.tail_length(len(log_weights))
    return tf.constant(-np.sort(-log_weights, axis=0)[: n + 1])


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9, 1.5])
def test_pareto_k_is_the_shape_of_a_pareto_tail(shape, seed):
    rng = np.random.default_rng(seed)
    weights = rng.pareto(1 / shape, size=(20_000, 50)) + 1
    k = diagnostics.pareto_k(largest(np.log(weights))).numpy()
    n = diagnostics.tail_length(20_000)
    # The spread is (1 + k) / sqrt(n). The prior has the weight of 10 observations of k = 0.5.
    expected = (n * shape + 5) / (n + 10)
    assert abs(k.mean() - expected) < 5 * (1 + shape) / np.sqrt(n * 50) + 0.02
    assert k.std() < 2 * (1 + shape) / np.sqrt(n)


def test_bounded_weights_have_a_negative_k(seed):
    weights = np.random.default_rng(seed).uniform(size=(5_000, 20))
    assert diagnostics.pareto_k(largest(np.log(weights))).numpy().max() < 0


def test_k_is_0_for_equal_weights_and_large_for_one_dominating_weight():
    equal = diagnostics.pareto_k(tf.zeros([21, 2]))
    np.testing.assert_array_equal(equal, 0.0)
    log_weights = np.full((21, 1), -1e4)
    log_weights[0] = 0.0
    assert diagnostics.pareto_k(tf.constant(log_weights)).numpy()[0] > 0.7


def test_equal_excesses_give_a_finite_k():
    """Equal excesses put one grid point of the fit at 0."""
    for ties in (99, 100, 110, 120):
        log_weights = np.zeros((ties + 1, 1))
        log_weights[-1] = -1.0
        assert np.isfinite(diagnostics.pareto_k(tf.constant(log_weights)))


@pytest.mark.parametrize("case", [35, 214, 293, 316])
def test_a_tail_that_equals_its_cutoff_gives_a_finite_k(case):
    """exp of equal logs may differ by a rounding error, and an excess was negative."""
    rng = np.random.default_rng(case)
    n, columns, ties = rng.integers(5, 80), rng.integers(1, 4), rng.integers(2, 6)
    log_weights = -np.sort(rng.uniform(0, 3, size=(n + 1, columns)), axis=0)
    log_weights[-ties:] = log_weights[-ties]
    assert np.all(np.isfinite(diagnostics.pareto_k(tf.constant(log_weights))))


def test_tail_lengths_are_those_of_vehtari_et_al():
    assert diagnostics.tail_length(20) == 0
    assert diagnostics.tail_length(21) == 5
    assert diagnostics.tail_length(500) == 68  # ceil(3 sqrt(500))
    assert diagnostics.tail_length(5000) == 213
