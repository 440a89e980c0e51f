"""Every row of METHODS against closed forms and independent oracles.

The oracles know NumPy and SciPy only: the naive formula of each row, written down anew,
on the package's draws and on draws of their own; and on a discrete toy all outcomes.
Statistical assertions allow 5 standard errors.
"""

import functools
import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import LogDensities, jackknife
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import sampling
from hvi_tf.inference.methods import METHODS, Counts
from hvi_tf.inference.model import Hierarchy
from hvi_tf.inference.sandwich import log_ratios
from tests.inference.test_gradients import replicate_gradients
from tests.oracles.analytic import Discrete, HierarchicalPrior, LinearGaussian, laplace

# What proposes psi_1:K and zeta_1:L in each row.
PROPOSED_BY = {
    "vae": (None, "rho"),
    "iwae": (None, "rho"),
    "hvm": ("tau", "rho"),
    "sivi": ("q(psi)", "rho"),
    "sivi-equicomp": ("q(psi)", "rho"),
    "sivi-equisample": ("q(psi)", "rho"),
    "dsivi": ("q(psi)", "p(zeta)"),
    "joint": ("p(zeta)", "psi_0"),
    "iwhvi": ("tau", "rho"),
    "diwhvi": ("tau", "rho"),
    "diwhvi-mixture": ("tau mixture", "rho mixture"),
}
OFF = dict(tau_shift=0.4, tau_stretch=1.2)
EXPLICIT = LinearGaussian(**OFF)
HIERARCHICAL = HierarchicalPrior(rho_shift=0.4, rho_stretch=1.2, **OFF)
CASES = [  # rows with an inner SVI loop are in test_svi.py
    (name, model)
    for name, model in itertools.product(PROPOSED_BY, (EXPLICIT, HIERARCHICAL))
    if model is HIERARCHICAL or not METHODS[name].needs_hierarchical_prior
]
IDS = [f"{n}-{'hierarchical' if m is HIERARCHICAL else 'explicit'}" for n, m in CASES]
every_row = pytest.mark.parametrize(("name", "lg"), CASES, ids=IDS)


def mean_and_error(values):
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))


def z_of_mean(values):
    """Of one row of paired differences, how many standard errors its mean is above 0."""
    mean, error = mean_and_error(np.asarray(values))
    return mean / error


def counts(name, lg, K=4, M=3, L=3):
    """K, M and L where the row leaves them free."""
    row = METHODS[name]
    return dict(
        K=K if row.K.free else 0,
        M=M if row.M.free else 1,
        L=L if lg is HIERARCHICAL and row.L.free else 1,
    )


# -- The oracle on linear-Gaussian models ------------------------------------------------


def log_normal(value, mean, cov):
    """SciPy's log N(value; mean, cov) `[..., D] -> [...]`."""
    centred = np.asarray(value - mean)
    log_prob = scipy.stats.multivariate_normal(np.zeros(len(cov)), cov).logpdf(centred)
    return np.reshape(log_prob, centred.shape[:-1])


class GaussianOracle:
    """A row of the table on a `LinearGaussian`, by its formula and in the open."""

    def __init__(self, lg, name):
        self.lg, self.tau, self.zeta_by = lg, *PROPOSED_BY[name]
        self.name, self.hierarchical_prior = name, lg is HIERARCHICAL

    def inverse(self, inverse, centred_z):
        """Mean and covariance of tau or rho: off by a shift and a stretch."""
        scale = inverse.stretch * np.sqrt(np.diag(inverse.cov))
        return centred_z @ inverse.map.T + inverse.shift, scale

    def draw(self, x, K, M, L, rng):
        lg, B = self.lg, len(x)

        def noise(*shape):
            return rng.normal(size=(*shape, B, 2))

        def drawn_from_mixture(mean, scale, n):
            """`[M, B, 2]` -> `[n, 1, B, 2]`, each of the component of a random z."""
            which = rng.integers(M, size=(n, B))
            return (mean[which, np.arange(B)] + scale * noise(n))[:, None]

        psi_0 = noise(M)
        z = x @ lg.A.T + (lg.d * noise(M) if self.tau is None else psi_0 @ lg.C.T + lg.d * noise(M))
        if self.tau == "tau":
            mean, scale = self.inverse(lg.inverse, z - x @ lg.A.T)
            psi = mean + scale * noise(K, M)
        elif self.tau == "tau mixture":
            mean, scale = self.inverse(lg.inverse, z - x @ lg.A.T)
            psi = np.repeat(drawn_from_mixture(mean, scale, K), M, axis=1)
        elif self.name == "sivi-equicomp":
            psi = np.repeat(noise(K, 1), M, axis=1)
        elif self.name == "sivi-equisample":
            psi = np.repeat(noise(M * K, 1), M, axis=1)
        else:
            psi = noise(K, M)
        zeta = psi_0[None] if self.zeta_by == "psi_0" else noise(L, M)
        if self.hierarchical_prior and self.zeta_by == "rho":
            mean, scale = self.inverse(lg.rho, z)
            zeta = mean + scale * zeta
        if self.hierarchical_prior and self.zeta_by == "rho mixture":
            zeta = np.repeat(drawn_from_mixture(*self.inverse(lg.rho, z), L), M, axis=1)
        return z, np.concatenate([psi_0[None], psi]), zeta

    def log_mixture(self, values, mean, scale):
        """Log of the mean density of M components `[M, B, 2]` at values `[N, M', B, 2]`."""
        of_each = [log_normal(values, component, np.diag(scale**2)) for component in mean]
        return np.log(np.mean(np.exp(of_each), axis=0))

    def bound(self, x, z, psi, zeta):
        """Z `[M, B, 2]`, psi `[K+1, M, B, 2]` and zeta `[L, M, B, 2]` -> `[B]`."""
        lg, unit, log_prior = self.lg, np.eye(2), log_normal(z, 0.0, np.eye(2))
        if self.tau is None:
            log_q = log_normal(z, x @ lg.A.T, np.diag(lg.d**2))
        else:
            beta = log_normal(z, x @ lg.A.T + psi @ lg.C.T, np.diag(lg.d**2))
            if self.tau == "tau":
                mean, scale = self.inverse(lg.inverse, z - x @ lg.A.T)
                beta += log_normal(psi, 0.0, unit) - log_normal(psi, mean, np.diag(scale**2))
            if self.tau == "tau mixture":
                mean, scale = self.inverse(lg.inverse, z - x @ lg.A.T)
                beta += log_normal(psi, 0.0, unit) - self.log_mixture(psi, mean, scale)
            log_q = np.log(np.mean(np.exp(beta), axis=0))
        if self.hierarchical_prior:
            terms = log_normal(z, zeta @ lg.G.T, lg.g**2 * unit)
            if self.zeta_by == "rho":
                mean, scale = self.inverse(lg.rho, z)
                terms += log_normal(zeta, 0.0, unit) - log_normal(zeta, mean, np.diag(scale**2))
            if self.zeta_by == "rho mixture":
                of_rho = self.log_mixture(zeta, *self.inverse(lg.rho, z))
                terms += log_normal(zeta, 0.0, unit) - of_rho
            log_prior = np.log(np.mean(np.exp(terms), axis=0))
        log_likelihood = log_normal(x, z @ lg.W.T + lg.b, lg.s**2 * np.eye(3))
        return np.log(np.mean(np.exp(log_likelihood + log_prior - log_q), axis=0))


def package_draw(lg, name, x, seed, K, M, L):
    """The package's draw and log-densities."""
    row = METHODS[name]
    sample = sampling.draw(lg.model, row, x, Counts(K=K, M=M, L=L), tf.constant(seed))
    return sample, densities_lib.log_densities(lg.model, row, x, sample)


def on_the_same_draws(name, lg, seed):
    """The package's bound `[B]` and the oracle's on that very draw."""
    x, n = lg.observations(50), counts(name, lg)
    sample, d = package_draw(lg, name, x, [seed, 1], **n)
    z, psi = sample.z.numpy(), None
    if sample.psi is not None:
        shared = np.broadcast_to(sample.psi, (len(sample.psi), *z.shape[:2], 2))
        psi = np.concatenate([sample.psi_0.numpy()[None], shared])
    zeta = sample.zeta
    if zeta is not None:
        zeta = np.broadcast_to(zeta, (len(zeta), *z.shape[:2], 2))
    return bounds.bound(d).numpy(), GaussianOracle(lg, name).bound(x, z, psi, zeta)


@functools.cache
def on_draws_of_its_own(name, lg, seed, n=20_000):
    """Bounds of one observation: the package's `[n]`, the oracle's `[n]`; log p(x)."""
    x, number = np.repeat(lg.observations(1), n, axis=0), counts(name, lg)
    _, d = package_draw(lg, name, x, [seed, 2], **number)
    oracle = GaussianOracle(lg, name)
    drawn = oracle.draw(x, **number, rng=np.random.default_rng([seed, 3]))
    return bounds.bound(d).numpy(), oracle.bound(x, *drawn), lg.log_evidence(x[:1])[0]


@every_row
def test_value_is_the_naive_formula_on_the_same_draws(name, lg, seed):
    found, expected = on_the_same_draws(name, lg, seed)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@every_row
def test_mean_is_the_oracles_and_below_the_evidence(name, lg, seed):
    found, oracle, log_evidence = on_draws_of_its_own(name, lg, seed)
    (mean, error), (expected, its_error) = mean_and_error(found), mean_and_error(oracle)
    assert abs(mean - expected) < 5.0 * np.hypot(error, its_error)
    assert mean + 5.0 * error < log_evidence
    # The mean of exp is p(x) itself; heavy tails at K = M = 1 are left to the discrete toy.


# -- Monotone in K, L and M --------------------------------------------------------------

STEPS = {"K": (0, 1, 4, 12), "L": (1, 3, 9), "M": (1, 2, 6)}


def subset(d, name, K, M, L):
    """The log-densities of fewer draws of the same."""
    n = M * K if name == "sivi-equisample" else K

    def of_q(array):
        return array[: n + 1, :M]

    return LogDensities(
        d.log_likelihood[:M], d.log_prior[:L, :M], *map(of_q, (d.log_q_z, d.log_q_psi, d.log_tau))
    )


def free_axes(name, lg):
    row = METHODS[name]
    free = {"K": row.K.free, "L": row.L.free and lg is HIERARCHICAL, "M": row.M.free}
    return [axis for axis in "KLM" if free[axis]]


LADDERS = [(name, lg, axis) for name, lg in CASES for axis in free_axes(name, lg)]


@functools.cache
def ladder(name, lg, axis, seed, n=4_000):
    """The bounds `[n]` of nested subsets of one draw along an axis, the smallest first."""
    number = counts(name, lg, K=2, M=2, L=2)
    x = np.repeat(lg.observations(1), n, axis=0)
    _, d = package_draw(lg, name, x, [seed, 4], **{**number, axis: STEPS[axis][-1]})
    return [bounds.bound(subset(d, name, **{**number, axis: i})).numpy() for i in STEPS[axis]]


@pytest.mark.parametrize(
    ("name", "lg", "axis"),
    LADDERS,
    ids=[f"{n}-{'hierarchical' if m is HIERARCHICAL else 'explicit'}-{a}" for n, m, a in LADDERS],
)
def test_bound_rises_with_each_count(name, lg, axis, seed):
    """Paired differences on nested subsets of the same draws."""
    values = ladder(name, lg, axis, seed)
    for fewer, more in itertools.pairwise(values):
        assert z_of_mean(more - fewer) > 5.0
    mean, error = mean_and_error(values[-1])
    assert mean < lg.log_evidence(lg.observations(1))[0] - 5.0 * error


# -- Exactness with the true inverses ----------------------------------------------------


@pytest.mark.parametrize("name", ["hvm", "iwhvi", "diwhvi"])
def test_with_the_true_tau_and_rho_no_count_but_m_matters(name, seed):
    """U_K = log q(z|x) and P_L = log p(z) whatever was drawn: zero variance given z."""
    lg = HierarchicalPrior()
    x = lg.observations(5)
    number = {**counts(name, lg), "L": 3}
    sample, d = package_draw(lg, name, x, [seed, 5], **number)
    z = sample.z.numpy()
    exact = lg.log_likelihood_and_prior(z, x) - lg.log_q_z(z, x)
    np.testing.assert_allclose(bounds.outer_log_weights(d), exact, rtol=1e-9)
    fewer = bounds.outer_log_weights(subset(d, name, K=0, M=number["M"], L=1))
    np.testing.assert_allclose(fewer, exact, rtol=1e-9)


# -- The discrete toy, without chance ----------------------------------------------------

TOYS = {False: Discrete(), True: Discrete(hierarchical_prior=True)}
# Along each axis, what the other two are.
DISCRETE_STEPS = {
    "K": (dict(M=2, L=1), (0, 1, 2)),
    "L": (dict(K=1, M=1), (1, 2, 3, 4)),
    "M": (dict(K=1, L=1), (1, 2)),
}


NO_X = tf.zeros([1, 1])  # which the toy does not look at


@functools.cache
def discrete_expectations(name, hierarchical_prior, K, M, L):
    """E exp(bound), E bound and the total probability, over every possible draw."""
    toy, row = TOYS[hierarchical_prior], METHODS[name]
    sample, probability = toy.outcomes(row, K, M, L)
    value = bounds.bound(densities_lib.log_densities(toy.model, row, NO_X, sample)).numpy()
    return probability @ np.exp(value), probability @ value, probability.sum()


def discrete_ladder(name, hierarchical_prior, axis):
    """The exact expectations along one axis."""
    row = METHODS[name]
    others, steps = DISCRETE_STEPS[axis]
    if "K" in others and not row.K.free:
        others = {**others, "K": 0}
    if "M" in others and not row.M.free:
        others = {**others, "M": 1}
    return [discrete_expectations(name, hierarchical_prior, **others, **{axis: i}) for i in steps]


def discrete_cases():
    """Each row under each prior, along each axis that is free, or along none."""
    for name, lg in CASES:
        hierarchical = lg is HIERARCHICAL
        for axis in free_axes(name, lg) or [None]:
            yield name, hierarchical, axis


def discrete_values(name, hierarchical_prior, axis):
    if axis is None:
        return [discrete_expectations(name, hierarchical_prior, K=0, M=1, L=1)]
    return discrete_ladder(name, hierarchical_prior, axis)


@pytest.mark.parametrize(("name", "hierarchical_prior", "axis"), list(discrete_cases()))
def test_every_outcome_of_a_discrete_toy(name, hierarchical_prior, axis):
    """E exp(bound) = p(x), bound <= log p(x), and non-decreasing, all exactly."""
    values = discrete_values(name, hierarchical_prior, axis)
    log_evidence = TOYS[hierarchical_prior].log_evidence
    for exp_bound, bound, total in values:
        np.testing.assert_allclose(total, 1.0, rtol=1e-12)
        np.testing.assert_allclose(exp_bound, np.exp(log_evidence), rtol=1e-12)
        assert bound < log_evidence - 1e-4
    for (_, fewer, _), (_, more, _) in itertools.pairwise(values):
        assert more > fewer + 1e-5


# -- Gradient noise ----------------------------------------------------------------------


def signal_to_noise(gradients):
    """Mean over parameters of |mean| / standard deviation, over replicates."""
    spread = gradients.std(axis=0)
    moving = spread > 1e-12
    return np.mean(np.abs(gradients.mean(axis=0))[moving] / spread[moving])


@functools.cache
def snr(name, estimators, group, seed, replicates=4_000, **number):
    """One value per estimator, on the same draws."""
    found = replicate_gradients(estimators, name, replicates=replicates, seed=seed, **number)
    return [signal_to_noise(getattr(found[e], group)) for e in estimators]


@pytest.mark.long
def test_signal_to_noise_where_theory_foretells_it(seed):
    """Rainforth et al. 2018: more samples, a tighter bound, a noisier plain gradient.

    The doubly reparameterized one is better at every count. It need not improve with it:
    its coefficients w^2 ask for a fourth moment that these weights have not.
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
    assert many[1] < few[1]  # the term of psi_0 keeps the noise of a score
    assert many[2] > 1.2 * few[2]  # and without it (appendix D.2) there is signal, but bias


# -- The jackknife on draws --------------------------------------------------------------


@functools.cache
def jackknife_errors(K, seed, n=40_000):
    """Estimates minus log q(z) `[3, n]` for J = 0, 1, 2 on a Laplace scale mixture."""
    q: Hierarchy = laplace(2, "gamma", rate=1.5)
    z, psi_0 = q.sample(n, tf.constant([seed, 6]))
    psi = q.inverse(z).sample(K, seed=tf.constant([seed, 7]))
    beta = log_ratios(q, z, tf.concat([psi_0[None], psi], axis=0))
    exact = np.sum(-np.abs(z) - np.log(2.0), axis=-1)
    return np.stack([jackknife.jackknife(beta, order).numpy() - exact for order in range(3)])


def test_jackknife_removes_bias_on_a_laplace(seed):
    plain, first, second = map(mean_and_error, jackknife_errors(4, seed))
    assert plain[0] > 20.0 * plain[1]
    assert abs(first[0]) + 5.0 * first[1] < 0.5 * plain[0]
    assert abs(second[0]) + 5.0 * second[1] < 0.5 * plain[0]
