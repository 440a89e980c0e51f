"""Gradients of the bound over a buffer, for every group of parameters."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds, randomness
from hvi_tf.inference import sampling, svi
from hvi_tf.inference.gradients import ParameterGroups
from hvi_tf.inference.methods import Method
from hvi_tf.inference.sampling import Model
from hvi_tf.inference.subsampling import systematic_resampling
from hvi_tf.inference.svi import SVI, Localize, Point, Refined


def value_and_gradients(
    localize: Localize,
    row: Method,
    x: tf.Tensor,
    variables: ParameterGroups,
    *,
    settings: SVI,
    seed: tf.Tensor,
    log_pi: tf.Tensor,
    sir: bool = False,
    encoder_objective: str = "elbo",
    estimator: str = "reparameterized",
    kl_weight: float | tf.Tensor = 1.0,
) -> tuple[Refined, ParameterGroups]:
    """Runs the inner loop and returns it with the gradient for every group of parameters.

    theta: that of the bound, by lemma 1 of Shu et al. 2019 sum_i r_i grad log p(x,z_i),
    without anything through the trajectory. pi: that of the bound. phi, eta and rho: that of
    the ELBO at lambda_0, of the draw that drives the first step; or for phi that of
    -KL(q_lambda_0 || q_lambda_k).

    Args:
        localize: the model. Called under a tape, to reach phi.
        row: of the method table.
        x: observations `[B, ...]`.
        variables: what to differentiate by; pi is the logits `[k+1]` of `log_pi`, or empty.
        settings: of the loop.
        seed: int32 `[2]`.
        log_pi: `[k+1]`, as in `bounds.generalized_iwae`.
        sir: whether theta's gradient is that of one draw i ~ r_i, unbiased for the sum
            over all i, at the cost of one backward pass.
        encoder_objective: `elbo` or `kl`; the latter for an explicit q with a known KL.
        estimator: of phi, eta and rho (`gradients.ESTIMATORS`).
        kl_weight: of log p(z) - log q(z), everywhere.

    Returns:
        The trajectory and the ascent direction of each group.
    """
    inference = variables._replace(theta=(), pi=())
    refined = svi.refine(localize, row, x, settings, seed, kl_weight, inference, estimator)
    ascent = refined.first_ascent
    if encoder_objective == "kl":
        ascent = ascent._replace(phi=_kl_gradient(localize, x, refined.local, variables.phi))
    r = bounds.buffer_responsibilities(refined.points.log_weight(kl_weight), log_pi)
    points = refined.points
    if sir:
        index = systematic_resampling(
            r, 1, randomness.substream(seed, randomness.RefinementStream.RESAMPLE_POINT)
        )[0]
        points, r = _take(points, index), tf.ones_like(r[:1])
    model = localize(x).at(refined.local)  # of which p(x,z) alone is used
    theta = _joint_gradient(model, row, x, points, r, kl_weight, variables.theta)
    pi = _pi_gradient(refined.points.log_weight(kl_weight), variables.pi)
    return refined, ascent._replace(theta=theta, pi=pi)


def _take(points: Point, index: tf.Tensor) -> Point:
    """The points of the trajectory at `index` `[B]`, as one of length 1."""
    rows = tf.stack([index, tf.range(tf.size(index))], axis=-1)
    z, zeta, log_likelihood, log_ratio = points
    if zeta is not None:
        zeta = tf.gather_nd(tf.transpose(zeta, [0, 2, 1, 3]), rows)  # [B, L, Dzeta]
        zeta = tf.transpose(zeta, [1, 0, 2])[tf.newaxis]
    return Point(
        z=tf.gather_nd(z, rows)[tf.newaxis],
        zeta=zeta,
        log_likelihood=tf.gather_nd(log_likelihood, rows)[tf.newaxis],
        log_ratio=tf.gather_nd(log_ratio, rows)[tf.newaxis],
    )


def _joint_gradient(
    model: Model,
    row: Method,
    x: tf.Tensor,
    points: Point,
    r: tf.Tensor,
    kl_weight: float | tf.Tensor,
    theta: Sequence[Any],
) -> list[tf.Tensor]:
    """The gradient for theta of mean_b sum_i r_i [log p(x|z_i) + c log p(z_i)].

    One point at a time: each pass has the rows of a training batch, and memory does not
    grow with k.
    """
    total = [tf.zeros_like(v) for v in theta]
    for i in tf.range(tf.shape(r)[0]):
        z = points.z[i][tf.newaxis]
        zeta = None if points.zeta is None else points.zeta[i][:, tf.newaxis]
        with tf.GradientTape() as tape:
            log_p = bounds.log_mean_exp(sampling.log_prior(model, row, z, zeta))
            log_joint = model.likelihood(z).log_prob(x) + bounds.warmed_up(log_p, kl_weight)
            value = tf.reduce_mean(r[i] * log_joint[0])
        total = [t + g for t, g in zip(total, tape.gradient(value, list(theta)), strict=True)]
    return total


def _pi_gradient(log_weights: tf.Tensor, variables: Sequence[Any]) -> list[tf.Tensor]:
    """The gradient of the mean bound for the logits of pi: the mean of r_i - pi_i."""
    if not variables:
        return []
    (logits,) = variables
    with tf.GradientTape() as tape:
        log_pi = tf.nn.log_softmax(logits)
        value = tf.reduce_mean(bounds.generalized_iwae(log_weights, log_pi))
    return [tape.gradient(value, logits)]


def _kl_gradient(localize: Localize, x: tf.Tensor, lam: tf.Tensor, phi: Sequence) -> list:
    """The ascent direction of -KL(q_lambda_0 || q_lambda), lambda held fixed."""
    refined = localize(x).at(lam).conditional(None, x)  # not on the tape
    with tf.GradientTape() as tape:
        local = localize(x)
        start = local.at(local.start).conditional(None, x)
        value = -tf.reduce_mean(tfd.kl_divergence(start, refined))
    return tape.gradient(value, list(phi))
