"""Closed-form models that every bound and estimator is held against, in float64.

LinearGaussian:
    p(z) = N(0, I),  p(x|z) = N(W z + b, s^2 I)
    q(psi|x) = N(0, I),  q(z|psi,x) = N(A x + C psi, diag(d^2))
HierarchicalPrior, the same with
    p(zeta) = N(0, I),  p(z|zeta) = N(G zeta, g^2 I)
laplace: Laplace(0, 1) in D dimensions as Normal(0, variance psi), psi ~ Exponential(1/2)
Discrete: all variables take a few values and every expectation is a finite sum
"""

import itertools

import numpy as np
import scipy.stats
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from hvi_tf.inference.model import Hierarchy, LatentSample, LocalModel, Model


def normal(loc, scale):
    return tfd.Independent(tfd.Normal(loc, scale), 1)


def standard_normal(dim):
    return normal(tf.zeros(dim, tf.float64), tf.ones(dim, tf.float64))


class GaussianInverse:
    """q(psi|z) of psi ~ N(0, I), z ~ N(mean + C psi, diag(d^2)), exact or off by some."""

    def __init__(self, C, d, shift=0.0, stretch=1.0):
        precision = np.eye(C.shape[1]) + C.T @ np.diag(d**-2) @ C
        self.cov = np.linalg.inv(precision)
        self.map = self.cov @ C.T @ np.diag(d**-2)
        self.shift, self.stretch = shift, stretch

    def __call__(self, centred_z):
        mean = tf.linalg.matvec(self.map, centred_z)
        if self.shift == 0.0 and self.stretch == 1.0:
            return tfd.MultivariateNormalTriL(mean, np.linalg.cholesky(self.cov))
        scale = self.stretch * np.sqrt(np.diag(self.cov))
        return normal(mean + self.shift, tf.broadcast_to(scale, tf.shape(mean)))


class LinearGaussian:
    """All densities known; `tau` is off by `tau_shift` from the true q(psi|z,x)."""

    def __init__(self, x_dim=3, z_dim=2, psi_dim=2, seed=1, tau_shift=0.0, tau_stretch=1.0):
        rng = np.random.default_rng(seed)
        self.W = rng.normal(size=(x_dim, z_dim))
        self.b = rng.normal(size=x_dim)
        self.s = 0.8
        self.A = 0.3 * rng.normal(size=(z_dim, x_dim))
        self.C = 0.7 * rng.normal(size=(z_dim, psi_dim))
        self.d = 0.4 + 0.3 * rng.random(z_dim)
        self.inverse = GaussianInverse(self.C, self.d, tau_shift, tau_stretch)
        self.psi_dim, self.z_dim = psi_dim, z_dim

    def tau(self, z, x):
        return self.inverse(z - tf.linalg.matvec(self.A, x))

    def mixing(self, x):
        zeros = tf.zeros([tf.shape(x)[0], self.psi_dim], tf.float64)
        return normal(zeros, tf.ones_like(zeros))

    def conditional(self, psi, x):
        if psi is None:  # the explicit posterior of the same mean and noise
            return normal(tf.linalg.matvec(self.A, x), tf.constant(self.d))
        mean = tf.linalg.matvec(self.A, x) + tf.linalg.matvec(self.C, psi)
        return normal(mean, tf.constant(self.d))

    def likelihood(self, z):
        mean = tf.linalg.matvec(self.W, z) + self.b
        return normal(mean, tf.constant(self.s, tf.float64))

    def proposal(self, x):
        """q(z|x) of one observation `[Dx]`."""
        mean = self.A @ x

        def conditional(psi):
            return normal(mean + tf.linalg.matvec(self.C, psi), tf.constant(self.d))

        return Hierarchy(
            standard_normal(self.psi_dim), conditional, lambda z: self.inverse(z - mean)
        )

    @property
    def prior(self):
        return standard_normal(self.z_dim)

    @property
    def prior_cov(self):
        return np.eye(self.z_dim)

    @property
    def model(self):
        return Model(self.prior, self.likelihood, self.conditional, self.mixing, self.tau)

    def log_evidence(self, x):
        """Log p(x), exactly."""
        cov = self.W @ self.prior_cov @ self.W.T + self.s**2 * np.eye(len(self.b))
        return np.atleast_1d(scipy.stats.multivariate_normal(self.b, cov).logpdf(x))

    @property
    def q_cov(self):
        return self.C @ self.C.T + np.diag(self.d**2)

    def log_q_z(self, z, x):
        """Log q(z|x), exactly. z `[M, B, Dz]`, x `[B, Dx]`."""
        mean = x @ self.A.T
        log_q = scipy.stats.multivariate_normal(np.zeros(self.z_dim), self.q_cov).logpdf(z - mean)
        return log_q.reshape(z.shape[:-1])  # SciPy drops axes of length 1

    def log_likelihood_and_prior(self, z, x):
        """Log p(x|z) + log p(z), exactly. z `[M, B, Dz]`, x `[B, Dx]`."""
        log_p_z = scipy.stats.multivariate_normal(np.zeros(self.z_dim), self.prior_cov).logpdf(z)
        error = (x - z @ self.W.T - self.b) / self.s
        log_likelihood = scipy.stats.norm.logpdf(error) - np.log(self.s)
        return log_likelihood.sum(axis=-1) + log_p_z.reshape(z.shape[:-1])

    def observations(self, count, seed=2):
        return np.random.default_rng(seed).normal(size=(count, len(self.b)))


class Refinable(LinearGaussian):
    """W has orthogonal columns, so a diagonal Gaussian can be the exact posterior.

    lambda is that Gaussian's mean and log-variance; around a hierarchical proposal, a shift
    of the mean and log-variance of q(z|psi,x).
    """

    def __init__(self, hierarchical=False, **values):
        super().__init__(**values)
        self.W = 1.3 * np.linalg.qr(self.W)[0]
        self.hierarchical = hierarchical

    def localize(self, x):
        mean = tf.linalg.matvec(self.A, x)
        log_variance = tf.broadcast_to(2.0 * np.log(self.d), tf.shape(mean))
        start = tf.concat([mean, log_variance], axis=-1)

        def explicit(lam):
            return self.model._replace(conditional=lambda psi, x: _from_moments(lam))

        def shifted(shift):
            def conditional(psi, x):
                psi_shift = tf.linalg.matvec(self.C, psi)
                moments = tf.concat([psi_shift, tf.zeros_like(psi_shift)], axis=-1)
                return _from_moments(moments + start + shift)

            return self.model._replace(
                conditional=conditional,
                tau=lambda z, x: self.tau(z - shift[..., : self.z_dim], x),
            )

        if self.hierarchical:
            return LocalModel(tf.zeros_like(start), shifted)
        return LocalModel(start, explicit)

    def posterior(self, x):
        """Mean `[B, Dz]` and variance `[Dz]` of p(z|x)."""
        variance = 1.0 / (1.0 + np.sum(self.W**2, axis=0) / self.s**2)
        return variance * ((x - self.b) @ self.W) / self.s**2, variance


def _from_moments(moments):
    mean, log_variance = tf.split(moments, 2, axis=-1)
    return normal(mean, tf.exp(0.5 * log_variance))


class HierarchicalPrior(LinearGaussian):
    """A hierarchical linear-Gaussian prior; `rho` is off by `rho_shift` from p(zeta|z)."""

    def __init__(self, zeta_dim=2, rho_shift=0.0, rho_stretch=1.0, **values):
        super().__init__(**values)
        rng = np.random.default_rng(11)
        self.G = 0.8 * rng.normal(size=(self.z_dim, zeta_dim))
        self.g = 0.7
        noise = np.full(self.z_dim, self.g)
        self.rho = GaussianInverse(self.G, noise, rho_shift, rho_stretch)
        self.true_rho = GaussianInverse(self.G, noise)
        self.zeta_dim = zeta_dim

    @property
    def prior(self):
        def conditional(zeta):
            return normal(tf.linalg.matvec(self.G, zeta), tf.constant(self.g, tf.float64))

        return Hierarchy(standard_normal(self.zeta_dim), conditional, self.rho)

    @property
    def prior_cov(self):
        return self.G @ self.G.T + self.g**2 * np.eye(self.z_dim)


def gaussian_kl(mean_q, cov_q, mean_p, cov_p):
    """KL(N(mean_q, cov_q) || N(mean_p, cov_p)), nats."""
    precision = np.linalg.inv(cov_p)
    gap = mean_p - mean_q
    log_det = np.linalg.slogdet(cov_p)[1] - np.linalg.slogdet(cov_q)[1]
    return 0.5 * (np.trace(precision @ cov_q) + gap @ precision @ gap - len(gap) + log_det)


def laplace(dim, tau="exact", rate=1.0):
    """Laplace(0, 1)^dim as a scale mixture; its entropy is dim (1 + log 2) nats.

    The true q(psi|z) is the reciprocal of an inverse Gaussian. `tau="gamma"` is a Gamma
    around it, of relative rate `rate`.
    """
    zeros, half = tf.zeros(dim, tf.float64), tf.constant(0.5, tf.float64)
    mixing = tfd.Independent(tfd.Exponential(tf.fill([dim], half)), 1)

    def exact(z):
        inverse_gaussian = tfd.InverseGaussian(1.0 / tf.abs(z), tf.ones_like(z))
        return tfd.Independent(tfd.TransformedDistribution(inverse_gaussian, tfb.Reciprocal()), 1)

    def gamma(z):
        # Mean and variance of the true inverse: 1 + |z| and 2 + |z|.
        mean, variance = 1.0 + tf.abs(z), rate * (2.0 + tf.abs(z))
        return tfd.Independent(tfd.Gamma(mean**2 / variance, mean / variance), 1)

    inverse = {"exact": exact, "gamma": gamma, "prior": lambda z: mixing}[tau]
    return Hierarchy(mixing, lambda psi: normal(zeros, tf.sqrt(psi)), inverse)


class Discrete:
    """Every variable is one-hot; expectations over all outcomes are exact sums."""

    def __init__(self, z_values=3, psi_values=2, zeta_values=2, seed=3, hierarchical_prior=False):
        rng = np.random.default_rng(seed)

        def table(*shape):
            return rng.dirichlet(np.full(shape[-1], 1.5), size=shape[:-1])

        self.q_psi = table(psi_values)
        self.q_z = table(psi_values, z_values)  # q(z|psi)
        self.tau_table = table(z_values, psi_values)  # tau(psi|z)
        self.p_zeta = table(zeta_values)
        self.p_z_given_zeta = table(zeta_values, z_values)
        self.rho_table = table(z_values, zeta_values)  # rho(zeta|z)
        self.likelihood_of = rng.uniform(0.1, 0.9, size=z_values)  # p(x|z) of the one x
        self.hierarchical_prior = hierarchical_prior
        self.p_z = self.p_zeta @ self.p_z_given_zeta

    @property
    def model(self):
        def lookup(table, one_hot):
            return tfd.OneHotCategorical(probs=tf.tensordot(one_hot, table, 1), dtype=tf.float64)

        def one_hot(probs):
            # A NumPy array would be taken for float32.
            return tfd.OneHotCategorical(probs=tf.constant(probs), dtype=tf.float64)

        if self.hierarchical_prior:
            prior = Hierarchy(
                one_hot(self.p_zeta),
                lambda zeta: lookup(self.p_z_given_zeta, zeta),
                lambda z: lookup(self.rho_table, z),
            )
        else:
            prior = one_hot(self.p_z)
        return Model(
            prior,
            likelihood=lambda z: _Constant(tf.linalg.matvec(z, tf.math.log(self.likelihood_of))),
            conditional=lambda psi, x: (
                one_hot(self.q_psi @ self.q_z) if psi is None else lookup(self.q_z, psi)
            ),
            mixing=lambda x: one_hot(self.q_psi),
            tau=lambda z, x: lookup(self.tau_table, z),
        )

    @property
    def proposal(self):
        model = self.model
        return Hierarchy(
            model.mixing(None),
            lambda psi: model.conditional(psi, None),
            lambda z: model.tau(z, None),
        )

    @property
    def log_evidence(self):
        return np.log(self.p_z @ self.likelihood_of)

    @property
    def log_q(self):
        """Log q(z) of each value."""
        return np.log(self.q_psi @ self.q_z)

    def outcomes(self, method, K, M, L=1):
        """Every possible draw of a row as one batch `[B]`, and its probability `[B]`."""
        psi, z, zeta = len(self.q_psi), self.q_z.shape[1], len(self.p_zeta)
        L = L if self.hierarchical_prior and not method.zeta_is_psi_0 else 0
        own_psi, shared_psi = (
            (K, 0) if not method.shares_psi else (0, M * K if method.shared == "MK" else K)
        )
        own_zeta, shared_zeta = (0, L) if method.shares_zeta else (L, 0)
        one_z = list(
            itertools.product(
                *(range(psi), range(z), *[range(psi)] * own_psi, *[range(zeta)] * own_zeta)
            )
        )
        common = itertools.product(*[range(psi)] * shared_psi, *[range(zeta)] * shared_zeta)
        rows, probs = [], []
        for draws in itertools.product(*[one_z] * M, list(common)):
            *per_z, shared = draws
            rows.append((per_z, shared))
            of_psi, of_zeta = self._mixtures(method, [d[1] for d in per_z])
            probs.append(
                np.prod([self._probability(method, own_psi, *d) for d in per_z])
                * np.prod([of_psi[i] for i in shared[:shared_psi]])
                * np.prod([of_zeta[i] for i in shared[shared_psi:]])
            )
        eye = np.eye

        def stack(index, values):
            return np.array([[eye(values)[d[index]] for d in per_z] for per_z, _ in rows])

        def stack_shared(first, count, values):
            drawn = np.array([eye(values)[list(c[first : first + count])] for _, c in rows])
            return drawn.transpose(1, 0, 2)[:, None]  # [count, 1, B, values]

        def stack_own(first, count, values):
            drawn = [stack(first + i, values).transpose(1, 0, 2) for i in range(count)]
            return np.reshape(drawn, (count, M, len(rows), values))

        psi_k = stack_shared(0, shared_psi, psi) if shared_psi else stack_own(2, own_psi, psi)
        if shared_zeta:
            zetas = stack_shared(shared_psi, shared_zeta, zeta)
        else:
            zetas = stack_own(2 + own_psi, own_zeta, zeta)
        sample = LatentSample(
            z=tf.constant(stack(1, z).transpose(1, 0, 2)),
            psi_0=tf.constant(stack(0, psi).transpose(1, 0, 2)),
            psi=tf.constant(psi_k),
            zeta=tf.constant(zetas) if L else None,
        )
        if method.zeta_is_psi_0:
            sample = sample._replace(zeta=sample.psi_0[tf.newaxis])
        if not method.hierarchical:  # the outcomes of psi_0 add up to those of q(z)
            sample = sample._replace(psi_0=None, psi=None)
        return sample, np.array(probs)

    def _mixtures(self, method, z):
        """The probabilities of a shared psi and of a shared zeta, given all z."""
        of_psi = self.q_psi
        if method.mixes:
            own = np.mean(self.tau_table[z], axis=0)
            of_psi = (1.0 - method.defensive) * own + method.defensive * self.q_psi
        return of_psi, np.mean(self.rho_table[z], axis=0)

    def _probability(self, method, K, psi_0, z, *rest):
        inverse = self.tau_table[z] if method.has_own_tau else self.q_psi
        outer = self.rho_table[z] if method.zeta == "rho" else self.p_zeta
        result = self.q_psi[psi_0] * self.q_z[psi_0, z]
        result *= np.prod([inverse[k] for k in rest[:K]])
        return result * np.prod([outer[i] for i in rest[K:]])


class _Constant:
    """A likelihood of the one observation there is."""

    def __init__(self, value):
        self.value = value

    def log_prob(self, x):
        return self.value
