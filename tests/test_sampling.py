"""Draws and densities on closed-form models: exactness, sandwiches, special cases."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds, sampling
from hvi_tf.methods import METHODS
from tests.analytic import LinearGaussian


def draw_and_score(lg, method, x, K, M, seed):
    sample = sampling.draw(lg.model, METHODS[method], x, K=K, M=M, seed=tf.constant(seed))
    return sample, sampling.log_densities(lg.model, METHODS[method], x, sample)


@pytest.mark.parametrize("K", [0, 1, 5])
@pytest.mark.parametrize("M", [1, 3])
@pytest.mark.parametrize("B", [1, 4])
@pytest.mark.parametrize("method", ["iwhvi", "sivi", "vae"])
def test_shapes(method, K, M, B):
    lg = LinearGaussian()
    sample, d = draw_and_score(lg, method, lg.observations(B), K, M, [0, 1])
    K = K if METHODS[method].hierarchical else 0
    assert sample.z.shape == (M, B, 2)
    assert d.log_likelihood.shape == (M, B)
    assert d.log_prior.shape == (1, M, B)
    for array in (d.log_q_z, d.log_q_psi, d.log_tau):
        assert array.shape == (K + 1, M, B)
    assert bounds.bound(d).shape == (B,)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_unknown_batch_in_a_graph_gives_the_same_values_as_eager(jit_compile):
    lg = LinearGaussian(tau_shift=0.3)
    x = tf.constant(lg.observations(4))

    def value(x):
        sample, d = draw_and_score(lg, "iwhvi", x, 3, 2, [5, 6])
        return sample.z, bounds.bound(d)

    spec = tf.TensorSpec([None, 3], tf.float64)
    graph_z, graph_bound = tf.function(value, input_signature=[spec])(x)
    eager_z, eager_bound = value(x)
    np.testing.assert_allclose(graph_z, eager_z, rtol=1e-12)
    np.testing.assert_allclose(graph_bound, eager_bound, rtol=1e-10)
    if jit_compile:  # other draws, so only the shape and the sanity of the value
        jitted = tf.function(value, jit_compile=True)(x)[1]
        assert jitted.shape == eager_bound.shape
        assert np.all(np.isfinite(jitted))


@pytest.mark.parametrize("K", [0, 1, 4, 20])
def test_with_the_true_tau_every_ratio_is_log_q_z(K):
    lg = LinearGaussian()
    x = lg.observations(4)
    sample, d = draw_and_score(lg, "diwhvi", x, K, 3, [1, 2])
    exact = lg.log_q_z(sample.z.numpy(), x)
    beta = bounds.inner_log_ratios(d)
    np.testing.assert_allclose(beta, np.broadcast_to(exact, beta.shape), rtol=1e-9)
    np.testing.assert_allclose(bounds.log_marginal_upper(beta), exact, rtol=1e-9)


def test_sandwich_is_ordered_and_monotone_in_k(seed):
    """L_1 <= L_4 <= log q(z|x) <= U_16 <= U_4 <= U_1 <= U_0, by paired differences."""
    lg = LinearGaussian(tau_shift=0.5, tau_stretch=1.3)
    x = np.repeat(lg.observations(1), 4000, axis=0)
    sample, d = draw_and_score(lg, "iwhvi", x, 16, 1, [seed, 1])
    beta = bounds.inner_log_ratios(d)[:, 0]
    exact = lg.log_q_z(sample.z.numpy(), x)[0]
    ladder = [
        bounds.log_marginal_lower(beta[1:2]),
        bounds.log_marginal_lower(beta[1:5]),
        exact,
        bounds.log_marginal_upper(beta),
        bounds.log_marginal_upper(beta[:5]),
        bounds.log_marginal_upper(beta[:2]),
        bounds.log_marginal_upper(beta[:1]),
    ]
    for lower, upper in itertools.pairwise(ladder):
        gap = np.asarray(upper) - np.asarray(lower)
        assert gap.mean() > 4 * gap.std() / np.sqrt(len(gap))


@pytest.mark.parametrize(
    ("method", "K", "M"),
    [
        ("vae", 0, 1),
        ("iwae", 0, 8),
        ("hvm", 0, 1),
        ("sivi", 6, 2),
        ("iwhvi", 6, 1),
        ("diwhvi", 6, 8),
    ],
)
def test_bound_is_below_the_exact_evidence_and_tightens_with_m(method, K, M, seed):
    lg = LinearGaussian(tau_shift=0.4)
    x = np.repeat(lg.observations(1), 3000, axis=0)
    _, d = draw_and_score(lg, method, x, K, M, [seed, 2])
    value = bounds.bound(d).numpy()
    error = value.std() / np.sqrt(len(value))
    assert value.mean() < lg.log_evidence(x[:1])[0] - 4 * error
    if M > 1:
        single = bounds.outer_log_weights(d).numpy().mean(axis=0)
        gap = value - single
        assert gap.mean() > 4 * gap.std() / np.sqrt(len(gap))


def test_importance_weights_average_to_the_evidence(seed):
    """E exp(alpha) = p(x): theorem A.4 before Jensen's inequality."""
    lg = LinearGaussian(tau_shift=0.2, seed=4)
    x = np.repeat(lg.observations(1), 200_000, axis=0)
    _, d = draw_and_score(lg, "iwhvi", x, 2, 1, [seed, 3])
    weights = np.exp(bounds.outer_log_weights(d).numpy()[0] - lg.log_evidence(x[:1])[0])
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(len(weights))


class TestSpecialCasesAreEqualities:
    """Each named method equals its parent on the same draws."""

    lg = LinearGaussian(tau_shift=0.4)
    x = lg.observations(4)

    def bound(self, method, K, M, lg=None):
        _, d = draw_and_score(lg or self.lg, method, self.x, K, M, [7, 8])
        return bounds.bound(d).numpy()

    def test_hvm_is_iwhvi_at_k_0(self):
        np.testing.assert_array_equal(self.bound("hvm", 0, 1), self.bound("iwhvi", 0, 1))

    def test_diwhvi_is_iwhvi_at_m_1(self):
        np.testing.assert_array_equal(self.bound("diwhvi", 5, 1), self.bound("iwhvi", 5, 1))

    def test_iwae_is_vae_at_m_1(self):
        np.testing.assert_array_equal(self.bound("iwae", 0, 1), self.bound("vae", 0, 1))

    def test_sivi_is_iwhvi_with_the_mixing_density_as_tau(self):
        sample, d = draw_and_score(self.lg, "sivi", self.x, 5, 3, [7, 8])
        prior_tau = LinearGaussian()
        prior_tau.tau = lambda z, x: tfd.BatchBroadcast(prior_tau.mixing(x), z.shape[:-1])
        as_iwhvi = sampling.log_densities(prior_tau.model, METHODS["diwhvi"], self.x, sample)
        np.testing.assert_allclose(bounds.bound(d), bounds.bound(as_iwhvi), rtol=1e-12)
        np.testing.assert_array_equal(d.log_q_psi, d.log_tau)

    def test_sivi_draws_a_psi_of_its_own_for_every_z(self):
        sample, _ = draw_and_score(self.lg, "sivi", self.x, 5, 3, [7, 8])
        assert len(np.unique(sample.psi.numpy()[..., 0])) == 5 * 3 * 4

    def test_elbo_falls_out_when_z_ignores_psi(self):
        lg = LinearGaussian(tau_shift=0.4)
        lg.C = np.zeros_like(lg.C)
        lg.tau = lambda z, x: tfd.BatchBroadcast(lg.mixing(x), z.shape[:-1])
        sample, d = draw_and_score(lg, "iwhvi", self.x, 5, 1, [7, 8])
        explicit = lg.conditional(None, self.x).log_prob(sample.z)
        elbo = lg.likelihood(sample.z).log_prob(self.x) + lg.prior.log_prob(sample.z) - explicit
        np.testing.assert_allclose(bounds.bound(d), elbo[0], rtol=1e-12)
