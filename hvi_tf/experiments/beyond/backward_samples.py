"""Beyond the papers: cost and benefit of differentiating S of the bound's K terms."""

import math
from typing import Any

import numpy as np

from hvi_tf import randomness
from hvi_tf.benchmark import cells as steps
from hvi_tf.benchmark import rounds
from hvi_tf.benchmark.training import Step
from hvi_tf.experiments.beyond import gradient_cells
from hvi_tf.experiments.harness import plots, trained
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings, Table
from hvi_tf.experiments.harness.rows import (
    Ends,
    Row,
    all_above,
    curve,
    distinct,
    is_below,
    row,
    select,
    shown_mean,
    standard_error,
    values,
)
from hvi_tf.experiments.iwhvi import reference_model, signal_to_noise
from hvi_tf.inference import methods
from hvi_tf.runtime.progress import counted

GROUPS = {"phi": "q", "eta": "tau"}
ESTIMATORS = {"autodiff": "reparameterized", "DReG": "dreg"}
SECONDS = 0.3  # minimum duration of a time measurement

PRESETS: dict[str, Settings] = {
    "quick": dict(
        K=[10, 50], S=[2, 8, 16], batch_size=32, minibatches=2, draws=100, model="quick",
        rounds=9, training_K=50, training_S=8, epochs=2, more_epochs=2,
        learning_rate=2e-3, seeds=2,
    ),
    "full": dict(
        K=[10, 25, 50, 100], S=[1, 2, 4, 8, 16, 32], batch_size=256, minibatches=10, draws=1_000,
        model="full", rounds=21, training_K=50, training_S=8, epochs=100, more_epochs=60,
        learning_rate=1e-3, seeds=3,
    ),
}  # fmt: skip
_OF_MOMENTS = ("batch_size", "minibatches", "draws", "model")


def cells(settings: Settings) -> list[Cell]:
    """Returns a cell for all times, a cell for the moments of each K, and the trainings."""
    s = settings
    result = [Cell("times", {name: s[name] for name in ("K", "S", "rounds")})]
    for K in s["K"]:
        shared = {name: s[name] for name in _OF_MOMENTS}
        result.append(Cell(f"moments-K{K}", {**shared, "K": K, "S": _below(s["S"], K)}))
    for seed in range(s["seeds"]):
        for S in (0, s["training_S"]):
            epochs = s["epochs"] + (s["more_epochs"] if S else 0)
            training = dict(K=s["training_K"], backward_samples=S, epochs=epochs, seed=seed)
            training["learning_rate"] = s["learning_rate"]
            result.append(Cell(f"train-S{S}-seed{seed}", training))
    return result


def _below(counts: list[int], K: int) -> list[int]:
    return [S for S in counts if S < K]


def _times(s: Settings) -> list[Row]:
    """Returns the seconds of a training step of batch 256, of all K and S in turn."""
    contestants = {
        f"{K} {S}": Step(steps.Cell("", dict(bound="iwhvi", K=K, backward_samples=S)))
        for K in s["K"]
        for S in (0, *_below(s["S"], K))
    }
    times = rounds.in_turn(contestants, s["rounds"], SECONDS)
    rows = []
    for name, milliseconds in times.items():
        K, S = map(int, name.split())
        for quantity, measured in (
            ("seconds_per_step", np.divide(milliseconds, 1e3)),
            ("time_ratio", np.divide(milliseconds, times[f"{K} 0"])),
        ):
            ends = dict(low=float(measured.min()), high=float(measured.max()))
            where: dict[str, Any] = dict(dataset="noise", K=K, M=1, S=S, **ends)
            rows.append(row("autodiff", quantity, float(np.median(measured)), **where))
    return rows


def _moments(s: Settings, context: Context) -> list[Row]:
    """Returns variances and signal-to-noise ratios of a slightly trained model's gradients."""
    run = trained.train(context, reference_model.settings(s["model"], young=True))
    counts, rows = (0, *s["S"]), []
    for group in GROUPS:
        moments_of = signal_to_noise.make_moments(
            run.model.callables, methods.look_up("diwhvi"), run.model.parameter_groups, group,
            list(ESTIMATORS.values()), K=s["K"], draws=s["draws"], backward_samples=counts,
        )  # fmt: skip
        for i in range(s["minibatches"]):
            x = reference_model.minibatch(run, s["batch_size"], i)
            seed = randomness.fold(run.config.training.seed, randomness.Purpose.EVALUATE, i)
            moments = moments_of(x, seed)
            variances = np.sum(moments.deviation**2, axis=1).reshape(len(counts), -1)
            ratios = moments.ratios.reshape(len(counts), len(ESTIMATORS), -1)
            for j, S in enumerate(counts):
                for e, label in enumerate(ESTIMATORS):
                    where = dict(dataset="mnist", K=s["K"], M=1, seed=0, S=S, group=group)
                    where["minibatch"] = i
                    ratio = float(variances[j, e] / variances[0, e])
                    snr = signal_to_noise.summarize(ratios[j, e])
                    rows.append(row(label, "variance_ratio", ratio, **where))
                    ends = dict(low=snr.low, high=snr.high)
                    rows.append(row(label, "snr", snr.mean, **where, **ends))
    return rows


def _training(s: Settings, context: Context) -> list[Row]:
    """Returns the validation bound after every epoch."""
    flags = trained.recipe(
        "mnist_iwhvi", K_schedule="", gradient="reparameterized", outer_warmup_epochs=0.0,
        checkpoint_every=1, eval_every=1, steps_per_call=10, **s,
    )  # fmt: skip
    run = trained.train(context, flags)
    where = dict(dataset="mnist", K=s["K"], M=1, S=s["backward_samples"], seed=s["seed"])
    return trained.learning_curve(run, "autodiff", **where)


def _step_seconds(rows: list[Row], K: int, S: int) -> float:
    (seconds,) = values(rows, quantity="seconds_per_step", K=K, S=S)
    return seconds


def _curves(rows: list[Row]) -> tuple[int, dict[int, dict[int, list[float]]]]:
    """Returns K of the trainings, and for each S the bounds by step, one per seed."""
    mine = select(rows, quantity="validation_bound")
    return mine[0]["K"], {S: curve(mine, S=S) for S in distinct(mine, "S")}


def _at_equal_time(rows: list[Row]) -> tuple[float, np.ndarray]:
    """Returns the gain of S terms over all terms after equal time.

    Returns:
        The seconds at which the training through all terms ended, and the gain at that time, in
        nats by seed.
    """
    K, curves = _curves(rows)
    (S,) = (count for count in curves if count)
    end = max(curves[0])
    seconds = end * _step_seconds(rows, K, 0)
    then = min(seconds / _step_seconds(rows, K, S), max(curves[S]))  # it may have ended before
    by_seed = np.array(list(curves[S].values())).T
    fewer = [np.interp(then, list(curves[S]), bounds) for bounds in by_seed]
    return seconds, np.array(fewer) - np.array(curves[0][end])


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws time and variance against S, and learning curves against time."""
    Ks, counts = distinct(rows, "K"), [S for S in distinct(rows, "S") if S]
    figure, panels = plots.panels(1 + len(GROUPS), width=3.6)
    for K in Ks:
        mine = [S for S in counts if S < K]
        times = [select(rows, quantity="time_ratio", K=K, S=S) for S in mine]
        middle, low, high = ([r[key] for (r,) in times] for key in ("value", "low", "high"))
        plots.band(panels[0], mine, middle, low, high, f"K={K}")
    panels[0].set_ylabel("time of a step / that of all terms")
    panels[0].set_title("line: median of rounds, band: all", fontsize=8)
    for axes, (group, name) in zip(panels[1:], GROUPS.items(), strict=True):
        for i, label in enumerate(ESTIMATORS):
            for j, K in enumerate(Ks):
                mine = [S for S in counts if S < K]
                means = [np.mean(_variance(rows, label, group, K, S)) for S in mine]
                line = "--o" if i else "-o"
                axes.plot(mine, means, line, color=f"C{j}", label=f"{label}, K={K}")
        axes.set_ylabel(f"variance, {name} / that of all terms")
        axes.set_title("of the gradient, mean over minibatches", fontsize=8)
    for axes in panels:
        plots.count_axis(axes, "S, terms differentiated", counts)
        axes.axhline(1.0, color="0.35", linestyle="--", linewidth=1.0)
        axes.legend(fontsize=7)
    return {"backward_samples": figure, "learning_curves": _draw_curves(rows)}


def _draw_curves(rows: list[Row]) -> Any:
    figure, (axes,) = plots.panels(width=5.6, height=3.6)
    K, curves = _curves(rows)
    for S, by_step in curves.items():
        seconds = [step * _step_seconds(rows, K, S) for step in by_step]
        label = f"through S={S} terms" if S else f"through all K={K} terms"
        plots.over_seeds(axes, seconds, list(by_step.values()), label)
    axes.set_xlabel("seconds of training, steps times the measured time of a step")
    axes.set_ylabel("validation bound, nats")
    axes.set_title("MNIST; band: 2 standard errors over seeds", fontsize=8)
    axes.legend(fontsize=7)
    return figure


def _variance(rows: list[Row], label: str, group: str, K: int, S: int) -> np.ndarray:
    """Returns the variance ratio in every minibatch."""
    ratios = values(rows, method=label, quantity="variance_ratio", group=group, K=K, S=S)
    return np.array(ratios)


def tables(rows: list[Row]) -> list[Table]:
    """Returns times, variances and signal-to-noise ratios for every K and S."""
    columns = [(label, group) for group in GROUPS for label in ESTIMATORS]
    header = ["K", "S", "ms per step", "time ratio (min to max)"]
    header += [f"variance, {GROUPS[group]}, {label}" for label, group in columns]
    header += [f"SNR, {GROUPS[group]}, {label}" for label, group in columns]
    body = []
    for r in select(rows, quantity="time_ratio"):
        K, S = r["K"], r["S"]
        line = [str(K), str(S or "all"), f"{1e3 * _step_seconds(rows, K, S):.1f}"]
        line.append(f"{r['value']:.2f} ({r['low']:.2f} to {r['high']:.2f})")
        line += [f"{np.mean(_variance(rows, lab, g, K, S)):.2f}" for lab, g in columns]
        for label, group in columns:
            ratios = values(rows, method=label, quantity="snr", group=group, K=K, S=S)
            line.append(f"{np.mean(ratios):.3f}")
        body.append(line)
    title = "Times of a step of batch 256; variances relative to all terms; signal-to-noise ratios"
    return [Table(title, header, body)]


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims for the K and S of the trainings."""
    K, curves = _curves(rows)
    S = max(curves)
    (time,) = select(rows, quantity="time_ratio", K=K, S=S)
    of_q, of_tau = (_variance(rows, "autodiff", group, K, S) for group in GROUPS)
    seconds, gains = _at_equal_time(rows)
    where = f"K={K}, S={S}"
    in_time = f"{time['value']:.2f} ({time['low']:.2f} to {time['high']:.2f})"
    return [
        Claim(
            f"a step takes at most 0.7 of the time ({where})",
            is_below(0.7, _of_rounds(time)),
            in_time,
        ),
        Claim(
            f"the variance of q's gradient is at most 1.1 times that of all terms ({where})",
            is_below(1.1, _of_minibatches(of_q)),
            shown_mean(of_q, 2),
        ),
        Claim(
            f"for tau, variance times time is below that of all terms ({where})",
            is_below(1.0, _of_minibatches(of_tau), _of_rounds(time)),
            f"{shown_mean(of_tau, 2)} times {in_time}",
        ),
        Claim(
            f"after equal time the validation bound is higher ({where})",
            all_above((gains.mean(), standard_error(gains))),
            f"{shown_mean(gains, 2)} nats after {seconds:.0f} s, over "
            f"{counted(len(gains), 'seed')}",
        ),
    ]


def _of_rounds(time: Row) -> Ends:
    """Returns the smallest and the largest ratio of all rounds."""
    low, high = time["low"], time["high"]
    return (low, high) if low < high else (math.nan, math.nan)


def _of_minibatches(sample: np.ndarray) -> Ends:
    """Returns the ends of two standard errors on both sides of the mean."""
    mean, error = float(sample.mean()), standard_error(sample)
    return mean - 2.0 * error, mean + 2.0 * error


EXPERIMENT = Experiment(
    about=(
        "With --backward_samples=S the gradient goes back through the term of psi_0 and S of "
        "the K others. These are drawn in proportion to their weights, so the mean of the "
        "gradient stays the same. The experiment measures the time of a step (batch 256, all "
        "in turn), the variance that the draw adds to the gradients of a slightly trained "
        "IWHVI autoencoder of MNIST (total over parameters; M=1; the same draws for all S), "
        "and which S trains faster at equal time."
    ),
    presets=PRESETS,
    cells=cells,
    measure=gradient_cells.make_measure(_times, _moments, _training),
    figures=figures,
    tables=tables,
    claims=claims,
    caveats=dict(
        quick=(
            "Two to four epochs, where each step still gains much: what noise costs in the end "
            "is not measured. So all terms stay the default."
        )
    ),
)
