"""Bounds on log q(z), on KL divergences and on mutual information, against closed forms.

On the discrete toy, the oracles enumerate all outcomes. Statistical assertions allow 5
standard errors.
"""

import itertools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf.inference import hmc, kl, sandwich
from hvi_tf.inference.model import Hierarchy
from tests.oracles.analytic import normal, standard_normal
from tests.oracles.divergences import (
    HMC_PAIRS,
    PAIRS,
    explicit_normal,
    kl_ladder,
    kl_lower_by_hmc,
    kl_oracle,
    posterior_of,
)
from tests.oracles.enumerated import (
    discrete_estimates,
    discrete_information,
    discrete_kl,
    discrete_marginal_ladder,
)
from tests.oracles.hierarchies import (
    CASES,
    DIM,
    LG,
    RUNGS,
    X,
    hmc_ranks,
    information_ladder,
    marginal_ladder,
    marginal_means,
)
from tests.oracles.statistics import mean_and_error, z_of_difference, z_of_mean

every_case = pytest.mark.parametrize("name", CASES)
every_pair = pytest.mark.parametrize("name", PAIRS)
SEED = tf.constant([0, 1])
TOY = Hierarchy(
    mixing=standard_normal(2),
    conditional=lambda psi: normal(psi, tf.ones_like(psi)),
    inverse=lambda z: normal(0.5 * z, tf.ones_like(z)),
)

# -- log q(z) ----------------------------------------------------------------------------


@every_case
def test_bounds_enclose_the_log_density_and_tighten_with_k(name, seed):
    for lower, upper in itertools.pairwise(marginal_ladder(name, seed)):
        assert z_of_mean(upper - lower) > 5.0


@every_case
def test_log_ratios_equal_those_of_scipy(name, seed):
    case = CASES[name]
    z, psi_0 = case.oracle.draw(np.random.default_rng(seed), 30)
    psi = np.stack([psi_0, psi_0[::-1]])
    ratios = sandwich.log_ratios(case.q, tf.constant(z), tf.constant(psi))
    np.testing.assert_allclose(ratios, case.oracle.beta(z, psi), rtol=1e-9, atol=1e-9)


@every_case
def test_bounds_on_the_log_density_have_the_means_of_the_oracle(name, seed):
    upper, oracle_upper, lower, oracle_lower = marginal_means(name, 3, seed)
    assert abs(z_of_difference(upper, oracle_upper)) < 5.0
    assert abs(z_of_difference(lower, oracle_lower)) < 5.0


@every_case
@pytest.mark.parametrize("K", [1, 5])
def test_both_bounds_equal_the_log_density_with_the_true_inverse(name, K, seed):
    """With the true inverse, both bounds have zero variance given z."""
    case = CASES[name]
    z, psi_0 = case.exact.sample(2_000, tf.constant([seed, 1]))
    truth = case.log_density(z.numpy())
    upper = sandwich.log_density_upper(case.exact, z, psi_0, K=K, seed=tf.constant([seed, 2]))
    lower = sandwich.log_density_lower(case.exact, z, K=K, seed=tf.constant([seed, 3]))
    np.testing.assert_allclose(upper, truth, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(lower, truth, rtol=1e-6, atol=1e-6)


def test_the_mean_log_density_of_a_laplace_is_its_negative_entropy(seed):
    values = marginal_ladder("Laplace", seed)[RUNGS.index("log q(z)")]
    mean, error = mean_and_error(values)
    assert abs(mean + DIM * (1.0 + np.log(2.0))) < 5.0 * error


# -- KL divergences ----------------------------------------------------------------------


@every_pair
def test_bounds_enclose_the_kl_and_tighten_with_the_counts(name, seed):
    loose_lower, lower, upper, loose_upper = kl_ladder(name, seed)
    assert z_of_mean(lower - loose_lower) > 5.0
    assert z_of_mean(loose_upper - upper) > 5.0
    kl = PAIRS[name].kl
    assert z_of_mean(kl - loose_lower) > 5.0
    assert z_of_mean(loose_upper - kl) > 5.0
    assert z_of_mean(kl - lower) > -5.0
    assert z_of_mean(upper - kl) > -5.0


@every_pair
def test_kl_bounds_have_the_means_of_the_oracle(name, seed):
    """The smallest counts, (K, L) = (1, 0) and (0, 1), would show a missing or surplus draw."""
    for values, expected in zip(kl_ladder(name, seed), kl_oracle(name, seed), strict=True):
        assert abs(z_of_difference(values, expected)) < 5.0


@every_pair
def test_kl_bounds_are_exact_with_true_inverses(name, seed):
    """The value of each draw of z does not depend on the draws of psi and zeta."""
    pair, n = PAIRS[name], 20_000
    q, p, s = pair.exact_q, pair.exact_p, tf.constant([seed, 8])
    above = [kl.kl_upper(q, p, n=n, K=K, L=L, seed=s) for K, L in ((0, 1), (3, 4))]
    below = [
        kl.kl_lower(q, p, n=n, K=K, L=L, posterior=posterior_of(p), seed=s)
        for K, L in ((1, 0), (3, 4))
    ]
    for one, other in (above, below):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        mean, error = mean_and_error(one)
        assert abs(mean - pair.kl) < 5.0 * error


def test_kl_of_explicit_distributions_needs_no_inverse():
    q, p = explicit_normal(), normal(tf.ones(DIM, tf.float64), tf.ones(DIM, tf.float64))
    for bound in (kl.kl_upper, kl.kl_lower):
        assert bound(q, p, n=5, seed=SEED).shape == (5,)


# -- Exact expectations on the discrete toy ----------------------------------------------


def test_exact_expectations_are_in_order():
    for lower, upper in itertools.pairwise(discrete_marginal_ladder()):
        assert upper > lower + 1e-4
    loose, tight = discrete_kl(1, 1), discrete_kl(4, 4)
    assert loose[0] < tight[0] < tight[1] < tight[2] < loose[2]
    loose, tight = discrete_information(1), discrete_information(4)
    assert loose[0] < tight[0] < tight[1] < tight[2] < loose[2]


@pytest.mark.parametrize(("K", "L"), [(1, 1), (3, 2)])
def test_means_equal_the_exact_expectations(K, L, seed):
    estimates = discrete_estimates(K, L, seed)
    kl, information = discrete_kl(K, L), discrete_information(K)
    exact = kl[0], kl[2], information[0], information[2]
    for values, expected in zip(estimates, exact, strict=True):
        assert abs(z_of_mean(values, expected)) < 5.0


# -- Mutual information ------------------------------------------------------------------


@every_case
def test_bounds_enclose_the_mutual_information_and_tighten_with_k(name, seed):
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
    seed = tf.constant([seed, 9])
    information = sandwich.mutual_information(CASES[name].exact, n=20_000, K=2, seed=seed)
    np.testing.assert_allclose(information.lower, information.upper, rtol=1e-5, atol=1e-5)
    mean, error = mean_and_error(information.lower)
    assert abs(mean - CASES[name].information) < 5.0 * error


# -- Posterior draws by HMC --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "with_inverse"), [*((name, True) for name in CASES), ("Laplace", False)]
)
def test_hmc_draws_follow_the_true_posterior(name, with_inverse, seed):
    ranks = hmc_ranks(name, seed, with_inverse=with_inverse)
    assert scipy.stats.kstest(ranks, "uniform").pvalue > 1e-5


@pytest.mark.parametrize("name", HMC_PAIRS)
def test_hmc_draws_give_the_kl_bound_of_exact_draws(name, seed):
    by_hmc, exact = kl_lower_by_hmc(name, seed)
    assert abs(z_of_mean(by_hmc - exact)) < 5.0
    mean, error = mean_and_error(by_hmc)
    assert mean < PAIRS[name].kl + 5.0 * error


# -- Errors ------------------------------------------------------------------------------


def test_kl_lower_raises_without_a_posterior_of_a_hierarchical_p():
    with pytest.raises(ValueError, match="posterior=None: a hierarchical p needs draws"):
        kl.kl_lower(LG.proposal(X), LG.prior, n=3, seed=SEED)


@pytest.mark.parametrize(
    "compute",
    [
        lambda q: kl.kl_upper(q, explicit_normal(), n=3, seed=SEED),
        lambda q: kl.kl_lower(q, explicit_normal(), n=3, seed=SEED),
        lambda q: kl.kl_upper(explicit_normal(), q, n=3, seed=SEED),
        lambda q: sandwich.mutual_information(q, n=3, K=1, seed=SEED),
        lambda q: sandwich.log_density_lower(q, tf.zeros([3, DIM], tf.float64), K=1, seed=SEED),
    ],
)
def test_every_bound_raises_without_an_inverse(compute):
    with pytest.raises(ValueError, match="inverse=None: this bound needs an inverse model"):
        compute(LG.proposal(X)._replace(inverse=None))


# Changed parts of q, p, and the message.
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
def test_errors_name_the_wrong_shapes(case):
    parts, p, message = BAD_HIERARCHIES[case]
    with pytest.raises(ValueError, match=message):
        kl.kl_upper(TOY._replace(**parts), p, n=5, K=2, seed=SEED)


@pytest.mark.parametrize("K", [1, 4])
def test_a_misplaced_axis_raises_where_n_equals_the_number_of_psi(K):
    """psi[..., 0] - z is [K+1, n] minus [n, 1], which has the right shape where K + 1 = n."""
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
    for bound in (kl.kl_upper, kl.kl_lower):
        counts = dict(n=5, K=K) if bound is kl.kl_upper else dict(n=4, K=K)
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            bound(q, standard_normal(1), **counts, seed=SEED)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        sandwich.mutual_information(q, n=5, K=K, seed=SEED)


def test_errors_name_the_wrong_count_seed_or_distribution():
    q, p = TOY, standard_normal(2)
    mistakes = [
        (kl.kl_upper, dict(K=-1), "K=-1: .* at least 0"),
        (kl.kl_upper, dict(n=0), "n=0: .* at least 1"),
        (kl.kl_upper, dict(n=True), "n=True: .* a whole number"),
        (kl.kl_upper, dict(seed=3), "seed=3: .* two whole numbers"),
        (kl.kl_upper, dict(seed=None), "seed=None: "),
        (kl.kl_lower, dict(K=np.int64(0)), r"K=np.int64\(0\): .* at least 1"),
        (kl.kl_lower, dict(L=1.5), "L=1.5: .* a whole number"),
        (kl.kl_lower, dict(n=tf.constant(0)), "n=.*: .* at least 1"),
    ]
    for bound, given, message in mistakes:
        with pytest.raises(ValueError, match=message):
            bound(q, p, **(dict(n=5, seed=SEED) | given))
    with pytest.raises(TypeError, match="p=None: must be a distribution"):
        kl.kl_upper(q, None, n=5, seed=SEED)
    with pytest.raises(ValueError, match="posterior=3"):
        kl.kl_lower(q, q, n=5, posterior=3, seed=SEED)
    with pytest.raises(ValueError, match=r"K=0: .* at least 1"):
        sandwich.mutual_information(q, n=5, K=0, seed=SEED)
    for given in (dict(num_steps=0), dict(leapfrog_steps=1.5), dict(step_size=0.0)):
        with pytest.raises(ValueError, match=f"{next(iter(given))}="):
            hmc.hmc_posterior(q, **given)


def test_seeds_of_every_integer_type_give_the_same_draws():
    seeds = ([0, 1], np.array([0, 1]), tf.constant([0, 1], tf.int64), tf.constant([0, 1]))
    results = [
        kl.kl_upper(TOY, standard_normal(2), n=np.int64(5), K=tf.constant(2), seed=seed)
        for seed in seeds
    ]
    for values in results[:-1]:
        np.testing.assert_array_equal(values, results[-1])
