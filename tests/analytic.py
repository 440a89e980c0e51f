"""Closed-form models that every bound and estimator is held against, in float64.

Linear-Gaussian:
    p(z) = N(0, I),  p(x|z) = N(W z + b, s^2 I)
    q(psi|x) = N(0, I),  q(z|psi,x) = N(A x + C psi, diag(d^2))
"""

import numpy as np
import scipy.stats
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import sampling


def _normal(loc, scale):
    return tfd.Independent(tfd.Normal(loc, scale), 1)


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
        precision = np.eye(psi_dim) + self.C.T @ np.diag(self.d**-2) @ self.C
        self.inverse_cov = np.linalg.inv(precision)
        self.inverse_map = self.inverse_cov @ self.C.T @ np.diag(self.d**-2)
        self.tau_shift, self.tau_stretch = tau_shift, tau_stretch
        self.psi_dim, self.z_dim = psi_dim, z_dim

    def true_inverse(self, z, x):
        """Q(psi|z,x), exactly."""
        mean = tf.linalg.matvec(self.inverse_map, z - tf.linalg.matvec(self.A, x))
        return tfd.MultivariateNormalTriL(mean, np.linalg.cholesky(self.inverse_cov))

    def tau(self, z, x):
        exact = self.true_inverse(z, x)
        if self.tau_shift == 0.0 and self.tau_stretch == 1.0:
            return exact
        scale = self.tau_stretch * np.sqrt(np.diag(self.inverse_cov))
        return _normal(exact.loc + self.tau_shift, tf.broadcast_to(scale, tf.shape(exact.loc)))

    def mixing(self, x):
        zeros = tf.zeros([tf.shape(x)[0], self.psi_dim], tf.float64)
        return _normal(zeros, tf.ones_like(zeros))

    def conditional(self, psi, x):
        if psi is None:  # the explicit posterior of the same mean and noise
            return _normal(tf.linalg.matvec(self.A, x), tf.constant(self.d))
        mean = tf.linalg.matvec(self.A, x) + tf.linalg.matvec(self.C, psi)
        return _normal(mean, tf.constant(self.d))

    def likelihood(self, z):
        mean = tf.linalg.matvec(self.W, z) + self.b
        return _normal(mean, tf.constant(self.s, tf.float64))

    @property
    def prior(self):
        return _normal(tf.zeros(self.z_dim, tf.float64), tf.ones(self.z_dim, tf.float64))

    @property
    def model(self):
        return sampling.Model(self.prior, self.likelihood, self.conditional, self.mixing, self.tau)

    def log_evidence(self, x):
        """Log p(x), exactly."""
        cov = self.W @ self.W.T + self.s**2 * np.eye(len(self.b))
        return np.atleast_1d(scipy.stats.multivariate_normal(self.b, cov).logpdf(x))

    def log_q_z(self, z, x):
        """Log q(z|x), exactly. z `[M, B, Dz]`, x `[B, Dx]`."""
        cov = self.C @ self.C.T + np.diag(self.d**2)
        mean = x @ self.A.T
        log_q = scipy.stats.multivariate_normal(np.zeros(self.z_dim), cov).logpdf(z - mean)
        return log_q.reshape(z.shape[:-1])  # SciPy drops axes of length 1

    def observations(self, count, seed=2):
        return np.random.default_rng(seed).normal(size=(count, len(self.b)))
