"""Tables 4 to 9 of Shu et al. 2019: eight ways to train, on test and on training images."""

from typing import Any

import numpy as np

from hvi_tf.experiments import plots, published, trained
from hvi_tf.experiments.experiment import (
    Cell,
    Claim,
    Context,
    Experiment,
    Row,
    Settings,
    Table,
    distinct,
    from_paper,
    plus_minus,
    row,
    select,
    values,
)

# The paper's label -> the flagfile after its data set; k=9 and k'=10.
METHODS = {
    "VAE": "vae",
    "IWAE-k'": "iwae",
    "SVI-k'": "svi",
    "BSVI-k-DS": "bsvi_ds",
    "BSVI-k": "bsvi",
    "BSVI-k-pi": "bsvi_pi",
    "BSVI-k-SIR": "bsvi_sir",
    "BSVI-k-SIR-pi": "bsvi_sir_pi",
}
COLUMNS = {
    "log_likelihood": "log-likelihood",
    "elbo": "ELBO*",
    "kl": "KL*",
    "reconstruction": "Reconstruction*",
}
SPLITS = ("test", "train")

PRESETS: dict[str, Settings] = {
    "quick": dict(
        datasets=["omniglot"], seeds=2, steps=1_000, networks="mlp", eval_steps=500,
        eval_images=200,
    ),
    "full": dict(
        datasets=["omniglot", "svhn", "fashion_mnist"], seeds=4, steps=200_000, networks="paper",
        eval_steps=500, eval_images=10_000,
    ),
}  # fmt: skip


def flags(dataset: str, method: str, seed: int, s: Settings) -> Settings:
    """The recipe of a row; with networks=mlp two layers of 200 units stand for the paper's."""
    changes: Settings = dict(seed=seed, max_steps=s["steps"])
    if s["networks"] == "mlp":
        changes |= dict(
            encoder="mlp", decoder="mlp", hidden=[200, 200], learning_rate=2e-3, epochs=1_000,
            steps_per_call=50,
        )  # fmt: skip
        if dataset == "omniglot":
            changes |= dict(kl_annealing_steps=s["steps"] // 10)
    return trained.recipe(f"bsvi_{dataset}_{METHODS[method]}", **changes)


def cells(settings: Settings) -> list[Cell]:
    """One for each data set, method and seed."""
    shared = {n: v for n, v in settings.items() if n not in ("datasets", "seeds")}
    return [
        Cell(
            f"{dataset}-{method}-seed{seed}",
            {**shared, "dataset": dataset, "method": method, "seed": seed},
        )
        for dataset in settings["datasets"]
        for seed in range(settings["seeds"])
        for method in METHODS
    ]


def measure(cell: Cell, context: Context) -> list[Row]:
    """Trains a row and scores it by BSVI and SVI on both splits."""
    s = cell.settings
    dataset, method, seed = s["dataset"], s["method"], s["seed"]
    run = trained.train(context, flags(dataset, method, seed, s))
    if seed == 0 and method in ("VAE", "BSVI-k"):
        trained.draw_pictures(run, context, f"{dataset}-{method}")
    rows = []
    for split in SPLITS:
        scores = trained.score(run, eval_split=split, **evaluation(s))
        where = dict(dataset=dataset, seed=seed, split=split, svi_steps=scores["steps"])
        rows += [
            row(method, name, scores[name]["mean"], error=scores[name]["standard_error"],
                seconds=scores["seconds"], **where)
            for name in COLUMNS
        ]  # fmt: skip
    return rows + trained.learning_curve(run, method, dataset=dataset, seed=seed)


def evaluation(s: Settings) -> Settings:
    """The flags of the score by BSVI."""
    return dict(
        estimator="bsvi", eval_M=10, eval_steps=s["eval_steps"], eval_images=s["eval_images"]
    )


def figures(rows: list[Row]) -> dict[str, Any]:
    """Log-likelihood and KL* of every row, and learning curves."""
    datasets = distinct(rows, "dataset")
    figure, panels = plots.panels(2 * len(datasets), height=3.0)
    curves, curve_panels = plots.panels(len(datasets), width=5.6, height=3.6)
    for i, dataset in enumerate(datasets):
        theirs = published.load("bsvi")["scores"]["test"][dataset]
        for axes, column in zip(panels[2 * i :], ("log_likelihood", "kl"), strict=False):
            for j, method in enumerate(METHODS):
                sample = values(rows, method=method, dataset=dataset, split="test", quantity=column)
                error = 2.0 * plots.standard_error(sample)
                axes.errorbar(np.mean(sample), -j, xerr=error, fmt="o", color=f"C{j % 7}",
                              capsize=3)  # fmt: skip
                paper = theirs[method][list(COLUMNS).index(column)][0]
                axes.vlines(paper, -j - 0.4, -j + 0.4, f"C{j % 7}", linestyles="dashed")
            axes.set_yticks([-j for j in range(len(METHODS))], list(METHODS))
            axes.set_xlabel(f"{COLUMNS[column]}, nats")
            axes.set_title(f"{dataset}, test (dashed: the paper's)")
        for j, method in enumerate(METHODS):
            mine = select(rows, method=method, dataset=dataset, quantity="validation_bound")
            steps = distinct(mine, "step")
            samples = [values(mine, step=n) for n in steps]
            style = "--" if j >= 7 else "-"
            plots.over_seeds(curve_panels[i], steps, samples, method, color=f"C{j % 7}",
                             linestyle=style)  # fmt: skip
        curve_panels[i].set_xlabel("training step")
        curve_panels[i].set_ylabel("validation bound of the row's own, nats")
        curve_panels[i].set_title(f"{dataset}; band: 2 standard errors over seeds")
        curve_panels[i].legend(fontsize=7)
    return {"bsvi_tables": figure, "learning_curves": curves}


def tables(rows: list[Row]) -> list[Table]:
    """Tables 4 to 9, ours beside the paper's."""
    found = []
    steps = distinct(rows, "svi_steps")[0]
    for split in SPLITS:
        for dataset in distinct(rows, "dataset"):
            theirs = published.load("bsvi")["scores"][split][dataset]
            body = []
            for method in METHODS:
                line = [method]
                for column, paper in zip(COLUMNS, theirs[method], strict=True):
                    sample = values(
                        rows, method=method, dataset=dataset, split=split, quantity=column
                    )
                    mean, error = float(np.mean(sample)), plots.standard_error(sample)
                    line.append(plus_minus(mean, error))
                    if column == "log_likelihood":
                        line += [plus_minus(*paper), from_paper(mean, error, *paper)]
                    else:
                        line.append(plus_minus(*paper))
                body.append(line)
            header = ["method", "log-likelihood", "paper", "ours less paper"]
            for name in list(COLUMNS.values())[1:]:
                header += [name, "paper"]
            title = (
                f"{dataset}, {split} images: nats, ours mean ± standard error over seeds "
                f"(BSVI-{steps}, SVI-{steps}), the paper's ± standard deviation"
            )
            found.append(Table(title, header, body))
    return found


def claims(rows: list[Row]) -> list[Claim]:
    """Section 6: every row of BSVI is above the VAE and uses its latent code more."""
    said = []
    for dataset in distinct(rows, "dataset"):
        for column in ("log_likelihood", "kl"):
            where = dict(dataset=dataset, split="test", quantity=column)
            base = np.array(values(rows, method="VAE", **where))
            gains = {
                method: np.array(values(rows, method=method, **where)) - base
                for method in METHODS
                if method.startswith("BSVI")
            }
            least = min(gains, key=lambda method: gains[method].min())
            evidence = f"least for {least}: " + ", ".join(f"{g:+.2f}" for g in gains[least])
            text = f"{dataset}: {COLUMNS[column]} of every row of BSVI above the VAE's, every seed"
            said.append(Claim(text, all((g > 0).all() for g in gains.values()), evidence + " nats"))
    return said


EXPERIMENT = Experiment(
    about=(
        "Autoencoders trained by the VAE, IWAE (10 draws), SVI (10 steps) and five variants of "
        "BSVI (9 steps, a buffer of 10), scored alike: log-likelihood by BSVI, ELBO*, KL* and "
        "Reconstruction* after the same number of steps of SVI. ELBO* = -(KL* + Reconstruction*)."
    ),
    presets=PRESETS,
    cells=cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
    caveat=(
        "Multilayer perceptrons of two times 200 units stand for the residual encoder and the "
        "12-layer PixelCNN, 1,000 steps for 200,000, on "
        "another OMNIGLOT file where the original cannot be had: the level is another one, and "
        "a decoder without autoregression cannot ignore z, so KL* is far larger. What can "
        "compare is the order of the rows."
    ),
)
