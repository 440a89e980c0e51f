"""Draws from the posterior of a hierarchy's mixing variable by Hamiltonian Monte Carlo."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from hvi_tf import arguments
from hvi_tf.inference.model import Hierarchy

Posterior = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def hmc_posterior(
    q: Hierarchy, *, num_steps: int = 300, step_size: float = 0.1, leapfrog_steps: int = 8
) -> Posterior:
    """Draws from q(psi|z) by Hamiltonian Monte Carlo: `posterior(z, seed) -> psi [..., Dpsi]`.

    One chain per z starts at a draw from the inverse model, or from q(psi) if there is
    none, and runs in the unconstrained space of psi; the first four fifths of the steps
    adapt each chain's step size to the acceptance rate 0.75. The draw is exact only as
    `num_steps` grows: double it and see whether the result moves.

    Args:
        q: the hierarchy; its mixing distribution must be continuous.
        num_steps: steps of each chain.
        step_size: first step size in the unconstrained space.
        leapfrog_steps: gradient evaluations per step.

    Raises:
        ValueError: if a count is not positive, or the step size is not.
    """
    num_steps = arguments.count("num_steps", num_steps, lowest=1)
    leapfrog_steps = arguments.count("leapfrog_steps", leapfrog_steps, lowest=1)
    step_size = arguments.number(
        "step_size", step_size, "finite and above 0", lambda size: 0 < size < math.inf
    )

    def posterior(z: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        start_seed, chain_seed = tf.unstack(tf.random.split(arguments.stateless_seed(seed), 2))
        chains = tf.shape(z)[:-1]
        start = tfd.BatchBroadcast(q.mixing, to_shape=chains) if q.inverse is None else q.inverse(z)
        mixing: Any = q.mixing
        bijector = mixing.experimental_default_event_space_bijector()
        kernel: Any = tfp.mcmc.HamiltonianMonteCarlo(
            lambda psi: q.conditional(psi).log_prob(z) + q.mixing.log_prob(psi),
            # One step size per chain: posteriors of different z differ in scale.
            step_size=tf.fill(tf.concat([chains, [1]], axis=0), tf.cast(step_size, z.dtype)),
            num_leapfrog_steps=leapfrog_steps,
        )
        kernel = tfp.mcmc.TransformedTransitionKernel(kernel, bijector)
        kernel = tfp.mcmc.SimpleStepSizeAdaptation(
            kernel, num_adaptation_steps=num_steps * 4 // 5, target_accept_prob=0.75
        )
        return tfp.mcmc.sample_chain(
            1,
            start.sample(seed=start_seed),
            kernel=kernel,
            num_burnin_steps=num_steps - 1,
            trace_fn=None,
            seed=chain_seed,
        )[0]

    return posterior
