"""Draws from the posterior q(psi|z) of a hierarchy by Hamiltonian Monte Carlo."""

import math
from collections.abc import Callable
from typing import cast

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from hvi_tf import arguments
from hvi_tf.inference.model import Hierarchy

# Maps (z [..., Dz], int32 [2] seed) to one draw of psi [..., Dpsi] for each z.
Posterior = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def hmc_posterior(
    q: Hierarchy, *, num_steps: int = 300, step_size: float = 0.1, leapfrog_steps: int = 8
) -> Posterior:
    """Returns a function that draws from q(psi|z) by Hamiltonian Monte Carlo.

    One chain for each z has the target log q(z|psi) + log q(psi). It starts at a draw from the
    inverse model, or from q(psi) if there is none, and runs in the unconstrained space of psi.
    The first four fifths of the steps adapt the step size of each chain to the acceptance rate
    0.75. The draws are exact only in the limit of many steps. To check them, double
    `num_steps` and compare the results.

    Args:
        q: the hierarchy, whose mixing distribution must be continuous.
        num_steps: the number of steps of each chain, >= 1.
        step_size: the first step size in the unconstrained space, > 0.
        leapfrog_steps: the number of gradient evaluations per step, >= 1.

    Returns:
        A function (z `[..., Dz]`, int32 `[2]` seed) -> psi `[..., Dpsi]`.

    Raises:
        ValueError: if a count or the step size is not positive.
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
        mixing = cast(tfd.Distribution, q.mixing)
        bijector = mixing.experimental_default_event_space_bijector()
        kernel = tfp.mcmc.HamiltonianMonteCarlo(
            lambda psi: q.conditional(psi).log_prob(z) + q.mixing.log_prob(psi),
            # Each chain has its own step size, since posteriors of different z differ in scale.
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
