"""The models of figure 2 left of Sobolev & Vetrov 2019: their grid, trainings and scores."""

import itertools
import pathlib
from typing import Any

import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from hvi_tf.experiments.harness import recipes, trained
from hvi_tf.experiments.harness.experiment import Cell, Context, Settings
from hvi_tf.experiments.harness.rows import Row, row
from hvi_tf.training.runs import Run

# Label -> the name of its flagfile after the data set.
RECIPES = {
    "VAE": "vae",
    "IWAE+DReG": "vae",
    "VAE+IAF": "vae_iaf",
    "VAE+RealNVP": "vae_realnvp",
    "HVM": "hvm",
    "SIVI": "sivi",
    "IWHVI": "iwhvi",
}
_OWN: dict[str, Settings] = {"IWAE+DReG": dict(bound="iwae", M=5, gradient="iwae-dreg")}
# The most informative methods come first; the paper has no IWAE.
_ORDER = ["IWHVI", "HVM", "VAE", "SIVI", "VAE+IAF", "VAE+RealNVP", "IWAE+DReG"]
_PUBLISHED = _ORDER[:-1]
GAIN = "gain_of_iwhvi"  # over the method of the row, paired by image
SCORES = ("log_likelihood", "kl_tau_mixing", "kl_tau_posterior", "kl_mixing_posterior")

PRESETS: dict[str, Settings] = {
    "quick": dict(
        methods=_PUBLISHED, datasets=["mnist", "omniglot"], seeds=2,
        mnist_epochs=3, omniglot_epochs=4, tau_epochs=1,
        K=5, grid_methods=["IWHVI"], grid_datasets=["mnist"], grid_epochs=2, warmup_epochs=1.0,
        train_at_best=0, outer_warmup_epochs=0.0, learning_rates=[2e-3, 2e-4], eval_M=100,
        eval_K=20, eval_images=500,
    ),
    "full": dict(
        methods=_PUBLISHED, datasets=["mnist", "omniglot"], seeds=5,
        mnist_epochs=10_000, omniglot_epochs=10_000, tau_epochs=7_000, K=50,
        grid_methods=["IWHVI", "SIVI", "HVM"],
        grid_datasets=["mnist", "omniglot"], grid_epochs=10_000, warmup_epochs=300.0,
        train_at_best=1, outer_warmup_epochs=300.0, learning_rates=[1e-3, 1e-4], eval_M=5_000,
        eval_K=100, eval_images=10_000,
    ),
    # Both data sets have about the same number of steps.
    "long": dict(
        recipe="long", methods=_ORDER, datasets=["mnist", "omniglot"], seeds=2,
        mnist_epochs=500, omniglot_epochs=1_500, tau_epochs=100, K=recipes.LONG["K"],
        grid_methods=_ORDER, grid_datasets=["mnist", "omniglot"], grid_epochs=30,
        warmup_epochs=0.0, train_at_best=1, outer_warmup_epochs=0.0,
        learning_rates=[1e-3, 4e-3], eval_M=5_000, eval_K=100, eval_images=1_000,
    ),
}  # fmt: skip
# Settings that determine every training, the grid, and a score.
_OF_TRAINING = ("K", "outer_warmup_epochs", "learning_rates")
_OF_GRID = ("grid_epochs", "warmup_epochs")
_OF_SCORE = ("eval_M", "eval_K", "eval_images")


def grid(method: str, s: Settings) -> list[Settings]:
    """Returns the points of the authors' grid that apply to a method.

    The axes are DReG, inner and outer warm-up, and learning rate. The long recipe searches the
    learning rate alone, because every method has one.
    """
    if "recipe" in s:
        return [{"learning_rate": rate} for rate in s["learning_rates"]]
    warmups = [0.0, s["warmup_epochs"]]
    axes: dict[str, list[Any]] = {
        "gradient": ["reparameterized", "dreg"] if method == "IWHVI" else [],
        "inner_warmup_epochs": warmups if method in ("IWHVI", "HVM") else [],
        "outer_warmup_epochs": warmups,
        "learning_rate": s["learning_rates"],
    }
    axes = {name: axis for name, axis in axes.items() if axis}
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    # The smaller rate is constant, the larger one is annealed (appendix F).
    return [
        p | {"annealing_factor": 0.95 if p["learning_rate"] == max(s["learning_rates"]) else 1.0}
        for p in points
    ]


def flags(dataset: str, method: str, epochs: int, s: Settings) -> Settings:
    """Returns a method's recipe at this length, at the authors' best point of the grid on MNIST."""
    flagfile = f"{dataset}_{RECIPES[method]}"
    changes: Settings = dict(
        epochs=epochs,
        outer_warmup_epochs=s["outer_warmup_epochs"],
        learning_rate=s["learning_rates"][0],
        **_OWN.get(method, {}),
    )
    if "recipe" in s:
        return recipes.long(flagfile, **changes)
    if method in ("SIVI", "IWHVI"):
        changes |= {"K": s["K"]}
    if epochs < 1_000:  # the published schedule would stay at K=0
        changes |= dict(K_schedule="", checkpoint_every=1, eval_every=1, steps_per_call=10)
    return trained.recipe(flagfile, **changes)


def cells(settings: Settings) -> list[Cell]:
    """Returns a cell for each seed, data set and method, after the points of its grid."""
    result = []
    for seed in range(settings["seeds"]):
        for dataset in settings["datasets"]:
            for method in settings["methods"]:
                if seed == 0 and _is_searched(dataset, method, settings):
                    result += _grid_cells(dataset, method, settings)
                result.append(final_cell(dataset, method, seed, settings))
    return result


def _is_searched(dataset: str, method: str, settings: Settings) -> bool:
    return method in settings["grid_methods"] and dataset in settings["grid_datasets"]


def _grid_cells(dataset: str, method: str, settings: Settings) -> list[Cell]:
    names = (*_OF_TRAINING, *_OF_GRID)
    shared = _own(dataset, method, settings) | {name: settings[name] for name in names}
    return [
        Cell(f"grid-{dataset}-{method}-{i}", shared | {"point": point})
        for i, point in enumerate(grid(method, settings))
    ]


def final_cell(dataset: str, method: str, seed: int, settings: Settings) -> Cell:
    """Returns the cell of a run that is scored."""
    names = [*_OF_TRAINING, *_OF_SCORE, *(["tau_epochs"] if method == "SIVI" else [])]
    if settings["train_at_best"] and _is_searched(dataset, method, settings):
        names += _OF_GRID
    own = _own(dataset, method, settings) | {"seed": seed}
    own["epochs"] = settings[f"{dataset}_epochs"]
    alike = not settings["train_at_best"] or set(RECIPES) <= set(settings["grid_methods"])
    if method != "IWHVI" and "IWHVI" in settings["methods"] and alike:
        own["beside"] = "IWHVI"  # its own cell has the same settings then
    return Cell(f"{dataset}-{method}-seed{seed}", own | {name: settings[name] for name in names})


def _own(dataset: str, method: str, settings: Settings) -> Settings:
    recipe = {name: settings[name] for name in ("recipe",) if name in settings}
    return {"dataset": dataset, "method": method, **recipe}


def measure(cell: Cell, context: Context) -> list[Row]:
    """Returns the validation bound of a point of the grid, or the test scores of a run."""
    s = cell.settings
    return _measure_point(cell, context) if "point" in s else _measure_method(cell, context)


def _measure_point(cell: Cell, context: Context) -> list[Row]:
    s = cell.settings
    bound = _validation_bound(context, s["dataset"], s["method"], s["point"], s)
    point = s["point"] | {"dataset": s["dataset"], "method": s["method"]}
    log_point(context.cell.parents[1] / "tensorboard" / cell.name, point, bound)
    where = dict(dataset=s["dataset"], seed=0, K=s["K"], **s["point"])
    return [row(s["method"], "grid_validation_bound", bound, **where)]


def log_point(folder: pathlib.Path, point: Settings, bound: float) -> None:
    """Writes a point of the grid for TensorBoard's page of hyperparameters."""
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        hparams.hparams(point, trial_id=folder.name)
        tf.summary.scalar("validation_bound", bound, step=0)
    writer.close()


def _validation_bound(
    context: Context, dataset: str, method: str, point: Settings, s: Settings
) -> float:
    """Returns the best validation bound of a point, without warm-ups and at one K."""
    settings = flags(dataset, method, s["grid_epochs"], s) | point | {"seed": 0}
    return trained.best_validation_bound(context, settings)


def _chosen(context: Context, s: Settings) -> Settings:
    """Returns the best point of the grid, if the scored runs are trained at it."""
    if "grid_epochs" not in s:
        return {}
    dataset, method = s["dataset"], s["method"]
    points = grid(method, s)
    return max(points, key=lambda p: _validation_bound(context, dataset, method, p, s))


def final_run(context: Context, s: Settings) -> Run:
    """Returns the run of a scored cell, with a tau fitted to it if its method has none."""
    settings = flags(s["dataset"], s["method"], s["epochs"], s)
    settings |= _chosen(context, s) | {"seed": s["seed"]}
    run = trained.train(context, settings)
    if s["method"] != "SIVI":
        return run
    own = {"gradient": recipes.LONG["gradient"]} if "recipe" in s else {}
    return trained.fit_tau(run, s["tau_epochs"], s["K"], **own)


def score_run(run: Run, method: str, s: Settings, **where: Any) -> list[Row]:
    """Returns the test scores of a run."""
    scores = trained.score(run, **_of_score(s))
    return trained.score_rows(scores, method, SCORES, M=scores["M"], K=scores["K"], **where)


def _of_score(s: Settings) -> Settings:
    return {name: s[name] for name in _OF_SCORE}


def _measure_method(cell: Cell, context: Context) -> list[Row]:
    s = cell.settings
    dataset, method, seed = s["dataset"], s["method"], s["seed"]
    run = final_run(context, s)
    if seed == 0 and method in ("VAE", "IWHVI"):
        trained.draw_pictures(run, context, f"{dataset}-{method}")
    rows = score_run(run, method, s, dataset=dataset, seed=seed)
    if "beside" in s:
        best = final_run(context, s | {"method": s["beside"]})
        scores, others = (trained.score(r, **_of_score(s)) for r in (best, run))
        rows.append(trained.gain_row(method, GAIN, scores, others, dataset=dataset, seed=seed))
    if method == "SIVI":
        return rows  # its curve would show the fit of tau
    return rows + trained.learning_curve(run, method, dataset=dataset, seed=seed)
