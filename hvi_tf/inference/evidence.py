"""Inference for a model of one's own: bound its evidence, fit its proposal.

import hvi_tf as hvi

model = hvi.Model(prior, likelihood, conditional, mixing, tau)
hvi.fit(model, x, hvi.ParameterGroups(phi=[...], eta=[...]), bound="iwhvi", K=10)
print(hvi.evidence(model, x, bound="diwhvi", K=20, M=1000))
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from hvi_tf import arguments, randomness
from hvi_tf.bounds import diagnostics
from hvi_tf.inference import (
    gradients,
    methods,
    plans,
    sampling,
)
from hvi_tf.inference import (
    image_scores as log_likelihood,
)
from hvi_tf.inference import (
    model_checks as checks,
)
from hvi_tf.inference import (
    refined_scores as svi_scores,
)
from hvi_tf.inference.ascent import Ascent, as_optimizer
from hvi_tf.inference.gradients import Objective, ParameterGroups
from hvi_tf.inference.hierarchy import Hierarchy
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.methods import METHODS, MIXTURE_SIZE, Count, Method
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.inference.sampling import LatentSample, Model
from hvi_tf.inference.svi import SVI, Localize, LocalModel


class Evidence(NamedTuple):
    """A lower bound on log p(x), estimated by independent replicates.

    Attributes:
        mean: `[B]`, nats; in expectation at most log p(x) of each observation.
        standard_error: `[B]`, nats, over the replicates.
        replicates: `[R, B]`, nats.
        diagnostics: means over the replicates, `[B]` each; see `ImageScores`. NaN where
            there is nothing to measure, such as a tail of few draws. `draws` is the number of
            weights of each replicate: M, or the k+1 proposals.
    """

    mean: np.ndarray
    standard_error: np.ndarray
    replicates: np.ndarray
    diagnostics: dict[str, np.ndarray]

    def __str__(self) -> str:
        return "\n".join(self._line(i) for i in range(len(self.mean)))

    def _line(self, i: int) -> str:
        lost = int(np.sum(np.isneginf(self.replicates[:, i])))
        if lost:
            return (
                f"log p(x[{i}]) >= -inf nats: in {lost} of {len(self.replicates)} replicates no "
                "draw has a positive density"
            )
        line = f"log p(x[{i}]) >= {self.mean[i]:.3f} +- {self.standard_error[i]:.3f} nats"
        size = self.diagnostics.get("ess_outer", self.diagnostics.get("ess_buffer"))
        draws = int(self.diagnostics.get("draws", np.ones(len(self.mean)))[i])
        if draws > 1 and size is not None:
            line += f"; effective sample size {size[i]:.1f} of {draws}"
        k = self.diagnostics.get("pareto_k_outer", np.full(len(self.mean), np.nan))[i]
        if np.isfinite(k):
            line += f", Pareto k {k:.2f}"
        if k > diagnostics.RELIABLE_PARETO_K:
            line += (
                f", above {diagnostics.RELIABLE_PARETO_K}: few draws dominate, do not rely on the "
                "error; raise M"
            )
        return line


def evidence(
    model: Model,
    x: tf.Tensor,
    *,
    bound: str = "diwhvi",
    K: int | None = None,
    M: int | None = None,
    L: int | None = None,
    defensive: float = 0.0,
    mixture_size: int = MIXTURE_SIZE,
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
        defensive: share of q(psi|x) in the mixture of diwhvi-mixture, from 0 to below 1.
        mixture_size: of diwhvi-mixture, at most how many z share K psi, the others having K psi
            of their own; 0 for all.
        replicates: independent repetitions, >= 2, whose spread is the error.
        seed: from which every draw is folded, from 0 to 2^31 - 1.
        jit_compile: whether to use XLA.

    Raises:
        ValueError: for a count that the row fixes, a model of the wrong shapes, or a bound
            that is NaN or +inf.
        TypeError: if a distribution lacks what the row needs of it.
        RuntimeError: inside a tf.function, or under `enable_check_numerics`.
    """
    checks.can_run("evidence")
    replicates = arguments.count("replicates", replicates, lowest=2)  # for an error
    seed = arguments.seed(seed)
    x = checks.observations(x)
    row = _row(bound, defensive, mixture_size)
    counts = _counts(row, model, K=K, M=M, L=L)
    checks.check_model(model, row, x)
    rows, pairs = (max(1, at_once // x.shape[0]) for at_once in (plans.ROWS, plans.PAIRS))
    plan = plans.make(
        row, counts["M"], counts["K"], counts["L"], rows=rows, pairs=pairs, max_images=1
    )
    score = log_likelihood.make_scorer(model, row, plan, jit_compile)
    scores = [
        score(x, randomness.fold(seed, randomness.Purpose.EVALUATE, replicate))
        for replicate in range(replicates)
    ]
    return _as_evidence(scores, counts["M"])


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
        seed: from which every draw is folded, from 0 to 2^31 - 1.
        jit_compile: whether to use XLA.

    Returns:
        The bound; among the diagnostics elbo, kl and reconstruction of the last proposal
        and the effective sample size of the buffer; see `RefinedScores`.

    Raises:
        ValueError: if a number is out of range, the model at lambda_0 has the wrong shapes,
            or the bound is NaN or +inf.
        TypeError: if `localize` returns no LocalModel, or a distribution lacks what is needed.
        RuntimeError: inside a tf.function, or under `enable_check_numerics`.
    """
    checks.can_run("refined_evidence")
    settings = SVI(steps, learning_rate, momentum, clip_norm, K=0 if K is None else K, L=L)
    settings = settings.checked()
    draws = arguments.count("draws", draws, lowest=1)
    replicates = arguments.count("replicates", replicates, lowest=2)
    seed = arguments.seed(seed)
    if not isinstance(bound, str) or bound not in ("bsvi", "svi"):
        raise ValueError(f"bound={arguments.shown(bound)}: choose bsvi or svi")
    x = checks.observations(x)
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
        score(x, randomness.fold(seed, randomness.Purpose.EVALUATE, replicate))
        for replicate in range(replicates)
    ]
    if bound == "svi":
        scores = [s._replace(log_likelihood=s.elbo) for s in scores]
    return _as_evidence(scores, settings.steps + 1)


def _as_evidence(scores: Sequence[ImageScores | RefinedScores], draws: int) -> Evidence:
    """Returns the replicates' scores, `[B]` each, as one estimate."""
    stacked = {
        name: np.stack([getattr(s, name).numpy() for s in scores]) for name in scores[0]._fields
    }
    values = stacked.pop("log_likelihood").astype(np.float64)
    for wrong, text, reason in (
        (np.isnan(values), "NaN", "a density is"),
        (np.isposinf(values), "+inf", "a draw has an infinite density, or none under the proposal"),
    ):
        if wrong.any():
            i = int(np.argmax(wrong.any(axis=0)))
            raise ValueError(f"x[{i}]: the bound is {text}; {reason}")
    with np.errstate(invalid="ignore"):  # the spread of -inf is NaN
        standard_error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return Evidence(
        mean=values.mean(axis=0),
        standard_error=standard_error,
        replicates=values,
        diagnostics={
            **{name: v.mean(axis=0) for name, v in stacked.items()},
            "draws": np.full(values.shape[1], draws),
        },
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
    defensive: float = 0.0,
    gradient: str = "reparameterized",
    backward_samples: int = 0,
    steps: int = 1_000,
    optimizer: keras.optimizers.Optimizer | type | str | None = None,
    seed: int = 0,
    jit_compile: bool = False,
) -> np.ndarray:
    """Maximises a bound over the variables and returns its course.

    Ctrl-C ends it within about a second or a step, as `FitInterrupted`: a KeyboardInterrupt
    whose `course` has the steps so far. The variables are those of the last finished step.

    Args:
        model: the callables, closing over the variables.
        x: observations `[B, ...]`, or a function from the int64 step to a minibatch.
        variables: tf.Variables or Keras variables, by the density they belong to, each
            listed once; some estimators treat the groups differently.
        bound: a row of the table.
        K: draws of psi per z besides psi_0; the row's default if None.
        M: draws of z; likewise.
        L: draws of zeta per z under a hierarchical prior; likewise.
        defensive: share of q(psi|x) in the mixture of diwhvi-mixture, from 0 to below 1.
        gradient: an estimator that the row takes.
        backward_samples: S, of how many of the terms over k and m the gradient is taken (see
            `value_and_gradients`); 0 takes all.
        steps: optimizer steps.
        optimizer: of Keras 3, or its class or name; Adam with step size 1e-3 if None.
        seed: from which every draw is folded, from 0 to 2^31 - 1.
        jit_compile: whether to use XLA for draw, bound and gradients.

    Returns:
        `[steps]`, the bound at each step, nats per observation.

    Raises:
        ValueError: for a count that the row fixes, a model of the wrong shapes, draws
            that are not reparameterized, a variable that is listed twice or that no gradient
            reaches.
        FitDiverged: a ValueError, if the bound, a gradient or an updated variable is not
            finite; the variables and the optimizer are back where all were last finite.
        FitInterrupted: on KeyboardInterrupt.
        TypeError: if a distribution lacks what the row needs of it, `variables` is not made
            of lists of variables, or `optimizer` is none of Keras 3.
        RuntimeError: inside a tf.function.
    """
    checks.is_eager("fit")
    steps = arguments.count("steps", steps, lowest=1)
    seed = arguments.seed(seed)
    row = _row(bound, defensive)
    counts = _counts(row, model, K=K, M=M, L=L)
    backward_samples = _backward_samples(row, backward_samples, counts)
    if callable(x):
        batch = x
    else:
        whole = checks.observations(x)
        batch = lambda step: whole  # noqa: E731
    first = checks.observations(batch(tf.constant(0, tf.int64)))
    if not isinstance(gradient, str):
        raise ValueError(f"gradient={arguments.shown(gradient)}: must be the name of an estimator")
    checks.check_model(model, row, first, gradient)
    flat = _flat_variables(variables)
    adam = as_optimizer("adam" if optimizer is None else optimizer)
    adam.build(flat)  # does nothing if it is built
    if {id(v) for v in flat} - {id(v) for v in getattr(adam, "_trainable_variables", flat)}:
        raise ValueError("optimizer: was built on other variables; make one for each fit of these")
    unreached: list[str] = []

    @tf.function(jit_compile=jit_compile)
    def value_and_ascent(batch: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, list]:
        objective, gradient_of = gradients.value_and_gradients(
            model,
            row,
            batch,
            variables,
            **counts,
            seed=randomness.fold(seed, randomness.Purpose.TRAIN, step),
            estimator=gradient,
            backward_samples=backward_samples,
        )
        unreached.extend(_unreached(variables, gradient_of))
        ascent = [g for group in gradient_of for g in group]
        return objective.value, [tf.zeros([]) if g is None else g for g in ascent]

    def check() -> None:
        if unreached:
            raise ValueError(f"variables: no gradient reaches {unreached[0]}")

    direction = lambda step: value_and_ascent(batch(step), step)  # noqa: E731
    return Ascent(direction, flat, adam, check).climb(steps)


def value_and_gradients(
    model: Model | sampling.Prepare,
    method: Method,
    x: tf.Tensor,
    variables: ParameterGroups,
    *,
    K: int,
    M: int,
    L: int = 1,
    seed: tf.Tensor,
    estimator: str = "reparameterized",
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
    backward_samples: int = 0,
) -> tuple[Objective, ParameterGroups]:
    """Draws once and returns the objective with its gradient for every group.

    The arguments are checked as those of `fit`; the model once, until another one is passed.

    Args:
        model: the callables, or a function that makes them of x.
        method: a row of the table, such as `METHODS["iwhvi"]`.
        x: observations `[B, ...]`.
        variables: tf.Variables or Keras variables, by the density they belong to.
        K: draws of psi besides psi_0.
        M: draws of z.
        L: draws of zeta.
        seed: int32 `[2]`.
        estimator: one of the row's `gradients`.
        inner: warm-up c_in in [0, 1]; below 1 the objective is no bound.
        outer: warm-up c_out in [0, 1]; likewise.
        backward_samples: S, the number of terms over k, besides that of psi_0, and over m that
            the gradient is taken of; they are drawn in proportion to their weights, which
            leaves every estimator's mean as it is. 0 takes all.

    Returns:
        The draw and its value, and the ascent direction of each group; None for a variable
        that no gradient reaches.

    Raises:
        ValueError, TypeError: as `fit`.
    """
    _check_method(method)
    seed = arguments.stateless_seed(seed)
    x = checks.observations(x)
    prepared = sampling.prepared(model, x)
    counts = _counts(method, prepared, K=K, M=M, L=L)
    backward_samples = _backward_samples(method, backward_samples, counts)
    for name, warmup in (("inner", inner), ("outer", outer)):
        if tf.get_static_value(warmup) is not None or not tf.is_tensor(warmup):
            arguments.number(name, warmup, "from 0 to 1", lambda c: 0 <= c <= 1)
    if estimator not in method.gradients:
        raise ValueError(
            f"estimator={arguments.shown(estimator)}: bound={method.name!r} takes "
            + ", ".join(method.gradients)
        )
    _flat_variables(variables)
    _check_once(model, prepared, method, x, estimator)
    return gradients.value_and_gradients(
        model,
        method,
        x,
        variables,
        **counts,
        seed=seed,
        estimator=estimator,
        inner=inner,
        outer=outer,
        backward_samples=backward_samples,
    )


# The latest models that were checked, and what they were checked for.
_CHECKED: collections.deque = collections.deque(maxlen=16)


def _check_once(
    model: Model | sampling.Prepare,
    prepared: Model,
    method: Method,
    x: tf.Tensor,
    estimator: str,
) -> None:
    """Calls `checks.check_model` unless one of the last calls here was about the same model."""
    purpose = (method, x.shape.as_list(), x.dtype, estimator)
    if any(other is model and known == purpose for other, known in _CHECKED):
        return
    checks.check_model(prepared, method, x, estimator)
    _CHECKED.append((model, purpose))


def _backward_samples(row: Method, value: Any, counts: dict[str, Any]) -> int:
    """Returns S, fewer than the terms over k or m.

    Raises:
        ValueError: for a row with a single term, or if S is no whole number or too large.
    """
    count = arguments.count("backward_samples", value, lowest=0)
    if count and not row.takes_backward_samples:
        rows = ", ".join(name for name, other in METHODS.items() if other.takes_backward_samples)
        raise ValueError(
            f"backward_samples={count}: bound={row.name!r} has no sum over k or m of which terms "
            f"could be left out; it is for {rows}"
        )
    terms = max(sampling.psi_per_z(row, counts["K"], counts["M"]), counts["M"])
    if count >= terms > 0:
        raise ValueError(
            f"backward_samples={count}: must be below {terms}, the number of terms; 0 takes all"
        )
    return count


def _flat_variables(variables: ParameterGroups) -> list:
    """Returns `checks.flat_variables`; there is no buffer for pi to weigh.

    Raises:
        ValueError: if there are variables of pi, too.
    """
    flat = checks.flat_variables(variables)
    if variables.pi:
        raise ValueError("variables: pi weighs the proposals of an SVI loop; there is none here")
    return flat


def draw(
    model: Model | sampling.Prepare,
    method: Method,
    x: tf.Tensor,
    *,
    K: int | tf.Tensor,
    M: int | tf.Tensor,
    L: int | tf.Tensor = 1,
    seed: tf.Tensor,
) -> LatentSample:
    """Returns one draw of every latent variable, after checks of the counts and the seed.

    Args:
        model: the callables, or a function that makes them of x.
        method: a row of the table, such as `METHODS["iwhvi"]`.
        x: observations `[B, ...]`.
        K: draws of psi besides psi_0, >= 0. Ignored for an explicit proposal.
        M: draws of z, >= 1.
        L: draws of zeta, >= 1. Ignored for an explicit prior and where zeta is psi_0.
        seed: int32 `[2]`; the draw is a pure function of it.

    Raises:
        ValueError: for a count or a seed out of range.
        TypeError: if `model` or `method` is of another type.
    """
    _check_method(method)
    x = checks.observations(x)
    model = sampling.prepared(model, x) if callable(model) else model
    if not isinstance(model, Model):
        raise TypeError(f"model={arguments.shown(model)}: must be an hvi.Model")
    return sampling.draw(
        model,
        method,
        x,
        K=arguments.count_or_tensor("K", K, lowest=0),
        M=arguments.count_or_tensor("M", M, lowest=1),
        L=arguments.count_or_tensor("L", L, lowest=1),
        seed=arguments.stateless_seed(seed),
    )


def _check_method(method: Any) -> None:
    if not isinstance(method, Method):
        raise TypeError(f"method={arguments.shown(method)}: must be a row such as METHODS['iwhvi']")


def _unreached(variables: ParameterGroups, gradient_of: ParameterGroups) -> list[str]:
    """Returns a line about each variable whose gradient is None."""
    return [
        f"{group}[{i}] ({variable.name}, shape {tuple(variable.shape)}); compute with variables "
        "inside the callables, not once before, and name each in the group of its own density"
        for group, held, found in zip(variables._fields, variables, gradient_of, strict=True)
        for i, (variable, value) in enumerate(zip(held, found, strict=True))
        if value is None
    ]


def _row(bound: str, defensive: float, mixture_size: int = MIXTURE_SIZE) -> Method:
    if not isinstance(bound, str) or bound not in METHODS:
        raise ValueError(
            f"bound={arguments.shown(bound)}: unknown; choose one of {', '.join(METHODS)}"
        )
    if METHODS[bound].refines:
        raise ValueError(
            f"bound={bound!r}: refines local parameters, which a Model does not name; see "
            "hvi.refined_evidence and hvi.svi"
        )
    row = METHODS[bound]
    share = arguments.number("defensive", defensive, "from 0 to below 1", lambda s: 0 <= s < 1)
    size = arguments.count("mixture_size", mixture_size, lowest=0)
    for name, value, default in (("defensive", share, 0.0), ("mixture_size", size, MIXTURE_SIZE)):
        if value != default and not row.mixes:
            raise ValueError(
                f"{name}={value}: bound={bound!r} has no mixture; it is for diwhvi-mixture"
            )
    return row._replace(defensive=share, mixture_size=size) if row.mixes else row


def _counts(row: Method, model: Model, **given: Any) -> dict[str, Any]:
    """Returns the counts, with the row's own where they are left out."""
    if not isinstance(model, Model):
        raise TypeError(f"model={arguments.shown(model)}: must be an hvi.Model")
    allowed = {
        "K": row.K,
        "M": row.M,
        "L": row.L if isinstance(model.prior, Hierarchy) else Count(1, free=False),
    }
    counts = {}
    for name, count in allowed.items():
        value = count.default if given[name] is None else given[name]
        value = arguments.count(name, value, lowest=0 if name == "K" else 1)
        if not count.free and value != count.default:
            raise ValueError(
                f"{name}={value}: bound={row.name!r} with this prior fixes {name}={count.default}"
            )
        counts[name] = value
    return counts
