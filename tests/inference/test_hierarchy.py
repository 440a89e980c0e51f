"""Bounds on log q(z), on KL divergences and on mutual information, against closed forms.

The oracles know NumPy and SciPy only and draw for themselves; on the discrete toy they
add up all outcomes. Statistical assertions allow 5 standard errors.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf import bounds
from hvi_tf.inference import hmc, sandwich
from hvi_tf.inference.model import Hierarchy
from tests.inference.test_closed_forms import log_normal, mean_and_error, z_of_mean
from tests.oracles.analytic import (
    Discrete,
    HierarchicalPrior,
    gaussian_kl,
    laplace,
    normal,
    standard_normal,
)

DIM = 2
OFF = dict(tau_shift=0.4, tau_stretch=1.2)
LG = HierarchicalPrior(rho_shift=0.4, rho_stretch=1.2, **OFF)
TRUE = HierarchicalPrior()
X = LG.observations(1)[0]


# -- Oracles -----------------------------------------------------------------------------


class Oracle(NamedTuple):
    """A hierarchy in NumPy. psi `[..., n, D]`, z `[n, D]`, rng first where drawn."""

    draw: Callable[..., Any]  # (rng, n) -> z, psi_0
    draw_inverse: Callable[..., Any]  # (rng, z, K) -> psi [K, n, D]
    log_conditional: Callable[..., Any]  # (z, psi) -> [..., n]
    log_mixing: Callable[..., Any]  # (psi) -> [..., n]
    log_inverse: Callable[..., Any]  # (z, psi) -> [..., n]
    posterior: Callable[..., Any]  # (rng, z) -> psi_0 [n, D]

    def upper(self, rng, z, psi_0, K):
        psi = np.concatenate([psi_0[None], self.draw_inverse(rng, z, K)])
        return np.log(np.mean(np.exp(self.beta(z, psi)), axis=0))

    def lower(self, rng, z, K):
        return np.log(np.mean(np.exp(self.beta(z, self.draw_inverse(rng, z, K))), axis=0))

    def beta(self, z, psi):
        return self.log_conditional(z, psi) + self.log_mixing(psi) - self.log_inverse(z, psi)


def gaussian_oracle(mean, C, d, inverse):
    unit = np.eye(DIM)
    scale = inverse.stretch * np.sqrt(np.diag(inverse.cov))
    cholesky = np.linalg.cholesky(inverse.cov)

    def location(z):
        return (z - mean) @ inverse.map.T

    def draw(rng, n):
        psi_0 = rng.normal(size=(n, DIM))
        return mean + psi_0 @ C.T + d * rng.normal(size=(n, DIM)), psi_0

    return Oracle(
        draw,
        lambda rng, z, K: location(z) + inverse.shift + scale * rng.normal(size=(K, len(z), DIM)),
        lambda z, psi: log_normal(z, mean + psi @ C.T, np.diag(d**2)),
        lambda psi: log_normal(psi, 0.0, unit),
        lambda z, psi: log_normal(psi, location(z) + inverse.shift, np.diag(scale**2)),
        lambda rng, z: location(z) + rng.normal(size=z.shape) @ cholesky.T,
    )


def laplace_oracle(rate):
    def gamma(z):
        mean, variance = 1.0 + np.abs(z), rate * (2.0 + np.abs(z))
        return scipy.stats.gamma(mean**2 / variance, scale=variance / mean)

    def draw(rng, n):
        psi_0 = rng.exponential(2.0, size=(n, DIM))
        return np.sqrt(psi_0) * rng.normal(size=(n, DIM)), psi_0

    return Oracle(
        draw,
        lambda rng, z, K: gamma(z).rvs(size=(K, *z.shape), random_state=rng),
        lambda z, psi: scipy.stats.norm.logpdf(z, scale=np.sqrt(psi)).sum(axis=-1),
        lambda psi: scipy.stats.expon.logpdf(psi, scale=2.0).sum(axis=-1),
        lambda z, psi: gamma(z).logpdf(psi).sum(axis=-1),
        lambda rng, z: 1.0 / rng.wald(1.0 / np.abs(z), 1.0),
    )


# -- Closed forms ------------------------------------------------------------------------


class Case(NamedTuple):
    """A hierarchy with a tau that is off, one with the true tau, and what is known."""

    q: Hierarchy
    exact: Hierarchy
    oracle: Oracle
    log_density: Callable[..., Any]  # z [n, D] -> [n]
    information: float  # I(z; psi), nats


# Narrower than the true inverse. From 1/4 on, some of these Gammas have no E psi^-2 left,
# and L_1 no variance: log q(z|psi) goes like -z^2 / (2 psi).
RATE = 0.2


def laplace_log_density(z):
    return np.sum(-np.abs(z) - np.log(2.0), axis=-1)


# H(z) - H(z|psi), with E log psi = log 2 - Euler's constant.
LAPLACE_INFORMATION = DIM * (
    1.0 + np.log(2.0) - 0.5 * np.log(2.0 * np.pi * np.e) - 0.5 * (np.log(2.0) - np.euler_gamma)
)


def log_det_information(cov, noise):
    return 0.5 * (np.linalg.slogdet(cov)[1] - np.log(noise**2).sum())


CASES = {
    "linear-Gaussian": Case(
        LG.proposal(X),
        TRUE.proposal(X),
        gaussian_oracle(LG.A @ X, LG.C, LG.d, LG.inverse),
        lambda z: LG.log_q_z(z, X[None]),
        log_det_information(LG.q_cov, LG.d),
    ),
    "hierarchical prior": Case(
        LG.prior,
        TRUE.prior,
        gaussian_oracle(np.zeros(DIM), LG.G, np.full(DIM, LG.g), LG.rho),
        lambda z: log_normal(z, 0.0, LG.prior_cov),
        log_det_information(LG.prior_cov, np.full(DIM, LG.g)),
    ),
    "Laplace": Case(
        laplace(DIM, "gamma", rate=RATE),
        laplace(DIM),
        laplace_oracle(RATE),
        laplace_log_density,
        LAPLACE_INFORMATION,
    ),
}
every_case = pytest.mark.parametrize("name", CASES)

SCALE = 1.5  # of the explicit Gaussian that the Laplace is compared with


def explicit_normal():
    return normal(tf.zeros(DIM, tf.float64), tf.fill([DIM], tf.constant(SCALE, tf.float64)))


class Pair(NamedTuple):
    """KL(q || p): as both would be used, with true inverses, in NumPy, and its value."""

    q: Any
    p: Any
    exact_q: Any
    exact_p: Any
    q_oracle: Oracle | None
    p_oracle: Oracle | None
    kl: float


def explicit_log_density(z):
    return log_normal(z, 0.0, SCALE**2 * np.eye(DIM))


def pairs():
    gaussian, prior, scale_mixture = CASES.values()
    cross_entropy = 0.5 * np.log(2.0 * np.pi * SCALE**2)
    return {
        "linear-Gaussian, hierarchical prior": Pair(
            *(gaussian.q, prior.q, gaussian.exact, prior.exact, gaussian.oracle, prior.oracle),
            gaussian_kl(LG.A @ X, LG.q_cov, np.zeros(DIM), LG.prior_cov),
        ),
        "Laplace, explicit": Pair(
            *(scale_mixture.q, explicit_normal(), scale_mixture.exact, explicit_normal()),
            *(scale_mixture.oracle, None),
            DIM * (-1.0 - np.log(2.0) + cross_entropy + 1.0 / SCALE**2),
        ),
        "explicit, Laplace": Pair(
            *(explicit_normal(), scale_mixture.q, explicit_normal(), scale_mixture.exact),
            *(None, scale_mixture.oracle),
            DIM * (-cross_entropy - 0.5 + SCALE * np.sqrt(2.0 / np.pi) + np.log(2.0)),
        ),
    }


PAIRS = pairs()
every_pair = pytest.mark.parametrize("name", PAIRS)


# -- log q(z) ----------------------------------------------------------------------------

RUNGS = ("L_1", "L_4", "L_16", "log q(z)", "U_16", "U_4", "U_1", "U_0")


@functools.cache
def marginal_ladder(name, seed, n=20_000):
    """Bounds on log q(z) `[n]` from nested subsets of one draw, in the order of `RUNGS`."""
    case = CASES[name]
    z, psi_0 = case.q.sample(n, tf.constant([seed, 1]))
    psi = case.q.inverse(z).sample(16, seed=tf.constant([seed, 2]))
    beta = sandwich.log_ratios(case.q, z, tf.concat([psi_0[None], psi], axis=0))
    lower = [bounds.log_marginal_lower(beta[1 : K + 1]) for K in (1, 4, 16)]
    upper = [bounds.log_marginal_upper(beta[: K + 1]) for K in (16, 4, 1, 0)]
    return np.stack([*lower, case.log_density(z.numpy()), *upper])


@functools.cache
def marginal_means(name, K, seed, n=20_000):
    """(U_K of the package, of the oracle, L_K of the package, of the oracle), each `[n]`.

    Less the exact log q(z), which has a noise of its own.
    """
    case, rng = CASES[name], np.random.default_rng([seed, 3])
    z, psi_0 = case.q.sample(n, tf.constant([seed, 4]))
    upper = sandwich.log_density_upper(case.q, z, psi_0, K=K, seed=tf.constant([seed, 5]))
    lower = sandwich.log_density_lower(case.q, z, K=K, seed=tf.constant([seed, 6]))
    truth = case.log_density(z.numpy())
    z, psi_0 = case.oracle.draw(rng, n)
    own_truth = case.log_density(z)
    own_upper = case.oracle.upper(rng, z, psi_0, K) - own_truth
    return upper - truth, own_upper, lower - truth, case.oracle.lower(rng, z, K) - own_truth


def distance(found, expected):
    """Of two independent means, in standard errors."""
    (mean, error), (other, its_error) = mean_and_error(found), mean_and_error(expected)
    return (mean - other) / np.hypot(error, its_error)


@every_case
def test_log_density_is_enclosed_ever_tighter(name, seed):
    for lower, upper in itertools.pairwise(marginal_ladder(name, seed)):
        assert z_of_mean(upper - lower) > 5.0


@every_case
def test_log_ratios_are_those_of_scipy(name, seed):
    case = CASES[name]
    z, psi_0 = case.oracle.draw(np.random.default_rng(seed), 30)
    psi = np.stack([psi_0, psi_0[::-1]])
    found = sandwich.log_ratios(case.q, tf.constant(z), tf.constant(psi))
    np.testing.assert_allclose(found, case.oracle.beta(z, psi), rtol=1e-9, atol=1e-9)


@every_case
def test_bounds_on_the_log_density_have_the_oracles_means(name, seed):
    upper, own_upper, lower, own_lower = marginal_means(name, 3, seed)
    assert abs(distance(upper, own_upper)) < 5.0
    assert abs(distance(lower, own_lower)) < 5.0


@every_case
@pytest.mark.parametrize("K", [1, 5])
def test_with_the_true_inverse_both_bounds_are_the_log_density(name, K, seed):
    """Zero variance given z, whatever was drawn."""
    case = CASES[name]
    z, psi_0 = case.exact.sample(2_000, tf.constant([seed, 1]))
    truth = case.log_density(z.numpy())
    upper = sandwich.log_density_upper(case.exact, z, psi_0, K=K, seed=tf.constant([seed, 2]))
    lower = sandwich.log_density_lower(case.exact, z, K=K, seed=tf.constant([seed, 3]))
    np.testing.assert_allclose(upper, truth, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(lower, truth, rtol=1e-6, atol=1e-6)


def test_negative_entropy_of_a_laplace(seed):
    values = marginal_ladder("Laplace", seed)[RUNGS.index("log q(z)")]
    mean, error = mean_and_error(values)
    assert abs(mean + DIM * (1.0 + np.log(2.0))) < 5.0 * error


# -- KL divergences ----------------------------------------------------------------------


def posterior_of(p):
    """Exact draws from p(zeta|z), from a hierarchy whose inverse is the true one."""
    if not isinstance(p, Hierarchy):
        return None
    return lambda z, seed: p.inverse(z).sample(seed=seed)


@functools.cache
def kl_ladder(name, seed, n=20_000):
    """From below, ever tighter, to above, ever looser `[4, n]`; the truth lies in the middle.

    Draws of z are the same within each half.
    """
    pair = PAIRS[name]

    def lower(K, L):
        return sandwich.kl_lower(
            *(pair.q, pair.p),
            **dict(n=n, K=K, L=L, posterior=posterior_of(pair.exact_p)),
            seed=tf.constant([seed, 1]),
        )

    def upper(K, L):
        return sandwich.kl_upper(pair.q, pair.p, n=n, K=K, L=L, seed=tf.constant([seed, 2]))

    return np.stack([lower(1, 0), lower(8, 8), upper(8, 8), upper(0, 1)])


@functools.cache
def kl_oracle(name, seed, n=20_000):
    """The four of `kl_ladder` `[4, n]`, eq 8 and eq 4 in NumPy."""
    pair, rng = PAIRS[name], np.random.default_rng([seed, 7])
    if pair.q_oracle:
        z, psi_0 = pair.q_oracle.draw(rng, n)
    else:
        z = SCALE * rng.normal(size=(n, DIM))
    zeta_0 = pair.p_oracle.posterior(rng, z) if pair.p_oracle else None

    def lower(oracle, K):
        return oracle.lower(rng, z, K) if oracle else explicit_log_density(z)

    def upper(oracle, own, K):
        return oracle.upper(rng, z, own, K) if oracle else explicit_log_density(z)

    q, p = pair.q_oracle, pair.p_oracle
    return np.stack(
        [lower(q, K) - upper(p, zeta_0, L) for K, L in ((1, 0), (8, 8))]
        + [upper(q, psi_0 if q else None, K) - lower(p, L) for K, L in ((8, 8), (0, 1))]
    )


@every_pair
def test_kl_is_enclosed_ever_tighter(name, seed):
    loose_lower, lower, upper, loose_upper = kl_ladder(name, seed)
    assert z_of_mean(lower - loose_lower) > 5.0
    assert z_of_mean(loose_upper - upper) > 5.0
    kl = PAIRS[name].kl
    assert z_of_mean(kl - loose_lower) > 5.0
    assert z_of_mean(loose_upper - kl) > 5.0
    assert z_of_mean(kl - lower) > -5.0
    assert z_of_mean(upper - kl) > -5.0


@every_pair
def test_kl_bounds_have_the_oracles_means(name, seed):
    """At (K, L) = (1, 0) and (0, 1) too, where one draw more or less is seen at once."""
    for found, expected in zip(kl_ladder(name, seed), kl_oracle(name, seed), strict=True):
        assert abs(distance(found, expected)) < 5.0


@every_pair
def test_with_true_inverses_both_kl_bounds_are_exact(name, seed):
    """The log-ratio of each draw of z, whatever else was drawn."""
    pair, n = PAIRS[name], 20_000
    q, p, s = pair.exact_q, pair.exact_p, tf.constant([seed, 8])
    above = [sandwich.kl_upper(q, p, n=n, K=K, L=L, seed=s) for K, L in ((0, 1), (3, 4))]
    below = [
        sandwich.kl_lower(q, p, n=n, K=K, L=L, posterior=posterior_of(p), seed=s)
        for K, L in ((1, 0), (3, 4))
    ]
    for one, other in (above, below):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        mean, error = mean_and_error(one)
        assert abs(mean - pair.kl) < 5.0 * error


def test_kl_of_explicit_distributions_needs_no_inverse():
    q, p = explicit_normal(), normal(tf.ones(DIM, tf.float64), tf.ones(DIM, tf.float64))
    one, other = (
        f(q, p, n=5, seed=tf.constant([1, 2])) for f in (sandwich.kl_upper, sandwich.kl_lower)
    )
    assert one.shape == other.shape == (5,)


# -- The discrete toy: what the expectations are, exactly --------------------------------

TOY = Discrete(z_values=3, hierarchical_prior=True)


def exact_upper(mixing, conditional, inverse, weights, K):
    """E U_K over z ~ weights, psi_0 ~ the true posterior and psi_1:K ~ inverse, by hand."""
    joint = mixing[:, None] * conditional
    total = 0.0
    for z, weight in enumerate(weights):
        posterior = joint[:, z] / joint[:, z].sum()
        for psi in itertools.product(range(len(mixing)), repeat=K + 1):
            probability = posterior[psi[0]] * np.prod([inverse[z, k] for k in psi[1:]])
            ratios = [joint[k, z] / inverse[z, k] for k in psi]
            total += weight * probability * np.log(np.mean(ratios))
    return total


def exact_lower(mixing, conditional, inverse, weights, K):
    joint = mixing[:, None] * conditional
    total = 0.0
    for z, weight in enumerate(weights):
        for psi in itertools.product(range(len(mixing)), repeat=K):
            ratios = [joint[k, z] / inverse[z, k] for k in psi]
            probability = np.prod([inverse[z, k] for k in psi])
            total += weight * probability * np.log(np.mean(ratios))
    return total


def discrete_tables(which):
    if which == "q":
        return TOY.q_psi, TOY.q_z, TOY.tau_table
    return TOY.p_zeta, TOY.p_z_given_zeta, TOY.rho_table


def discrete_marginal_ladder():
    """E of L_1, L_2, L_4, log q(z), U_4, U_2, U_1, U_0 under q(z), exactly."""
    tables, q_z = discrete_tables("q"), TOY.q_psi @ TOY.q_z
    lower = [exact_lower(*tables, q_z, K) for K in (1, 2, 4)]
    return [*lower, q_z @ np.log(q_z), *(exact_upper(*tables, q_z, K) for K in (4, 2, 1, 0))]


def discrete_kl(K, L):
    """(E kl_lower, KL, E kl_upper), exactly."""
    q, p, q_z = discrete_tables("q"), discrete_tables("p"), TOY.q_psi @ TOY.q_z
    return (
        exact_lower(*q, q_z, K) - exact_upper(*p, q_z, L),
        q_z @ (np.log(q_z) - np.log(TOY.p_z)),
        exact_upper(*q, q_z, K) - exact_lower(*p, q_z, L),
    )


def discrete_information(K):
    """(E lower, I(z; psi), E upper), exactly."""
    q, q_z = discrete_tables("q"), TOY.q_psi @ TOY.q_z
    conditional = np.sum(TOY.q_psi[:, None] * TOY.q_z * np.log(TOY.q_z))
    return (
        conditional - exact_upper(*q, q_z, K),
        conditional - q_z @ np.log(q_z),
        conditional - exact_lower(*q, q_z, K),
    )


@functools.cache
def discrete_found(K, L, seed, n=100_000):
    """(kl_lower, kl_upper, mutual information from below, from above) `[n]`."""
    q, p = TOY.proposal, TOY.model.prior
    posterior = TOY.p_zeta[:, None] * TOY.p_z_given_zeta / TOY.p_z

    def draw(z, seed):
        probs = tf.linalg.matmul(z, posterior.T)
        return tfd.OneHotCategorical(probs=probs, dtype=tf.float64).sample(seed=seed)

    s = [tf.constant([seed, i]) for i in (11, 12, 13)]
    information = sandwich.mutual_information(q, n=n, K=K, seed=s[2])
    return (
        sandwich.kl_lower(q, p, n=n, K=K, L=L, posterior=draw, seed=s[0]),
        sandwich.kl_upper(q, p, n=n, K=K, L=L, seed=s[1]),
        information.lower,
        information.upper,
    )


def z_of_distance(values, exact):
    mean, error = mean_and_error(values)
    return (mean - exact) / error


def test_discrete_expectations_are_ordered_exactly():
    for lower, upper in itertools.pairwise(discrete_marginal_ladder()):
        assert upper > lower + 1e-4
    loose, tight = discrete_kl(1, 1), discrete_kl(4, 4)
    assert loose[0] < tight[0] < tight[1] < tight[2] < loose[2]
    loose, tight = discrete_information(1), discrete_information(4)
    assert loose[0] < tight[0] < tight[1] < tight[2] < loose[2]


@pytest.mark.parametrize(("K", "L"), [(1, 1), (3, 2)])
def test_discrete_means_are_the_enumerated_ones(K, L, seed):
    found = discrete_found(K, L, seed)
    kl, information = discrete_kl(K, L), discrete_information(K)
    exact = kl[0], kl[2], information[0], information[2]
    for values, expected in zip(found, exact, strict=True):
        assert abs(z_of_distance(values, expected)) < 5.0


# -- Mutual information ------------------------------------------------------------------


@functools.cache
def information_ladder(name, seed, n=20_000):
    """From below, ever tighter, to above, ever looser `[4, n]`, on the same draws of z."""
    found = [
        sandwich.mutual_information(CASES[name].q, n=n, K=K, seed=tf.constant([seed, 1]))
        for K in (1, 8)
    ]
    return np.stack([found[0].lower, found[1].lower, found[1].upper, found[0].upper])


@every_case
def test_mutual_information_is_enclosed_ever_tighter(name, seed):
    values = information_ladder(name, seed)
    for lower, upper in itertools.pairwise(values):
        assert z_of_mean(upper - lower) > 5.0
    exact = CASES[name].information
    assert z_of_mean(exact - values[0]) > 5.0
    assert z_of_mean(values[3] - exact) > 5.0
    assert z_of_mean(exact - values[1]) > -5.0
    assert z_of_mean(values[2] - exact) > -5.0


@every_case
def test_mutual_information_is_exact_with_the_true_inverse(name, seed):
    found = sandwich.mutual_information(
        CASES[name].exact, n=20_000, K=2, seed=tf.constant([seed, 9])
    )
    np.testing.assert_allclose(found.lower, found.upper, rtol=1e-5, atol=1e-5)
    mean, error = mean_and_error(found.lower)
    assert abs(mean - CASES[name].information) < 5.0 * error


# -- Posterior draws by HMC --------------------------------------------------------------


def draw_hmc(q, z, seed, **options):
    return tf.function(hmc.hmc_posterior(q, **options))(z, seed)


@functools.cache
def hmc_ranks(name, seed, n=1_500, with_inverse=True):
    """What is uniform if the draws are exact: their distribution functions, each `[n D]`."""
    case = CASES[name]
    q = case.q if with_inverse else case.q._replace(inverse=None)
    z, _ = q.sample(n, tf.constant([seed, 21]))
    psi = draw_hmc(q, z, tf.constant([seed, 22])).numpy()
    z = z.numpy()
    if name == "Laplace":
        mean = 1.0 / np.abs(z)
        return scipy.stats.invgauss.sf(1.0 / psi, mean).ravel()
    mean, inverse = ((LG.A @ X), TRUE.inverse) if name == "linear-Gaussian" else (0.0, TRUE.rho)
    whitened = np.linalg.solve(
        np.linalg.cholesky(inverse.cov), (psi - (z - mean) @ inverse.map.T).T
    )
    return scipy.stats.norm.cdf(whitened).ravel()


@pytest.mark.parametrize(
    ("name", "with_inverse"), [*((name, True) for name in CASES), ("Laplace", False)]
)
def test_hmc_draws_follow_the_true_posterior(name, with_inverse, seed):
    ranks = hmc_ranks(name, seed, with_inverse=with_inverse)
    assert scipy.stats.kstest(ranks, "uniform").pvalue > 1e-5


HMC_PAIRS = [name for name, pair in PAIRS.items() if isinstance(pair.p, Hierarchy)]


@functools.cache
def kl_lower_by_hmc(name, seed, n=2_000):
    """(kl_lower with HMC, with exact draws) `[n]`, on the same draws of z."""
    pair = PAIRS[name]
    return tuple(
        sandwich.kl_lower(
            pair.q, pair.p, n=n, K=4, L=4, posterior=posterior, seed=tf.constant([seed, 31])
        ).numpy()
        for posterior in (
            lambda z, s: draw_hmc(pair.p, z, s),
            posterior_of(pair.exact_p),
        )
    )


@pytest.mark.parametrize("name", HMC_PAIRS)
def test_kl_lower_by_hmc_is_that_of_exact_draws(name, seed):
    by_hmc, exact = kl_lower_by_hmc(name, seed)
    assert abs(z_of_mean(by_hmc - exact)) < 5.0
    mean, error = mean_and_error(by_hmc)
    assert mean < PAIRS[name].kl + 5.0 * error


# -- Errors ------------------------------------------------------------------------------


def test_a_hierarchical_p_needs_a_posterior():
    with pytest.raises(ValueError, match="posterior=None: a hierarchical p needs draws"):
        sandwich.kl_lower(LG.proposal(X), LG.prior, n=3, seed=tf.constant([1, 2]))


@pytest.mark.parametrize(
    "compute",
    [
        lambda q: sandwich.kl_upper(q, explicit_normal(), n=3, seed=tf.constant([1, 2])),
        lambda q: sandwich.kl_lower(q, explicit_normal(), n=3, seed=tf.constant([1, 2])),
        lambda q: sandwich.kl_upper(explicit_normal(), q, n=3, seed=tf.constant([1, 2])),
        lambda q: sandwich.mutual_information(q, n=3, K=1, seed=tf.constant([1, 2])),
        lambda q: sandwich.log_density_lower(
            q, tf.zeros([3, DIM], tf.float64), K=1, seed=tf.constant([1, 2])
        ),
    ],
)
def test_a_bound_needs_an_inverse(compute):
    with pytest.raises(ValueError, match="inverse=None: this bound needs an inverse model"):
        compute(LG.proposal(X)._replace(inverse=None))


BAD_HIERARCHIES = {
    "p has no event": (
        dict(),
        tfd.Normal(tf.zeros(2, tf.float64), 1.0),
        r"p: event shape \(\), but",
    ),
    "p of another z": (dict(), standard_normal(3), r"p: event shape \(3,\), but .* shape \(5, 2\)"),
    "inverse of another psi": (
        dict(inverse=lambda z: standard_normal(2)),
        standard_normal(2),
        r"inverse\(z\): draws of shape \(2,\) for each of K, but mixing drew psi of shape \(5, 2\)",
    ),
}


@pytest.mark.parametrize("case", BAD_HIERARCHIES)
def test_wrong_shapes_are_named(case):
    parts, p, message = BAD_HIERARCHIES[case]
    q = Hierarchy(
        mixing=standard_normal(2),
        conditional=lambda psi: normal(psi, tf.ones_like(psi)),
        inverse=lambda z: normal(0.5 * z, tf.ones_like(z)),
    )._replace(**parts)
    with pytest.raises(ValueError, match=message):
        sandwich.kl_upper(q, p, n=5, K=2, seed=tf.constant([0, 1]))


@pytest.mark.parametrize("K", [1, 4])
def test_a_misplaced_axis_shows_where_n_is_the_number_of_psi(K):
    """psi[..., 0] - z is [K+1, n] minus [n, 1]: of the wanted shape where K + 1 = n."""
    q = Hierarchy(
        mixing=standard_normal(1),
        conditional=lambda psi: hvi.Callables(
            lambda z: -0.5 * (psi[..., 0] - z) ** 2,
            lambda shape, seed: (
                psi + tf.random.stateless_normal(tf.shape(psi), seed, 0, 1, "double")
            ),
        ),
        inverse=lambda z: normal(0.5 * z, tf.ones_like(z)),
    )
    for bound in (sandwich.kl_upper, sandwich.kl_lower):
        counts = dict(n=5, K=K) if bound is sandwich.kl_upper else dict(n=4, K=K)
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            bound(q, standard_normal(1), **counts, seed=tf.constant([0, 1]))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        sandwich.mutual_information(q, n=5, K=K, seed=tf.constant([0, 1]))


def test_counts_are_checked():
    q = Hierarchy(
        mixing=standard_normal(2),
        conditional=lambda psi: normal(psi, tf.ones_like(psi)),
        inverse=lambda z: normal(0.5 * z, tf.ones_like(z)),
    )
    p, seed = standard_normal(2), tf.constant([0, 1])
    mistakes = [
        (sandwich.kl_upper, dict(K=-1), "K=-1: .* at least 0"),
        (sandwich.kl_upper, dict(n=0), "n=0: .* at least 1"),
        (sandwich.kl_upper, dict(n=True), "n=True: .* a whole number"),
        (sandwich.kl_upper, dict(seed=3), "seed=3: .* two whole numbers"),
        (sandwich.kl_upper, dict(seed=None), "seed=None: "),
        (sandwich.kl_lower, dict(K=np.int64(0)), r"K=np.int64\(0\): .* at least 1"),
        (sandwich.kl_lower, dict(L=1.5), "L=1.5: .* a whole number"),
        (sandwich.kl_lower, dict(n=tf.constant(0)), "n=.*: .* at least 1"),
    ]
    for bound, given, message in mistakes:
        with pytest.raises(ValueError, match=message):
            bound(q, p, **(dict(n=5, seed=seed) | given))
    with pytest.raises(TypeError, match="p=None: must be a distribution"):
        sandwich.kl_upper(q, None, n=5, seed=seed)
    with pytest.raises(ValueError, match="posterior=3"):
        sandwich.kl_lower(q, q, n=5, posterior=3, seed=seed)
    with pytest.raises(ValueError, match=r"K=0: .* at least 1"):
        sandwich.mutual_information(q, n=5, K=0, seed=seed)
    for given in (dict(num_steps=0), dict(leapfrog_steps=1.5), dict(step_size=0.0)):
        with pytest.raises(ValueError, match=f"{next(iter(given))}="):
            hmc.hmc_posterior(q, **given)


def test_a_seed_draws_alike_in_every_integer_type():
    q = Hierarchy(
        mixing=standard_normal(2),
        conditional=lambda psi: normal(psi, tf.ones_like(psi)),
        inverse=lambda z: normal(0.5 * z, tf.ones_like(z)),
    )
    seeds = ([0, 1], np.array([0, 1]), tf.constant([0, 1], tf.int64), tf.constant([0, 1]))
    found = [
        sandwich.kl_upper(q, standard_normal(2), n=np.int64(5), K=tf.constant(2), seed=seed)
        for seed in seeds
    ]
    for values in found[:-1]:
        np.testing.assert_array_equal(values, found[-1])
