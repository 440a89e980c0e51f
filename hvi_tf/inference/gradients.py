"""Gradient estimators of a bound, for each group of parameters.

An estimator does not depend on the bound. It uses the arrays that the bound reduces. All
gradients are in the ascent direction.

The density of a draw enters the gradient twice, through the draw (the path) and directly. The
direct term is a score, whose noise stays when the signal vanishes. Doubly reparameterized
estimators replace it by another path, without bias (Tucker et al. 2019; Bauer & Mnih 2021).

| estimator | phi | eta (tau) | rho | unbiased |
|---|---|---|---|---|
| reparameterized | autodiff | autodiff | autodiff | yes |
| stl | path only | autodiff | autodiff | for M=1 without inner warm-up |
| iwae-dreg, gdreg | doubly reparameterized | eq 9 | doubly reparameterized | yes |
| dreg | autodiff | eq 9 | autodiff | yes |
| dreg-biased | autodiff | eq 9 without psi_0's term | autodiff | no |
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import LogDensities
from hvi_tf.inference.methods import NO_WARMUP, Counts, Method, Warmup
from hvi_tf.inference.model import Model, Parameter, ParameterGroups, Prepare
from hvi_tf.inference.objective import NO_FREE_BITS, FreeBits, Objective, record

# A tensor, or a nested structure of tensors.
Nest = TypeVar("Nest")


def value_and_gradients(
    model: Model | Prepare,
    method: Method,
    x: tf.Tensor,
    variables: ParameterGroups,
    counts: Counts,
    seed: tf.Tensor,
    *,
    estimator: str = "reparameterized",
    warmup: Warmup = NO_WARMUP,
    backward_samples: int = 0,
    free_bits: FreeBits = NO_FREE_BITS,
) -> tuple[Objective, ParameterGroups]:
    """Draws once and returns the bound with its gradient for every group of parameters.

    The arguments are not checked. `checked.value_and_gradients` checks them first.

    Args:
        model: the callables, or a function that makes them for x.
        method: the method.
        x: observations `[B, ...]`.
        variables: the parameter groups.
        counts: numbers of draws.
        seed: int32 `[2]`. The draw is a pure function of it.
        estimator: a key of `ESTIMATORS`.
        warmup: c_in and c_out.
        backward_samples: S, the number of terms over k and over m to differentiate. 0 takes all.
        free_bits: nats of KL that cost nothing.

    Returns:
        The objective, whose value is in nats, and the ascent direction of each group.
    """
    tape, objective = record(
        model,
        method,
        x,
        variables,
        counts,
        seed,
        warmup=warmup,
        backward_samples=backward_samples,
        free_bits=free_bits,
        estimators=[estimator],
    )
    return objective, ESTIMATORS[estimator](tape, objective, variables)


Estimator = Callable[[tf.GradientTape, Objective, ParameterGroups], ParameterGroups]


def reparameterized(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Returns the pathwise gradient of the bound for every group, as autodiff computes it.

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: the recorded draw.
        variables: the parameter groups.

    Returns:
        The ascent direction of each group.
    """
    return ParameterGroups(*_gradient(tape, objective, tuple(map(list, variables))))


def dreg(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Returns the doubly reparameterized gradient for eta and the pathwise one for the others.

    Sobolev & Vetrov 2019, equation 9, generalized to warm-ups. Without warm-ups and with
    w = softmax_m alpha and v = softmax_k beta, it is for each m the sum over k >= 1 of

        w v_k^2 (w - 2) (d beta_k / d psi_k) (d psi_k / d eta)

    plus w v_0 d log tau(psi_0) / d eta. For k >= 1 the gradient at psi_k is multiplied by
    `bounds.tau_path_factor` and the direct dependence of log tau(psi_k) on eta is dropped. The
    term of psi_0 stays, because tau did not draw psi_0. The estimator is unbiased.

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: the recorded draw, by a method that trains a tau.
        variables: the parameter groups.

    Returns:
        The ascent direction of each group.
    """
    return _autodiff_but_for_eta(tape, objective, variables, with_psi_0=True)


def dreg_biased(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Returns `dreg` without the term of psi_0, which is biased and serves for study only.

    Sobolev & Vetrov 2019, appendix D.2, show that its signal-to-noise ratio grows with K.

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: the recorded draw, by a method that trains a tau.
        variables: the parameter groups.

    Returns:
        The ascent direction of each group.
    """
    return _autodiff_but_for_eta(tape, objective, variables, with_psi_0=False)


def sticking_the_landing(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Returns the path alone for phi (Roeder et al. 2017) and the pathwise gradient for others.

    The dropped direct term has mean zero for M=1 without an inner warm-up, for explicit and
    hierarchical q. Otherwise the estimator is biased.

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: the recorded draw.
        variables: the parameter groups.

    Returns:
        The ascent direction of each group.
    """
    theta, eta, rho = _gradient(
        tape, objective, (list(variables.theta), list(variables.eta), list(variables.rho))
    )
    phi = _phi_path(tape, objective, variables.phi, doubly=False)
    return ParameterGroups(theta, phi, eta, rho)


def doubly_reparameterized(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Returns the doubly reparameterized gradient for phi, eta and rho, which is unbiased.

    For an explicit q this is the estimator of Tucker et al. 2019, with the coefficient w_m^2
    along the path through z_m. For a hierarchical q, `bounds.swap_ratios` first moves the
    direct terms of phi to psi_0. The gradient for eta is that of `dreg`. For rho, the gradient
    at zeta is multiplied by `bounds.rho_path_factor`.

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: the recorded draw, by a method whose psi are not shared.
        variables: the parameter groups.

    Returns:
        The ascent direction of each group.
    """
    sample, densities = objective.sample, objective.densities
    theta, eta, rho = (list(g) for g in (variables.theta, variables.eta, variables.rho))
    phi = _phi_path(tape, objective, variables.phi, doubly=True)
    if eta:
        theta_ascent, at_psi = _gradient(tape, objective, (theta, sample.psi))
        eta = _eta_path(tape, objective, eta, at_psi, with_psi_0=True)
    else:
        theta_ascent = _gradient(tape, objective, theta)
    if rho:
        factor = bounds.rho_path_factor(densities, *objective.warmup)
        at_zeta = factor[..., tf.newaxis] * _gradient(tape, objective, sample.zeta)
        rho = tape.gradient(sample.zeta, rho, output_gradients=at_zeta)
    return ParameterGroups(theta_ascent, phi, eta, rho)


ESTIMATORS: dict[str, Estimator] = {
    "reparameterized": reparameterized,
    "stl": sticking_the_landing,
    "iwae-dreg": doubly_reparameterized,  # for an explicit q
    "dreg": dreg,
    "dreg-biased": dreg_biased,
    "gdreg": doubly_reparameterized,
}


def _gradient(tape: tf.GradientTape, objective: Objective, sources: Nest) -> Nest:
    """Returns the gradient of the value, or its unbiased estimate from the kept terms."""
    return tape.gradient(list(objective.recorded), sources, output_gradients=list(objective.ascent))


def _autodiff_but_for_eta(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups, with_psi_0: bool
) -> ParameterGroups:
    """Returns equation 9 for eta and the pathwise gradient for the other groups."""
    groups = (list(variables.theta), list(variables.phi), list(variables.rho))
    theta, phi, rho, at_psi = _gradient(tape, objective, (*groups, objective.sample.psi))
    eta = _eta_path(tape, objective, list(variables.eta), at_psi, with_psi_0)
    return ParameterGroups(theta, phi, eta, rho)


def _eta_path(
    tape: tf.GradientTape, objective: Objective, eta: list, at_psi: tf.Tensor, with_psi_0: bool
) -> list:
    """Returns the gradient of equation 9, from the gradient of the value at psi_1:K."""
    shared = objective.method.shares_psi
    factor = bounds.tau_path_factor(objective.densities, *objective.warmup, shared)
    if shared:  # The factor depends on z, but the gradient at psi is already a sum over z.
        scaled = LogDensities(*objective.ascent[:2], *(factor * g for g in objective.ascent[2:]))
        psi = objective.sample.psi
        at_psi = _pull(tape, list(objective.recorded), psi, list(objective.upstream(scaled)))
    else:
        at_psi = factor[1:, ..., tf.newaxis] * at_psi
    targets, upstream = [objective.sample.psi], [at_psi]
    if with_psi_0:
        at_log_tau = objective.ascent.log_tau
        targets.append(objective.recorded.log_tau)
        upstream.append(tf.concat([at_log_tau[:1], tf.zeros_like(at_log_tau[1:])], axis=0))
    return tape.gradient(targets, eta, output_gradients=upstream)


def _phi_path(
    tape: tf.GradientTape, objective: Objective, phi: Sequence[Parameter], doubly: bool
) -> list:
    """Returns the gradient through the draws of z, psi_0 and, if q drew them, psi_1:K.

    If `doubly`, the path also carries the derivative of -c_out w_m r_m, which replaces the
    direct terms -c_out w_m r_m d log q(z_m,psi_m0) (see `bounds.swap_ratios`). The derivative
    at z_m stands for log q(z|psi_0). The derivative at psi_m0, times c_in, stands for
    log q(psi_0).
    """
    method, sample, densities = objective.method, objective.sample, objective.densities
    inner, outer = objective.warmup
    with tf.GradientTape(persistent=True) as arrays:
        arrays.watch(densities)
        value = tf.reduce_mean(bounds.bound(densities, inner, outer))
        # The derivative of w_m r_m at draw m has d w_m = w_m (1 - w_m) d alpha_m, because the
        # other draws are fixed.
        alpha = bounds.outer_log_weights(densities, inner, outer)
        w = tf.stop_gradient(bounds.normalized_weights(alpha))
        r = bounds.swap_ratios(densities, inner)
        own_terms = w * (1.0 - w) * tf.stop_gradient(r) * alpha + w * r
        score = -outer * tf.reduce_mean(tf.reduce_sum(own_terms, axis=0))
    value_gradient = arrays.gradient(value, densities)
    score_gradient = arrays.gradient(score, densities)

    def gradient_at(draw: tf.Tensor, score_weight: tf.Tensor | float) -> tf.Tensor:
        weight = score_weight if doubly else 0.0
        at_densities = (v + weight * s for v, s in zip(value_gradient, score_gradient, strict=True))
        upstream = objective.upstream(LogDensities(*at_densities))
        return _pull(tape, list(objective.recorded), draw, list(upstream))

    at_z = gradient_at(sample.z, 1.0)
    if sample.psi_0 is None:
        return tape.gradient(sample.z, list(phi), output_gradients=at_z)
    # at_z already contains the part of the gradient at psi_0 that passes through z.
    through_z = _pull(tape, sample.z, sample.psi_0, at_z)
    mixing = method.psi_from_mixing
    targets = [sample.z, sample.psi_0]
    upstream = [at_z, gradient_at(sample.psi_0, 0.0 if mixing else inner) - through_z]
    if mixing:
        targets.append(sample.psi)
        upstream.append(gradient_at(sample.psi, 0.0))
    return tape.gradient(targets, list(phi), output_gradients=upstream)


def _pull(
    tape: tf.GradientTape,
    targets: tf.Tensor | list[tf.Tensor],
    draw: tf.Tensor,
    upstream: tf.Tensor | list[tf.Tensor],
) -> tf.Tensor:
    """Returns the gradient at a draw, or 0 if the targets do not depend on it."""
    zero = tf.UnconnectedGradients.ZERO
    return tape.gradient(targets, draw, output_gradients=upstream, unconnected_gradients=zero)
