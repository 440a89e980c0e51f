"""The short table at the end of a run."""

import math
import shlex
from typing import Any

from hvi_tf.bounds import diagnostics
from hvi_tf.config.config import Config
from hvi_tf.evaluation import evaluate
from hvi_tf.inference.methods import METHODS, Counts, Method
from hvi_tf.runtime.progress import counted, duration
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training.loop import TrainingResult


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
    rows = score_rows(scores)
    took = duration(scores["seconds"])
    if scores["estimator"] == "saved_model":
        scored = f"SavedModel {scores['saved_model']} (SHA-256 {scores['sha256'][:12]}...)"
        lies = []  # another one than the run's own, perhaps
    else:
        scored = f"checkpoint of step {scores['step']}"
        is_best = (workdir.best / f"ckpt-{scores['step']}.index").exists()
        lies = [("checkpoint", str(workdir.best if is_best else workdir.checkpoints))]
        if workdir.saved_model.exists():
            lies.append(("SavedModel", str(workdir.saved_model)))
    rows += [
        (
            "images",
            f"{scores['images']} of the {scores['split']} split of {scores['dataset']}, {scored}",
        ),
        ("wall time", f"{duration(seconds)} this command; the evaluation took {took}"),
    ]
    if training and training.steps_per_second is None:
        rows.append(("training", f"was complete, {counted(training.steps, 'step')}"))
    elif training:
        rate = f"{training.steps_per_second:.1f} steps/s at the end"
        rows.append(("training", f"{counted(training.steps, 'step')}, {rate}"))
    rows += [
        *lies,
        ("TensorBoard", str(workdir.tensorboard)),
        ("per-image scores", scores["scores"]),
    ]
    width = max(len(name) for name, _ in rows)
    lines = ["", *(f"{name:<{width}}  {value}" for name, value in rows)]
    lines += [f"warning: {text}" for text in warnings(scores)]
    lines += ["", "To go on:"]
    # To be pasted into a shell, to which a folder's name is to mean nothing.
    main = shlex.join(["python", "-m", "hvi_tf.main", f"--workdir={workdir.path}"])
    lines += [
        f"  {shlex.join(['tensorboard', f'--logdir={workdir.tensorboard}'])}",
        f"  {main} --mode=evaluate {_larger_score(config)} --eval_images=100",
        f"  {main} --mode=evaluate --estimator=ais --eval_images=32",
        f"  {main} --mode=sample",
    ]
    if config.row.psi_from_mixing:
        lines.append(f"  {main} --mode=fit_tau")
    return "\n".join(lines)


def _larger_score(config: Config) -> str:
    """The flags of a score that takes longer than the default one."""
    refined = config.evaluation.estimator in ("bsvi", "svi") or config.row.refines
    if refined and (not config.row.hierarchical or config.row.has_tau):
        return f"--estimator={'diwhvi' if config.row.hierarchical else 'iwae'} --eval_steps=500"
    flags = [] if config.evaluation.estimator == "auto" else ["--estimator=auto"]
    flags.append("--eval_M=5000")
    if config.row.draws_psi:
        flags.append("--eval_K=100")
    return " ".join(flags)


def score_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """The scores of an evaluation, each with its standard error over images."""
    if scores["estimator"] == "ais":
        return _annealing_rows(scores)
    if scores["estimator"] == "saved_model":
        return _saved_model_rows(scores)
    M, K, L, split = scores["M"], scores["K"], scores["L"], scores["split"]
    row = METHODS[scores["estimator"]]
    if row.refines:
        return _refined_rows(scores)
    if "multiples" in scores:
        return [
            (f"{split} log-likelihood ({_estimate(row)}, M={M * (j + 1)})", _nats(scores[name]))
            for j, name in enumerate(evaluate.multiple_names(M))
        ]
    inner = "".join(f", {name}={count}" for name, count in (("K", K), ("L", L)) if count)
    if row.has_tau:
        inner = inner or f", K={K}"
    adaptive = "draws" in scores
    outer = f"M<={M}" if adaptive else f"M={M}"
    rows = [
        (
            f"{split} log-likelihood ({_estimate(row)}, {outer}{inner})",
            _nats(scores["log_likelihood"]),
        ),
        (f"{split} bound (M=1{inner})", _nats(scores["bound"])),
    ]
    if adaptive:
        used, capped = scores["draws"]["mean"], scores["images_at_most_draws"]
        rows.append(
            (
                f"draws of z, for +- {scores['eval_tolerance']:g} nats an image",
                f"{used:.0f} on average, beside {scores['pilot_draws']} of the pilot; all {M} for "
                f"{capped} of {counted(scores['images'], 'image')}",
            )
        )
    total = round(scores["draws"]["mean"]) if adaptive else M
    rows.append(("effective sample size, outer", _of(scores["ess_outer"], total)))
    if K:
        per_z = row.psi_per_z(Counts(K=K, M=M)) + 1
        rows.append(("effective sample size, inner", _of(scores["ess_inner"], per_z)))
    for level in ("outer", "inner"):
        if f"pareto_k_{level}" in scores:
            rows.append((f"Pareto k of the weights, {level}", _plain(scores[f"pareto_k_{level}"])))
    if K and row.has_tau:
        proposal = "mixture" if row.mixes else "tau"
        rows += [
            ("KL(tau||q(psi|x))", _nats(scores["kl_tau_mixing"])),
            (f"KL({proposal}||q(psi|x,z)), at least", _nats(scores["kl_tau_posterior"])),
        ]
    if K:
        rows.append(("KL(q(psi|x)||q(psi|x,z)), at least", _nats(scores["kl_mixing_posterior"])))
    return rows


def _refined_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """The terms of equation 59 of Shu et al. 2019, KL* and Reconstruction* as costs."""
    k = scores["steps"]
    rows = []
    if "log_likelihood" in scores:
        rows.append(
            (f"{scores['split']} log-likelihood (BSVI-{k})", _nats(scores["log_likelihood"]))
        )
    rows += [
        (f"ELBO* (SVI-{k})", _nats(scores["elbo"])),
        ("KL*", _nats(scores["kl"])),
        ("Reconstruction*", _nats(scores["reconstruction"])),
        ("ELBO of the encoder alone", _nats(scores["elbo_start"])),
    ]
    if "ess_buffer" in scores:
        rows.append(("effective sample size of the buffer", _of(scores["ess_buffer"], k + 1)))
    return rows


def _saved_model_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    M, inner = scores["M"], f", K={scores['K']}" if scores["K"] else ""
    return [
        (
            f"{scores['split']} log-likelihood (SavedModel, M={M}{inner})",
            _nats(scores["log_likelihood"]),
        ),
        (f"{scores['split']} bound (M=1{inner})", _nats(scores["bound"])),
        ("effective sample size, outer", _of(scores["ess_outer"], M)),
    ]


def _annealing_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    simulated, n = scores["simulated"], scores["simulated_images"]
    settings = f"{counted(scores['chains'], 'chain')}, {counted(scores['steps'], 'temperature')}"
    return [
        (
            f"{scores['split']} log-likelihood, at least (AIS, {settings})",
            _nats(scores["log_likelihood"]),
        ),
        ("acceptance", _plain(scores["acceptance"])),
        ("effective sample size of the chains", _of(scores["ess_chains"], scores["chains"])),
        (f"{n} simulated images: log p(x), at least", _nats(simulated["lower"])),
        (f"{n} simulated images: log p(x), at most", _nats(simulated["upper"])),
        ("their distance, image by image", _nats(simulated["gap"])),
        ("acceptance on simulated images", _plain(simulated["acceptance"])),
    ]


def warnings(scores: dict[str, Any]) -> list[str]:
    """What a careful reader of these scores has to know."""
    found: list[str] = []
    if "kl_tau_mixing" not in scores and "pareto_k_outer" not in scores:
        return found
    row = METHODS[scores["estimator"]]
    kl = max(0.0, scores.get("kl_tau_mixing", {"mean": math.inf})["mean"])
    if row.has_tau and kl < diagnostics.COLLAPSED_NATS:
        found.append(
            f"tau has collapsed to q(psi|x): KL(tau||q(psi|x)) is {kl:.3f} nats, so psi tells "
            "hardly anything about z and q(z|x) is as good as explicit"
        )
    tail = scores.get("pareto_k_outer", {"mean": 0.0})["mean"]
    if tail > diagnostics.RELIABLE_PARETO_K:
        found.append(
            f"Pareto k of the outer weights is {tail:.2f}, above {diagnostics.RELIABLE_PARETO_K}: "
            "few draws dominate, so the bound is still well below log p(x); raise --eval_M"
        )
    capped = scores.get("images_at_most_draws", 0)
    if capped:
        found.append(
            f"--eval_M={scores['M']}, the draws of {counted(capped, 'image')}, may be too few for "
            f"--eval_tolerance={scores['eval_tolerance']:g}"
        )
    return found


def _estimate(row: Method) -> str:
    if not row.hierarchical:
        return "IWAE"
    return "DIWHVI" if row.has_own_tau else row.name.upper()


def _nats(score: dict[str, float | None]) -> str:
    return f"{_plain(score)} nats"


def _plain(score: dict[str, float | None]) -> str:
    error = score["standard_error"]
    shown = "?" if error is None else f"{error:.2f}"
    return f"{score['mean']:.2f} +- {shown}"


def _of(score: dict[str, float | None], total: int) -> str:
    return f"{score['mean']:.1f} of {total}"
