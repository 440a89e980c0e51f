"""Models with known densities and evidence, in float64.

LinearGaussian:
    p(z) = N(0, I),  p(x|z) = N(W z + b, s^2 I)
    q(psi|x) = N(0, I),  q(z|psi,x) = N(A x + C psi, diag(d^2))
HierarchicalPrior, the same with
    p(zeta) = N(0, I),  p(z|zeta) = N(G zeta, g^2 I)
laplace: Laplace(0, 1) in D dimensions as Normal(0, variance psi), psi ~ Exponential(1/2)
"""

import numpy as np
import scipy.stats
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from hvi_tf.inference.model import Hierarchy, LocalModel, Model


def normal(loc, scale):
    return tfd.Independent(tfd.Normal(loc, scale), 1)


def standard_normal(dim):
    return normal(tf.zeros(dim, tf.float64), tf.ones(dim, tf.float64))


class GaussianInverse:
    """q(psi|z) of psi ~ N(0, I), z ~ N(mean + C psi, diag(d^2)), shifted and stretched."""

    def __init__(self, C, d, shift=0.0, stretch=1.0):
        precision = np.eye(C.shape[1]) + C.T @ np.diag(d**-2) @ C
        self.cov = np.linalg.inv(precision)
        self.map = self.cov @ C.T @ np.diag(d**-2)
        self.shift, self.stretch = shift, stretch

    def __call__(self, centered_z):
        mean = tf.linalg.matvec(self.map, centered_z)
        if self.shift == 0.0 and self.stretch == 1.0:
            return tfd.MultivariateNormalTriL(mean, np.linalg.cholesky(self.cov))
        scale = self.stretch * np.sqrt(np.diag(self.cov))
        return normal(mean + self.shift, tf.broadcast_to(scale, tf.shape(mean)))


class LinearGaussian:
    """A model of known densities, whose tau is the true q(psi|z,x), shifted and stretched."""

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
        """Returns q(z|x) of one observation `[Dx]`."""
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
        """Returns the exact log p(x)."""
        cov = self.W @ self.prior_cov @ self.W.T + self.s**2 * np.eye(len(self.b))
        return np.atleast_1d(scipy.stats.multivariate_normal(self.b, cov).logpdf(x))

    @property
    def q_cov(self):
        return self.C @ self.C.T + np.diag(self.d**2)

    def log_q_z(self, z, x):
        """Returns the exact log q(z|x) for z `[M, B, Dz]` and x `[B, Dx]`."""
        mean = x @ self.A.T
        log_q = scipy.stats.multivariate_normal(np.zeros(self.z_dim), self.q_cov).logpdf(z - mean)
        return log_q.reshape(z.shape[:-1])  # SciPy drops axes of length 1

    def log_likelihood_and_prior(self, z, x):
        """Returns the exact log p(x|z) + log p(z) for z `[M, B, Dz]` and x `[B, Dx]`."""
        log_p_z = scipy.stats.multivariate_normal(np.zeros(self.z_dim), self.prior_cov).logpdf(z)
        error = (x - z @ self.W.T - self.b) / self.s
        log_likelihood = scipy.stats.norm.logpdf(error) - np.log(self.s)
        return log_likelihood.sum(axis=-1) + log_p_z.reshape(z.shape[:-1])

    def observations(self, count, seed=2):
        return np.random.default_rng(seed).normal(size=(count, len(self.b)))


class Refinable(LinearGaussian):
    """A model of orthogonal columns of W, so that a diagonal Gaussian is the exact posterior.

    lambda is the mean and the log-variance of that Gaussian. Around a hierarchical proposal,
    it shifts the mean and the log-variance of q(z|psi,x).
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
        """Returns the mean `[B, Dz]` and the variance `[Dz]` of p(z|x)."""
        variance = 1.0 / (1.0 + np.sum(self.W**2, axis=0) / self.s**2)
        return variance * ((x - self.b) @ self.W) / self.s**2, variance


def _from_moments(moments):
    mean, log_variance = tf.split(moments, 2, axis=-1)
    return normal(mean, tf.exp(0.5 * log_variance))


class HierarchicalPrior(LinearGaussian):
    """A hierarchical prior, whose rho is the true p(zeta|z), shifted and stretched."""

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
    """Returns KL(N(mean_q, cov_q) || N(mean_p, cov_p)), nats."""
    precision = np.linalg.inv(cov_p)
    gap = mean_p - mean_q
    log_det = np.linalg.slogdet(cov_p)[1] - np.linalg.slogdet(cov_q)[1]
    return 0.5 * (np.trace(precision @ cov_q) + gap @ precision @ gap - len(gap) + log_det)


def laplace(dim, tau="exact", rate=1.0):
    """Returns Laplace(0, 1)^dim as a scale mixture; its entropy is dim (1 + log 2) nats.

    The true q(psi|z) is the reciprocal of an inverse Gaussian. `tau="gamma"` is a Gamma
    distribution of the same mean, and of `rate` times its variance.
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
