"""The bounds of one model: the scored images, and resuming after an interruption."""

import numpy as np
import pytest

from hvi_tf.config import config as config_lib
from hvi_tf.data.datasets import Dataset
from hvi_tf.experiments.harness.experiment import Cell, Context
from hvi_tf.experiments.iwhvi import evaluation_metric, reference_model
from hvi_tf.models.vae import make_vae
from hvi_tf.training.runs import Run

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16)).astype(np.uint8)
SETTINGS = dict(M=4, K=2, repetition=1, images=7, model="quick", equisample=True)


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """Replaces the reference model by a tiny model that is not trained."""
    config = config_lib.make(hidden=[8, 8], latent_dim=3, aux_dim=3, K=2, jit_compile="off")
    data = Dataset(IMAGES, IMAGES, IMAGES, (4, 4, 1))
    run = Run(config, make_vae(config, 16), data, None, 5, None)
    monkeypatch.setattr(reference_model, "run", lambda preset, context: run)


def measure(folder, **settings):
    cell = folder / "cell"
    cell.mkdir(parents=True, exist_ok=True)
    context = Context(cell, folder, folder, "", "")
    return evaluation_metric.measure(Cell("cell", SETTINGS | settings), context)


def numbers(rows):
    return [{name: value for name, value in r.items() if name != "seconds"} for r in rows]


def test_every_bound_scores_the_same_images(tmp_path):
    rows = measure(tmp_path)
    scores = {r["method"]: r for r in rows if r["quantity"] == "log_likelihood"}
    gaps = {r["method"]: r for r in rows if r["quantity"] == "diwhvi_minus_it"}
    assert list(scores) == list(evaluation_metric.BOUNDS)
    assert list(gaps) == list(scores)[1:]
    for label, gap in gaps.items():
        expected = scores["DIWHVI"]["value"] - scores[label]["value"]
        assert gap["value"] == pytest.approx(expected, abs=1e-4)
    labels = {r["method"] for r in measure(tmp_path / "few", equisample=False)}
    assert labels == set(scores) - {"SIVI equisample"}


@pytest.mark.long
def test_an_interrupted_score_resumes_to_the_same_rows(tmp_path, interrupted):
    unbroken = measure(tmp_path / "unbroken")
    with interrupted():
        measure(tmp_path / "broken")
    stored = [path.name for path in (tmp_path / "broken" / "cell").iterdir()]
    assert stored == ["diwhvi.npz"]
    assert numbers(measure(tmp_path / "broken")) == numbers(unbroken)
