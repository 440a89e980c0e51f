"""The summary of an evaluation: means over images, as stored in JSON next to the scores."""

from typing import Any

import numpy as np

from hvi_tf.config.config import Config
from hvi_tf.data import datasets
from hvi_tf.evaluation.jobs import Job, Scores
from hvi_tf.runtime import replicas
from hvi_tf.storage import files


def make(
    config: Config,
    job: Job,
    scores: Scores,
    seconds: float,
    step: int | None,
    metadata: dict[str, Any],
) -> dict[str, Any]:
    """Returns the summary of the scores of a job.

    Args:
        config: the run's configuration, with the evaluation's settings.
        job: the one that was run.
        scores: the job's scores, `[N]` each.
        seconds: time that the scores took in all commands together.
        step: the checkpoint's training step; None for a SavedModel.
        metadata: the estimator and its settings.
    """
    return {
        "dataset": datasets.describe(config.data.dataset, config.data.data_digest),
        "bound": config.method.bound,
        "split": config.evaluation.eval_split,
        "images": len(scores[job.names[0]]),
        "step": step,
        "seconds": round(seconds, 1),
        "scores": str(job.path),
        **metadata,
        **means(scores),
    }


def means(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Returns the mean and the standard error over images of every score.

    Leaves out a score that is undefined for every image, such as a KL divergence without psi.
    The standard error of a single image is None.
    """
    summary: dict[str, dict[str, float | None]] = {}
    for name, values in scores.items():
        values = values.astype(np.float64)
        if np.isnan(values).all():
            continue
        n = len(values)
        error = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
        summary[name] = {"mean": float(values.mean()), "standard_error": error}
    return summary


def write(job: Job, summary: dict[str, Any]) -> None:
    """Writes a summary next to the scores of its job; its file name ends in the image count."""
    if replicas.is_chief():
        path = job.path.with_name(f"{job.path.stem}_N{summary['images']}.json")
        files.write_json(path, summary)
