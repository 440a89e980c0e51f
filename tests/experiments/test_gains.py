"""Differences of two runs on the same images: the compared runs, the sign and the error."""

import json

import numpy as np
import pytest

from hvi_tf.experiments.beyond import nats_per_minute
from hvi_tf.experiments.bsvi import bsvi_tables
from hvi_tf.experiments.harness import catalogue, trained
from hvi_tf.experiments.harness.experiment import Context
from hvi_tf.experiments.iwhvi import likelihood_runs, training_k
from hvi_tf.storage import npz
from tests.oracles.stored import stored_rows

COMMON = np.array([-120.0, -80.0, -95.0, -60.0])  # images differ far more than runs
NOISE = np.array([0.1, -0.1, 0.3, -0.3])


@pytest.fixture
def context(tmp_path):
    cell = tmp_path / "experiment" / "cells" / "own"
    cell.mkdir(parents=True)
    return Context(cell, tmp_path / "runs", tmp_path / "pictures", "", "")


@pytest.fixture
def levels(monkeypatch, tmp_path):
    """Replaces runs by their flags, and scores by a level for each run, set by the test."""
    given = {}

    def score(run, **settings):
        level = given["level"](run)
        path = tmp_path / f"{level}.npz"
        values = (COMMON + level + NOISE * level).astype(np.float32)
        npz.write_arrays(path, {"log_likelihood": values, "kl": values})
        mean = {"mean": float(values.mean()), "standard_error": 1.0}
        names = dict.fromkeys(("log_likelihood", "kl"), mean)
        summary = dict(scores=str(path), images=4, dataset="d", seconds=1.0, M=1, K=1, steps=1)
        return summary | names

    monkeypatch.setattr(trained, "train", lambda context, flags: flags)
    monkeypatch.setattr(trained, "fit_tau", lambda run, *counts, **own: run)
    monkeypatch.setattr(trained, "score", score)
    monkeypatch.setattr(trained, "learning_curve", lambda *arguments, **where: [])
    monkeypatch.setattr(trained, "draw_pictures", lambda *arguments: None)
    monkeypatch.setattr(trained, "best_validation_bound", lambda *arguments: 0.0)

    def use(level):
        given["level"] = level

    return use


def gains(rows, quantity):
    return [(r["value"], r["standard_error"]) for r in rows if r["quantity"] == quantity]


def expected(ours, theirs):
    difference = (ours - theirs) * (1.0 + NOISE)
    return pytest.approx((difference.mean(), difference.std(ddof=1) / 2.0), rel=1e-4)


@pytest.mark.parametrize("preset", ["quick", "long"])
@pytest.mark.parametrize("method", ["VAE", "SIVI", "IWAE+DReG", "HVM"])
def test_iwhvis_gain_over_a_method(levels, context, preset, method):
    settings = likelihood_runs.PRESETS[preset]
    cell = likelihood_runs.final_cell("mnist", method, 0, settings)
    levels(lambda run: 3.0 if run["bound"] == "iwhvi" else 1.0)
    rows = likelihood_runs.measure(cell, context)
    assert gains(rows, likelihood_runs.GAIN) == [expected(3.0, 1.0)]


def test_the_gain_of_a_k_over_k_0(levels, context):
    cells = training_k.cells(training_k.PRESETS["quick"])
    levels(lambda run: 2.0 + run["K"])
    for cell in cells:
        found = gains(training_k.measure(cell, context), training_k.GAIN)
        K = cell.settings["K"]
        assert found == ([expected(2.0 + K, 2.0)] if K else [])


def test_the_gain_of_a_method_over_the_vae(levels, context):
    levels(lambda run: {"vae": 1.0, "iwae": 2.0}.get(run["bound"], 4.0))
    for cell in bsvi_tables.cells(bsvi_tables.PRESETS["quick"])[:4]:
        found = gains(bsvi_tables.measure(cell, context), "kl" + bsvi_tables.GAIN)
        method = cell.settings["method"]
        ours = {"VAE": 1.0, "IWAE-k'": 2.0}.get(method, 4.0)
        assert found == ([] if method == "VAE" else 2 * [expected(ours, 1.0)])  # one for each split


def test_the_gain_of_a_lever_over_the_base(levels, context):
    times, *trainings = nats_per_minute.cells(nats_per_minute.PRESETS["quick"])
    rows = [
        dict(method=method, lever=lever, quantity=quantity, value=value, share=1.0)
        for method, _, lever in (name.partition(" ") for name in times.settings["flags"])
        for quantity, value in (
            ("seconds_to_start", 5.0),
            ("seconds_per_validation", 1.0),
            ("seconds_per_step", 0.01),
        )
    ]
    path = context.cell.parent / "times" / "rows.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"settings": times.settings, "rows": rows}))
    levels(lambda run: run["batch_size"] / 64.0 + run["ema_decay"])
    for cell in trainings:
        measured = nats_per_minute.measure(cell, context)
        flags, base = cell.settings["flags"], cell.settings["base"]
        ours, theirs = (f["batch_size"] / 64.0 + f["ema_decay"] for f in (flags, base))
        is_base = cell.settings["lever"] == nats_per_minute.BASE
        assert gains(measured, nats_per_minute.GAIN) == (
            [] if is_base else [expected(ours, theirs)]
        )
        per_epoch = (55_000 // flags["batch_size"]) * 0.01 + 1.0
        assert measured[0]["epochs"] == int((60.0 - 5.0) / per_epoch)


def with_gains(name, gain, error):
    """Adds a gain of every pair of runs to the committed rows of one seed."""
    rows = [r for r in stored_rows(name) if r.get("seed", 0) == 0]
    if name == "likelihood-table":
        own = dict(quantity=likelihood_runs.GAIN)
        runs = [r for r in rows if r["quantity"] == "log_likelihood" and r["method"] != "IWHVI"]
        found = [r | own for r in runs]
    elif name == "training-k":
        own = dict(quantity=training_k.GAIN)
        runs = [r for r in rows if r["quantity"] == "log_likelihood" and r["trained_K"]]
        found = [r | own for r in runs]
    else:
        runs = [r for r in rows if r["quantity"] in ("log_likelihood", "kl")]
        found = [r | {"quantity": r["quantity"] + bsvi_tables.GAIN} for r in runs]
    return rows + [r | {"value": gain, "standard_error": error} for r in found]


@pytest.mark.parametrize("name", ["likelihood-table", "training-k", "bsvi-tables"])
@pytest.mark.parametrize(
    ("gain", "error", "verdict"),
    [(0.5, 0.1, True), (-0.5, 0.1, False), (0.5, 0.3, None), (0.5, None, None)],
)
def test_gains_decide_the_claims_of_one_seed(name, gain, error, verdict):
    claims = [
        claim
        for claim in catalogue.load(name).claims(with_gains(name, gain, error))
        if "tau" not in claim.text
    ]
    assert {claim.holds for claim in claims} == {verdict}
    shown = f"{gain:+.2f} ± {'n/a' if error is None else f'{error:.2f}'} nats"
    assert all(shown.removesuffix(" nats") in claim.evidence for claim in claims)
