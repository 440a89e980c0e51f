"""Beyond the papers: one inverse for all z, the mixture of their taus, at equal time."""

from collections.abc import Iterator
from typing import Any

from hvi_tf.experiments.beyond import timed_scores
from hvi_tf.experiments.beyond.timed_scores import BOUND, CONTESTANTS, OWN, SCORE
from hvi_tf.experiments.harness import plots, trained
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings, Table
from hvi_tf.experiments.harness.rows import (
    Row,
    all_above,
    distinct,
    in_errors,
    plus_minus,
    row,
    row_of_mean,
    select,
    signed,
)
from hvi_tf.experiments.iwhvi import likelihood_runs
from hvi_tf.training.runs import Run

MODELS = ("IWHVI", "HVM", "SIVI")


GAIN = "gain_over_"  # over DIWHVI, paired by image

PRESETS: dict[str, Settings] = {
    "quick": dict(
        models=["IWHVI", "SIVI"], training="quick", M=[100, 1_000], K=[0, 5, 20],
        shared_K=[20, 200, 2_000], equisample_K=[2], images=40, repetitions=1, ais_steps=100,
    ),
    "full": dict(
        models=list(MODELS), training="full", M=[100, 1_000, 5_000], K=[0, 10, 100],
        shared_K=[100, 1_000, 5_000, 20_000], equisample_K=[1, 10], images=16, repetitions=1,
        ais_steps=1_000,
    ),
}  # fmt: skip
_AIS_CHAINS = 16


def cells(settings: Settings) -> list[Cell]:
    """Returns a cell for each model and M, and one for AIS of each model."""
    s, result = settings, []
    shared = dict(training=s["training"], images=s["images"])
    counts = {name: s[name] for name in ("K", "shared_K", "equisample_K")}
    for model in s["models"]:
        own = shared | {"model": model}
        result.append(Cell(f"{model}-AIS", own | {"ais_steps": s["ais_steps"]}))
        for i in range(s["repetitions"]):
            for M in s["M"]:
                result.append(Cell(f"{model}-M{M}-{i}", own | counts | {"M": M, "repetition": i}))
    return result


def final_run(training: str, model: str, context: Context) -> Run:
    """Returns a run of likelihood-table's quick preset, or one as long as those of long's grid."""
    if training == "quick":
        settings = likelihood_runs.PRESETS["quick"]
    else:
        long = likelihood_runs.PRESETS["long"]
        settings = long | dict(mnist_epochs=long["grid_epochs"], tau_epochs=3, train_at_best=0)
    cell = likelihood_runs.final_cell("mnist", model, 0, settings)
    return likelihood_runs.final_run(context, cell.settings)


def measure(cell: Cell, context: Context) -> list[Row]:
    """Scores the same images by every contestant, or by AIS."""
    s = cell.settings
    run = final_run(s["training"], s["model"], context)
    return _measure_ais(run, s) if "ais_steps" in s else _measure_bounds(run, cell, context)


def _measure_ais(run: Run, s: Settings) -> list[Row]:
    scores = trained.score(
        run, estimator="ais", eval_images=s["images"], ais_chains=_AIS_CHAINS,
        ais_steps=s["ais_steps"],
    )  # fmt: skip
    where = dict(dataset="mnist", model=s["model"], seed=0)
    mean, error = (scores[SCORE][name] for name in ("mean", "standard_error"))
    rows = [row("AIS", SCORE, mean, error=error, **where)]
    bracket = scores["simulated"]
    for name in ("lower", "upper"):
        mean, error = bracket[name]["mean"], bracket[name]["standard_error"]
        rows.append(row("AIS", f"simulated_{name}", mean, error=error, **where))
    return rows


def _measure_bounds(run: Run, cell: Cell, context: Context) -> list[Row]:
    s, rows = cell.settings, []
    where = dict(dataset="mnist", model=s["model"], M=s["M"], seed=s["repetition"])
    x = trained.test_images(run, s["images"])
    scores = list(timed_scores.score_all(run, x, cell, context))
    for label, K, values, seconds in scores:
        at = where | dict(K=K, seconds=seconds)
        rows += [row_of_mean(label, name, values[name], **at) for name in (SCORE, BOUND)]
        for other in scores:
            if other.label == OWN and label != OWN:
                rows += [
                    row_of_mean(
                        label, GAIN + name, values[name] - other.values[name],
                        own_K=other.K, **at,
                    )
                    for name in (SCORE, BOUND)
                ]  # fmt: skip
    return rows


def _equal_time(rows: list[Row], quantity: str) -> Iterator[tuple[Row, dict[str, Row]]]:
    """Compares every score of DIWHVI with contestants that take no more time.

    Yields:
        DIWHVI's row, and for each other contestant the row of its gain at its largest K in time.
    """
    for mine in select(rows, method=OWN, quantity=quantity):
        where = {name: mine[name] for name in ("model", "M", "seed")}
        best: dict[str, Row] = {}
        for gain in select(rows, quantity=GAIN + quantity, own_K=mine["K"], **where):
            if gain["seconds"] <= mine["seconds"]:
                best[gain["method"]] = gain
        yield mine, best


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws the bounds against seconds per image."""
    models, Ms = distinct(rows, "model"), distinct(rows, "M")
    figure, panels = plots.panels(len(models), width=4.6, height=3.8)
    for axes, model in zip(panels, models, strict=True):
        for i, label in enumerate(CONTESTANTS):
            for M, style in zip(Ms, ("o:", "o--", "o-"), strict=False):
                mine = select(rows, method=label, quantity=BOUND, model=model, M=M)
                if mine:
                    axes.errorbar(
                        [r["seconds"] for r in mine],
                        [r["value"] for r in mine],
                        fmt=style, color=f"C{i}", markersize=3, label=f"{label}, M={M}",
                    )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("seconds an image")
        axes.set_ylabel("bound of M=1, nats")
        axes.set_title(f"{model}; mean over images, no bars:\nall score the same images")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return {"shared_inverse": figure}


def tables(rows: list[Row]) -> list[Table]:
    """Returns every score with its time, and the gains at equal time."""
    result = []
    for model in distinct(rows, "model"):
        mine = select(rows, model=model)
        result.append(_scores_table(model, mine))
        for quantity, name in ((BOUND, "bound of M=1"), (SCORE, "log-likelihood")):
            result.append(_gains_table(model, mine, quantity, name))
    return result


def _scores_table(model: str, rows: list[Row]) -> Table:
    body = []
    for r in select(rows, quantity=SCORE):
        if r["method"] == "AIS":
            body.append(["AIS, lower bound", "", "", _shown(r), "", ""])
            continue
        at = {name: r[name] for name in ("method", "M", "K", "seed")}
        (bound,) = select(rows, quantity=BOUND, **at)
        body.append(
            [r["method"], f"{r['M']}", f"{r['K']}", _shown(r), _shown(bound), f"{r['seconds']:.3g}"]
        )
    bracket = [select(rows, quantity=f"simulated_{name}") for name in ("lower", "upper")]
    if all(bracket):
        (lower,), (upper,) = bracket
        text = f"{_shown(lower)} to {_shown(upper)}"
        body.append(["AIS, images the model drew", "", "", text, "", ""])
    header = ["", "M", "K", "log p(x), nats", "bound of M=1, nats", "seconds an image"]
    return Table(f"Model {model}", header, body)


def _shown(r: Row) -> str:
    return plus_minus(r["value"], r.get("standard_error"))


def _gains_table(model: str, rows: list[Row], quantity: str, name: str) -> Table:
    labels = [label for label in CONTESTANTS if select(rows, method=label) and label != OWN]
    body = []
    for mine, others in _equal_time(rows, quantity):
        cells = [
            f"{_signed(others[label])} (K={others[label]['K']})" if label in others else ""
            for label in labels
        ]
        body.append([f"M={mine['M']}, K={mine['K']}: {mine['seconds']:.3g} s", *cells])
    title = f"Model {model}: {name}, gain over DIWHVI in no more time, paired by image, nats"
    return Table(title, ["DIWHVI", *labels], body)


def _signed(r: Row) -> str:
    return signed(*_with_error(r))


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims: at equal time the mixture and equicomp are above DIWHVI."""
    by_label: dict[str, list[tuple[Row, Row]]] = {}
    for mine, others in _equal_time(rows, BOUND):
        if mine["K"]:
            for label, gain in others.items():
                by_label.setdefault(label, []).append((mine, gain))
    statements = []
    for label in ("mixture", "SIVI equicomp"):
        pairs = by_label.get(label)
        if pairs:
            mine, gain = min(pairs, key=lambda pair: in_errors(*_with_error(pair[1])))
            statements.append(
                Claim(
                    f"The bound by {label} is above DIWHVI's for every model, M and K > 0 where it "
                    "has a K that takes no more time",
                    all_above(*(_with_error(gain) for _, gain in pairs)),
                    f"least clear for {mine['model']}, M={mine['M']}, K={mine['K']}: "
                    f"{_signed(gain)} nats by K={gain['K']}",
                )
            )
    return statements


def _with_error(r: Row) -> tuple[float, float]:
    error = r.get("standard_error")
    return r["value"], float("nan") if error is None else error


EXPERIMENT = Experiment(
    about=(
        "Trained autoencoders of MNIST, scored by DIWHVI, whose psi are drawn for each z, and by "
        "bounds whose psi all z share: from the mixture of the tau's of all z (beyond the paper; "
        "at most 1,000 z to a mixture, or all of them; with a share of q(psi|x), or without), or "
        "from q(psi|x) (SIVI equicomp and equisample). Same images; gains are paired. The bound "
        "of M=1 is the mean over M draws of z: it shows how tight U is, with less noise than the "
        "log-likelihood. Times are medians over images."
    ),
    presets=PRESETS,
    cells=cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
    caveats=dict(
        quick=(
            "Models of 3 epochs, 40 images, M up to 1,000 and K up to 2,000 in place of 5,000 and "
            "20,000."
        ),
        full=(
            "Models of 30 epochs in place of 10,000, three epochs of SIVI's tau in place of 7,000, "
            "and 16 images."
        ),
    ),
)
