"""Annealed importance sampling of a trained model.

Test images only get a lower bound on log p(x). Images drawn from the model also get an upper
bound, because their latent variables are known. The difference of the two bounds limits the error
of annealing with these settings, for data that resemble the model's own.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf.evaluation import ais
from hvi_tf.inference import priors
from hvi_tf.inference.model import Model


class AnnealedScores(NamedTuple):
    """Scores of test images, `[N]` each."""

    log_likelihood: tf.Tensor  # nats, at most log p(x) in expectation
    acceptance: tf.Tensor  # mean over the Hamiltonian transitions, in [0, 1]
    ess_chains: tf.Tensor  # effective sample size of the chains' weights


class BracketScores(NamedTuple):
    """Scores of simulated images, `[N]` each."""

    lower: tf.Tensor  # nats, at most log p(x) in expectation
    upper: tf.Tensor  # nats, at least log p(x) in expectation
    gap: tf.Tensor  # upper - lower
    acceptance: tf.Tensor  # mean of both directions


class Annealing(NamedTuple):
    """Settings of annealing: chains per image, temperatures, and leapfrog steps at each."""

    chains: int
    steps: int
    leapfrog_steps: int


class Simulated(NamedTuple):
    """Draws from the model, with the latent variables that generated them."""

    x: tf.Tensor  # [N, D]
    state: list[tf.Tensor]  # [z [1, N, Dz]], or [z, zeta]

    def take(self, rows: tf.Tensor) -> "Simulated":
        """Returns the draws of these rows."""
        parts = [tf.gather(part, rows, axis=1) for part in self.state]
        return Simulated(tf.gather(self.x, rows), parts)


def make_target(model: Model, x: tf.Tensor) -> ais.Target:
    """Returns p(x, z) of a batch `[B, D]`, or p(x, z, zeta) under a hierarchical prior."""

    def log_prior(z: tf.Tensor, *zeta: tf.Tensor) -> tf.Tensor:
        return priors.adapt(model.prior).log_joint(z, *zeta)

    return ais.Target(log_prior, lambda z, *zeta: model.likelihood(z).log_prob(x))


def prior_state(model: Model, shape: list, seed: tf.Tensor) -> list[tf.Tensor]:
    """Returns exact prior draws `[*shape, D_i]` of all latent variables of the model."""
    return priors.adapt(model.prior).sample(shape, seed)


def simulate(model: Model, n: int, seed: tf.Tensor) -> Simulated:
    """Draws `n` observations from the model."""
    state_seed, x_seed = tf.unstack(tf.random.split(seed, 2))
    state = prior_state(model, [1, n], state_seed)
    x = model.likelihood(state[0]).sample(seed=x_seed)[0]
    return Simulated(tf.cast(x, state[0].dtype), state)


def anneal_images(
    model: Model, annealing: Annealing, x: tf.Tensor, seed: tf.Tensor
) -> AnnealedScores:
    """Bounds log p(x) of a batch of observations `[B, D]` from below.

    Separate chains tune a step size for each observation. The scores are a pure function of
    `seed`, int32 `[2]`.
    """
    tune_seed, seed = tf.unstack(tf.random.split(seed, 2))
    step_size = _tuned(model, annealing, x, tune_seed)
    result = _forward(model, annealing, x, step_size, seed)
    return AnnealedScores(result.log_evidence, result.acceptance, result.ess)


def bracket_simulated(
    model: Model, annealing: Annealing, simulated: Simulated, seed: tf.Tensor
) -> BracketScores:
    """Bounds log p(x) of a batch of simulated observations from both sides."""
    tune_seed, forward_seed, reverse_seed = tf.unstack(tf.random.split(seed, 3))
    x, target = simulated.x, make_target(model, simulated.x)
    step_size = _tuned(model, annealing, x, tune_seed)
    lower = _forward(model, annealing, x, step_size, forward_seed)
    upper = ais.reverse(
        target,
        [tf.repeat(part, annealing.chains, axis=0) for part in simulated.state],
        **_settings(annealing, step_size, reverse_seed),
    )
    return BracketScores(
        lower=lower.log_evidence,
        upper=upper.log_evidence,
        gap=upper.log_evidence - lower.log_evidence,
        acceptance=0.5 * (lower.acceptance + upper.acceptance),
    )


def _forward(
    model: Model,
    annealing: Annealing,
    x: tf.Tensor,
    step_size: tf.Tensor,
    seed: tf.Tensor,
) -> ais.AISResult:
    state_seed, chain_seed = tf.unstack(tf.random.split(seed, 2))
    state = prior_state(model, [annealing.chains, tf.shape(x)[0]], state_seed)
    return ais.forward(make_target(model, x), state, **_settings(annealing, step_size, chain_seed))


def _settings(annealing: Annealing, step_size: tf.Tensor, seed: tf.Tensor) -> dict:
    return {
        "step_size": step_size,
        "num_steps": annealing.steps,
        "leapfrog_steps": annealing.leapfrog_steps,
        "seed": seed,
    }


def _tuned(model: Model, annealing: Annealing, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    state_seed, chain_seed = tf.unstack(tf.random.split(seed, 2))
    state = prior_state(model, [annealing.chains, tf.shape(x)[0]], state_seed)
    return ais.tune_step_size(
        make_target(model, x), state, leapfrog_steps=annealing.leapfrog_steps, seed=chain_seed
    )


def make_annealer(
    model: Model, annealing: Annealing, jit_compile: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], AnnealedScores]:
    """Returns `anneal_images` as a compiled function of (x, seed)."""

    @tf.function(jit_compile=jit_compile)
    def anneal(x: tf.Tensor, seed: tf.Tensor) -> AnnealedScores:
        return anneal_images(model, annealing, x, seed)

    return anneal


def make_bracketer(
    model: Model, annealing: Annealing, jit_compile: bool = False
) -> Callable[[Simulated, tf.Tensor], BracketScores]:
    """Returns `bracket_simulated` as a compiled function of (simulated, seed)."""

    @tf.function(jit_compile=jit_compile)
    def bracket(simulated: Simulated, seed: tf.Tensor) -> BracketScores:
        return bracket_simulated(model, annealing, simulated, seed)

    return bracket
