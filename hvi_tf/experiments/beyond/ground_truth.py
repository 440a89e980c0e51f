"""Beyond the papers: four estimators of one model's log p(x), at equal compute."""

import math
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.evaluation import annealing
from hvi_tf.evaluation.annealing import Annealing, Simulated
from hvi_tf.experiments.beyond import estimators
from hvi_tf.experiments.beyond.estimators import LEAPFROG_STEPS
from hvi_tf.experiments.harness import plots, trained
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings, Table
from hvi_tf.experiments.harness.rows import (
    Row,
    all_above,
    all_hold,
    distinct,
    or_na,
    paired,
    row,
    select,
    shown_mean,
    standard_error,
)
from hvi_tf.experiments.iwhvi import reference_model
from hvi_tf.training.runs import Run

# The quantity that the budget of each estimator counts.
BUDGETS = {
    "DIWHVI": "M, draws of z",
    "IWAE": "M, draws of z",
    "BSVI": "k, steps of SVI",
    "AIS": "temperatures",
}
SETS = ("simulated", "mnist")

PRESETS: dict[str, Settings] = {
    "quick": dict(
        model="quick", encoder_steps=2_500, images=32, K=20, DIWHVI=[10, 50, 250, 1_250],
        IWAE=[50, 500, 5_000, 50_000], BSVI=[10, 40, 160, 640], AIS=[10, 40, 160],
        ais_chains=8, truth_chains=16, truth_steps=500,
    ),
    "full": dict(
        model="full", encoder_steps=50_000, images=100, K=100, DIWHVI=[10, 100, 1_000, 10_000],
        IWAE=[100, 1_000, 10_000, 100_000], BSVI=[10, 100, 1_000, 10_000],
        AIS=[10, 100, 1_000], ais_chains=16, truth_chains=32, truth_steps=10_000,
    ),
}  # fmt: skip


def cells(settings: Settings) -> list[Cell]:
    """Returns a cell for the truth, then one for each estimator and budget."""
    names = ("model", "encoder_steps", "images", "K", "ais_chains")
    shared = {name: settings[name] for name in names}
    truth = {name: settings[name] for name in ("model", "images", "truth_chains", "truth_steps")}
    return [
        Cell("truth", truth),
        *(
            Cell(f"{method}-{budget}", {**shared, "method": method, "budget": budget})
            for method in BUDGETS
            for budget in settings[method]
        ),
    ]


class Images(NamedTuple):
    """The scored images: simulations of the model, and the first test images."""

    simulated: Simulated
    test: tf.Tensor


def _images(run: Run, count: int) -> Images:
    seed = randomness.fold(run.config.training.seed, randomness.Purpose.SIMULATE)
    simulated = annealing.simulate(run.model.callables, count, seed)
    return Images(simulated, trained.test_images(run, count))


def measure(cell: Cell, context: Context) -> list[Row]:
    """Returns a bound for every image, and the seconds per image."""
    s = cell.settings
    run = trained.train(context, reference_model.settings(s["model"]))
    images = _images(run, s["images"])
    if cell.name == "truth":
        return _measure_truth(run, images, s)
    score = estimators.make_scorer(run, context, s)
    rows = []
    seed = randomness.fold(s["budget"], randomness.Purpose.EVALUATE)
    score(images.test, seed)  # so that tracing is not timed
    for name, x in zip(SETS, (images.simulated.x, images.test), strict=True):
        started = time.monotonic()
        values = score(x, tf.random.fold_in(seed, 1)).numpy()
        seconds = (time.monotonic() - started) / len(values)
        rows += _rows(s["method"], "bound", name, values, seconds, budget=s["budget"])
    return rows


def _rows(
    method: str, quantity: str, dataset: str, values: np.ndarray, seconds: float, **where: Any
) -> list[Row]:
    return [
        row(method, quantity, value, seconds=seconds, dataset=dataset, seed=0, image=i, **where)
        for i, value in enumerate(values)
    ]


def _measure_truth(run: Run, images: Images, s: Settings) -> list[Row]:
    """Returns the results of long annealing: a bracket, and a lower bound for test images."""
    settings = Annealing(s["truth_chains"], s["truth_steps"], LEAPFROG_STEPS)
    seed = randomness.fold(0, randomness.Purpose.BRACKET)
    model, count, started = run.model.callables, s["images"], time.monotonic()
    bracket = annealing.make_bracketer(model, settings)(images.simulated, seed)
    middle = time.monotonic()
    lower = annealing.make_annealer(model, settings)(images.test, seed).log_likelihood.numpy()
    seconds = ((middle - started) / count, (time.monotonic() - middle) / count)
    where = dict(budget=s["truth_steps"])
    return [
        *_rows("AIS, long", "lower", "simulated", bracket.lower.numpy(), seconds[0], **where),
        *_rows("AIS, long", "upper", "simulated", bracket.upper.numpy(), seconds[0], **where),
        *_rows("AIS, long", "lower", "mnist", lower, seconds[1], **where),
    ]


def _gaps(rows: list[Row], dataset: str) -> dict[tuple[str, int], np.ndarray]:
    """Returns truth less bound by image, for each estimator and budget; see `_truth`."""
    truth = _truth(rows, dataset)
    gaps = {}
    for method in BUDGETS:
        mine = select(rows, method=method, dataset=dataset)
        for budget in distinct(mine, "budget"):
            gaps[method, budget] = truth - _by_image(select(mine, budget=budget))
    return gaps


def _truth(rows: list[Row], dataset: str) -> np.ndarray:
    """Returns the middle of the bracket; for test images, the lower bound."""
    mine = select(rows, method="AIS, long", dataset=dataset)
    lower, upper = (_by_image(select(mine, quantity=q)) for q in ("lower", "upper"))
    return 0.5 * (lower + upper) if len(upper) else lower


def _by_image(rows: list[Row]) -> np.ndarray:
    return np.array([r["value"] for r in sorted(rows, key=lambda r: r["image"])])


def _bracket(rows: list[Row]) -> tuple[float, float]:
    """Returns the mean distance of the bracket's ends, and its standard error."""
    mine = select(rows, method="AIS, long", dataset="simulated")
    width = _by_image(select(mine, quantity="upper")) - _by_image(select(mine, quantity="lower"))
    return float(width.mean()), standard_error(list(width))


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws the gap against the milliseconds per image."""
    figure, panels = plots.panels(len(SETS), height=3.6)
    for axes, dataset in zip(panels, SETS, strict=True):
        gaps = _gaps(rows, dataset)
        for method in BUDGETS:
            mine = select(rows, method=method, dataset=dataset)
            budgets = distinct(mine, "budget")
            seconds = [select(mine, budget=b)[0]["seconds"] for b in budgets]
            samples = [list(gaps[method, b]) for b in budgets]
            plots.over_seeds(axes, [1e3 * t for t in seconds], samples, method)
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds per image")
        axes.set_yscale("symlog", linthresh=0.1)
        axes.axhline(0.0, color="0.35", linewidth=1.0, linestyle="--")
    width, _ = _bracket(rows)
    panels[0].axhspan(-0.5 * width, 0.5 * width, color="0.85", label="bracket by long AIS")
    panels[0].set_ylabel("log p(x) less the bound, nats")
    panels[0].set_title("images drawn by the model; bands: 2 standard errors", fontsize=8)
    panels[1].set_ylabel("long AIS less the bound, nats")
    panels[1].set_title("test images; bands: 2 standard errors over images", fontsize=8)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5)
    return {"ground_truth": figure}


def tables(rows: list[Row]) -> list[Table]:
    """Returns the gaps of every estimator and budget, and at equal compute."""
    body = []
    gaps = {dataset: _gaps(rows, dataset) for dataset in SETS}
    for method, budget in gaps["simulated"]:
        line = [method, f"{budget} ({BUDGETS[method]})"]
        for dataset in SETS:
            gap = gaps[dataset][method, budget]
            seconds = select(rows, method=method, dataset=dataset, budget=budget)[0]["seconds"]
            error = standard_error(list(gap))
            line += [f"{gap.mean():.2f} ± {or_na(error, '.2f')}", f"{1e3 * seconds:.1f}"]
        body.append(line)
    header = ["estimator", "budget", "simulated: log p(x) less bound", "ms per image"]
    header += ["test: long AIS less bound", "ms per image"]
    width, error = _bracket(rows)
    title = (
        "Distance from the truth, nats, mean ± standard error over images; the truth of "
        f"simulated images is the middle of a bracket {width:.2f} ± {or_na(error, '.2f')} nats wide"
    )
    return [Table(title, header, body), *(_at_equal_compute(rows, d) for d in SETS)]


def _at_equal_compute(rows: list[Row], dataset: str) -> Table:
    """Returns the gap of each estimator at equal time, interpolated between budgets."""
    gaps, times = _gaps(rows, dataset), [2.0, 5.0, 20.0, 100.0, 300.0]
    body = []
    for method in BUDGETS:
        mine = select(rows, method=method, dataset=dataset)
        budgets = distinct(mine, "budget")
        spent = [1e3 * select(mine, budget=b)[0]["seconds"] for b in budgets]
        means = [gaps[method, b].mean() for b in budgets]
        at_times = np.interp(np.log(times), np.log(spent), means, left=np.nan, right=np.nan)
        body.append([method, *("" if np.isnan(gap) else f"{gap:.2f}" for gap in at_times)])
    title = (
        f"{dataset}: gap, nats, at equal milliseconds per image (interpolated between budgets in "
        "log time; empty beyond them)"
    )
    return Table(title, ["estimator", *(f"{t:g} ms" for t in times)], body)


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims: no bound is above the truth, and each gets closer with more compute."""
    width, error = _bracket(rows)
    statements = [
        Claim(
            "long annealing brackets log p(x): the upper bound is above the lower one",
            None if math.isnan(error) else width > -2.0 * error,
            f"{width:.3f} ± {or_na(error, '.3f')} nats",
        )
    ]
    gaps = _gaps(rows, "simulated")
    for method in BUDGETS:
        mine = [gap for (name, _), gap in gaps.items() if name == method]
        first, last = mine[0], mine[-1]
        # The bracket's own width is the uncertainty of its middle.
        slack = 0.5 * max(width, 0.0) + 2.0 * standard_error(last)
        below = None if math.isnan(slack) else last.mean() > -slack
        statements.append(
            Claim(
                f"{method}: below the truth, and closer to it with a larger budget",
                all_hold(below, all_above(paired(first, last))),
                f"{shown_mean(first, 2)} nats below at the least, {shown_mean(last, 2)} at the "
                "largest",
            )
        )
    return statements


EXPERIMENT = Experiment(
    about=(
        "One trained decoder of MNIST. Long annealed importance sampling, forward and reverse, "
        "brackets log p(x) of images that the decoder itself drew; DIWHVI (its own hierarchical "
        "posterior), IWAE and BSVI (a Gaussian encoder fitted to the frozen decoder) and shorter "
        "AIS bound it from below at several budgets, timed in the same run. Both encoders were "
        "trained on MNIST, not on what the decoder draws. Test images have no upper bound: there "
        "the lower bound of long AIS stands for the truth, which another estimator may well exceed."
    ),
    presets=PRESETS,
    cells=cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
    caveats=dict(
        quick=(
            "32 images; milliseconds per image are those of a batch of 32 on 2 cores. Those of AIS "
            "include the tuning of its step sizes, about 0.2 s."
        )
    ),
)
