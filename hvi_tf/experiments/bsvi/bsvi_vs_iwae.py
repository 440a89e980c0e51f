"""Tables 10 to 12 of Shu et al. 2019: BSVI and IWAE with up to five times the draws."""

from typing import Any

import numpy as np

from hvi_tf.evaluation import scorers
from hvi_tf.experiments.bsvi import bsvi_tables
from hvi_tf.experiments.harness import plots, published, trained
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Table
from hvi_tf.experiments.harness.rows import (
    Row,
    all_above,
    distinct,
    in_errors,
    mean_and_error,
    row_of_mean,
    select,
    signed,
    values,
)

RECIPES = bsvi_tables.RECIPES
PRESETS = bsvi_tables.PRESETS


def measure(cell: Cell, context: Context) -> list[Row]:
    """Scores a run of tables 4 to 6 by both estimators on the same test images."""
    s = cell.settings
    dataset, method, seed = s["dataset"], s["method"], s["seed"]
    k = s["eval_steps"]
    run = trained.train(context, bsvi_tables.flags(dataset, method, seed, s))
    refined = trained.score(run, **bsvi_tables.evaluation(s))
    sampled = trained.score(run, estimator="iwae", eval_steps=k, eval_images=s["eval_images"])
    scored = [(f"BSVI-{k}", refined, "log_likelihood", k)]
    scored += [
        (f"IWAE-{k * (j + 1)}", sampled, name, k * (j + 1))
        for j, name in enumerate(scorers.multiple_names(k))
    ]
    bsvi = trained.scores_by_image(refined, "log_likelihood")
    rows = []
    for estimator, scores, name, draws in scored:
        where = dict(dataset=dataset, seed=seed, M=draws, estimator=estimator)
        # IWAE scores all its numbers of draws together, so each row has the seconds of all.
        (mine,) = trained.score_rows(scores, method, [name], **where)
        rows.append(mine | {"quantity": "log_likelihood"})
        if estimator != f"BSVI-{k}":
            gap = bsvi - trained.scores_by_image(scores, name)
            rows.append(row_of_mean(method, "bsvi_minus_it", gap, **where))
    return rows


def _estimators(rows: list[Row]) -> list[str]:
    return distinct(rows, "estimator")


def _mean(rows: list[Row], method: str, dataset: str, estimator: str) -> float:
    where = dict(method=method, dataset=dataset, estimator=estimator, quantity="log_likelihood")
    return float(np.mean(values(rows, **where)))


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws IWAE less BSVI against the draws of IWAE."""
    datasets = distinct(rows, "dataset")
    bsvi, *iwae = _estimators(rows)
    figure, panels = plots.panels(len(datasets), width=5.6, height=3.8)
    for axes, dataset in zip(panels, datasets, strict=True):
        for j, method in enumerate(RECIPES):
            where = dict(method=method, dataset=dataset, quantity="bsvi_minus_it")
            samples = [-np.array(values(rows, estimator=e, **where)) for e in iwae]
            draws = [int(e.split("-")[1]) for e in iwae]
            style = dict(color=f"C{j % 7}", linestyle="--" if j >= 7 else "-")
            plots.over_seeds(axes, draws, samples, method, **style)
        plots.reference_line(axes, 0.0, bsvi)
        axes.set_xlabel("draws of IWAE")
        axes.set_ylabel(f"IWAE less {bsvi}, nats")
        axes.set_title(f"{dataset}, test images; band: 2 standard errors over seeds", fontsize=8)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", fontsize=8)
    return {"bsvi_vs_iwae": figure}


def tables(rows: list[Row]) -> list[Table]:
    """Returns our scores, and the differences of the estimators next to the paper's."""
    result = []
    bsvi, *iwae = _estimators(rows)
    for dataset in distinct(rows, "dataset"):
        theirs = published.load("bsvi")["bsvi_vs_iwae"][dataset]
        body, differences = [], []
        for method in RECIPES:
            means = [_mean(rows, method, dataset, e) for e in (bsvi, *iwae)]
            body.append([method, *(f"{m:.2f}" for m in means)])
            ours = (m - means[0] for m in means[1:])
            paper = (p - theirs[method][0] for p in theirs[method][1:])
            pairs = (f"{a:+.2f} ({b:+.2f})" for a, b in zip(ours, paper, strict=True))
            differences.append([method, *pairs])
        title = f"{dataset}, test log-likelihood, nats, mean over seeds"
        result.append(Table(title, ["method", bsvi, *iwae], body))
        title = f"{dataset}: IWAE less BSVI, nats; in brackets the paper's (k=500)"
        result.append(Table(title, ["method", *iwae], differences))
    return result


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims: BSVI is tighter than IWAE for models trained with SVI."""
    bsvi, *iwae = _estimators(rows)
    statements = []
    for dataset in distinct(rows, "dataset"):
        for estimator in (iwae[0], iwae[-1]):
            gaps = {
                method: mean_and_error(
                    select(
                        rows,
                        method=method,
                        dataset=dataset,
                        estimator=estimator,
                        quantity="bsvi_minus_it",
                    )
                )
                for method in RECIPES
                if "SVI" in method
            }
            least = min(gaps, key=lambda method: in_errors(*gaps[method]))
            text = f"{dataset}: {bsvi} above {estimator} for every model trained with SVI"
            evidence = f"least clear for {least}: {signed(*gaps[least])} nats, image by image"
            statements.append(Claim(text, all_above(*gaps.values()), evidence))
    return statements


EXPERIMENT = Experiment(
    about=(
        "The models of bsvi-tables, whose runs this experiment shares, scored by BSVI-k and by "
        "IWAE with k, 2k, ..., 5k draws from the encoder alone, on the same test images."
    ),
    presets=PRESETS,
    cells=bsvi_tables.cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
    caveats=bsvi_tables.EXPERIMENT.caveats,
)
