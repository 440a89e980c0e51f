"""Published recipes, the recipes of this package, and the long trainings."""

import importlib.resources
import pathlib

import pytest

from hvi_tf.config import config as config_lib
from hvi_tf.experiments.bsvi import bsvi_tables
from hvi_tf.experiments.harness import catalogue, recipes, trained
from hvi_tf.experiments.harness.experiment import Context
from hvi_tf.experiments.iwhvi import likelihood_runs, likelihood_table, reference_model, training_k

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG = likelihood_runs.PRESETS["long"]
# Settings that differ between methods.
OF_METHOD = {"bound", "posterior", "M", "K", "K_schedule", "gradient"}


def test_recipes_are_package_data(monkeypatch, tmp_path):
    """An installed wheel has no folder flags/ next to the package."""
    packaged = importlib.resources.files("hvi_tf.experiments.harness") / "flagfiles"
    flagfiles = {path.name: path.read_bytes() for path in (ROOT / "flags").iterdir()}
    assert {path.name: path.read_bytes() for path in packaged.iterdir()} == flagfiles
    assert '"flagfiles/*.cfg"' in (ROOT / "pyproject.toml").read_text()
    monkeypatch.chdir(tmp_path)
    assert trained._FLAGFILES == packaged
    assert trained.recipe("mnist_vae")["dataset"] == "mnist"


def long_flags(dataset, method, seed=0):
    settings = likelihood_runs.final_cell(dataset, method, seed, LONG).settings
    return likelihood_runs.flags(dataset, method, settings["epochs"], settings)


def trainings(name):
    """Yields the flags of every training of an experiment's preset long."""
    cells = catalogue.load(name).cells(catalogue.load(name).presets["long"])
    for s in (cell.settings for cell in cells):
        if name == "likelihood-table":
            epochs = s["grid_epochs"] if "point" in s else s["epochs"]
            yield likelihood_runs.flags(s["dataset"], s["method"], epochs, s) | s.get("point", {})
        elif name == "training-k":
            yield training_k.flags(s)
        else:
            yield bsvi_tables.flags(s["dataset"], s["method"], s["seed"], s)


@pytest.mark.parametrize("name", ["likelihood-table", "training-k", "bsvi-tables"])
def test_a_long_training_decays_its_rate_and_saves_often(name):
    for flags in trainings(name):
        config = config_lib.make(**flags)  # checks that every setting applies
        t = config.training
        assert t.lr_schedule == "cosine"
        assert t.max_steps == 0
        assert 64 <= t.batch_size <= 128
        assert t.checkpoint_every == t.eval_every <= max(1, t.epochs / 250)


def test_the_best_recipe_is_the_default():
    defaults = config_lib.make(bound="iwhvi", K=50)
    best = config_lib.make(**recipes.fitting({"bound": "iwhvi", **recipes.BEST}))
    compiled = config_lib.resolve_jit(defaults, has_gpu=False)
    assert config_lib.flatten(best) == config_lib.flatten(compiled)


@pytest.mark.parametrize("dataset", ["mnist", "omniglot"])
def test_all_methods_have_the_same_long_recipe(dataset):
    published = trained.recipe(f"{dataset}_iwhvi")
    recipe = {n for n in recipes.LONG if n not in OF_METHOD}
    own = recipe | {"epochs", "checkpoint_every", "eval_every"}
    first = config_lib.flatten(config_lib.make(**long_flags(dataset, "IWHVI")))
    for method in likelihood_runs.RECIPES:
        config = config_lib.flatten(config_lib.make(**long_flags(dataset, method)))
        assert {n: config[n] for n in own} == {n: first[n] for n in own}, method
        assert list(config["hidden"]) == published["hidden"]
        assert config["latent_dim"] == published["latent_dim"]


def test_dreg_is_used_by_every_method_that_supports_it():
    gradients = {m: long_flags("mnist", m).get("gradient") for m in likelihood_runs.RECIPES}
    assert gradients == {
        "VAE": "iwae-dreg",
        "IWAE+DReG": "iwae-dreg",
        "VAE+IAF": None,
        "VAE+RealNVP": None,
        "HVM": "gdreg",
        "SIVI": "gdreg",
        "IWHVI": "gdreg",
    }
    cell = bsvi_tables.cells(bsvi_tables.PRESETS["long"])[0].settings
    assert bsvi_tables.flags("omniglot", "IWAE-k'", 0, cell)["gradient"] == "iwae-dreg"


def test_a_recipe_fits_every_bound():
    recipe = dict(K=7, K_schedule="0%:1,50%:7", gradient="dreg", inner_free_bits=1.0, tau_steps=1)
    fitting = {
        bound: set(recipes.fitting({"bound": bound, **recipe})) - {"bound"}
        for bound in ("iwhvi", "sivi", "hvm", "vae")
    }
    assert fitting == {
        "iwhvi": set(recipe),
        "sivi": {"K", "K_schedule"},
        "hvm": {"gradient", "inner_free_bits", "tau_steps"},
        "vae": {"gradient"},
    }


def test_every_method_searches_the_same_learning_rates():
    for dataset in LONG["datasets"]:
        for method in LONG["methods"]:
            cell = likelihood_runs.final_cell(dataset, method, 0, LONG).settings
            points = likelihood_runs.grid(method, cell)
            assert points == [{"learning_rate": rate} for rate in LONG["learning_rates"]]
            assert cell["grid_epochs"] == LONG["grid_epochs"]


def test_the_most_informative_long_cells_come_first():
    names = [cell.name for cell in likelihood_runs.cells(LONG)]
    scored = [name for name in names if not name.startswith("grid-")]
    order = ["IWHVI", "HVM", "VAE", "SIVI", "VAE+IAF", "VAE+RealNVP", "IWAE+DReG"]
    assert scored == [
        f"{dataset}-{method}-seed{seed}"
        for seed in (0, 1)
        for dataset in ("mnist", "omniglot")
        for method in order
    ]
    assert names[:4] == [
        *("grid-mnist-IWHVI-0", "grid-mnist-IWHVI-1", "mnist-IWHVI-seed0", "grid-mnist-HVM-0")
    ]


def test_cells_of_one_seed_are_the_first_cells_of_two():
    """So `--set=seeds=1` draws the figures after the first seed."""
    for name in ("likelihood-table", "training-k", "bsvi-tables"):
        experiment = catalogue.load(name)
        both = experiment.presets["long"]
        one = experiment.cells(both | {"seeds": 1})
        assert one == experiment.cells(both)[: len(one)]


def test_a_method_is_paired_with_iwhvi_if_both_are_tuned_alike():
    def beside(preset, method, **changes):
        settings = likelihood_runs.PRESETS[preset] | changes
        return likelihood_runs.final_cell("mnist", method, 0, settings).settings.get("beside")

    assert beside("quick", "VAE") == beside("long", "VAE") == "IWHVI"
    assert beside("quick", "IWHVI") is beside("long", "IWHVI") is None
    assert beside("full", "VAE") is None  # no grid is searched for it
    assert beside("long", "VAE", methods=["VAE", "HVM"]) is None


def test_the_reference_model_of_long_is_a_run_of_the_table(monkeypatch):
    monkeypatch.setattr(likelihood_runs, "final_run", lambda context, s: s)
    (cell,) = (c for c in likelihood_runs.cells(LONG) if c.name == "mnist-IWHVI-seed0")
    assert reference_model.run("long", None) == cell.settings


def test_published_recipes_are_unchanged():
    flags = trained.recipe("mnist_iwhvi")
    assert (flags["epochs"], flags["batch_size"], flags["learning_rate"]) == (10_000, 256, 1e-3)
    cell = likelihood_runs.final_cell("mnist", "IWHVI", 0, likelihood_runs.PRESETS["full"])
    assert "recipe" not in cell.settings
    assert likelihood_runs.flags("mnist", "IWHVI", 10_000, cell.settings) == flags


@pytest.mark.long
def test_every_long_cell_of_a_data_set_is_measured(monkeypatch, tmp_path, mnist_dir):
    """Runs trainings, a grid, tau's fit, scores and gains with a few steps of small networks."""
    small = dict(hidden=[8, 8], flow_hidden=[8, 8], latent_dim=2, aux_dim=2, jit_compile="off")
    monkeypatch.setattr(recipes, "LONG", recipes.LONG | small | {"max_steps": 2})
    settings = LONG | dict(
        datasets=["mnist"], seeds=1, mnist_epochs=1, grid_epochs=1, tau_epochs=1, K=2,
        eval_M=3, eval_K=2, eval_images=4, learning_rates=[4e-3],
    )  # fmt: skip
    rows = []
    for cell in likelihood_runs.cells(settings):
        folder = tmp_path / "experiment" / "cells" / cell.name
        folder.mkdir(parents=True)
        context = Context(folder, tmp_path / "runs", tmp_path / "pictures", str(mnist_dir), "")
        rows += likelihood_runs.measure(cell, context)
    scored = {r["method"] for r in rows if r["quantity"] == "log_likelihood"}
    assert scored == set(likelihood_runs.RECIPES)
    paired = {r["method"] for r in rows if r["quantity"] == likelihood_runs.GAIN}
    assert paired == scored - {"IWHVI"}
    assert len([r for r in rows if r["quantity"] == "grid_validation_bound"]) == 7
    assert len(likelihood_table.claims(rows)) == 6
    (table, _) = likelihood_table.tables(rows)
    assert [line[0] for line in table.rows][:7] == list(likelihood_runs.RECIPES)
    assert set(likelihood_table.figures(rows)) == {"likelihood_table", "learning_curves"}
