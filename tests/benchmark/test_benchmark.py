"""The benchmark's cells, times, ratios and tables; no test asserts a duration."""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from hvi_tf.benchmark import cells, regression, rounds, scaling, tables
from hvi_tf.benchmark.cells import FAMILIES, Cell, Evaluation
from hvi_tf.errors import UserError
from hvi_tf.experiments.harness import trained
from hvi_tf.inference.methods import METHODS

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = Cell("tiny", dict(bound="iwhvi", K=2, batch_size=4, hidden=(8, 8)), x_dim=20)


def test_cells_are_read_from_a_flag():
    first, second = cells.parse_cells("iwhvi:K=5,hidden=30,20,batch_size=8; vae")
    assert first.name == "iwhvi K=5 hidden=30,20 batch_size=8"
    assert first.config.model.hidden == (30, 20)
    assert (first.config.method.K, first.config.training.batch_size) == (5, 8)
    assert second.config.method.bound == "vae"
    assert second.config.training.jit_compile == "off"


@pytest.mark.parametrize(
    ("text", "part"),
    [("iwhvi:k=5", "'k'"), ("iwhvi:K=five", "'K=five'"), ("nothing", "nothing"), ("vae:K=3", "K")],
)
def test_a_wrong_cell_is_an_error_with_its_part(text, part):
    with pytest.raises(UserError, match=part):
        cells.parse_cells(text)


def test_the_default_cells_are_valid():
    assert {cell.name.split()[0] for cell in cells.parse_cells(cells.CELLS)} <= set(METHODS)
    for family in FAMILIES.values():
        for small in (family, cells.quick(family)):
            assert [cell.config for cell in small.cells()]


def test_evaluations_are_read_from_a_flag():
    assert cells.parse_evaluations("5x2,7x0", TINY) == [
        Evaluation(TINY, 5, 2),
        Evaluation(TINY, 7, 0),
    ]
    (shared,) = cells.parse_evaluations("diwhvi-mixture:5x20", TINY)
    assert shared.name == "diwhvi-mixture 5x20"
    assert shared.cell.config.method.bound == "diwhvi-mixture"
    for text in ("5", "diwhvi:5", "mixture:5x2"):
        with pytest.raises(UserError, match=f"'{text}'"):
            cells.parse_evaluations(text, TINY)


def test_contestants_run_in_turn():
    seen = []
    contestants = {name: lambda n, name=name: seen.append((name, n)) for name in "ab"}
    times = rounds.in_turn(contestants, rounds=3, seconds=0.0)
    assert seen[2:] == [("a", 1), ("b", 1)] * 3
    assert [len(row) for row in times.values()] == [3, 3]


def test_ratios_compare_times_of_the_same_round():
    ratios = rounds.ratios([2.0, 40.0, 6.0], [1.0, 10.0, 1.0])
    assert ratios == {"min": 2.0, "q1": 3.0, "median": 4.0, "q3": 5.0}


def test_the_exponent_of_a_power_is_fitted_with_its_error():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    exact = scaling.exponent(x, 3.0 * x**1.5)
    assert exact.slope == pytest.approx(1.5)
    assert exact.slope_error == pytest.approx(0.0, abs=1e-9)
    y = np.log(x) + np.array([0.1, -0.1, -0.1, 0.1])
    noisy = scaling.exponent(x, np.exp(y))
    # Textbook formula: sqrt(RSS / (n - 2) / Sxx).
    expected = math.sqrt(0.04 / 2 / np.sum((np.log(x) - np.log(x).mean()) ** 2))
    assert noisy.slope_error == pytest.approx(expected)


def test_growth_compares_the_slope_with_that_of_the_products():
    K = np.array([5.0, 10.0, 50.0])
    grown = scaling.growth(K, 10.0 + 2.0 * K, 5.0 + K)
    assert grown.line.start == pytest.approx(10.0)
    assert grown.slope_ratio == pytest.approx(2.0)


@pytest.mark.long
def test_a_step_is_measured_in_all_its_parts():
    from hvi_tf.benchmark import measuring
    from hvi_tf.benchmark.memory import Peak

    record = measuring.cell(TINY, Peak(700.0, 0.0), 2, 0.0)
    assert set(record["split"]) == {
        *("encoder", "inner terms", "decoder", "optimizer", "input", "host")
    }
    assert all(len(row) == 2 for row in record["times"].values())
    steps = 10_000 * (55_000 // 4)
    assert record["recipe_hours"] == pytest.approx(steps * record["median"] / 3.6e6)
    json.dumps(record)
    assert "| tiny |" in tables.training([record])
    assert "| tiny |" in tables.split([record])


@pytest.mark.long
def test_refined_steps_have_an_inner_loop_and_hierarchical_priors_their_terms():
    from hvi_tf.benchmark import parts, training

    refined = TINY.but(bound="bsvi", K=None, svi_steps=2)
    assert list(parts.make(training.Step(refined))) == [
        *("encoder", "inner loop", "decoder", "optimizer")
    ]
    prior = TINY.but(bound="dsivi", prior="hierarchical", L=2)
    assert "prior terms" in parts.make(training.Step(prior))


@pytest.mark.long
def test_a_family_and_an_evaluation_are_measured_with_their_products():
    from hvi_tf.benchmark import measuring
    from hvi_tf.benchmark.memory import Peak

    prior = TINY.but(prior="hierarchical")
    family = cells.Family("L", "L", (1, 3), prior, memory=True)
    record = measuring.family(family, (Peak(700.0, 0.0), Peak(712.0, 0.0)), 1, 0.0)
    assert len(record["medians"]) == len(record["products"]) == 2
    assert record["gigaflops"][1] > record["gigaflops"][0]
    assert "| L | 1, 3 |" in tables.growth([record])
    assert "| +12 |" in tables.growth([record])
    (score,) = measuring.evaluations([Evaluation(TINY, 3, 2)], [Peak(700.0, 0.0)], 1, 0.0)
    (task,) = cells.parse_evaluations("bsvi-3", TINY)
    (refined,) = measuring.evaluations([task], [Peak(700.0, 0.0)], 1, 0.0)
    (longer,) = cells.parse_evaluations("bsvi-5", TINY)
    (more,) = measuring.evaluations([longer], [Peak(700.0, 0.0)], 1, 0.0)
    assert more["gigaflops"] > refined["gigaflops"] > 0
    assert more["name"] == "BSVI-5"
    assert score["images_per_second"] == pytest.approx(1e3 * score["images"] / score["median"])
    assert "| 3x2 |" in tables.evaluation([score])


def test_the_schedule_equals_that_of_the_flagfile():
    from hvi_tf.benchmark import measuring

    recipe = trained.recipe("mnist_iwhvi")
    assert recipe["K_schedule"] == measuring.SCHEDULE
    assert recipe["epochs"] == measuring.EPOCHS
    flat = measuring._scheduled_hours(scaling.Fit(36.0, 0.0, 0.0, 0.0))
    assert flat == pytest.approx(36e-3 * 214 * 10_000 / 3600)
    by_K = measuring._scheduled_hours(scaling.Fit(0.0, 1.0, 0.0, 0.0))
    draws = 250 * 0 + 250 * 5 + 500 * 25 + 9_000 * 50
    assert by_K == pytest.approx(1e-3 * 214 * draws / 3600)


RESULTS = {
    "cells": [{"name": "a", "share_of_product_rate": rounds.spread([0.4, 0.5, 0.6])}],
    "evaluations": [],
    "families": [],
    "comparison": [{"name": "b", "over_ours": rounds.spread([2.0, 3.0, 4.0])}],
}


def test_ratios_are_shown_next_to_the_stored_ones(tmp_path):
    path = tmp_path / "benchmark.json"
    stored = regression.ratios(RESULTS)
    about = {"date": "today", "commit": "abc", "machine": {"processor": "Z80"}}
    path.write_text(json.dumps({"ratios": stored, "provenance": about}))
    now = {"time over ours: b": {"median": 6.0}, "new": {"median": 1.0, "error": 0.5}}
    text = regression.check(regression.read(path), now)
    assert "| time over ours: b | 3.00 (2.50 to 3.50) | 6.00 | 2.00 |" in text
    assert "| share of the product rate: a | 0.50 (0.45 to 0.55) |  |  |" in text
    assert "| new |  | 1.00 ± 0.50 |  |" in text
    path.write_text("{}")
    with pytest.raises(UserError, match="benchmark"):
        regression.read(path)


def test_the_stored_ratios_of_this_repository_can_be_read():
    stored = regression.read(ROOT / "docs" / "benchmark.json")
    assert {name.split(":")[0] for name in stored.ratios} == {
        *("share of the product rate", "exponent", "slope ratio"),
        "time over ours",
    }
    assert all("median" in ratio for ratio in stored.ratios.values())


@pytest.mark.long
def test_a_command_prints_its_tables_and_stores_them(tmp_path):
    command = [sys.executable, "-m", "hvi_tf.benchmark", "--quick", "--families=", "--cells="]
    out = tmp_path / "out.json"
    done = subprocess.run([*command, f"--out={out}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| score: MxK, or steps of SVI | images/s |" in done.stdout
    found = json.loads(out.read_text())
    load = found["provenance"]["load_before"]
    assert f"Load before it (1, 5, 15 minutes): {', '.join(map(str, load))}." in done.stdout
    assert found["evaluations"][0]["peak"]["host"] > 100.0
    assert "share of the product rate: score 5x2" in found["ratios"]
    wrong = subprocess.run([*command, "--families=Q"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: --families: unknown 'Q'")
