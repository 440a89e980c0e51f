"""Gradient estimators of a bound, for each group of parameters.

An estimator is independent of the bound: it reads the arrays that the bound
reduces. All gradients are in the ascent direction.

A density that a draw comes from enters the gradient twice: through the draw (the path)
and directly. The direct term has the form of a score, whose noise stays when the signal
vanishes; "doubly reparameterized" estimators replace it by another path, without bias
(Tucker et al. 2019; Bauer & Mnih 2021).

| estimator | phi | eta (tau) | rho | unbiased |
|---|---|---|---|---|
| reparameterized | autodiff | autodiff | autodiff | yes |
| stl | path only | autodiff | autodiff | for M=1 without inner warm-up |
| iwae-dreg, gdreg | doubly reparameterized | eq 9 | doubly reparameterized | yes |
| dreg | autodiff | eq 9 | autodiff | yes |
| dreg-biased | autodiff | eq 9 without psi_0's term | autodiff | no |
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import LogDensities
from hvi_tf.inference.methods import NO_WARMUP, Counts, Method, Warmup
from hvi_tf.inference.model import Model, ParameterGroups, Prepare
from hvi_tf.inference.objective import NO_FREE_BITS, FreeBits, Objective, record


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
    """Draws once and returns the objective with its gradient for every group, unchecked.

    `checked.value_and_gradients` has the same arguments, describes them, and checks them.
    `free_bits` are an addition for the training of an autoencoder.
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
    """Returns the plain pathwise gradient of the bound, for every group."""
    return ParameterGroups(*_gradient(tape, objective, tuple(map(list, variables))))


def dreg(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Returns the doubly reparameterized gradient for eta, the pathwise one for the others.

    Sobolev & Vetrov 2019, equation 9, generalized to warm-ups. For k >= 1 the gradient
    at psi_k is rescaled by `bounds.tau_path_factor` on its way to eta and the direct
    dependence of log tau(psi_k) on eta is dropped; psi_0, which tau did not draw,
    keeps its direct term. Unbiased.

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: the recorded draw, of a method that trains a tau.
        variables: the parameter groups.
    """
    return _autodiff_but_for_eta(tape, objective, variables, with_psi_0=True)


def dreg_biased(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Returns `dreg` without the term of psi_0: for study only, since it is biased.

    Sobolev & Vetrov 2019, appendix D.2, where its signal-to-noise ratio grows with K.
    """
    return _autodiff_but_for_eta(tape, objective, variables, with_psi_0=False)


def sticking_the_landing(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Returns the path alone for phi (Roeder et al. 2017), the pathwise gradient for the others.

    The dropped direct term has mean zero for M=1 without an inner warm-up, for explicit and
    hierarchical q. Otherwise the estimator is biased.
    """
    theta, eta, rho = _gradient(
        tape, objective, (list(variables.theta), list(variables.eta), list(variables.rho))
    )
    phi = _phi_path(tape, objective, variables.phi, doubly=False)
    return ParameterGroups(theta, phi, eta, rho)


def doubly_reparameterized(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Returns the doubly reparameterized gradient for phi, eta and rho; unbiased.

    For an explicit q this is the DReG estimator of Tucker et al. 2019. For a hierarchical
    one the direct terms of phi are first gathered at psi_0 (`bounds.swap_ratios`).

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: the recorded draw, of a method whose psi are not shared.
        variables: the parameter groups.
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
    "iwae-dreg": doubly_reparameterized,  # the same estimator for an explicit q
    "dreg": dreg,
    "dreg-biased": dreg_biased,
    "gdreg": doubly_reparameterized,
}


def _gradient(tape: tf.GradientTape, objective: Objective, sources: Any) -> Any:
    """Returns the gradient of the value, or an unbiased estimate of it from the terms kept."""
    return tape.gradient(list(objective.recorded), sources, output_gradients=list(objective.ascent))


def _autodiff_but_for_eta(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups, with_psi_0: bool
) -> ParameterGroups:
    groups = (list(variables.theta), list(variables.phi), list(variables.rho))
    theta, phi, rho, at_psi = _gradient(tape, objective, (*groups, objective.sample.psi))
    eta = _eta_path(tape, objective, list(variables.eta), at_psi, with_psi_0)
    return ParameterGroups(theta, phi, eta, rho)


def _eta_path(
    tape: tf.GradientTape, objective: Objective, eta: list, at_psi: tf.Tensor, with_psi_0: bool
) -> list:
    """Returns equation 9, from the value's gradient at psi_1:K."""
    shared = objective.method.shares_psi
    factor = bounds.tau_path_factor(objective.densities, *objective.warmup, shared)
    if shared:  # each z has a factor of its own, which the gradient at psi has summed over
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
    tape: tf.GradientTape, objective: Objective, phi: Sequence[Any], doubly: bool
) -> list:
    """Returns the gradient through the draws of z, psi_0 and, where q drew them, psi_1:K.

    Doubly reparameterized, the path also carries the derivative of -c_out w_m r_m in place
    of the direct terms -c_out w_m r_m d log q(z_m,psi_m0) (see `bounds.swap_ratios`): through
    z_m for log q(z|psi_0), and times its warm-up through psi_m0 for log q(psi_0).
    """
    method, sample, densities = objective.method, objective.sample, objective.densities
    inner, outer = objective.warmup
    with tf.GradientTape(persistent=True) as arrays:
        arrays.watch(densities)
        value = tf.reduce_mean(bounds.bound(densities, inner, outer))
        # The score of draw m is traded for derivatives at draw m alone, others held fixed.
        alpha = bounds.outer_log_weights(densities, inner, outer)
        w = tf.stop_gradient(bounds.normalized_weights(alpha))
        r = bounds.swap_ratios(densities, inner)
        own = w * (1.0 - w) * tf.stop_gradient(r) * alpha + w * r
        score = -outer * tf.reduce_mean(tf.reduce_sum(own, axis=0))
    of_value = arrays.gradient(value, densities)
    of_score = arrays.gradient(score, densities)

    def through(source: tf.Tensor, share_of_score: tf.Tensor | float) -> tf.Tensor:
        share = share_of_score if doubly else 0.0
        at_densities = (v + share * s for v, s in zip(of_value, of_score, strict=True))
        upstream = objective.upstream(LogDensities(*at_densities))
        return _pull(tape, list(objective.recorded), source, list(upstream))

    at_z = through(sample.z, 1.0)
    if sample.psi_0 is None:
        return tape.gradient(sample.z, list(phi), output_gradients=at_z)
    # What reaches psi_0 by way of z is in at_z already.
    by_z = _pull(tape, sample.z, sample.psi_0, at_z)
    mixing = method.psi_from_mixing
    targets = [sample.z, sample.psi_0]
    upstream = [at_z, through(sample.psi_0, 0.0 if mixing else inner) - by_z]
    if mixing:
        targets.append(sample.psi)
        upstream.append(through(sample.psi, 0.0))
    return tape.gradient(targets, list(phi), output_gradients=upstream)


def _pull(tape: tf.GradientTape, targets: Any, source: tf.Tensor, upstream: Any) -> tf.Tensor:
    """Returns the gradient at a draw; 0 where q(z|psi) ignores psi."""
    zero = tf.UnconnectedGradients.ZERO
    return tape.gradient(targets, source, output_gradients=upstream, unconnected_gradients=zero)
