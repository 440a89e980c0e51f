"""The table that a command prints after an evaluation."""

import math
import shlex
from typing import Any

from hvi_tf.bounds import diagnostics
from hvi_tf.config import estimators
from hvi_tf.config.config import Config
from hvi_tf.evaluation import scorers
from hvi_tf.inference import methods
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import Method
from hvi_tf.runtime.progress import counted, duration
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training.loop import TrainingResult

Rows = list[tuple[str, str]]
Score = dict[str, float | None]


def render(
    config: Config,
    workdir: Workdir,
    scores: dict[str, Any],
    training: TrainingResult | None,
    seconds: float,
) -> str:
    """Returns the scores, the paths of a run's files, warnings and the next commands as text.

    Args:
        config: the run's configuration.
        workdir: the run's workdir.
        scores: the summary that `evaluate.evaluate` returned.
        training: None if this command only evaluated.
        seconds: wall time of this command.
    """
    rows = [
        *score_rows(scores),
        *_run_rows(scores, training, seconds),
        *_path_rows(workdir, scores),
    ]
    width = max(len(name) for name, _ in rows)
    lines = ["", *(f"{name:<{width}}  {value}" for name, value in rows)]
    lines += [f"warning: {text}" for text in warnings(scores)]
    lines += ["", "Next commands:", *(f"  {line}" for line in _next_commands(config, workdir))]
    return "\n".join(lines)


def _run_rows(scores: dict[str, Any], training: TrainingResult | None, seconds: float) -> Rows:
    if scores["estimator"] == "saved_model":
        scored = f"SavedModel {scores['saved_model']} (SHA-256 {scores['sha256'][:12]}...)"
    else:
        scored = f"checkpoint of step {scores['step']}"
    images = f"{scores['images']} of the {scores['split']} split of {scores['dataset']}, {scored}"
    took = duration(scores["seconds"])
    rows = [
        ("images", images),
        ("wall time", f"{duration(seconds)} this command; the evaluation took {took}"),
    ]
    if training and training.steps_per_second is None:
        rows.append(("training", f"was complete, {counted(training.steps, 'step')}"))
    elif training:
        rate = f"{training.steps_per_second:.1f} steps/s at the end"
        rows.append(("training", f"{counted(training.steps, 'step')}, {rate}"))
    return rows


def _path_rows(workdir: Workdir, scores: dict[str, Any]) -> Rows:
    rows = []
    if scores["estimator"] != "saved_model":  # a SavedModel may belong to another run
        is_best = (workdir.best / f"ckpt-{scores['step']}.index").exists()
        rows.append(("checkpoint", str(workdir.best if is_best else workdir.checkpoints)))
        if workdir.saved_model.exists():
            rows.append(("SavedModel", str(workdir.saved_model)))
    return [
        *rows,
        ("TensorBoard", str(workdir.tensorboard)),
        ("per-image scores", scores["scores"]),
    ]


def _next_commands(config: Config, workdir: Workdir) -> list[str]:
    # Quoted, because a shell must not interpret the name of the folder.
    main = shlex.join(["python", "-m", "hvi_tf.main", f"--workdir={workdir.path}"])
    commands = [
        shlex.join(["tensorboard", f"--logdir={workdir.tensorboard}"]),
        f"{main} --mode=evaluate {_larger_score(config)} --eval_images=100",
        f"{main} --mode=evaluate --estimator=ais --eval_images=32",
        f"{main} --mode=sample",
    ]
    return (
        [*commands, f"{main} --mode=fit_tau"] if config.chosen_method.psi_from_mixing else commands
    )


def _larger_score(config: Config) -> str:
    """Returns the flags of a score that takes longer than the default one."""
    refined = estimators.refines(config) or config.chosen_method.refines
    if refined and (not config.chosen_method.hierarchical or config.chosen_method.has_tau):
        estimator = "diwhvi" if config.chosen_method.hierarchical else "iwae"
        return f"--estimator={estimator} --eval_steps=500"
    flags = [] if config.evaluation.estimator == "auto" else ["--estimator=auto"]
    flags.append("--eval_M=5000")
    if config.chosen_method.draws_psi:
        flags.append("--eval_K=100")
    return " ".join(flags)


def score_rows(scores: dict[str, Any]) -> Rows:
    """Returns the scores of an evaluation, each with its standard error over images."""
    if scores["estimator"] == "ais":
        return _annealing_rows(scores)
    if scores["estimator"] == "saved_model":
        return _saved_model_rows(scores)
    method = methods.look_up(scores["estimator"])
    if method.refines:
        return _refined_rows(scores)
    if "multiples" in scores:
        M, split = scores["M"], scores["split"]
        return [
            (f"{split} log-likelihood ({_label(method)}, M={M * (j + 1)})", _nats(scores[name]))
            for j, name in enumerate(scorers.multiple_names(M))
        ]
    return [
        *_bound_rows(scores, method),
        *_weight_rows(scores, method),
        *_divergence_rows(scores, method),
    ]


def _bound_rows(scores: dict[str, Any], method: Method) -> Rows:
    M, K, L, split = scores["M"], scores["K"], scores["L"], scores["split"]
    inner = "".join(f", {name}={count}" for name, count in (("K", K), ("L", L)) if count)
    if method.has_tau:
        inner = inner or f", K={K}"
    outer = f"M<={M}" if "draws" in scores else f"M={M}"
    rows = [
        (
            f"{split} log-likelihood ({_label(method)}, {outer}{inner})",
            _nats(scores["log_likelihood"]),
        ),
        (f"{split} bound (M=1{inner})", _nats(scores["bound"])),
    ]
    if "draws" in scores:
        used, capped = scores["draws"]["mean"], scores["images_at_most_draws"]
        rows.append(
            (
                f"draws of z, for +- {scores['eval_tolerance']:g} nats an image",
                f"{used:.0f} on average, plus {scores['pilot_draws']} in the pilot; all {M} for "
                f"{capped} of {counted(scores['images'], 'image')}",
            )
        )
    return rows


def _weight_rows(scores: dict[str, Any], method: Method) -> Rows:
    M, K = scores["M"], scores["K"]
    total = round(scores["draws"]["mean"]) if "draws" in scores else M
    rows = [("effective sample size, outer", _of(scores["ess_outer"], total))]
    if K:
        per_z = method.psi_per_z(Counts(K=K, M=M)) + 1
        rows.append(("effective sample size, inner", _of(scores["ess_inner"], per_z)))
    for level in ("outer", "inner"):
        if f"pareto_k_{level}" in scores:
            rows.append((f"Pareto k of the weights, {level}", _plain(scores[f"pareto_k_{level}"])))
    return rows


def _divergence_rows(scores: dict[str, Any], method: Method) -> Rows:
    if not scores["K"]:
        return []
    rows = []
    if method.has_tau:
        proposal = "mixture" if method.mixes else "tau"
        rows = [
            ("KL(tau||q(psi|x))", _nats(scores["kl_tau_mixing"])),
            (f"KL({proposal}||q(psi|x,z)), at least", _nats(scores["kl_tau_posterior"])),
        ]
    return [*rows, ("KL(q(psi|x)||q(psi|x,z)), at least", _nats(scores["kl_mixing_posterior"]))]


def _refined_rows(scores: dict[str, Any]) -> Rows:
    """Returns the terms of equation 59 of Shu et al. 2019; KL* and Reconstruction* are costs."""
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


def _saved_model_rows(scores: dict[str, Any]) -> Rows:
    M, inner = scores["M"], f", K={scores['K']}" if scores["K"] else ""
    return [
        (
            f"{scores['split']} log-likelihood (SavedModel, M={M}{inner})",
            _nats(scores["log_likelihood"]),
        ),
        (f"{scores['split']} bound (M=1{inner})", _nats(scores["bound"])),
        ("effective sample size, outer", _of(scores["ess_outer"], M)),
    ]


def _annealing_rows(scores: dict[str, Any]) -> Rows:
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
        ("their difference, image by image", _nats(simulated["gap"])),
        ("acceptance on simulated images", _plain(simulated["acceptance"])),
    ]


def warnings(scores: dict[str, Any]) -> list[str]:
    """Returns a warning for each sign that the scores are far below log p(x), or tau is useless."""
    if "kl_tau_mixing" not in scores and "pareto_k_outer" not in scores:
        return []
    texts = []
    kl = max(0.0, scores.get("kl_tau_mixing", {"mean": math.inf})["mean"])
    if methods.look_up(scores["estimator"]).has_tau and kl < diagnostics.COLLAPSED_NATS:
        texts.append(
            f"tau has collapsed to q(psi|x): KL(tau||q(psi|x)) is {kl:.3f} nats, so psi carries "
            "almost no information about z, and an explicit q(z|x) would do as well"
        )
    tail = scores.get("pareto_k_outer", {"mean": 0.0})["mean"]
    if tail > diagnostics.RELIABLE_PARETO_K:
        texts.append(
            f"Pareto k of the outer weights is {tail:.2f}, above {diagnostics.RELIABLE_PARETO_K}: "
            "few draws dominate, so the bound is still well below log p(x); raise --eval_M"
        )
    capped = scores.get("images_at_most_draws", 0)
    if capped:
        texts.append(
            f"{counted(capped, 'image')} took all --eval_M={scores['M']} draws, which may be too "
            f"few for --eval_tolerance={scores['eval_tolerance']:g}"
        )
    return texts


def _label(method: Method) -> str:
    if not method.hierarchical:
        return "IWAE"
    return "DIWHVI" if method.has_own_tau else method.name.upper()


def _nats(score: Score) -> str:
    return f"{_plain(score)} nats"


def _plain(score: Score) -> str:
    error = score["standard_error"]
    shown = "?" if error is None else f"{error:.2f}"
    return f"{score['mean']:.2f} +- {shown}"


def _of(score: Score, total: int) -> str:
    return f"{score['mean']:.1f} of {total}"
