"""Gradients of the bound over a buffer, for every group of parameters."""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds, randomness
from hvi_tf.inference import priors, svi
from hvi_tf.inference.methods import Method
from hvi_tf.inference.model import Localize, Model, Parameter, ParameterGroups
from hvi_tf.inference.subsampling import systematic_resampling
from hvi_tf.inference.svi import SVI, Encoding, Point, Refined


def value_and_gradients(
    localize: Localize,
    method: Method,
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
    """Runs the SVI loop and returns it with the gradient for every group of parameters.

    The gradient for theta is lemma 1 of Shu et al. 2019, without gradients through the
    trajectory:

        grad_theta log sum_i pi_i w_i = sum_i r_i grad_theta log p(x,z_i)

    The gradient for pi is that of the same bound. The gradients for phi, eta and rho are those of
    the ELBO at lambda_0, for the draw of the first step. The gradient for phi may instead be
    that of -KL(q_lambda_0 || q_lambda_k).

    Args:
        localize: x -> the local model. It is called under a tape, to reach phi.
        method: svi or bsvi, with an explicit or a hierarchical proposal.
        x: observations `[B, ...]`.
        variables: the parameter groups. pi holds the logits `[k+1]` of `log_pi`, or is empty.
        settings: the settings of the loop.
        seed: int32 `[2]`. The trajectory is a pure function of it.
        log_pi: `[k+1]`, as in `bounds.generalized_iwae`.
        sir: whether the gradient for theta uses a single draw i ~ r_i. It is an unbiased
            estimate of the sum over all i and costs one backward pass.
        encoder_objective: `elbo` or `kl`, for phi. `kl` needs an explicit q with a known KL.
        estimator: the estimator for phi, eta and rho, a key of `gradients.ESTIMATORS`.
        kl_weight: the weight of log p(z) - log q(z) in all objectives.

    Returns:
        The trajectory and the ascent direction of each group.

    Raises:
        ValueError: if a setting is out of range or no gradient reaches lambda.
    """
    inference = variables._replace(theta=(), pi=())
    refined, encoding = svi.refine_with_encoding(
        localize, method, x, settings, seed, kl_weight, inference, estimator
    )
    ascent = refined.first_ascent
    if encoder_objective == "kl":
        ascent = ascent._replace(phi=_kl_gradient(encoding, refined.local, x, variables.phi))
    r = bounds.buffer_responsibilities(refined.points.log_weight(kl_weight), log_pi)
    points = refined.points
    if sir:
        index = systematic_resampling(
            r, 1, randomness.substream(seed, randomness.RefinementStream.RESAMPLE_POINT)
        )[0]
        points, r = _take(points, index), tf.ones_like(r[:1])
    model = encoding.local_model.at(refined.local)  # Only its p(x,z) is used.
    theta = _joint_gradient(model, method, x, points, r, kl_weight, variables.theta)
    pi = _pi_gradient(refined.points.log_weight(kl_weight), variables.pi)
    return refined, ascent._replace(theta=theta, pi=pi)


def _take(points: Point, index: tf.Tensor) -> Point:
    """Returns the points of the trajectory at `index` `[B]`, as a trajectory of length 1."""
    indices = tf.stack([index, tf.range(tf.size(index))], axis=-1)
    z, zeta, log_likelihood, log_ratio = points
    if zeta is not None:
        zeta = tf.gather_nd(tf.transpose(zeta, [0, 2, 1, 3]), indices)  # [B, L, Dzeta]
        zeta = tf.transpose(zeta, [1, 0, 2])[tf.newaxis]
    return Point(
        z=tf.gather_nd(z, indices)[tf.newaxis],
        zeta=zeta,
        log_likelihood=tf.gather_nd(log_likelihood, indices)[tf.newaxis],
        log_ratio=tf.gather_nd(log_ratio, indices)[tf.newaxis],
    )


def _joint_gradient(
    model: Model,
    method: Method,
    x: tf.Tensor,
    points: Point,
    r: tf.Tensor,
    kl_weight: float | tf.Tensor,
    theta: Sequence[Parameter],
) -> list[tf.Tensor]:
    """Returns the gradient for theta of mean_b sum_i r_i [log p(x|z_i) + c log p(z_i)].

    It takes one point at a time, so memory does not grow with k.
    """
    total = [tf.zeros_like(v) for v in theta]
    prior = priors.adapt(model.prior)
    for i in tf.range(tf.shape(r)[0]):
        z = points.z[i][tf.newaxis]
        zeta = None if points.zeta is None else points.zeta[i][:, tf.newaxis]
        with tf.GradientTape() as tape:
            log_p = bounds.log_mean_exp(prior.log_ratios(method, z, zeta))
            log_joint = model.likelihood(z).log_prob(x) + bounds.warmed_up(log_p, kl_weight)
            value = tf.reduce_mean(r[i] * log_joint[0])
        total = [t + g for t, g in zip(total, tape.gradient(value, list(theta)), strict=True)]
    return total


def _pi_gradient(log_weights: tf.Tensor, variables: Sequence[Parameter]) -> list[tf.Tensor]:
    """Returns the gradient of the mean bound for the logits of pi, mean_b (r_i - pi_i)."""
    if not variables:
        return []
    (logits,) = variables
    with tf.GradientTape() as tape:
        log_pi = tf.nn.log_softmax(logits)
        value = tf.reduce_mean(bounds.generalized_iwae(log_weights, log_pi))
    return [tape.gradient(value, logits)]


def _kl_gradient(
    encoding: Encoding, lam: tf.Tensor, x: tf.Tensor, phi: Sequence[Parameter]
) -> list[tf.Tensor]:
    """Returns the gradient of -KL(q_lambda_0 || q_lambda_k) for phi, with lambda_k fixed."""
    local, tape = encoding
    last = local.at(lam).conditional(None, x)  # It is not on the tape.
    with tape:
        start = local.at(local.start).conditional(None, x)
        value = -tf.reduce_mean(tfd.kl_divergence(start, last))
    return tape.gradient(value, list(phi))
