"""Annealed importance sampling on a linear-Gaussian decoder."""

import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.evaluation.ais import Target
from tests.oracles.analytic import LinearGaussian

LG = LinearGaussian()
X = tf.constant(LG.observations(3))


def target_of(x):
    return Target(LG.prior.log_prob, lambda z: LG.likelihood(z).log_prob(x))


def normal(seed, *shape):
    return tf.random.stateless_normal(shape, seed, dtype=tf.float64)


def compiled(direction, target, num_steps, step_size=0.4, leapfrog_steps=4, jit_compile=False):
    """Returns `ais.forward` or `ais.reverse` as a compiled function of (state, seed)."""

    @tf.function(jit_compile=jit_compile)
    def run(state, seed):
        settings = dict(num_steps=num_steps, step_size=step_size, leapfrog_steps=leapfrog_steps)
        return direction(target, state, **settings, seed=seed)

    return run


def bounds_of_runs(log_weights, chains):
    """Returns forward bounds of runs of `chains` chains each: `[C, B] -> [C/chains, B]`."""
    return bounds.log_mean_exp(tf.reshape(log_weights, [chains, -1, log_weights.shape[-1]]))


def posterior_draws(seed, observations, chains):
    """Returns simulated x `[B, Dx]` and the z of each, repeated for every chain `[C, B, Dz]`."""
    z_seed, x_seed = tf.unstack(tf.random.split(seed, 2))
    z = normal(z_seed, 1, observations, 2)
    x = LG.likelihood(z).mean() + LG.s * normal(x_seed, 1, observations, 3)
    return x[0], tf.repeat(z, chains, axis=0)
