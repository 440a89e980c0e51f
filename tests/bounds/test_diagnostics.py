"""Diagnostics against distributions whose tails and divergences are known."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import diagnostics
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import image_scores as log_likelihood
from hvi_tf.inference import plans, sampling
from hvi_tf.inference.methods import METHODS, Counts
from tests.oracles.analytic import LinearGaussian, gaussian_kl


def largest(log_weights):
    n = diagnostics.tail_length(len(log_weights))
    return tf.constant(-np.sort(-log_weights, axis=0)[: n + 1])


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9, 1.5])
def test_pareto_k_is_the_shape_of_a_pareto_tail(shape, seed):
    rng = np.random.default_rng(seed)
    weights = rng.pareto(1 / shape, size=(20_000, 50)) + 1
    k = diagnostics.pareto_k(largest(np.log(weights))).numpy()
    n = diagnostics.tail_length(20_000)
    # Asymptotic spread (1 + k) / sqrt(n); the prior draws toward 0.5 with the weight of 10.
    expected = (n * shape + 5) / (n + 10)
    assert abs(k.mean() - expected) < 5 * (1 + shape) / np.sqrt(n * 50) + 0.02
    assert k.std() < 2 * (1 + shape) / np.sqrt(n)


def test_bounded_weights_have_a_small_k(seed):
    weights = np.random.default_rng(seed).uniform(size=(5_000, 20))
    assert diagnostics.pareto_k(largest(np.log(weights))).numpy().max() < 0


def test_equal_weights_and_one_dominating_weight():
    equal = diagnostics.pareto_k(tf.zeros([21, 2]))
    np.testing.assert_array_equal(equal, 0.0)
    log_weights = np.full((21, 1), -1e4)
    log_weights[0] = 0.0
    assert diagnostics.pareto_k(tf.constant(log_weights)).numpy()[0] > 0.7


def test_ties_are_no_trouble():
    """Equal excesses put a grid point of the fit at exactly 0."""
    for ties in (99, 100, 110, 120):
        log_weights = np.zeros((ties + 1, 1))
        log_weights[-1] = -1.0
        assert np.isfinite(diagnostics.pareto_k(tf.constant(log_weights)))


@pytest.mark.parametrize("case", [35, 214, 293, 316])
def test_a_tail_tied_with_its_cutoff_is_finite(case):
    """exp of equal logs differs by a rounding error here, which made an excess negative."""
    rng = np.random.default_rng(case)
    n, columns, ties = rng.integers(5, 80), rng.integers(1, 4), rng.integers(2, 6)
    log_weights = -np.sort(rng.uniform(0, 3, size=(n + 1, columns)), axis=0)
    log_weights[-ties:] = log_weights[-ties]
    assert np.all(np.isfinite(diagnostics.pareto_k(tf.constant(log_weights))))


def test_kl_of_the_mixing_is_the_exact_one(seed):
    """KL(q(psi|x) || q(psi|z,x)) in expectation over z, with the true tau: L_K is exact."""
    lg = LinearGaussian()
    x = tf.constant(lg.observations(1))
    plan = plans.make(METHODS["diwhvi"], Counts(K=1, M=20000))
    score = log_likelihood.make_scorer(lg.model, METHODS["diwhvi"], plan)
    found = score(x, tf.constant([seed, 3])).kl_mixing_posterior.numpy()[0]
    z_cov = lg.q_cov
    exact = np.mean(
        [
            gaussian_kl(np.zeros(2), np.eye(2), lg.inverse.map @ z, lg.inverse.cov)
            for z in np.random.default_rng(seed).multivariate_normal(np.zeros(2), z_cov, 20_000)
        ]
    )
    assert abs(found - exact) < 0.05 * exact


def test_too_few_weights_have_no_tail():
    assert diagnostics.tail_length(20) == 0
    assert diagnostics.tail_length(21) == 5
    assert diagnostics.tail_length(500) == 68  # ceil(3 sqrt(500)), Vehtari et al. 2024
    assert diagnostics.tail_length(5000) == 213


def test_kl_of_tau_approaches_the_exact_one_from_below(seed):
    """KL(tau || q(psi|z,x)) of Gaussians, the same for every z."""
    lg = LinearGaussian(tau_shift=0.4, tau_stretch=1.2)
    tau_cov = np.diag(1.2**2 * np.diag(lg.inverse.cov))
    exact = gaussian_kl(np.full(2, 0.4), tau_cov, np.zeros(2), lg.inverse.cov)
    x = np.repeat(lg.observations(1), 3000, axis=0)
    method, means = METHODS["iwhvi"], []
    for K in (2, 10, 200):
        sample = sampling.draw(lg.model, method, x, Counts(K=K), tf.constant([seed, 9]))
        beta = bounds.inner_log_ratios(densities_lib.log_densities(lg.model, method, x, sample))[
            1:, 0
        ]
        values = diagnostics.kl_tau_posterior(beta).numpy()
        means.append(values.mean())
        assert means[-1] < exact + 4 * values.std() / np.sqrt(len(values))
    assert means[0] < means[1] < means[2]
    assert means[2] > 0.9 * exact
