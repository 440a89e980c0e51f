"""The jackknife against enumeration of subsets, and its exact bias."""

import itertools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from hvi_tf.bounds import jackknife
from tests.oracles.enumerated import exact_bias

pytestmark = pytest.mark.quick


def enumerated(beta, order):
    """Returns the averages of appendix E by a loop over all subsets."""
    K = len(beta) - 1
    averages = []
    for j in range(order + 1):
        subsets = list(itertools.combinations(range(1, K + 1), K - j))
        sums = [scipy.special.logsumexp(beta[[0, *s]], axis=0) for s in subsets]
        averages.append(np.mean(sums, axis=0) - np.log(K + 1 - j))
    return np.stack(averages)


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
@pytest.mark.parametrize("offset", [-1e4, 0.0])
@pytest.mark.parametrize(("K", "order"), [(1, 1), (4, 4), (7, 3), (9, 2)])
def test_averages_equal_those_of_enumerated_subsets(K, order, scale, offset):
    beta = offset + scale * np.random.default_rng(K).normal(size=(K + 1, 5))
    averages = jackknife.subset_averages(tf.constant(beta), order)
    np.testing.assert_allclose(averages, enumerated(beta, order), rtol=1e-13, atol=3e-12)


def test_averages_are_exact_where_one_weight_dominates():
    """Without the largest weight, the rest is 1,000 nats smaller."""
    beta = np.array([[-1000.0], [0.0], [-1000.0], [-1000.0]])
    averages = jackknife.subset_averages(tf.constant(beta), 2)
    np.testing.assert_allclose(averages, enumerated(beta, 2), rtol=1e-12)


def test_sampled_averages_are_unbiased(seed):
    beta = 2.0 * np.random.default_rng(3).normal(size=(9, 4))
    exact = enumerated(beta, 3)
    draws = np.stack(
        [
            jackknife.sampled_subset_averages(
                tf.constant(beta), 3, subsets=5, seed=tf.constant([seed, i])
            )
            for i in range(200)
        ]
    )
    np.testing.assert_allclose(draws[:, 0], np.broadcast_to(exact[0], (200, 4)), rtol=1e-12)
    error = draws[:, 1:].std(axis=0) / np.sqrt(200)
    assert np.abs((draws[:, 1:].mean(axis=0) - exact[1:]) / error).max() < 4.5


@pytest.mark.parametrize(("K", "order"), [(3, 1), (8, 2), (50, 3)])
def test_coefficients_sum_to_1_and_cancel_powers_of_1_over_n(K, order):
    c = jackknife.coefficients(K, order)
    n = K + 1.0 - np.arange(order + 1)
    np.testing.assert_allclose(c.sum(), 1.0, rtol=1e-9)
    for power in range(1, order + 1):
        np.testing.assert_allclose(np.sum(c / n**power), 0.0, atol=1e-9)


def test_first_order_coefficients_are_k_plus_1_and_minus_k():
    np.testing.assert_allclose(jackknife.coefficients(6, 1), [7.0, -6.0])


def test_order_0_is_the_upper_bound_and_too_large_orders_raise():
    beta = tf.constant(np.random.default_rng(0).normal(size=(4, 2)))
    plain = scipy.special.logsumexp(beta, axis=0) - np.log(4)
    np.testing.assert_allclose(jackknife.jackknife(beta, 0), plain)
    with pytest.raises(ValueError, match=r"order=4: .* at most 3"):
        jackknife.jackknife(beta, 4)


def test_gradients_of_the_jackknife_sum_to_1():
    beta = tf.constant(np.random.default_rng(0).normal(size=(5, 2)))
    with tf.GradientTape() as tape:
        tape.watch(beta)
        value = tf.reduce_sum(jackknife.jackknife(beta, 2))
    gradient = tape.gradient(value, beta)
    np.testing.assert_allclose(tf.reduce_sum(gradient, 0), 1.0, rtol=1e-8)


def test_the_bias_of_each_order_falls_by_its_power_of_k():
    """The exact bias of orders J = 0, 1, 2 is about 1/K, 1/K^2 and 1/K^3."""
    bias = {K: exact_bias(K, (0, 1, 2)) for K in (4, 8, 12)}
    for K in (4, 8, 12):
        assert abs(bias[K][2]) < abs(bias[K][1]) < bias[K][0]
    for order in (0, 1, 2):
        # The series is in n = K + 1. At K = 4 its higher powers still matter.
        slope = np.log(np.abs(bias[8][order] / bias[12][order])) / np.log(13 / 9)
        assert order + 0.75 < slope < order + 1.5, (order, slope)


def test_the_printed_coefficients_leave_more_bias():
    toy_bias = exact_bias(4, (0, 1))
    printed = np.array([4.0, -3.0])  # (K - j)^J instead of (K + 1 - j)^J
    assert printed.sum() == 1.0
    assert abs(toy_bias[1]) < 0.7 * abs(4 * toy_bias[0] - 3 * exact_bias(3, (0,))[0])


@pytest.mark.parametrize("order", [True, 1.5, "1", -1, np.int64(5)])
def test_errors_name_an_order_that_is_not_a_count(order):
    beta = tf.zeros([5, 2])
    for estimate in (jackknife.jackknife, jackknife.subset_averages):
        with pytest.raises(ValueError, match="order="):
            estimate(beta, order)
    with pytest.raises(ValueError, match="subsets=0"):
        jackknife.sampled_subset_averages(beta, 2, subsets=0, seed=tf.constant([0, 1]))
    one = jackknife.jackknife(beta, np.int64(1))
    np.testing.assert_array_equal(one, jackknife.jackknife(beta, 1))
