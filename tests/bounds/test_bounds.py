"""The reductions against a naive NumPy oracle in float64."""

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import LogDensities

pytestmark = pytest.mark.quick


def random_densities(K, M, B, L=1, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return tf.constant(scale * rng.normal(size=shape))

    inner = (K + 1, M, B)
    return LogDensities(array(M, B), array(L, M, B), *(array(*inner) for _ in range(3)))


def oracle_bound(d, inner, outer):
    """Returns the bound of section 2 of the paper by loops and exponentials."""
    likelihood, prior, q_z, q_psi, tau = (np.asarray(a) for a in d)
    M, B = likelihood.shape
    result = np.zeros(B)
    for b in range(B):
        alpha = []
        for m in range(M):
            beta = q_z[:, m, b] + inner * (q_psi[:, m, b] - tau[:, m, b])
            log_q = np.log(np.mean(np.exp(beta)))
            log_p = np.log(np.mean(np.exp(prior[:, m, b])))
            alpha.append(likelihood[m, b] + outer * (log_p - log_q))
        result[b] = np.log(np.mean(np.exp(alpha)))
    return result


@pytest.mark.parametrize("K", [0, 1, 7])
@pytest.mark.parametrize("M", [1, 4])
@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize(("inner", "outer"), [(1.0, 1.0), (0.3, 0.7), (0.0, 0.0)])
def test_the_bound_equals_the_naive_oracle(K, M, L, inner, outer):
    d = random_densities(K, M, 5, L)
    np.testing.assert_allclose(
        bounds.bound(d, inner, outer), oracle_bound(d, inner, outer), rtol=1e-12
    )


@pytest.mark.parametrize("offset", [-1e4, 0.0, 1e4])
def test_log_mean_exp_is_stable_far_from_zero(offset):
    values = np.random.default_rng(3).normal(size=(6, 4))
    expected = scipy.special.logsumexp(values, axis=0) - np.log(6) + offset
    np.testing.assert_allclose(bounds.log_mean_exp(tf.constant(values + offset)), expected)


def test_one_dominating_weight_determines_the_mean_and_the_sample_size():
    values = tf.constant([[0.0], [-1e4], [-1e4], [-1e4]], tf.float64)
    np.testing.assert_allclose(bounds.log_mean_exp(values), [-np.log(4)])
    np.testing.assert_allclose(bounds.effective_sample_size(values), [1.0])


def test_effective_sample_size_of_equal_weights_is_their_number():
    np.testing.assert_allclose(bounds.effective_sample_size(tf.fill([9, 2], -1e4)), [9.0, 9.0])


def test_the_lower_bound_is_the_log_mean_of_the_given_ratios():
    beta = tf.constant([[5.0], [1.0], [2.0]], tf.float64)
    expected = np.log(np.mean(np.exp([1.0, 2.0])))
    np.testing.assert_allclose(bounds.log_marginal_lower(beta[1:]), [expected])
    assert bounds.log_marginal_upper(beta) > bounds.log_marginal_lower(beta[1:])


@pytest.mark.parametrize(("inner", "outer"), [(1.0, 1.0), (0.4, 1.0), (1.0, 0.2), (0.5, 0.5)])
def test_the_dreg_factor_is_the_first_minus_the_second_derivative(inner, outer):
    """The coefficient of the path of psi_k is L_k - c L_kk.

    L_k and L_kk are the derivatives of the bound in beta_k, here by nested autodiff.
    """
    d = random_densities(K=3, M=2, B=1, scale=1.0)
    beta = bounds.inner_log_ratios(d, inner)

    def value(entry, k, m):
        replaced = tf.tensor_scatter_nd_update(beta, [[k, m, 0]], [entry])
        upper = bounds.log_marginal_upper(replaced)
        alpha = d.log_likelihood + outer * (d.log_prior[0] - upper)
        return bounds.log_mean_exp(alpha)[0]

    factor = bounds.tau_path_factor(d, inner, outer).numpy()
    for k in range(1, 4):
        for m in range(2):
            entry = tf.constant(beta[k, m, 0])
            with tf.GradientTape() as second:
                second.watch(entry)
                with tf.GradientTape() as first:
                    first.watch(entry)
                    v = value(entry, k, m)
                slope = first.gradient(v, entry)
            curvature = second.gradient(slope, entry)
            expected = slope - inner * curvature
            np.testing.assert_allclose(slope * factor[k, m, 0], expected, rtol=1e-10)
            # Equation 9 with warm-ups.
            v_k = tf.nn.softmax(beta, axis=0)[k, m, 0]
            w_m = tf.nn.softmax(bounds.outer_log_weights(d, inner, outer), axis=0)[m, 0]
            printed = outer * w_m * v_k * (inner * (1 - v_k * (1 + outer * (1 - w_m))) - 1)
            np.testing.assert_allclose(expected, printed, rtol=1e-10)


def test_the_dreg_factor_without_warmups_is_v_times_2_minus_w():
    d = random_densities(K=4, M=3, B=2)
    v = tf.nn.softmax(bounds.inner_log_ratios(d), axis=0)
    w = tf.nn.softmax(bounds.outer_log_weights(d), axis=0)
    np.testing.assert_allclose(bounds.tau_path_factor(d), v * (2 - w), rtol=1e-12, atol=1e-14)
