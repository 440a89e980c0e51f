"""Scores of the same images by several bounds, with the seconds that each takes."""

import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.evaluation import jobs
from hvi_tf.evaluation.jobs import Job
from hvi_tf.experiments.harness.experiment import Cell, Context
from hvi_tf.inference import image_scores, methods, plans
from hvi_tf.inference.counts import Counts
from hvi_tf.training.runs import Run


class Contestant(NamedTuple):
    """A method of the table in this comparison.

    Attributes:
        method: its name in the table.
        K: the setting that lists its numbers of draws.
        changes: fields of the method that differ from the table.
    """

    method: str
    K: str = "shared_K"
    changes: Mapping[str, Any] = MappingProxyType({})


OWN = "DIWHVI"  # the contestant with separate psi for each z
CONTESTANTS = {
    OWN: Contestant("diwhvi", "K"),
    "mixture": Contestant("diwhvi-mixture"),
    "mixture of all": Contestant("diwhvi-mixture", changes=dict(mixture_size=0)),
    "mixture, defensive": Contestant("diwhvi-mixture", changes=dict(defensive=0.2)),
    "SIVI equicomp": Contestant("sivi-equicomp"),
    "SIVI equisample": Contestant("sivi-equisample", "equisample_K"),
}
BOUND, SCORE = "bound", "log_likelihood"


class Score(NamedTuple):
    """The scores of all images by one contestant at one K."""

    label: str
    K: int
    values: dict[str, np.ndarray]
    seconds: float  # per image


def score_all(run: Run, x: tf.Tensor, cell: Cell, context: Context) -> Iterator[Score]:
    """Yields scores by every contestant at each of its K; an interrupted cell resumes."""
    s = cell.settings
    for label, (name, counts, changes) in CONTESTANTS.items():
        method = methods.look_up(name)
        if changes.get("mixture_size") == 0 and s["M"] <= method.mixture_size:
            continue  # it equals the mixture then
        changed = method._replace(**changes)
        for K in s[counts]:
            plan = plans.make(changed, Counts(K=K, M=s["M"]))
            score = image_scores.make_scorer(run.model.callables, changed, plan)
            job = Job(
                title=f"{label} M={s['M']} K={K}",
                path=context.cell / f"{label} K{K}.npz",
                check=lambda: None,
                identity=dict(s, label=label, plan=plan.identity(), step=run.step),
                names=(SCORE, BOUND, "seconds"),
                purpose=randomness.Purpose.EVALUATE,
                images=plan.images,
                available=len(x),
                score=_timed(score, x),
            )
            values, _ = jobs.score_all(job, s["images"], s["repetition"])
            yield Score(label, K, values, float(np.median(values["seconds"])))


def _timed(score: Callable[[tf.Tensor, tf.Tensor], Any], x: tf.Tensor) -> Callable[..., tuple]:
    """Returns (images, seed) -> their scores, and the seconds that each image took."""
    compiled: list[Any] = []

    def timed(images: tf.Tensor, seed: tf.Tensor) -> tuple:
        if not compiled:
            compiled.append(score(tf.gather(x, images), seed))
        started = time.perf_counter()
        scores = score(tf.gather(x, images), seed)
        scores.bound.numpy()  # waits for the result
        seconds = (time.perf_counter() - started) / len(images)
        return scores.log_likelihood, scores.bound, tf.fill([len(images)], seconds)

    return timed
