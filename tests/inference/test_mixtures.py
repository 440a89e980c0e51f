"""The mixture of the tau of all z: its draws, its density and its special cases."""

import numpy as np
import pytest
import scipy.spatial
import scipy.special
import scipy.stats
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import jackknife
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import group_scores, plans, sampling
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS
from hvi_tf.inference.mixtures import mixture
from hvi_tf.inference.model import Model
from tests.oracles.analytic import LinearGaussian, normal

Z = tf.constant([[[-3.0]], [[0.0]], [[4.0]]], tf.float64)  # [M, B, 1]
MIXING = normal(tf.zeros([1, 1], tf.float64), tf.ones([1, 1], tf.float64))  # batch shape [B]


def narrow(z):
    """Returns tau(psi|z), a Gaussian of width 0.1 around z."""
    return normal(z, tf.fill(tf.shape(z), tf.constant(0.1, tf.float64)))


def test_draws_are_independent_and_of_random_components(seed):
    """The counts of the components are multinomial. Stratified draws would have equal counts."""
    counts = []
    for i in range(200):
        psi = mixture(narrow, Z).sample(30, seed=tf.constant([seed, i])).numpy()
        assert psi.shape == (30, 1, 1, 1)
        counts.append([np.sum(np.abs(psi - z) < 1.0) for z in (-3.0, 0.0, 4.0)])
    assert np.all(np.sum(counts, axis=1) == 30)
    np.testing.assert_allclose(np.mean(counts, axis=0), 10.0, atol=5 * np.sqrt(20 / 3 / 200))
    np.testing.assert_allclose(np.var(counts, axis=0), 20 / 3, rtol=0.5)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_density_is_the_mean_of_the_components(share):
    mixed = mixture(narrow, Z, MIXING, share)
    psi = np.linspace(-4.0, 5.0, 50)
    components = np.mean([scipy.stats.norm.pdf(psi, z, 0.1) for z in (-3.0, 0.0, 4.0)], axis=0)
    exact = np.log((1 - share) * components + share * scipy.stats.norm.pdf(psi))
    log_prob = mixed.log_prob(tf.constant(psi[:, None, None, None]))
    np.testing.assert_allclose(log_prob.numpy()[:, 0, 0], exact, rtol=1e-8)


def test_the_defensive_share_is_drawn_from_the_mixing(seed):
    mixed = mixture(narrow, Z + 100.0, MIXING, 0.3)
    psi = mixed.sample(20_000, seed=tf.constant([seed, 1])).numpy()
    assert psi.shape == (20_000, 1, 1, 1)
    assert np.mean(psi < 50.0) == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 20_000))


LG = LinearGaussian(tau_shift=0.4, tau_stretch=1.2)
X = tf.constant(LG.observations(4))

METHOD = METHODS["diwhvi-mixture"]


def draw(K, M, seed):
    return sampling.draw(LG.model, METHOD, X, Counts(K=K, M=M), tf.constant([seed, 1]))


def test_the_bound_does_not_depend_on_the_order_of_the_z(seed):
    sample = draw(6, 5, seed)
    order = np.random.default_rng(0).permutation(5)
    other = sample._replace(z=tf.gather(sample.z, order), psi_0=tf.gather(sample.psi_0, order))
    one, two = (
        bounds.bound(densities_lib.log_densities(LG.model, METHOD, X, s)) for s in (sample, other)
    )
    np.testing.assert_allclose(one, two, rtol=1e-12)


def test_the_bound_with_one_z_equals_iwhvi(seed):
    sample = draw(6, 1, seed)
    bound = bounds.bound(densities_lib.log_densities(LG.model, METHOD, X, sample))
    expected = bounds.bound(densities_lib.log_densities(LG.model, METHODS["iwhvi"], X, sample))
    np.testing.assert_allclose(bound, expected, rtol=1e-12)


def test_the_bound_equals_equicomp_where_tau_is_the_mixing(seed):
    model = LG.model._replace(tau=lambda z, x: normal(0.0 * z, tf.ones_like(z)))
    sample = draw(6, 5, seed)
    bound = bounds.bound(densities_lib.log_densities(model, METHOD, X, sample))
    expected = bounds.bound(
        densities_lib.log_densities(LG.model, METHODS["sivi-equicomp"], X, sample)
    )
    np.testing.assert_allclose(bound, expected, rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_exp_of_minus_u_is_unbiased_for_the_reciprocal_of_q(share, seed):
    """Theorem A.1 holds for each z. The test was seen to fail with stratified draws."""
    x = tf.repeat(X[:1], 20_000, axis=0)
    method = METHOD._replace(defensive=share)
    sample = sampling.draw(LG.model, method, x, Counts(K=3, M=4), tf.constant([seed, 2]))
    beta = bounds.inner_log_ratios(densities_lib.log_densities(LG.model, method, x, sample))
    ratio = LG.log_q_z(sample.z.numpy(), x.numpy()) - bounds.log_marginal_upper(beta).numpy()
    product = np.exp(ratio)  # [M, B]; the M values of an observation are dependent
    error = product.mean(axis=0).std() / np.sqrt(product.shape[1])
    assert abs(product.mean() - 1.0) < 4.0 * error
    assert error < 0.02


def test_the_jackknife_removes_bias_with_shared_psi(seed):
    """The first order is closer to log q(z|x) than U."""
    x = tf.repeat(X[:1], 4_000, axis=0)
    sample = sampling.draw(LG.model, METHOD, x, Counts(K=8, M=4), tf.constant([seed, 3]))
    beta = bounds.inner_log_ratios(densities_lib.log_densities(LG.model, METHOD, x, sample))
    exact = LG.log_q_z(sample.z.numpy(), x.numpy())
    gap, corrected = (
        np.mean(u.numpy() - exact)
        for u in (bounds.log_marginal_upper(beta), jackknife.jackknife(beta, 1))
    )
    assert gap > 0.02
    assert abs(corrected) < 0.5 * gap


class Zero:
    """A log-density of 0, in place of p(z) and p(x|z)."""

    def __init__(self, record=None):
        self.record = record

    def log_prob(self, value):
        return tf.zeros(tf.shape(value)[:-1] if self.record is None else tf.shape(self.record)[:-1])


@pytest.mark.long
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_scores_of_the_published_size_are_exact_in_float32(scale, seed):
    """Checks U of 40 z, with M=5,000 and K=20,000, to 1e-3 nats.

    `scale` is the width of q(z|psi); tau is 1.5 times as wide.
    """
    M, K, dims = 5_000, 20_000, 8
    draws = {"z": [], "psi": []}

    def conditional(psi, x):
        draws["psi"].append(psi.numpy())
        return normal(psi, tf.fill(tf.shape(psi), np.float32(scale)))

    def likelihood(z):
        draws["z"].append(z.numpy())
        return Zero(z)

    model = Model(
        prior=Zero(),
        likelihood=likelihood,
        conditional=conditional,
        mixing=lambda x: normal(tf.zeros([1, dims]), tf.ones([1, dims])),
        tau=lambda z, x: normal(z, tf.fill(tf.shape(z), np.float32(1.5 * scale))),
    )
    method = METHOD._replace(mixture_size=0)
    plan = plans.make(method, Counts(K=K, M=M))
    first = tf.constant(0)
    scores = group_scores.score_group(
        model, method, plan, tf.zeros([1, 1]), tf.constant([seed, 1]), first
    )
    z = np.concatenate(draws["z"])[:M, 0].astype(np.float64)
    calls = [psi.reshape(-1, dims).astype(np.float64) for psi in draws["psi"]]
    psi_0 = calls[0]  # of the first chunk of z
    psi = np.concatenate([c for c in calls if len(c) == plan.chunk_k][-plan.k_chunks :])[:K]

    def log_normal(values, locs, deviation):  # [N, M]
        squares = scipy.spatial.distance.cdist(values, locs, "sqeuclidean")
        return -0.5 * squares / deviation**2 - dims * np.log(deviation * np.sqrt(2.0 * np.pi))

    def log_ratio(values):
        log_tau = scipy.special.logsumexp(log_normal(values, z, 1.5 * scale), axis=1) - np.log(M)
        return log_normal(values, np.zeros([1, dims]), 1.0)[:, 0] - log_tau

    psi_ratios = np.concatenate([log_ratio(part) for part in np.array_split(psi, 20)])
    psi_0_ratios = log_ratio(psi_0[:40])
    for m in range(40):
        beta = log_normal(z[m : m + 1], psi, scale)[0] + psi_ratios
        own = log_normal(z[m : m + 1], psi_0[m : m + 1], scale)[0] + psi_0_ratios[m]
        exact = scipy.special.logsumexp(np.append(beta, own)) - np.log(K + 1)
        assert -scores.alpha[m, 0].numpy() == pytest.approx(exact, abs=1e-3)
