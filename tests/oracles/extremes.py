"""Log-densities at extremes, and their reductions in the float64 of NumPy.

Log-densities span 1e4 nats or are at the ends of float16, +-65504. `VALUE_ERROR` is the
tolerance of a value relative to 65504, the largest input, in each dtype.
"""

import numpy as np
import scipy.special
import tensorflow as tf

from hvi_tf.bounds import LogDensities

FLOAT16 = 65504.0
DTYPES = ("float32", "float64")
VALUE_ERROR = {"float32": 1e-6, "float64": 1e-14}
SEED = tf.constant([1, 2])
KINDS = ("span", "ends", "one", "lowest", "highest")


def spread(kind, shape, rng):
    """Returns log-densities of a kind of `KINDS`."""
    if kind == "span":
        return rng.uniform(-1e4, 0.0, shape)
    if kind == "one":  # one dominates all others
        values = np.full(shape, -FLOAT16)
        values[(0,) * len(shape)] = FLOAT16
        return values
    constant = {"lowest": -FLOAT16, "highest": FLOAT16}
    return (
        np.full(shape, constant[kind])
        if kind in constant
        else rng.choice([-FLOAT16, FLOAT16], shape)
    )


def extreme_densities(kind, K, M=3, B=2, L=4, dtype="float64"):
    """Returns `LogDensities` whose arrays are all of one kind."""
    rng = np.random.default_rng(K + 1)
    inner = (K + 1, M, B)
    shapes = ((M, B), (L, M, B), inner, inner, inner)
    return LogDensities(*(tf.constant(spread(kind, shape, rng), dtype) for shape in shapes))


def log_mean_exp(values):
    return scipy.special.logsumexp(values, axis=0) - np.log(len(values))


class Reference:
    """All reductions of log-densities, in the float64 of NumPy."""

    def __init__(self, d, inner=1.0, outer=1.0):
        d = LogDensities(*(np.asarray(a, np.float64) for a in d))
        self.beta = d.log_q_z + inner * (d.log_q_psi - d.log_tau)
        self.full_beta = d.log_q_z + d.log_q_psi - d.log_tau
        self.upper = log_mean_exp(self.beta)
        self.alpha = d.log_likelihood + outer * (log_mean_exp(d.log_prior) - self.upper)
        self.bound = log_mean_exp(self.alpha)
        self.v = scipy.special.softmax(self.beta, axis=0)
        self.w = scipy.special.softmax(self.alpha, axis=0)
        self.u = scipy.special.softmax(d.log_prior, axis=0)
        at_ratio = -inner * outer * self.w * self.v
        self.gradient = (
            self.w,
            outer * self.w * self.u,
            -outer * self.w * self.v,
            at_ratio,
            -at_ratio,
        )
        self.tau_factor = 1 - inner * (1 - self.v * (1 + outer * (1 - self.w)))
        self.rho_factor = self.u * (1 - outer * (1 - self.w))
