"""KL divergences between hierarchies and explicit distributions, from both sides."""

import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf.inference import kl
from hvi_tf.inference.model import Hierarchy
from tests.oracles.analytic import gaussian_kl, normal
from tests.oracles.closed_forms import log_normal
from tests.oracles.hierarchies import CASES, DIM, LG, Oracle, X, draw_hmc

SCALE = 1.5  # of the explicit Gaussian in a pair with the Laplace


def explicit_normal():
    return normal(tf.zeros(DIM, tf.float64), tf.fill([DIM], tf.constant(SCALE, tf.float64)))


class Pair(NamedTuple):
    """q and p with approximate inverses, with true inverses and in NumPy, and their KL."""

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
    """Returns the pairs of q and p by name."""
    gaussian, prior, scale_mixture = CASES.values()
    cross_entropy = 0.5 * np.log(2.0 * np.pi * SCALE**2)
    return {
        "linear-Gaussian, hierarchical prior": Pair(
            gaussian.q,
            prior.q,
            gaussian.exact,
            prior.exact,
            gaussian.oracle,
            prior.oracle,
            gaussian_kl(LG.A @ X, LG.q_cov, np.zeros(DIM), LG.prior_cov),
        ),
        "Laplace, explicit": Pair(
            scale_mixture.q,
            explicit_normal(),
            scale_mixture.exact,
            explicit_normal(),
            scale_mixture.oracle,
            None,
            DIM * (-1.0 - np.log(2.0) + cross_entropy + 1.0 / SCALE**2),
        ),
        "explicit, Laplace": Pair(
            explicit_normal(),
            scale_mixture.q,
            explicit_normal(),
            scale_mixture.exact,
            None,
            scale_mixture.oracle,
            DIM * (-cross_entropy - 0.5 + SCALE * np.sqrt(2.0 / np.pi) + np.log(2.0)),
        ),
    }


PAIRS = pairs()


def posterior_of(p):
    """Returns exact draws from p(zeta|z), for a hierarchy with the true inverse."""
    if not isinstance(p, Hierarchy):
        return None
    return lambda z, seed: p.inverse(z).sample(seed=seed)


@functools.cache
def kl_ladder(name, seed, n=20_000):
    """Returns lower bounds at two counts, then upper bounds `[4, n]`, in ascending order.

    Both lower bounds share draws of z, and both upper bounds.
    """
    pair = PAIRS[name]

    def lower(K, L):
        posterior = posterior_of(pair.exact_p)
        return kl.kl_lower(
            pair.q, pair.p, n=n, K=K, L=L, posterior=posterior, seed=tf.constant([seed, 1])
        )

    def upper(K, L):
        return kl.kl_upper(pair.q, pair.p, n=n, K=K, L=L, seed=tf.constant([seed, 2]))

    return np.stack([lower(1, 0), lower(8, 8), upper(8, 8), upper(0, 1)])


@functools.cache
def kl_oracle(name, seed, n=20_000):
    """Returns the same as `kl_ladder` `[4, n]`, by eq 8 and eq 4 in NumPy."""
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


HMC_PAIRS = [name for name, pair in PAIRS.items() if isinstance(pair.p, Hierarchy)]


@functools.cache
def kl_lower_by_hmc(name, seed, n=2_000):
    """Returns kl_lower with HMC, and with exact draws, each `[n]`, on the same draws of z."""
    pair = PAIRS[name]
    return tuple(
        kl.kl_lower(
            pair.q, pair.p, n=n, K=4, L=4, posterior=posterior, seed=tf.constant([seed, 31])
        ).numpy()
        for posterior in (
            lambda z, s: draw_hmc(pair.p, z, s),
            posterior_of(pair.exact_p),
        )
    )
