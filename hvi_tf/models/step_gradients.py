"""The gradients of a training step, for every method, and the options of a step.

These functions are the heavy part of a step. `VAE.compile` puts each into a `tf.function`.
"""

from typing import NamedTuple

import tensorflow as tf

from hvi_tf.bounds import LogDensities
from hvi_tf.inference import densities, gradients, sampling, svi_gradients
from hvi_tf.inference.counts import Counts, Warmup
from hvi_tf.inference.methods import Method
from hvi_tf.inference.model import ParameterGroups
from hvi_tf.inference.objective import NO_FREE_BITS, FreeBits, Objective
from hvi_tf.models import metrics
from hvi_tf.models.autoencoder import Autoencoder
from hvi_tf.models.metrics import Metrics


class KLAnnealing(NamedTuple):
    """A weight of log p(z) - log q(z|x) that rises linearly from `start` to 1."""

    start: float = 1.0
    steps: int = 0  # after which the weight is 1

    def weight(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the weight at a step (from 0), a float32 scalar."""
        done = tf.cast(step, tf.float32) / max(self.steps, 1) if self.steps else tf.constant(1.0)
        return self.start + (1.0 - self.start) * tf.minimum(done, 1.0)


def check_options(
    method: Method, gradient: str, annealing: KLAnnealing, free_bits: FreeBits, tau_steps: int
) -> None:
    """Checks that a method takes these options of `VAE.compile`.

    Raises:
        ValueError: if the method does not take the estimator or free bits, if it trains no tau
            for the extra steps, or if only one of the two settings of KL annealing is given.
    """
    method.check_gradient(gradient)
    if (annealing.start < 1) != (annealing.steps > 0):
        raise ValueError(
            f"kl_annealing_start={annealing.start}, kl_annealing_steps={annealing.steps}: give a "
            "start below 1 and steps above 0, or neither"
        )
    if free_bits != NO_FREE_BITS and method.refines:
        raise ValueError(f"{free_bits}: bound={method.name!r} has no free bits")
    if tau_steps and not method.trains_tau:
        raise ValueError(f"tau_steps={tau_steps}: bound={method.name!r} trains no tau")


def differentiate(
    model: Autoencoder,
    estimator: str,
    free_bits: FreeBits,
    x: tf.Tensor,
    seed: tf.Tensor,
    warmup: Warmup,
    K: int,
) -> tuple[Metrics, ParameterGroups]:
    """Returns the terms of the warmed-up bound of a batch and its gradients.

    Args:
        model: the autoencoder; its method has no inner SVI loop.
        estimator: a key of `gradients.ESTIMATORS`.
        free_bits: nats of the batch's KL divergences that cost nothing.
        x: `[B, Dx]`.
        seed: int32 `[2]`, of the draw.
        warmup: the weights of the terms, scalars.
        K: draws of psi besides psi_0.
    """
    objective, grads = _value_and_gradients(
        model, estimator, x, model.parameter_groups, seed, warmup, K, free_bits
    )
    return {**metrics.of_objective(objective, K), **metrics.gradient_norms(grads)}, grads


def differentiate_tau(
    model: Autoencoder,
    estimator: str,
    x: tf.Tensor,
    seed: tf.Tensor,
    warmup: Warmup,
    K: int,
) -> list[tf.Tensor]:
    """Returns the gradient of a bound with respect to eta alone; arguments of `differentiate`."""
    eta = ParameterGroups(eta=model.parameter_groups.eta)
    _, grads = _value_and_gradients(model, estimator, x, eta, seed, warmup, K)
    return list(grads.eta)


def _value_and_gradients(
    model: Autoencoder,
    estimator: str,
    x: tf.Tensor,
    variables: ParameterGroups,
    seed: tf.Tensor,
    warmup: Warmup,
    K: int,
    free_bits: FreeBits = NO_FREE_BITS,
) -> tuple[Objective, ParameterGroups]:
    return gradients.value_and_gradients(
        model.prepare,
        model.method,
        x,
        variables,
        model.counts._replace(K=K),
        seed,
        estimator=estimator,
        warmup=warmup,
        backward_samples=model.method_config.backward_samples,
        free_bits=free_bits,
    )


def refine_and_differentiate(
    model: Autoencoder,
    estimator: str,
    x: tf.Tensor,
    seed: tf.Tensor,
    warmup: Warmup,
    K: int,
) -> tuple[Metrics, ParameterGroups]:
    """Does what `differentiate` does, for a method with an inner SVI loop.

    Only the outer weight applies: the configuration refuses an inner warm-up here.
    """
    log_pi = model.log_pi
    refined, grads = svi_gradients.value_and_gradients(
        model.localize,
        model.method,
        x,
        model.parameter_groups,
        settings=model.svi_settings(K),
        seed=seed,
        log_pi=log_pi,
        # If pi is concentrated on one proposal, only that one can be drawn.
        sir=model.method_config.sir or model.method.scores_last_proposal,
        encoder_objective=model.method_config.encoder_objective,
        estimator=estimator,
        kl_weight=warmup.outer,
    )
    reported = metrics.of_refined(refined, log_pi, warmup.outer)
    return {**reported, **metrics.gradient_norms(grads)}, grads


def first_densities(model: Autoencoder, x: tf.Tensor, seed: tf.Tensor, K: int) -> LogDensities:
    """Returns the log-densities of a step's draw, before any refinement.

    Args:
        model: the autoencoder. If its method refines, the draw is that at the encoder's output.
        x: the step's whole batch `[B, Dx]`.
        seed: int32 `[2]`, of the step.
        K: draws of psi besides psi_0.
    """
    if not model.method.refines:
        local_model, M = model.prepare(x), model.counts.M
    else:
        local = model.localize(x)
        local_model, M, seed = local.at(local.start), 1, tf.random.fold_in(seed, 0)
    counts = Counts(K=K, M=M, L=model.counts.L)
    sample = sampling.draw(local_model, model.method, x, counts, seed)
    return densities.log_densities(local_model, model.method, x, sample)
