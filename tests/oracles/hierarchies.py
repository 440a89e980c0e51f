"""Hierarchies with known log-densities, KL divergences and mutual information.

The oracles use only NumPy and SciPy, and they make their own draws.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import jackknife
from hvi_tf.inference import hmc, sandwich
from hvi_tf.inference.model import Hierarchy
from tests.oracles.analytic import HierarchicalPrior, laplace
from tests.oracles.closed_forms import log_normal

DIM = 2
OFF = dict(tau_shift=0.4, tau_stretch=1.2)
LG = HierarchicalPrior(rho_shift=0.4, rho_stretch=1.2, **OFF)
TRUE = HierarchicalPrior()
X = LG.observations(1)[0]


class Oracle(NamedTuple):
    """A hierarchy in NumPy, for psi `[..., n, D]` and z `[n, D]`."""

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
    """Returns the oracle of psi ~ N(0, I), z ~ N(mean + C psi, diag(d^2))."""
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
    """Returns the oracle of `analytic.laplace(DIM, "gamma", rate)`."""

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


class Case(NamedTuple):
    """A hierarchy with an approximate tau, with the true tau, and its exact values."""

    q: Hierarchy
    exact: Hierarchy
    oracle: Oracle
    log_density: Callable[..., Any]  # z [n, D] -> [n]
    information: float  # I(z; psi), nats


# Narrower than the true inverse. From 1/4 on, E psi^-2 is infinite for some z, and with it
# the variance of L_1: log q(z|psi) is about -z^2 / (2 psi) for a small psi.
RATE = 0.2


def laplace_log_density(z):
    return np.sum(-np.abs(z) - np.log(2.0), axis=-1)


# H(z) - H(z|psi), where E log psi = log 2 - Euler's constant.
LAPLACE_INFORMATION = DIM * (
    1.0 + np.log(2.0) - 0.5 * np.log(2.0 * np.pi * np.e) - 0.5 * (np.log(2.0) - np.euler_gamma)
)


def log_det_information(cov, noise):
    """Returns I(z; psi) of Gaussians."""
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

RUNGS = ("L_1", "L_4", "L_16", "log q(z)", "U_16", "U_4", "U_1", "U_0")


@functools.cache
def marginal_ladder(name, seed, n=20_000):
    """Returns bounds on log q(z) `[n]` on nested subsets of one draw, in the order of `RUNGS`."""
    case = CASES[name]
    z, psi_0 = case.q.sample(n, tf.constant([seed, 1]))
    psi = case.q.inverse(z).sample(16, seed=tf.constant([seed, 2]))
    beta = sandwich.log_ratios(case.q, z, tf.concat([psi_0[None], psi], axis=0))
    lower = [bounds.log_marginal_lower(beta[1 : K + 1]) for K in (1, 4, 16)]
    upper = [bounds.log_marginal_upper(beta[: K + 1]) for K in (16, 4, 1, 0)]
    return np.stack([*lower, case.log_density(z.numpy()), *upper])


@functools.cache
def marginal_means(name, K, seed, n=20_000):
    """Returns U_K of the package and the oracle, then L_K of both, minus log q(z), each `[n]`."""
    case, rng = CASES[name], np.random.default_rng([seed, 3])
    z, psi_0 = case.q.sample(n, tf.constant([seed, 4]))
    upper = sandwich.log_density_upper(case.q, z, psi_0, K=K, seed=tf.constant([seed, 5]))
    lower = sandwich.log_density_lower(case.q, z, K=K, seed=tf.constant([seed, 6]))
    truth = case.log_density(z.numpy())
    z, psi_0 = case.oracle.draw(rng, n)
    oracle_truth = case.log_density(z)
    oracle_upper = case.oracle.upper(rng, z, psi_0, K) - oracle_truth
    return upper - truth, oracle_upper, lower - truth, case.oracle.lower(rng, z, K) - oracle_truth


@functools.cache
def information_ladder(name, seed, n=20_000):
    """Returns both lower ends, then both upper ends `[4, n]`, on the same draws of z."""
    loose, tight = (
        sandwich.mutual_information(CASES[name].q, n=n, K=K, seed=tf.constant([seed, 1]))
        for K in (1, 8)
    )
    return np.stack([loose.lower, tight.lower, tight.upper, loose.upper])


def draw_hmc(q, z, seed, **options):
    return tf.function(hmc.hmc_posterior(q, **options))(z, seed)


@functools.cache
def hmc_ranks(name, seed, n=1_500, with_inverse=True):
    """Returns the posterior distribution function at each draw `[n D]`, uniform if exact."""
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


@functools.cache
def jackknife_errors(K, seed, n=40_000):
    """Returns estimates minus log q(z) `[3, n]` of orders 0, 1, 2, for a Laplace q."""
    q = laplace(2, "gamma", rate=1.5)
    z, psi_0 = q.sample(n, tf.constant([seed, 6]))
    psi = q.inverse(z).sample(K, seed=tf.constant([seed, 7]))
    beta = sandwich.log_ratios(q, z, tf.concat([psi_0[None], psi], axis=0))
    exact = np.sum(-np.abs(z) - np.log(2.0), axis=-1)
    return np.stack([jackknife.jackknife(beta, order).numpy() - exact for order in range(3)])
