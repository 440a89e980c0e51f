"""Every method against closed forms and independent oracles.

The oracles are the naive formula of each method in NumPy, on the package's draws and on draws
of their own, and all outcomes of a discrete toy. Statistical assertions allow 5 standard errors.
"""

import itertools

import numpy as np
import pytest

from hvi_tf import bounds
from tests.oracles.analytic import HierarchicalPrior
from tests.oracles.closed_forms import (
    CASES,
    HIERARCHICAL,
    LADDERS,
    counts,
    draw_and_score,
    ladder,
    on_independent_draws,
    on_the_same_draws,
    subset,
)
from tests.oracles.enumerated import TOYS, discrete_cases, discrete_values
from tests.oracles.hierarchies import jackknife_errors
from tests.oracles.statistics import mean_and_error, z_of_difference, z_of_mean
from tests.oracles.unbiased import snr


def prior_of(lg):
    return "hierarchical" if lg is HIERARCHICAL else "explicit"


IDS = [f"{name}-{prior_of(lg)}" for name, lg in CASES]
every_method = pytest.mark.parametrize(("name", "lg"), CASES, ids=IDS)


@every_method
def test_the_bound_equals_the_naive_formula_on_the_same_draws(name, lg, seed):
    bound, expected = on_the_same_draws(name, lg, seed)
    np.testing.assert_allclose(bound, expected, rtol=1e-10)


@every_method
def test_the_mean_equals_that_of_the_oracle_and_is_below_the_evidence(name, lg, seed):
    bound, oracle, log_evidence = on_independent_draws(name, lg, seed)
    assert abs(z_of_difference(bound, oracle)) < 5.0
    mean, error = mean_and_error(bound)
    assert mean + 5.0 * error < log_evidence
    # E exp(bound) = p(x) is left to the discrete toy: here it has heavy tails at K = M = 1.


# -- Monotone in K, L and M --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lg", "axis"),
    LADDERS,
    ids=[f"{name}-{prior_of(lg)}-{axis}" for name, lg, axis in LADDERS],
)
def test_the_bound_rises_with_each_count(name, lg, axis, seed):
    """The bounds are on nested subsets of the same draws, so their differences are paired."""
    values = ladder(name, lg, axis, seed)
    for fewer, more in itertools.pairwise(values):
        assert z_of_mean(more - fewer) > 5.0
    mean, error = mean_and_error(values[-1])
    assert mean < lg.log_evidence(lg.observations(1))[0] - 5.0 * error


# -- Exactness with the true inverses ----------------------------------------------------


@pytest.mark.parametrize("name", ["hvm", "iwhvi", "diwhvi"])
def test_with_the_true_tau_and_rho_the_weights_do_not_depend_on_k_and_l(name, seed):
    """U_K = log q(z|x) and P_L = log p(z) for every draw: zero variance given z."""
    lg = HierarchicalPrior()
    x = lg.observations(5)
    most = counts(name, HIERARCHICAL)
    sample, d = draw_and_score(lg, name, x, most, [seed, 5])
    z = sample.z.numpy()
    exact = lg.log_likelihood_and_prior(z, x) - lg.log_q_z(z, x)
    np.testing.assert_allclose(bounds.outer_log_weights(d), exact, rtol=1e-9)
    fewer = bounds.outer_log_weights(subset(d, name, most._replace(K=0, L=1)))
    np.testing.assert_allclose(fewer, exact, rtol=1e-9)


# -- The discrete toy, without chance ----------------------------------------------------


@pytest.mark.parametrize(("name", "hierarchical_prior", "axis"), list(discrete_cases()))
def test_exact_expectations_are_unbiased_ordered_and_below_the_evidence(
    name, hierarchical_prior, axis
):
    """E exp(bound) = p(x), and E bound rises with each count and stays below log p(x)."""
    values = discrete_values(name, hierarchical_prior, axis)
    log_evidence = TOYS[hierarchical_prior].log_evidence
    for exp_bound, bound, total in values:
        np.testing.assert_allclose(total, 1.0, rtol=1e-12)
        np.testing.assert_allclose(exp_bound, np.exp(log_evidence), rtol=1e-12)
        assert bound < log_evidence - 1e-4
    for (_, fewer, _), (_, more, _) in itertools.pairwise(values):
        assert more > fewer + 1e-5


# -- Gradient noise ----------------------------------------------------------------------


@pytest.mark.long
def test_signal_to_noise_ratios_change_with_the_counts_as_predicted(seed):
    """More samples make the bound tighter and the plain gradient noisier (Rainforth et al. 2018).

    The doubly reparameterized gradient is better at every count. It need not improve with the
    count, because its coefficients w^2 have no variance: the fourth moment of w is infinite.
    """
    estimators = ("reparameterized", "iwae-dreg")
    few = snr("iwae", estimators, "phi", seed, M=5, replicates=2_000)
    many = snr("iwae", estimators, "phi", seed, M=125, replicates=2_000)
    assert many[0] < 0.6 * few[0]
    assert few[1] > 2.0 * few[0]
    assert many[1] > 2.0 * many[0]
    estimators = ("reparameterized", "dreg", "dreg-biased")
    few = snr("iwhvi", estimators, "eta", seed, K=1, replicates=2_000)
    many = snr("iwhvi", estimators, "eta", seed, K=25, replicates=2_000)
    assert many[0] < 0.6 * few[0]
    assert many[1] > 1.3 * many[0]
    assert many[1] < few[1]  # the term of psi_0 has the noise of a score
    assert many[2] > 1.2 * few[2]  # without it (appendix D.2) the ratio rises, with a bias


# -- The jackknife on draws --------------------------------------------------------------


def test_jackknife_removes_bias_on_a_laplace(seed):
    plain, first, second = map(mean_and_error, jackknife_errors(4, seed))
    assert plain[0] > 20.0 * plain[1]
    assert abs(first[0]) + 5.0 * first[1] < 0.5 * plain[0]
    assert abs(second[0]) + 5.0 * second[1] < 0.5 * plain[0]
