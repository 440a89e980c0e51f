"""Inference for a model of one's own: bound its evidence, fit its proposal.

import hvi_tf as hvi

model = hvi.Model(prior, likelihood, conditional, mixing, tau)
hvi.fit(model, x, hvi.ParameterGroups(phi=[...], eta=[...]), bound="iwhvi", K=10)
print(hvi.evidence(model, x, bound="diwhvi", K=20, M=1000))
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from hvi_tf import checks, gradients, log_likelihood, methods, sampling, seeds, svi_scores
from hvi_tf.gradients import ParameterGroups
from hvi_tf.hierarchy import Hierarchy
from hvi_tf.log_likelihood import ImageScores
from hvi_tf.methods import METHODS, Count, Method
from hvi_tf.sampling import Model
from hvi_tf.svi import SVI, Localize, LocalModel
from hvi_tf.svi_scores import RefinedScores


class Evidence(NamedTuple):
    """A lower bound on log p(x), estimated by independent replicates.

    Attributes:
        mean: `[B]`, nats; in expectation at most log p(x) of each observation.
        standard_error: `[B]`, nats, over the replicates.
        replicates: `[R, B]`, nats.
        diagnostics: means over the replicates, `[B]` each; see `ImageScores`.
    """

    mean: np.ndarray
    standard_error: np.ndarray
    replicates: np.ndarray
    diagnostics: dict[str, np.ndarray]

    def __str__(self) -> str:
        return "\n".join(
            f"log p(x[{i}]) >= {mean:.3f} +- {error:.3f} nats"
            for i, (mean, error) in enumerate(zip(self.mean, self.standard_error, strict=True))
        )


def evidence(
    model: Model,
    x: tf.Tensor,
    *,
    bound: str = "diwhvi",
    K: int | None = None,
    M: int | None = None,
    L: int | None = None,
    replicates: int = 10,
    seed: int = 0,
    jit_compile: bool = False,
) -> Evidence:
    """Bounds log p(x) of every observation from below, with standard errors.

    The streamed score of Sobolev & Vetrov 2019, equation 6: memory does not grow with M, K
    and L.

    Args:
        model: the callables, see `Model`.
        x: observations `[B, ...]`, B static.
        bound: a row of the table, such as vae, iwae, sivi, diwhvi.
        K: draws of psi per z besides psi_0; the row's default if None.
        M: draws of z; likewise.
        L: draws of zeta per z under a hierarchical prior; likewise.
        replicates: independent repetitions, >= 2, whose spread is the error.
        seed: from which every draw is folded.
        jit_compile: whether to use XLA.

    Raises:
        ValueError: for a count that the row fixes, a model of the wrong shapes, or a bound
            that is NaN.
        TypeError: if a distribution lacks what the row needs of it.
    """
    if replicates < 2:
        raise ValueError(f"replicates={replicates}: an error needs at least 2")
    x = checks.observations(x)
    row = _row(bound)
    counts = _counts(row, model, K=K, M=M, L=L)
    checks.check_model(model, row, x)
    per_z = sampling.psi_per_z(row, counts["K"], counts["M"])
    rows = max(1, log_likelihood.ROWS // x.shape[0])
    plan = log_likelihood.make_plan(counts["M"], per_z, counts["L"], rows=rows, max_images=1)
    score = log_likelihood.make_scorer(model, row, plan, jit_compile)
    scores = [
        score(x, seeds.fold(seed, seeds.Purpose.EVALUATE, replicate))
        for replicate in range(replicates)
    ]
    return _as_evidence(scores)


def refined_evidence(
    localize: Localize,
    x: tf.Tensor,
    *,
    steps: int,
    learning_rate: float,
    momentum: float = 0.5,
    clip_norm: float = 1.0,
    bound: str = "bsvi",
    K: int | None = None,
    L: int = 1,
    draws: int = 1,
    replicates: int = 10,
    seed: int = 0,
    jit_compile: bool = False,
) -> Evidence:
    """Bounds log p(x) of every observation after refining its own proposal by SVI.

    The bound over all proposals on the way (Shu et al. 2019, theorem 1), or that of the last
    alone. Memory does not grow with the steps.

    Args:
        localize: x `[B, ...]` -> `svi.LocalModel`, with lambda_0 and the model at a lambda.
        x: observations `[B, ...]`, B static.
        steps: k >= 1 of SVI.
        learning_rate: of lambda, on the ELBO of a single observation.
        momentum: of the same.
        clip_norm: largest gradient norm of an observation; 0 does not clip.
        bound: bsvi, or svi for the ELBO of the refined proposal.
        K: draws of psi of a hierarchical proposal at every step; None if it is explicit.
        L: draws of zeta of a hierarchical prior at every step.
        draws: of z from the refined proposal.
        replicates: independent repetitions, >= 2, whose spread is the error.
        seed: from which every draw is folded.
        jit_compile: whether to use XLA.

    Returns:
        The bound; among the diagnostics elbo, kl and reconstruction of the last proposal
        and the effective sample size of the buffer; see `RefinedScores`.

    Raises:
        ValueError: if a number is out of range, the model at lambda_0 has the wrong shapes,
            or the bound is NaN.
        TypeError: if `localize` returns no LocalModel, or a distribution lacks what is needed.
    """
    for name, value, least in (("steps", steps, 1), ("draws", draws, 1), ("L", L, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: must be a whole number, at least {least}")
    if K is not None and (not isinstance(K, int) or K < 0):
        raise ValueError(f"K={K!r}: must be a whole number, at least 0, or None")
    for name, number in (("learning_rate", learning_rate), ("clip_norm", clip_norm)):
        if not 0 <= number < math.inf:
            raise ValueError(f"{name}={number!r}: must be a finite number, at least 0")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum!r}: must be at least 0 and below 1")
    if replicates < 2:
        raise ValueError(f"replicates={replicates}: an error needs at least 2")
    if bound not in ("bsvi", "svi"):
        raise ValueError(f"bound={bound!r}: choose bsvi or svi")
    x = checks.observations(x)
    settings = SVI(steps, learning_rate, momentum, clip_norm, K=K or 0, L=L)
    row = methods.row(bound, "gaussian" if K is None else "hierarchical")
    local = checks.call("localize", localize, x)
    if not isinstance(local, LocalModel):
        raise TypeError(f"localize(x): a {type(local).__name__}, wanted a LocalModel")
    if local.start.shape.rank != 2 or local.start.shape[0] != x.shape[0]:
        raise ValueError(
            f"localize(x): start has shape {tuple(local.start.shape)}, wanted ({x.shape[0]}, P), "
            "a row of local parameters per observation"
        )
    checks.check_model(local.at(local.start), row, x, gradient="reparameterized")
    score = svi_scores.make_scorer(localize, row, settings, draws=draws, jit_compile=jit_compile)
    scores = [
        score(x, seeds.fold(seed, seeds.Purpose.EVALUATE, replicate))
        for replicate in range(replicates)
    ]
    if bound == "svi":
        scores = [s._replace(log_likelihood=s.elbo) for s in scores]
    return _as_evidence(scores)


def _as_evidence(scores: Sequence[ImageScores | RefinedScores]) -> Evidence:
    """The replicates' scores, `[B]` each, as one estimate."""
    stacked = {
        name: np.stack([getattr(s, name).numpy() for s in scores]) for name in scores[0]._fields
    }
    values = stacked.pop("log_likelihood").astype(np.float64)
    if np.isnan(values).any():
        raise ValueError(
            f"x[{int(np.argmax(np.isnan(values).any(axis=0)))}]: the bound is NaN; a density is"
        )
    return Evidence(
        mean=values.mean(axis=0),
        standard_error=values.std(axis=0, ddof=1) / np.sqrt(len(values)),
        replicates=values,
        diagnostics={name: v.mean(axis=0) for name, v in stacked.items() if np.isfinite(v).all()},
    )


def fit(
    model: Model,
    x: tf.Tensor | Callable[[tf.Tensor], tf.Tensor],
    variables: ParameterGroups,
    *,
    bound: str = "iwhvi",
    K: int | None = None,
    M: int | None = None,
    L: int | None = None,
    gradient: str = "reparameterized",
    backward_samples: int = 0,
    steps: int = 1_000,
    optimizer: keras.optimizers.Optimizer | None = None,
    seed: int = 0,
    jit_compile: bool = False,
) -> np.ndarray:
    """Maximises a bound over the variables and returns its course.

    Args:
        model: the callables, closing over the variables.
        x: observations `[B, ...]`, or a function from the int64 step to a minibatch.
        variables: tf.Variables or Keras variables, by the density they belong to; some
            estimators treat the groups differently.
        bound: a row of the table.
        K: draws of psi per z besides psi_0; the row's default if None.
        M: draws of z; likewise.
        L: draws of zeta per z under a hierarchical prior; likewise.
        gradient: an estimator that the row takes.
        backward_samples: S, of how many of the terms over k and m the gradient is taken (see
            `value_and_gradients`); 0 takes all.
        steps: optimizer steps.
        optimizer: Adam with step size 1e-3 if None.
        seed: from which every draw is folded.
        jit_compile: whether to use XLA for draw, bound and gradients.

    Returns:
        `[steps]`, the bound at each step, nats per observation.

    Raises:
        ValueError: for a count that the row fixes, a model of the wrong shapes, draws
            that are not reparameterized, a variable that no gradient reaches, or a bound
            that is not finite.
        TypeError: if a distribution lacks what the row needs of it, or `variables` is not made
            of lists.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    if backward_samples < 0:
        raise ValueError(f"backward_samples={backward_samples}: must be at least 0")
    if isinstance(variables, ParameterGroups) and variables.pi:
        raise ValueError("variables: pi weighs the proposals of an SVI loop, which fit has not")
    row = _row(bound)
    counts = _counts(row, model, K=K, M=M, L=L)
    if callable(x):
        batch = x
    else:
        whole = checks.observations(x)
        batch = lambda step: whole  # noqa: E731
    first = checks.observations(batch(tf.constant(0, tf.int64)))
    checks.check_model(model, row, first, gradient)
    for name, group in zip(ParameterGroups._fields, variables, strict=False):
        if not (isinstance(variables, ParameterGroups) and isinstance(group, list | tuple)):
            raise TypeError(f"variables: {name} is no list in hvi.ParameterGroups({name}=[...])")
    flat = [v for group in variables for v in group]
    if not flat:
        raise ValueError("variables: no group holds a variable; there is nothing to fit")
    optimizer = optimizer or keras.optimizers.Adam(1e-3)
    optimizer.build(flat)

    @tf.function(jit_compile=jit_compile)
    def ascent(batch: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, list]:
        objective, gradient_of = gradients.value_and_gradients(
            model,
            row,
            batch,
            variables,
            **counts,
            seed=seeds.fold(seed, seeds.Purpose.TRAIN, step),
            estimator=gradient,
            backward_samples=backward_samples,
        )
        _check_connected(variables, gradient_of)
        return objective.value, [g for group in gradient_of for g in group]

    @tf.function
    def run() -> tf.Tensor:
        values = tf.TensorArray(tf.float64, size=steps)
        for step in tf.range(steps, dtype=tf.int64):
            value, ascents = ascent(batch(step), step)
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in (value, *ascents)])
            value = tf.where(finite, value, value + float("nan"))
            values = values.write(tf.cast(step, tf.int32), tf.cast(value, tf.float64))
            if not finite:
                break
            optimizer.apply([-g for g in ascents], flat)
        return values.stack()

    course = run().numpy()
    if not np.isfinite(course).all():
        step = int(np.argmin(np.isfinite(course)))
        raise ValueError(
            f"step {step}: the bound or its gradient is not finite; the variables are those of the "
            "step before; try a smaller step size"
        )
    return course


def _check_connected(variables: ParameterGroups, gradient_of: ParameterGroups) -> None:
    for group, held, found in zip(variables._fields, variables, gradient_of, strict=True):
        for i, (variable, value) in enumerate(zip(held, found, strict=True)):
            if value is None:
                raise ValueError(
                    f"variables: no gradient reaches {group}[{i}] ({variable.name}, shape "
                    f"{tuple(variable.shape)}); compute with variables inside the callables, not "
                    "once before, and name each in the group of its own density"
                )


def _row(bound: str) -> Method:
    if bound not in METHODS:
        raise ValueError(f"bound={bound!r}: unknown; choose one of {', '.join(METHODS)}")
    if METHODS[bound].refines:
        raise ValueError(
            f"bound={bound!r}: refines local parameters, which a Model does not name; see "
            "hvi.refined_evidence and hvi.svi"
        )
    return METHODS[bound]


def _counts(row: Method, model: Model, **given: Any) -> dict[str, Any]:
    """The counts, with the row's own where they are left out."""
    allowed = {
        "K": row.K,
        "M": row.M,
        "L": row.L if isinstance(model.prior, Hierarchy) else Count(1, free=False),
    }
    counts = {}
    for name, count in allowed.items():
        value = count.default if given[name] is None else given[name]
        lowest = 0 if name == "K" else 1
        if not isinstance(value, int) or value < lowest:
            raise ValueError(f"{name}={value!r}: must be a whole number, at least {lowest}")
        if not count.free and value != count.default:
            raise ValueError(
                f"{name}={value}: bound={row.name!r} with this prior fixes {name}={count.default}"
            )
        counts[name] = value
    return counts
