"""Beyond the papers: doubly reparameterized gradients for q, their noise and their training."""

from typing import Any

from hvi_tf.experiments.harness import plots, trained
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings, Table
from hvi_tf.experiments.harness.rows import (
    Row,
    all_above,
    curve,
    distinct,
    mean_and_error,
    paired,
    plus_minus,
    select,
    shown_mean,
)
from hvi_tf.experiments.iwhvi import gradient_snr

ESTIMATORS = {
    "autodiff": "reparameterized",
    "path only (stl)": "stl",
    "doubly reparameterized (gdreg)": "gdreg",
}
# Estimators in training, by the parameters to which DReG applies: none, tau, or tau and q.
TRAINED = {"autodiff": "reparameterized", "DReG for tau": "dreg", "gdreg for tau and q": "gdreg"}

PRESETS: dict[str, Settings] = {
    "quick": dict(
        K=[1, 5, 25], M=[1, 5], batch_size=32, minibatches=3, draws=100, model="quick",
        epochs=4, training_K=5, learning_rate=2e-3, outer_warmup_epochs=0.0,
        eval_every=1, seeds=2, eval_M=100, eval_K=20,
        eval_images=500,
    ),
    "full": dict(
        K=[1, 5, 10, 25, 50, 100], M=[1, 5, 25], batch_size=256, minibatches=10, draws=1_000,
        model="full", epochs=3_000, training_K=50, learning_rate=1e-3,
        outer_warmup_epochs=300.0, eval_every=10, seeds=5, eval_M=1_000,
        eval_K=100, eval_images=10_000,
    ),
}  # fmt: skip
QUANTITIES = {
    "log_likelihood": "test log-likelihood (DIWHVI)",
    "kl_tau_mixing": "KL(tau||q(psi))",
}
_OF_RATIOS = ("K", "M", "batch_size", "minibatches", "draws", "model")


def cells(settings: Settings) -> list[Cell]:
    """Returns the cells of the ratios, one for each K and M, then those of the trainings."""
    ratios = gradient_snr.cells({name: settings[name] for name in _OF_RATIOS})
    shared = {n: v for n, v in settings.items() if n not in (*_OF_RATIOS, "seeds")}
    trainings = [
        Cell(f"train-{gradient}-seed{seed}", {**shared, "gradient": gradient, "seed": seed})
        for seed in range(settings["seeds"])
        for gradient in TRAINED.values()
    ]
    return [*ratios, *trainings]


def measure(cell: Cell, context: Context) -> list[Row]:
    """Returns ratios of q's gradients, or the score of a model trained by one estimator."""
    if "gradient" not in cell.settings:
        return gradient_snr.measure_group(cell, context, "phi", ESTIMATORS)
    s = dict(cell.settings)
    evaluation = {name: s.pop(name) for name in ("eval_M", "eval_K", "eval_images")}
    flags = trained.recipe("mnist_iwhvi", K=s.pop("training_K"), K_schedule="", **s)
    flags["checkpoint_every"] = s["eval_every"]
    label = next(label for label, name in TRAINED.items() if name == s["gradient"])
    where = dict(dataset="mnist", seed=s["seed"])
    run = trained.train(context, flags)
    scores = trained.score(run, **evaluation)
    counts = dict(K=evaluation["eval_K"], M=evaluation["eval_M"])
    rows = trained.score_rows(scores, label, QUANTITIES, **where, **counts)
    return rows + trained.learning_curve(run, label, **where)


def _ratios(rows: list[Row]) -> list[Row]:
    return select(rows, quantity="snr")


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws ratios against K, and learning curves."""
    curves, (axes,) = plots.panels(width=5.6, height=3.6)
    plots.learning_curves(axes, {label: curve(rows, method=label) for label in TRAINED}, "MNIST")
    return {
        "dreg_phi": gradient_snr.draw(_ratios(rows), ESTIMATORS, "q"),
        "learning_curves": curves,
    }


def tables(rows: list[Row]) -> list[Table]:
    """Returns the ratios, and the scores of the trainings."""
    body = []
    for label in TRAINED:
        scores = (mean_and_error(select(rows, method=label, quantity=q)) for q in QUANTITIES)
        body.append([label, *(plus_minus(*s) for s in scores)])
    title = "After training, nats, ± standard error over seeds and images"
    trained_table = Table(title, ["gradient", *QUANTITIES.values()], body)
    return [gradient_snr.table(_ratios(rows), ESTIMATORS, "q"), trained_table]


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims: gdreg's gradient is less noisy than autodiff's (Bauer & Mnih 2021)."""
    statements, measured = [], _ratios(rows)
    K = distinct(measured, "K")[-1]
    for M in distinct(measured, "M"):
        plain, doubly = (
            gradient_snr.ratios(measured, label, M, K)
            for label in ("autodiff", "doubly reparameterized (gdreg)")
        )
        text = f"gdreg's ratio for q is above autodiff's (M={M}, K={K})"
        evidence = f"{shown_mean(plain)} by autodiff, {shown_mean(doubly)} by gdreg"
        statements.append(Claim(text, all_above(paired(doubly, plain)), evidence))
    return statements


EXPERIMENT = Experiment(
    about=(
        "The paper leaves doubly reparameterized gradients for q to others. Signal-to-noise "
        "ratios of q's gradient in the DIWHVI bound (the model and reading of gradient-snr), "
        "and trainings with autodiff, with DReG for tau, and with the doubly reparameterized "
        "estimator for tau and q. stl (the path alone) is biased for M > 1."
    ),
    presets=PRESETS,
    cells=cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
    caveats=dict(
        quick="Trained for 4 epochs by 2 seeds: what a gradient is worth early in training."
    ),
)
