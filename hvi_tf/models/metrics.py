"""Metrics of a training step: batch means in nats, effective sample sizes as counts."""

import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.inference.model import ParameterGroups
from hvi_tf.inference.objective import Objective
from hvi_tf.inference.svi import Refined

Metrics = dict[str, tf.Tensor]


def of_objective(objective: Objective, K: int) -> Metrics:
    """Returns the terms of a bound without an inner SVI loop."""
    densities = objective.densities
    log_ratios = bounds.inner_log_ratios(densities)
    log_weights = bounds.outer_log_weights(densities)
    log_prior = bounds.log_mean_exp(densities.log_prior)
    terms = {
        "objective": objective.value,
        "bound": bounds.log_mean_exp(log_weights),
        "log_likelihood": densities.log_likelihood,
        "log_prior": log_prior,
        "log_q_z_upper": bounds.log_marginal_upper(log_ratios),
        "log_q_psi": densities.log_q_psi,
        "log_tau": densities.log_tau,
        "ess_outer": bounds.effective_sample_size(log_weights),
        "ess_inner": bounds.effective_sample_size(log_ratios),
    }
    if K > 0 and objective.method.has_own_tau:
        terms["kl_tau_mixing"] = (densities.log_tau - densities.log_q_psi)[1:]
    metrics = {name: tf.reduce_mean(term) for name, term in terms.items()}
    metrics["kl_z"] = metrics["log_q_z_upper"] - metrics["log_prior"]
    return metrics


def of_refined(refined: Refined, log_pi: tf.Tensor, kl_weight: tf.Tensor) -> Metrics:
    """Returns the terms of a bound over the proposals lambda_0 to lambda_k of an SVI loop."""
    points = refined.points
    log_weights = points.log_weight()
    terms = {
        "objective": bounds.generalized_iwae(points.log_weight(kl_weight), log_pi),
        "bound": bounds.generalized_iwae(log_weights, log_pi),
        "log_likelihood": points.log_likelihood[-1],
        "kl_z": -points.log_ratio[-1],
        "elbo_start": log_weights[0],
        "elbo_end": log_weights[-1],
        "ess_buffer": bounds.effective_sample_size(log_weights + log_pi[:, tf.newaxis]),
    }
    return {name: tf.reduce_mean(term) for name, term in terms.items()}


def gradient_norms(gradients: ParameterGroups) -> Metrics:
    """Returns the norm of each group's gradient, before any clipping."""
    return {
        f"gradient_norm_{name}": tf.linalg.global_norm(group)
        for name, group in zip(gradients._fields, gradients, strict=True)
        if len(group)
    }
