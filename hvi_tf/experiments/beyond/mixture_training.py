"""Beyond the papers: training with M > 1 by the mixture of the tau's of all z."""

from typing import Any

import numpy as np

from hvi_tf import randomness
from hvi_tf.benchmark import cells as steps
from hvi_tf.benchmark import rounds
from hvi_tf.benchmark.training import Step
from hvi_tf.experiments.beyond import gradient_cells
from hvi_tf.experiments.harness import plots, recipes, trained
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings, Table
from hvi_tf.experiments.harness.rows import (
    Row,
    all_above,
    curve,
    distinct,
    mean_and_error,
    paired,
    plus_minus,
    row,
    select,
    shown_mean,
    signed,
    values,
)
from hvi_tf.experiments.iwhvi import reference_model, signal_to_noise
from hvi_tf.inference import methods

OWN, MIXTURE = "DIWHVI", "mixture"
BOUNDS = {OWN: "diwhvi", MIXTURE: "diwhvi-mixture"}
GRADIENT = "dreg"  # both methods support it
GROUPS = {"phi": "q", "eta": "tau"}
SECONDS = 0.3  # minimum duration of a time measurement

PRESETS: dict[str, Settings] = {
    "quick": dict(
        M=[5, 10, 25], K=5, batch_size=32, minibatches=4, draws=50, model="quick", rounds=5,
        training_M=5, epochs=1, seeds=2, eval_M=100, eval_K=20, eval_images=500,
    ),
    "full": dict(
        M=[5, 10, 25], K=10, batch_size=128, minibatches=10, draws=500, model="quick", rounds=9,
        training_M=5, epochs=10, seeds=3, eval_M=100, eval_K=20, eval_images=2_000,
    ),
}  # fmt: skip
_OF_MOMENTS = ("K", "batch_size", "minibatches", "draws", "model")
_OF_SCORE = ("eval_M", "eval_K", "eval_images")
QUANTITIES = ("log_likelihood", "kl_tau_mixing")


def _contestants(M: int, K: int) -> list[tuple[str, int]]:
    """Returns DIWHVI with K psi for each z; the mixture with K, and with M K, shared psi."""
    return [(OWN, K), (MIXTURE, K), (MIXTURE, M * K)]


def _to_train(M: int, K: int) -> list[tuple[str, int]]:
    """Returns the contestants with M K psi in all."""
    own, _, mixture = _contestants(M, K)
    return [own, mixture]


def cells(settings: Settings) -> list[Cell]:
    """Returns a cell for all times, a cell for the moments of each M, and the trainings."""
    s = settings
    result = [Cell("times", {name: s[name] for name in ("M", "K", "rounds")})]
    shared = {name: s[name] for name in _OF_MOMENTS}
    result += [Cell(f"moments-M{M}", shared | {"M": M}) for M in s["M"]]
    score = {name: s[name] for name in _OF_SCORE}
    for seed in range(s["seeds"]):
        for label, K in _to_train(s["training_M"], s["K"]):
            training = dict(method=label, K=K, M=s["training_M"], epochs=s["epochs"], seed=seed)
            result.append(Cell(f"train-{label}-K{K}-seed{seed}", training | score))
    return result


def _times(s: Settings) -> list[Row]:
    """Returns the milliseconds of a training step, of all contestants in turn."""
    by_name = {
        f"{label} {M} {K}": (label, M, K)
        for M in s["M"]
        for label, K in _contestants(M, s["K"])
    }  # fmt: skip
    contestants = {
        name: Step(steps.Cell("", dict(bound=BOUNDS[label], M=M, K=K, gradient=GRADIENT)))
        for name, (label, M, K) in by_name.items()
    }
    times = rounds.in_turn(contestants, s["rounds"], SECONDS)
    rows = []
    for name, (label, M, K) in by_name.items():
        own = f"{OWN} {M} {s['K']}"
        for quantity, measured in (
            ("ms_per_step", np.array(times[name])),
            ("time_ratio", np.divide(times[name], times[own])),
        ):
            ends = dict(low=float(measured.min()), high=float(measured.max()))
            where: dict[str, Any] = dict(dataset="noise", M=M, K=K, **ends)
            rows.append(row(label, quantity, float(np.median(measured)), **where))
    return rows


def _moments(s: Settings, context: Context) -> list[Row]:
    """Returns the variances of a slightly trained model's gradients over those of DIWHVI."""
    run = trained.train(context, reference_model.settings(s["model"], young=True))
    rows, M = [], s["M"]
    for group in GROUPS:
        own: dict[int, float] = {}
        for label, K in _contestants(M, s["K"]):
            moments_of = signal_to_noise.make_moments(
                run.model.callables, methods.look_up(BOUNDS[label]),
                run.model.parameter_groups, group, [GRADIENT], K=K, M=M, draws=s["draws"],
            )  # fmt: skip
            for i in range(s["minibatches"]):
                x = reference_model.minibatch(run, s["batch_size"], i)
                seed = randomness.fold(run.config.training.seed, randomness.Purpose.EVALUATE, i)
                moments = moments_of(x, seed)
                variance = float(np.sum(moments.deviation**2))
                own.setdefault(i, variance)
                where = dict(dataset="mnist", M=M, K=K, seed=0, group=group, minibatch=i)
                rows.append(row(label, "variance_ratio", variance / own[i], **where))
                snr = signal_to_noise.summarize(moments.ratios[0])
                rows.append(row(label, "snr", snr.mean, **where))
    return rows


def _training(s: Settings, context: Context) -> list[Row]:
    """Returns the test score, and the validation bound after every epoch."""
    own = dict(bound=BOUNDS[s["method"]], M=s["M"], gradient=GRADIENT)
    recipe = trained.recipe("mnist_iwhvi") | recipes.BEST | own
    length = dict(epochs=s["epochs"], checkpoint_every=1, eval_every=1, steps_per_call=10)
    settings = recipes.fitting(recipe | length) | {"K": s["K"], "K_schedule": "", "seed": s["seed"]}
    run = trained.train(context, settings)
    scores = trained.score(run, estimator="diwhvi", **{name: s[name] for name in _OF_SCORE})
    where = dict(dataset="mnist", M=s["M"], K=s["K"], seed=s["seed"])
    rows = trained.score_rows(scores, s["method"], QUANTITIES, **where)
    return rows + trained.learning_curve(run, s["method"], **where)


def _trained(rows: list[Row]) -> list[tuple[str, int]]:
    """Returns the trained contestants, with their K."""
    mine = select(rows, quantity="log_likelihood")
    return list(dict.fromkeys((r["method"], r["K"]) for r in mine))


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws the learning curves."""
    figure, (axes,) = plots.panels(width=5.6, height=3.6)
    (M,) = distinct(select(rows, quantity="validation_bound"), "M")
    curves = {f"{label}, K={K}": curve(rows, method=label, K=K) for label, K in _trained(rows)}
    plots.learning_curves(axes, curves, f"MNIST, M={M}")
    return {"mixture_training": figure}


def tables(rows: list[Row]) -> list[Table]:
    """Returns times and variances for every M, and scores of the trainings."""
    header = ["M", "", "K", "ms per step", "time over DIWHVI (min to max)"]
    header += [f"variance over DIWHVI, {name}" for name in GROUPS.values()]
    header += [f"SNR, {name}" for name in GROUPS.values()]
    body = []
    for r in select(rows, quantity="time_ratio"):
        where = dict(method=r["method"], M=r["M"], K=r["K"])
        (ms,) = values(rows, quantity="ms_per_step", **where)
        line = [str(r["M"]), r["method"], str(r["K"]), f"{ms:.1f}"]
        line.append(f"{r['value']:.2f} ({r['low']:.2f} to {r['high']:.2f})")
        for quantity in ("variance_ratio", "snr"):
            for group in GROUPS:
                ratios = values(rows, quantity=quantity, group=group, **where)
                line.append(shown_mean(ratios, 3))
        body.append(line)
    scores = []
    for label, K in _trained(rows):
        of_each = (select(rows, method=label, K=K, quantity=q) for q in QUANTITIES)
        scores.append([label, str(K), *(plus_minus(*mean_and_error(r)) for r in of_each)])
    title = "Times of a step; variances and signal-to-noise ratios of the gradients"
    after = "After training: DIWHVI's test score and KL(tau||q(psi)), nats"
    return [
        Table(title, header, body),
        Table(after, ["trained by", "K", "log p(x)", "KL(tau||q(psi))"], scores),
    ]


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims: the mixture takes less time a step, and scores higher after training."""
    statements = []
    for r in select(rows, method=MIXTURE, quantity="time_ratio"):
        M, K = r["M"], r["K"]
        if K == max(distinct(select(rows, method=MIXTURE, M=M), "K")):
            ratio = f"{r['value']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
            decided = r["low"] < r["high"] and (r["high"] < 1.0 or r["low"] > 1.0)
            text = (
                f"with {K} shared psi a step takes less time than with {K // M} for each of {M} z"
            )
            statements.append(Claim(text, r["value"] < 1.0 if decided else None, ratio))
    label, K = _trained(rows)[-1]
    own_label, own_K = _trained(rows)[0]
    gains = paired(
        values(rows, method=label, K=K, quantity="log_likelihood"),
        values(rows, method=own_label, K=own_K, quantity="log_likelihood"),
    )
    text = f"after as many steps the {label}'s score (K={K}) is above {own_label}'s (K={own_K})"
    statements.append(Claim(text, all_above(gains), f"{signed(*gains)} nats"))
    return statements


EXPERIMENT = Experiment(
    about=(
        "Training by an M-sample bound with psi for each z (DIWHVI), or with psi that all z "
        "share, from the mixture of their tau's. The shared psi are as many as DIWHVI has for "
        "one z, or for all z. The experiment measures the time of a step (all in turn), the "
        "variance of the gradients of a slightly trained IWHVI autoencoder of MNIST (total "
        "over parameters), and learning curves with the same total number of psi. A curve "
        "shows the run's own validation bound. All scores after training are by DIWHVI, all "
        "gradients by DReG."
    ),
    presets=PRESETS,
    cells=cells,
    measure=gradient_cells.make_measure(_times, _moments, _training),
    figures=figures,
    tables=tables,
    claims=claims,
    caveats=dict(
        quick="One epoch and two seeds in place of ten and three, and K=5 in place of 10."
    ),
)
