"""Stochastic variational inference for each observation, and the bound over its buffer.

Shu, Bui, Whang & Ermon 2019, with local parameters lambda of q_lambda(z|x):

    lambda_0 = encoder(x)
    z_i ~ q_lambda_i,  w_i = p(x,z_i) / q_lambda_i(z_i)          i = 0..k
    lambda_i+1 = lambda_i + a step of momentum SGD on the ELBO   i < k
    bound = log sum_i pi_i w_i                                   (theorem 1, v(i) = {0..i-1})

z_i is drawn from the very density that it is divided by: lambda_i depends on earlier draws
only. So each w_i has mean p(x) given those, and Jensen's inequality does the rest.

Around a hierarchical q_lambda(z|x) = int q_lambda(z|psi,x) q(psi|x) dpsi the density in w_i
is not known, and exp(-U_K) takes the place of 1/q. Given lambda_i it is unbiased for 1/q
(theorem A.1 of Sobolev & Vetrov 2019 is Jensen's inequality on just that): psi_0 generated
z_i, and psi_1:K are drawn from tau anew at every i. Each w_i keeps the mean p(x), whatever
tau is, so the sum is still unbiased and the bound still a lower bound; it is looser by how
far tau is from q(psi|z,x).

Everything is per observation: no draw, gradient or norm sees another row of the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds, gradients, sampling
from hvi_tf.bounds import LogDensities
from hvi_tf.gradients import Objective, ParameterGroups
from hvi_tf.methods import Method
from hvi_tf.sampling import LatentSample, Model


class LocalModel(NamedTuple):
    """A model whose proposal has local parameters lambda, one row per observation.

    Attributes:
        start: lambda_0 `[B, P]`, unconstrained.
        at: lambda `[B, P]` -> the model with the proposal q_lambda. Called at every step:
            what does not depend on lambda is best computed once, outside.
    """

    start: tf.Tensor
    at: Callable[[tf.Tensor], Model]


Localize = Callable[[tf.Tensor], LocalModel]  # x [B, ...] -> the local model of these rows


class SVI(NamedTuple):
    """The inner loop. Learning rate and clipping act on the ELBO of a single observation.

    Attributes:
        steps: k >= 1; the trajectory has k+1 proposals.
        learning_rate: of lambda.
        momentum: in [0, 1).
        clip_norm: largest norm of an observation's gradient; 0 does not clip.
        double_sampling: whether a draw of its own drives each step, so that the buffer's
            draws are independent given the trajectory. Theorem 2 needs that.
        K: draws of psi besides psi_0 at every step, for a hierarchical proposal.
        L: draws of zeta at every step, for a hierarchical prior.
    """

    steps: int
    learning_rate: float
    momentum: float = 0.5
    clip_norm: float = 1.0
    double_sampling: bool = False
    K: int = 0
    L: int = 1


class Point(NamedTuple):
    """A draw from one proposal, or from all of them along a first axis i `[k+1, ...]`."""

    z: tf.Tensor  # [B, Dz]
    zeta: tf.Tensor | None  # [L, B, Dzeta]; None if the prior is explicit
    log_likelihood: tf.Tensor  # [B]     log p(x|z)
    log_ratio: tf.Tensor  # [B]          log p(z) - log q_lambda(z|x), or P - U_K

    def log_weight(self, kl_weight: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Log w; with a KL weight below 1 no weight of any bound."""
        return self.log_likelihood + bounds.as_weight(kl_weight, self.z.dtype) * self.log_ratio


class Refined(NamedTuple):
    """A trajectory.

    Attributes:
        points: the buffer, `[k+1, ...]`.
        first: the objective of the first step: the ELBO at lambda_0.
        local: lambda_k `[B, P]`.
    """

    points: Point
    first: Objective
    local: tf.Tensor


def refine(
    localize: Localize,
    row: Method,
    x: tf.Tensor,
    settings: SVI,
    seed: tf.Tensor,
    kl_weight: float | tf.Tensor = 1.0,
) -> Refined:
    """Runs the inner loop and keeps every proposal's draw.

    Args:
        localize: the model.
        row: of the method table; says whether the proposal is hierarchical.
        x: observations `[B, ...]`.
        settings: of the loop.
        seed: int32 `[2]`; the trajectory is a pure function of it.
        kl_weight: of log p(z) - log q(z) in the ELBO that is climbed.
    """
    return _refine(localize, row, x, settings, seed, kl_weight)[0]


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
    refined, ascent = _refine(localize, row, x, settings, seed, kl_weight, variables, estimator)
    if encoder_objective == "kl":
        ascent = ascent._replace(phi=_kl_gradient(localize, x, refined.local, variables.phi))
    r = bounds.buffer_responsibilities(refined.points.log_weight(kl_weight), log_pi)
    points = refined.points
    if sir:
        index = _draw_index(r, tf.random.fold_in(seed, -2))
        points, r = take(points, index), tf.ones_like(r[:1])
    model = localize(x).at(refined.local)
    theta = _joint_gradient(model, row, x, points, r, kl_weight, variables.theta)
    pi = _pi_gradient(refined.points.log_weight(kl_weight), variables.pi)
    return refined, ascent._replace(theta=theta, pi=pi)


def take(points: Point, index: tf.Tensor) -> Point:
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


def follow(
    localize: Localize,
    row: Method,
    x: tf.Tensor,
    settings: SVI,
    seed: tf.Tensor,
    begin: Callable[[Point], tuple],
    see: Callable[[tuple, tf.Tensor, Point], tuple],
) -> tuple[tf.Tensor, tuple]:
    """The loop of `refine`, which keeps nothing but what `see` makes of each point.

    Args:
        localize: the model.
        row: of the method table.
        x: observations `[B, ...]`.
        settings: of the loop.
        seed: int32 `[2]`.
        begin: (point 0, for shapes) -> state; of tensors.
        see: (state, i, point i) -> state.

    Returns:
        lambda_k `[B, P]` and the last state. Memory does not grow with the steps.
    """
    local = localize(x)
    loop = _Loop(local, row, x, settings, 1.0)
    first = loop.step(local.start, tf.zeros_like(local.start), tf.random.fold_in(seed, 0))
    return _follow(loop, first, seed, begin, see)


class _Loop:
    """One step of SVI, and one draw, of a given model and batch."""

    def __init__(
        self,
        local: LocalModel,
        row: Method,
        x: tf.Tensor,
        settings: SVI,
        kl_weight: float | tf.Tensor,
    ) -> None:
        self.local, self.row, self.x = local, row, x
        self.settings, self.kl_weight = settings, kl_weight

    def draw(self, lam: tf.Tensor, seed: tf.Tensor) -> Point:
        """A draw from q_lambda."""
        return draw_point(self.local.at(lam), self.row, self.x, self.settings, seed)

    def climb(
        self,
        make: Callable[[], Model],
        lam: tf.Tensor,
        seed: tf.Tensor,
        variables: ParameterGroups | None = None,
        estimator: str = "reparameterized",
    ) -> tuple[Objective, ParameterGroups]:
        """The ELBO's gradient for lambda, in theta's place, of each observation.

        Args:
            make: makes the model at `lam`.
            lam: `[B, P]`.
            seed: int32 `[2]`.
            variables: phi, eta and rho, to have their gradients of the same draw.
            estimator: of these.
        """
        settings, variables = self.settings, variables or ParameterGroups()
        objective, ascent = gradients.value_and_gradients(
            _deferred(make),
            self.row,
            self.x,
            variables._replace(theta=[lam]),
            K=settings.K,
            M=1,
            L=settings.L,
            seed=seed,
            estimator=estimator,
            outer=self.kl_weight,
        )
        # Of the sum over the batch and not of its mean, which would make the step of an
        # observation depend on how many others there are.
        batch = tf.cast(tf.shape(lam)[0], lam.dtype)
        return objective, ascent._replace(theta=[batch * ascent.theta[0]])

    def update(
        self, lam: tf.Tensor, velocity: tf.Tensor, ascent: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Momentum SGD with each row's gradient clipped by its own norm."""
        settings = self.settings
        if settings.clip_norm:
            ascent = tf.clip_by_norm(ascent, settings.clip_norm, axes=[-1])
        velocity = settings.momentum * velocity + ascent
        return lam + settings.learning_rate * velocity, velocity

    def buffered(self, objective: Objective, lam: tf.Tensor, seed: tf.Tensor) -> Point:
        """The point that goes into the buffer: the draw that drove the step, or another."""
        if self.settings.double_sampling:
            return self.draw(lam, tf.random.fold_in(seed, -1))
        return as_point(objective.sample, objective.densities)

    def step(
        self, lam: tf.Tensor, velocity: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Point]:
        """The next lambda and velocity, and the point at this lambda."""
        objective, ascent = self.climb(lambda: self.local.at(lam), lam, seed)
        point = self.buffered(objective, lam, seed)
        return *self.update(lam, velocity, ascent.theta[0]), point


def draw_point(model: Model, row: Method, x: tf.Tensor, settings: SVI, seed: tf.Tensor) -> Point:
    """A draw from the model's proposal, with the counts of `settings`."""
    sample = sampling.draw(model, row, x, K=settings.K, M=1, L=settings.L, seed=seed)
    return as_point(sample, sampling.log_densities(model, row, x, sample))


def as_point(sample: LatentSample, densities: LogDensities) -> Point:
    """A draw with M=1 as a point of the trajectory."""
    log_q = bounds.log_marginal_upper(bounds.inner_log_ratios(densities))
    log_p = bounds.log_mean_exp(densities.log_prior)
    zeta = None if sample.zeta is None else sample.zeta[:, 0]
    return Point(sample.z[0], zeta, densities.log_likelihood[0], (log_p - log_q)[0])


def _follow(
    loop: _Loop,
    first: tuple[tf.Tensor, tf.Tensor, Point],
    seed: tf.Tensor,
    begin: Callable[[Point], tuple],
    see: Callable[[tuple, tf.Tensor, Point], tuple],
) -> tuple[tf.Tensor, tuple]:
    steps = loop.settings.steps
    lam, velocity, point = first
    state = see(begin(point), tf.constant(0), point)
    for i in tf.range(1, steps):
        lam, velocity, point = loop.step(lam, velocity, tf.random.fold_in(seed, i))
        state = see(state, i, point)
    last = loop.draw(lam, tf.random.fold_in(seed, steps))
    return lam, see(state, tf.constant(steps), last)


def _refine(
    localize: Localize,
    row: Method,
    x: tf.Tensor,
    settings: SVI,
    seed: tf.Tensor,
    kl_weight: float | tf.Tensor,
    variables: ParameterGroups | None = None,
    estimator: str = "reparameterized",
) -> tuple[Refined, ParameterGroups]:
    """The trajectory, and the gradients of its first step for phi, eta and rho."""
    local = localize(x)
    loop = _Loop(local, row, x, settings, kl_weight)
    first_seed = tf.random.fold_in(seed, 0)
    shift = tf.zeros_like(local.start)

    def at_start() -> Model:
        fresh = localize(x)  # for phi
        return fresh.at(fresh.start + shift)

    objective, ascent = loop.climb(at_start, shift, first_seed, variables, estimator)
    lam, velocity = loop.update(local.start, shift, ascent.theta[0])
    point = loop.buffered(objective, local.start, first_seed)

    def begin(point: Point) -> tuple:
        return tuple(
            tf.TensorArray(part.dtype, size=settings.steps + 1, element_shape=part.shape)
            for part in point
            if part is not None
        )

    def see(arrays: tuple, i: tf.Tensor, point: Point) -> tuple:
        parts = [part for part in point if part is not None]
        return tuple(a.write(i, part) for a, part in zip(arrays, parts, strict=True))

    lam, arrays = _follow(loop, (lam, velocity, point), seed, begin, see)
    stacked = [array.stack() for array in arrays]
    if point.zeta is None:
        stacked.insert(1, None)
    return Refined(Point(*stacked), objective, lam), ascent


def _deferred(make: Callable[[], Model]) -> Model:
    """The model that `make` makes, made anew inside of whatever tape it is used under."""
    return make()._replace(
        conditional=lambda psi, x: make().conditional(psi, x),
        mixing=lambda x: make().mixing(x),
        tau=lambda z, x: make().tau(z, x),
    )


def _kl_gradient(localize: Localize, x: tf.Tensor, lam: tf.Tensor, phi: Sequence) -> list:
    """The ascent direction of -KL(q_lambda_0 || q_lambda), lambda held fixed."""
    refined = localize(x).at(lam).conditional(None, x)  # not on the tape
    with tf.GradientTape() as tape:
        local = localize(x)
        start = local.at(local.start).conditional(None, x)
        value = -tf.reduce_mean(tfd.kl_divergence(start, refined))
    return tape.gradient(value, list(phi))


def _pi_gradient(log_weights: tf.Tensor, variables: Sequence[Any]) -> list[tf.Tensor]:
    """The gradient of the mean bound for the logits of pi: the mean of r_i - pi_i."""
    if not variables:
        return []
    (logits,) = variables
    with tf.GradientTape() as tape:
        log_pi = tf.nn.log_softmax(logits)
        value = tf.reduce_mean(bounds.generalized_iwae(log_weights, log_pi))
    return [tape.gradient(value, logits)]


def _draw_index(r: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws i ~ r_i for each observation: `[k+1, B]` -> `[B]`."""
    below = tf.random.stateless_uniform(tf.shape(r)[1:], seed, dtype=r.dtype, alg="philox")
    reached = tf.cumsum(r, axis=0) <= below
    # Rounding may leave the sum a little short of 1.
    return tf.minimum(tf.reduce_sum(tf.cast(reached, tf.int32), axis=0), tf.shape(r)[0] - 1)


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
            log_joint = (
                model.likelihood(z).log_prob(x) + bounds.as_weight(kl_weight, r.dtype) * log_p
            )
            value = tf.reduce_mean(r[i] * log_joint[0])
        total = [t + g for t, g in zip(total, tape.gradient(value, list(theta)), strict=True)]
    return total
