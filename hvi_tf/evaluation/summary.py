"""The short table at the end of a run."""

from typing import Any

from hvi_tf.config import Config
from hvi_tf.training.loop import TrainingResult
from hvi_tf.training.progress import duration
from hvi_tf.workdir import Workdir


def table(
    config: Config,
    workdir: Workdir,
    scores: dict[str, Any],
    training: TrainingResult | None,
    seconds: float,
) -> str:
    """What was measured, where everything lies, and the commands to go on.

    Args:
        config: of the run.
        workdir: of the run.
        scores: the summary of `evaluate.evaluate`.
        training: None if this command only evaluated.
        seconds: wall time of this command.
    """
    M, K, hierarchical = scores["M"], scores["K"], config.row.hierarchical
    counts = f"M={M}, K={K}" if hierarchical else f"M={M}"
    estimate = "DIWHVI" if hierarchical else "IWAE"
    rows = [
        (f"test log-likelihood ({estimate}, {counts})", _nats(scores["log_likelihood"])),
        (f"test bound (M=1{f', K={K}' if hierarchical else ''})", _nats(scores["bound"])),
    ]
    if K:
        rows.append(("KL(tau||q(psi))", _nats(scores["kl_tau_mixing"])))
    rows.append(("effective sample size, outer", _of(scores["ess_outer"], M)))
    if K:
        rows.append(("effective sample size, inner", _of(scores["ess_inner"], K + 1)))
    took = duration(scores["seconds"])
    rows += [
        ("images", f"{scores['images']} of the test split, checkpoint of step {scores['step']}"),
        ("wall time", f"{duration(seconds)} this command; the evaluation took {took}"),
    ]
    if training and training.steps_per_second is None:
        rows.append(("training", f"was complete, {training.steps} steps"))
    elif training:
        rows.append(
            (
                "training",
                f"{training.steps} steps, {training.steps_per_second:.1f} steps/s at the end",
            )
        )
    rows += [
        ("checkpoint", str(workdir.best)),
        ("SavedModel", str(workdir.saved_model)),
        ("TensorBoard", str(workdir.tensorboard)),
        ("per-image scores", scores["scores"]),
    ]
    width = max(len(name) for name, _ in rows)
    lines = ["", *(f"{name:<{width}}  {value}" for name, value in rows), "", "To go on:"]
    main = f"python -m hvi_tf.main --workdir={workdir.path}"
    lines += [
        f"  tensorboard --logdir={workdir.tensorboard}",
        f"  {main} --mode=evaluate --eval_M=5000 --eval_K=100 --eval_images=100",
        f"  {main} --mode=export",
    ]
    return "\n".join(lines)


def _nats(score: dict[str, float]) -> str:
    return f"{score['mean']:.2f} +- {score['standard_error']:.2f} nats"


def _of(score: dict[str, float], total: int) -> str:
    return f"{score['mean']:.1f} of {total}"
