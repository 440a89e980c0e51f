"""Draws and densities on closed-form models: exactness, sandwiches, special cases."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import sampling
from hvi_tf.inference.methods import METHODS, Counts
from tests.oracles.analytic import HierarchicalPrior, LinearGaussian


def draw_and_score(lg, method, x, K, M, seed):
    sample = sampling.draw(lg.model, METHODS[method], x, Counts(K=K, M=M), tf.constant(seed))
    return sample, densities_lib.log_densities(lg.model, METHODS[method], x, sample)


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


# -- Each named method equals its parent on the same draws -------------------------------

SAME = dict(tau_shift=0.4)
EXPLICIT, HIERARCHICAL = LinearGaussian(**SAME), HierarchicalPrior(rho_shift=0.4, **SAME)
X = EXPLICIT.observations(4)


def bound_of(method, K, M, L=1, lg=EXPLICIT):
    sample = sampling.draw(lg.model, METHODS[method], X, Counts(K=K, M=M, L=L), tf.constant([7, 8]))
    d = densities_lib.log_densities(lg.model, METHODS[method], X, sample)
    return bounds.bound(d).numpy()


def rescored(method, parent, K, M, L=1, lg=EXPLICIT, **callables):
    """A row's bound, and its parent's with other callables on the very draw of the row."""
    sample = sampling.draw(lg.model, METHODS[method], X, Counts(K=K, M=M, L=L), tf.constant([7, 8]))
    model = lg.model._replace(**callables)
    return tuple(
        bounds.bound(densities_lib.log_densities(m, METHODS[name], X, sample)).numpy()
        for m, name in ((lg.model, method), (model, parent))
    )


def mixing_as_tau(z, x):
    return tfd.BatchBroadcast(EXPLICIT.mixing(x), z.shape[:-1])


def mixing_as_rho(z):
    return tfd.BatchBroadcast(HIERARCHICAL.prior.mixing, z.shape[:-1])


def joint_by_hand():
    """Log p(x|z) + log p(z,psi_0) - log q(z,psi_0|x)."""
    lg = HIERARCHICAL
    sample = sampling.draw(lg.model, METHODS["joint"], X, Counts(), tf.constant([7, 8]))
    z, psi_0 = sample.z, sample.psi_0
    log_p = lg.likelihood(z).log_prob(X) + lg.prior.conditional(psi_0).log_prob(z)
    log_p += lg.prior.mixing.log_prob(psi_0)
    log_q = lg.conditional(psi_0, X).log_prob(z) + lg.mixing(X).log_prob(psi_0)
    return bound_of("joint", 0, 1, lg=lg), (log_p - log_q)[0].numpy()


def prior_in_two_ways(L):
    """p(z) as it is, and as a hierarchy with the true rho."""
    hierarchical = HierarchicalPrior(**SAME)
    explicit = hierarchical.model._replace(
        prior=tfd.MultivariateNormalTriL(
            tf.zeros(2, tf.float64), tf.constant(np.linalg.cholesky(hierarchical.prior_cov))
        )
    )
    sample = sampling.draw(
        hierarchical.model, METHODS["diwhvi"], X, Counts(K=3, M=2, L=L), tf.constant([7, 8])
    )
    return tuple(
        bounds.bound(densities_lib.log_densities(m, METHODS["diwhvi"], X, s)).numpy()
        for m, s in ((explicit, sample._replace(zeta=None)), (hierarchical.model, sample))
    )


def elbo_of_an_ignored_psi():
    lg = LinearGaussian(**SAME)
    lg.C = np.zeros_like(lg.C)
    model = lg.model._replace(tau=mixing_as_tau)
    sample = sampling.draw(model, METHODS["iwhvi"], X, Counts(K=5), tf.constant([7, 8]))
    d = densities_lib.log_densities(model, METHODS["iwhvi"], X, sample)
    explicit = lg.conditional(None, X).log_prob(sample.z)
    elbo = lg.likelihood(sample.z).log_prob(X) + lg.prior.log_prob(sample.z) - explicit
    return bounds.bound(d).numpy(), elbo[0].numpy()


# Each computes the bound `[B]` in two ways.
SPECIAL_CASES = {
    "hvm is iwhvi at K=0": lambda: (bound_of("hvm", 0, 1), bound_of("iwhvi", 0, 1)),
    "diwhvi is iwhvi at M=1": lambda: (bound_of("diwhvi", 5, 1), bound_of("iwhvi", 5, 1)),
    "iwae is vae at M=1": lambda: (bound_of("iwae", 0, 1), bound_of("vae", 0, 1)),
    "sivi is iwhvi with tau := q(psi|x)": lambda: rescored(
        "sivi", "diwhvi", 5, 3, tau=mixing_as_tau
    ),
    "dsivi is iwhvi with tau := q(psi|x), rho := p(zeta)": lambda: rescored(
        *("dsivi", "iwhvi", 5, 1, 4, HIERARCHICAL),
        **dict(tau=mixing_as_tau, prior=HIERARCHICAL.prior._replace(inverse=mixing_as_rho)),
    ),
    "joint is log p(x,z,psi_0) - log q(z,psi_0|x)": joint_by_hand,
    "equicomp is sivi at M=1": lambda: rescored("sivi-equicomp", "sivi", 5, 1),
    "equisample is equicomp at M=1": lambda: (
        bound_of("sivi-equisample", 5, 1),
        bound_of("sivi-equicomp", 5, 1),
    ),
    "an explicit prior is a hierarchical one with the true rho, L=1": lambda: prior_in_two_ways(1),
    "an explicit prior is a hierarchical one with the true rho, L=6": lambda: prior_in_two_ways(6),
    "the ELBO falls out where z ignores psi": elbo_of_an_ignored_psi,
}


@pytest.mark.parametrize("case", SPECIAL_CASES)
def test_special_case_equals_its_parent(case):
    found, expected = SPECIAL_CASES[case]()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_sivi_draws_a_psi_of_its_own_for_every_z():
    sample, d = draw_and_score(EXPLICIT, "sivi", X, 5, 3, [7, 8])
    assert len(np.unique(sample.psi.numpy()[..., 0])) == 5 * 3 * 4
    np.testing.assert_array_equal(d.log_q_psi, d.log_tau)


@pytest.mark.parametrize(("method", "count"), [("sivi-equicomp", 5), ("sivi-equisample", 15)])
def test_shared_psi_are_the_same_for_every_z(method, count):
    sample, d = draw_and_score(EXPLICIT, method, X, 5, 3, [7, 8])
    assert sample.psi.shape == (count, 1, 4, 2)
    assert d.log_q_z.shape == (count + 1, 3, 4)
