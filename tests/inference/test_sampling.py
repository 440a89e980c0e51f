"""Draws and densities on models with closed forms: exactness, sandwiches, special cases."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import sampling
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS
from tests.oracles.analytic import LinearGaussian
from tests.oracles.special_cases import EXPLICIT, SPECIAL_CASES, X


def draw_and_score(lg, method, x, K, M, seed):
    sample = sampling.draw(lg.model, METHODS[method], x, Counts(K=K, M=M), tf.constant(seed))
    return sample, densities_lib.log_densities(lg.model, METHODS[method], x, sample)


@pytest.mark.parametrize("K", [0, 1, 5])
@pytest.mark.parametrize("M", [1, 3])
@pytest.mark.parametrize("B", [1, 4])
@pytest.mark.parametrize("method", ["iwhvi", "sivi", "vae"])
def test_densities_have_the_shapes_of_the_counts_and_the_batch(method, K, M, B):
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
def test_graphs_of_an_unknown_batch_give_the_values_of_eager_mode(jit_compile):
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
    if jit_compile:  # XLA draws other numbers
        jitted = tf.function(value, jit_compile=True)(x)[1]
        assert jitted.shape == eager_bound.shape
        assert np.all(np.isfinite(jitted))


@pytest.mark.parametrize("K", [0, 1, 4, 20])
def test_every_ratio_equals_log_q_z_with_the_true_tau(K):
    lg = LinearGaussian()
    x = lg.observations(4)
    sample, d = draw_and_score(lg, "diwhvi", x, K, 3, [1, 2])
    exact = lg.log_q_z(sample.z.numpy(), x)
    beta = bounds.inner_log_ratios(d)
    np.testing.assert_allclose(beta, np.broadcast_to(exact, beta.shape), rtol=1e-9)
    np.testing.assert_allclose(bounds.log_marginal_upper(beta), exact, rtol=1e-9)


def test_bounds_on_log_q_z_are_in_order_of_k(seed):
    """L_1 <= L_4 <= log q(z|x) <= U_16 <= U_4 <= U_1 <= U_0 by paired differences."""
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
def test_the_bound_is_below_the_evidence_and_tightens_with_m(method, K, M, seed):
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


def test_the_mean_of_the_importance_weights_is_the_evidence(seed):
    """E exp(alpha) = p(x), theorem A.4 before Jensen's inequality."""
    lg = LinearGaussian(tau_shift=0.2, seed=4)
    x = np.repeat(lg.observations(1), 200_000, axis=0)
    _, d = draw_and_score(lg, "iwhvi", x, 2, 1, [seed, 3])
    weights = np.exp(bounds.outer_log_weights(d).numpy()[0] - lg.log_evidence(x[:1])[0])
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(len(weights))


@pytest.mark.parametrize("case", SPECIAL_CASES)
def test_a_special_case_equals_its_parent_on_the_same_draws(case):
    bound, expected = SPECIAL_CASES[case]()
    np.testing.assert_allclose(bound, expected, rtol=1e-12)


def test_sivi_draws_different_psi_for_every_z():
    sample, d = draw_and_score(EXPLICIT, "sivi", X, 5, 3, [7, 8])
    assert len(np.unique(sample.psi.numpy()[..., 0])) == 5 * 3 * 4
    np.testing.assert_array_equal(d.log_q_psi, d.log_tau)


@pytest.mark.parametrize(("method", "count"), [("sivi-equicomp", 5), ("sivi-equisample", 15)])
def test_shared_psi_are_drawn_once_for_all_z(method, count):
    sample, d = draw_and_score(EXPLICIT, method, X, 5, 3, [7, 8])
    assert sample.psi.shape == (count, 1, 4, 2)
    assert d.log_q_z.shape == (count + 1, 3, 4)
