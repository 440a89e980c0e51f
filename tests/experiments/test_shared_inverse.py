"""The mixture's experiment: the scores, and resuming after an interruption."""

import numpy as np
import pytest

from hvi_tf.config import config as config_lib
from hvi_tf.data.datasets import Dataset
from hvi_tf.experiments.beyond import shared_inverse
from hvi_tf.experiments.harness.experiment import Cell, Context
from hvi_tf.experiments.harness.rows import row, select
from hvi_tf.models.vae import make_vae
from hvi_tf.training.runs import Run

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16)).astype(np.uint8)
SETTINGS = dict(
    model="IWHVI", training="quick", M=4, K=[0, 2], shared_K=[5], equisample_K=[1], images=7,
    repetition=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """Replaces the trained models by a tiny model that is not trained."""
    config = config_lib.make(hidden=[8, 8], latent_dim=3, aux_dim=3, K=2, jit_compile="off")
    data = Dataset(IMAGES, IMAGES, IMAGES, (4, 4, 1))
    run = Run(config, make_vae(config, 16), data, None, 5, None)
    monkeypatch.setattr(shared_inverse, "final_run", lambda *_: run)


def measure(folder):
    cell = folder / "cell"
    cell.mkdir(parents=True, exist_ok=True)
    context = Context(cell, folder, folder, "", "")
    return shared_inverse.measure(Cell("cell", SETTINGS), context)


def without_time(rows):
    return [{name: value for name, value in r.items() if name != "seconds"} for r in rows]


def test_gains_are_differences_of_the_scores_of_the_same_images(tmp_path):
    rows = measure(tmp_path)
    labels = {r["method"] for r in rows}
    assert labels == set(shared_inverse.CONTESTANTS) - {"mixture of all"}  # M is small
    for quantity in ("bound", "log_likelihood"):
        scores = {(r["method"], r["K"]): r["value"] for r in select(rows, quantity=quantity)}
        gains = select(rows, quantity=f"gain_over_{quantity}")
        assert len(gains) == 2 * (len(scores) - 2)
        for gain in gains:
            expected = scores[gain["method"], gain["K"]] - scores["DIWHVI", gain["own_K"]]
            assert gain["value"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.long
def test_an_interrupted_cell_resumes_to_the_same_rows(tmp_path, interrupted):
    unbroken = measure(tmp_path / "unbroken")
    with interrupted():
        measure(tmp_path / "broken")
    assert len([*(tmp_path / "broken" / "cell").iterdir()]) == 1
    assert without_time(measure(tmp_path / "broken")) == without_time(unbroken)


def test_equal_time_means_no_more_time():
    """The comparison uses the largest K at which the mixture takes no longer than DIWHVI."""
    where = dict(model="IWHVI", M=10, seed=0)
    rows = [row("DIWHVI", "bound", -90.0, seconds=1.0, K=5, **where)]
    for K, seconds in ((10, 0.1), (100, 0.9), (1_000, 1.1)):
        gain = dict(error=0.1, seconds=seconds, K=K, own_K=5)
        rows.append(row("mixture", "gain_over_bound", K / 100, **gain, **where))
    ((mine, others),) = shared_inverse._equal_time(rows, "bound")
    assert mine["K"] == 5
    assert others["mixture"]["K"] == 100
    (claim,) = shared_inverse.claims(rows)
    assert claim.holds
    rows[2]["value"] = -1.0
    (claim,) = shared_inverse.claims(rows)
    assert claim.holds is False
