"""Every method of METHODS on linear-Gaussian models, next to its naive formula in NumPy."""

import functools
import itertools

import numpy as np
import scipy.stats
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import LogDensities
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import sampling
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS
from tests.oracles.analytic import HierarchicalPrior, LinearGaussian

# The densities that propose psi_1:K and zeta_1:L in each method.
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
CASES = [  # test_svi.py has the methods with an inner SVI loop
    (name, model)
    for name, model in itertools.product(PROPOSED_BY, (EXPLICIT, HIERARCHICAL))
    if model is HIERARCHICAL or not METHODS[name].needs_hierarchical_prior
]


def counts(name, lg, K=4, M=3, L=3):
    """Returns the counts, with the fixed value of each that the method fixes."""
    method = METHODS[name]
    return Counts(
        K=K if method.K.free else 0,
        M=M if method.M.free else 1,
        L=L if lg is HIERARCHICAL and method.L.free else 1,
    )


def log_normal(value, mean, cov):
    """Returns log N(value; mean, cov) by SciPy, `[..., D] -> [...]`."""
    centred = np.asarray(value - mean)
    log_prob = scipy.stats.multivariate_normal(np.zeros(len(cov)), cov).logpdf(centred)
    return np.reshape(log_prob, centred.shape[:-1])


class GaussianOracle:
    """The bound of one method on a `LinearGaussian`, by its naive formula."""

    def __init__(self, lg, name):
        self.lg, self.tau, self.zeta_by = lg, *PROPOSED_BY[name]
        self.name, self.hierarchical_prior = name, lg is HIERARCHICAL

    def inverse(self, inverse, centered_z):
        """Returns the mean and the scale of tau or rho."""
        scale = inverse.stretch * np.sqrt(np.diag(inverse.cov))
        return centered_z @ inverse.map.T + inverse.shift, scale

    def tau_of(self, x, z):
        """Returns the mean and the scale of tau(psi|z,x)."""
        return self.inverse(self.lg.inverse, z - x @ self.lg.A.T)

    def draw(self, x, counts, rng):
        """Draws z `[M, B, 2]`, psi `[K+1, M, B, 2]` and zeta `[L, M, B, 2]`."""
        lg, B = self.lg, len(x)
        K, M, L = counts

        def noise(*shape):
            return rng.normal(size=(*shape, B, 2))

        def drawn_from_mixture(mean, scale, n):
            """Draws `[n, 1, B, 2]` from the components `[M, B, 2]` of random z."""
            which = rng.integers(M, size=(n, B))
            return (mean[which, np.arange(B)] + scale * noise(n))[:, None]

        psi_0 = noise(M)
        z = x @ lg.A.T + (lg.d * noise(M) if self.tau is None else psi_0 @ lg.C.T + lg.d * noise(M))
        mean, scale = self.tau_of(x, z)
        if self.tau == "tau":
            psi = mean + scale * noise(K, M)
        elif self.tau == "tau mixture":
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
        """Returns the log of the mean density of M components, at values `[N, M', B, 2]`."""
        log_components = [log_normal(values, component, np.diag(scale**2)) for component in mean]
        return np.log(np.mean(np.exp(log_components), axis=0))

    def bound(self, x, z, psi, zeta):
        """Returns the bound `[B]` on the draws that `draw` describes."""
        lg, unit, log_prior = self.lg, np.eye(2), log_normal(z, 0.0, np.eye(2))
        if self.tau is None:
            log_q = log_normal(z, x @ lg.A.T, np.diag(lg.d**2))
        else:
            beta = log_normal(z, x @ lg.A.T + psi @ lg.C.T, np.diag(lg.d**2))
            mean, scale = self.tau_of(x, z)
            if self.tau == "tau":
                beta += log_normal(psi, 0.0, unit) - log_normal(psi, mean, np.diag(scale**2))
            if self.tau == "tau mixture":
                beta += log_normal(psi, 0.0, unit) - self.log_mixture(psi, mean, scale)
            log_q = np.log(np.mean(np.exp(beta), axis=0))
        if self.hierarchical_prior:
            terms = log_normal(z, zeta @ lg.G.T, lg.g**2 * unit)
            if self.zeta_by == "rho":
                mean, scale = self.inverse(lg.rho, z)
                terms += log_normal(zeta, 0.0, unit) - log_normal(zeta, mean, np.diag(scale**2))
            if self.zeta_by == "rho mixture":
                log_rho = self.log_mixture(zeta, *self.inverse(lg.rho, z))
                terms += log_normal(zeta, 0.0, unit) - log_rho
            log_prior = np.log(np.mean(np.exp(terms), axis=0))
        log_likelihood = log_normal(x, z @ lg.W.T + lg.b, lg.s**2 * np.eye(3))
        return np.log(np.mean(np.exp(log_likelihood + log_prior - log_q), axis=0))


def draw_and_score(lg, name, x, counts, seed):
    """Returns a draw of the package and its log-densities."""
    method = METHODS[name]
    sample = sampling.draw(lg.model, method, x, counts, tf.constant(seed))
    return sample, densities_lib.log_densities(lg.model, method, x, sample)


def on_the_same_draws(name, lg, seed):
    """Returns the bound `[B]` of the package, and of the oracle on the same draws."""
    x = lg.observations(50)
    sample, d = draw_and_score(lg, name, x, counts(name, lg), [seed, 1])
    z, psi = sample.z.numpy(), None
    if sample.psi is not None:
        shared = np.broadcast_to(sample.psi, (len(sample.psi), *z.shape[:2], 2))
        psi = np.concatenate([sample.psi_0.numpy()[None], shared])
    zeta = sample.zeta
    if zeta is not None:
        zeta = np.broadcast_to(zeta, (len(zeta), *z.shape[:2], 2))
    return bounds.bound(d).numpy(), GaussianOracle(lg, name).bound(x, z, psi, zeta)


@functools.cache
def on_independent_draws(name, lg, seed, n=20_000):
    """Returns bounds of one observation and log p(x).

    The bounds of the package and of the oracle, each `[n]`, are on draws of their own.
    """
    x = np.repeat(lg.observations(1), n, axis=0)
    _, d = draw_and_score(lg, name, x, counts(name, lg), [seed, 2])
    oracle = GaussianOracle(lg, name)
    drawn = oracle.draw(x, counts(name, lg), np.random.default_rng([seed, 3]))
    return bounds.bound(d).numpy(), oracle.bound(x, *drawn), lg.log_evidence(x[:1])[0]


# The counts along each axis.
STEPS = {"K": (0, 1, 4, 12), "L": (1, 3, 9), "M": (1, 2, 6)}


def subset(d, name, counts):
    """Returns the log-densities of the first draws."""
    K, M, L = counts
    n = M * K if name == "sivi-equisample" else K

    def of_q(array):
        return array[: n + 1, :M]

    return LogDensities(
        d.log_likelihood[:M], d.log_prior[:L, :M], *map(of_q, (d.log_q_z, d.log_q_psi, d.log_tau))
    )


def free_axes(name, lg):
    """Returns the names of the counts that the method leaves free."""
    method = METHODS[name]
    free = {"K": method.K.free, "L": method.L.free and lg is HIERARCHICAL, "M": method.M.free}
    return [axis for axis in "KLM" if free[axis]]


LADDERS = [(name, lg, axis) for name, lg in CASES for axis in free_axes(name, lg)]


@functools.cache
def ladder(name, lg, axis, seed, n=4_000):
    """Returns bounds `[n]` on nested subsets of one draw along an axis, the smallest first."""
    steps = [counts(name, lg, K=2, M=2, L=2)._replace(**{axis: i}) for i in STEPS[axis]]
    x = np.repeat(lg.observations(1), n, axis=0)
    _, d = draw_and_score(lg, name, x, steps[-1], [seed, 4])
    return [bounds.bound(subset(d, name, step)).numpy() for step in steps]
