"""The epochs that fit into minutes, and the measured gain of a recipe."""

import collections
import itertools
import json

import numpy as np
import pytest

from hvi_tf.config import config as config_lib
from hvi_tf.errors import UserError
from hvi_tf.experiments.beyond import nats_per_minute, step_times
from hvi_tf.experiments.harness import recipes
from hvi_tf.experiments.harness.experiment import Cell, Context
from hvi_tf.experiments.harness.rows import row

QUICK = nats_per_minute.PRESETS["quick"]
FULL = nats_per_minute.PRESETS["full"]
BASE, BEFORE = nats_per_minute.BASE, nats_per_minute.BEFORE


def times(method="IWHVI", lever=BASE, start=10.0, validation=2.0, steps=((5, 1.0, 0.02),)):
    where = dict(lever=lever, dataset="noise")
    return [
        row(method, "seconds_to_start", start, **where),
        row(method, "seconds_per_validation", validation, change="", low=1.0, high=3.0, **where),
        *(
            row(method, "seconds_per_step", seconds, K=K, share=share, low=0.0, high=1.0, **where)
            for K, share, seconds in steps
        ),
    ]


def test_the_epochs_fit_into_the_minutes():
    per_epoch = (55_000 // 64) * 0.02 + 2.0
    for minutes in (5, 10, 60):
        epochs = step_times.epochs_of(times(), minutes, batch_size=64)
        assert 10.0 + epochs * per_epoch <= 60.0 * minutes < 10.0 + (epochs + 1) * per_epoch
    assert step_times.epochs_of(times(start=100.0), 1, batch_size=64) == 1


def test_a_step_is_the_mean_over_the_schedule_of_k():
    steps = ((0, 0.5, 0.01), (5, 0.4, 0.02), (20, 0.1, 0.05))
    assert step_times.seconds_per_step(times(steps=steps)) == pytest.approx(0.018)


def test_the_shares_of_k_follow_the_schedule():
    own = nats_per_minute.flags("IWHVI", BASE) | {"K": 5, "K_schedule": "0%:0,50%:5,90%:20"}
    assert step_times.shares(own) == {0: 0.5, 5: 0.4, 20: 0.1}
    assert step_times.shares(nats_per_minute.flags("VAE", BASE)) == {0: 1.0}


@pytest.mark.parametrize("lever", nats_per_minute.LEVERS)
def test_a_lever_changes_what_it_names_and_nothing_else(lever):
    base, own = (nats_per_minute.flags("IWHVI", name) for name in (BASE, lever))
    config_lib.make(**own)
    changed = {name for name in {**base, **own} if base.get(name) != own.get(name)}
    named = set(nats_per_minute.LEVERS[lever])
    assert changed
    assert changed <= named | {"lr_final_fraction", "annealing_factor"}  # only one of them applies


@pytest.mark.parametrize("recipe", ["BEFORE", "BEST"])
def test_a_recipe_depends_on_no_default(recipe):
    """Defaults may then change without changing the meaning of committed results."""
    named = set().union(*nats_per_minute.LEVERS.values())
    assert named <= getattr(recipes, recipe).keys()


def test_cheap_cells_come_first_and_only_finalists_continue():
    cells = nats_per_minute.cells(FULL)
    assert cells[0].name == "times"
    assert [m for m, _ in itertools.groupby(c.settings["minutes"] for c in cells[1:])] == [
        *(5, 10, 30, 60)
    ]

    def counts(method, minutes):
        mine = (c.settings for c in cells[1:])
        return collections.Counter(
            s["lever"] for s in mine if (s["method"], s["minutes"]) == (method, minutes)
        )

    finalists = [BASE, BEFORE, *FULL["finalists"]]
    assert counts("IWHVI", 5) == dict.fromkeys([BASE, BEFORE, *nats_per_minute.LEVERS], 1)
    assert counts("IWHVI", 10) == dict.fromkeys(finalists, 3)
    assert counts("IWHVI", 60) == dict.fromkeys(finalists, 1)
    assert counts("VAE", 10) == counts("HVM", 10) == {BASE: 3, BEFORE: 3}
    assert not counts("VAE", 30)


@pytest.mark.parametrize("wrong", [dict(seeds=[1, 1]), dict(minutes=[10, 5, 30, 60])])
def test_seeds_are_given_for_each_number_of_minutes(wrong):
    with pytest.raises(UserError, match=r"minutes=.*, seeds="):
        nats_per_minute.cells(FULL | wrong)


@pytest.fixture
def context(tmp_path):
    return Context(tmp_path / "cells" / "own", tmp_path / "runs", tmp_path / "pictures", "", "")


@pytest.fixture
def training():
    return next(c for c in nats_per_minute.cells(QUICK) if c.settings.get("lever") == BASE)


def test_a_training_without_times_is_an_error(context, training):
    with pytest.raises(UserError, match="--cells=times"):
        nats_per_minute.measure(training, context)


def write_times(context, flags, rows):
    path = context.cell.parent / "times" / "rows.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": {"flags": flags}, "rows": rows}))


def test_times_of_another_recipe_are_an_error(context, training):
    own = training.settings["flags"]
    write_times(context, {"IWHVI base": own | {"batch_size": 7}}, times())
    with pytest.raises(UserError, match="IWHVI base"):
        nats_per_minute.measure(training, context)


def scored(gains, methods=("IWHVI", "VAE"), minutes=(5, 10), errors=0.1):
    """Makes rows of base, before and levers with the given gains."""
    found = []
    for method in methods:
        levers = (BASE, *gains) if method == "IWHVI" else (BASE, BEFORE)
        for lever in levers:
            found += times(method, lever)
            for budget in minutes:
                where = dict(lever=lever, minutes=budget, seed=0, epochs=3, dataset="mnist")
                gain = gains.get(lever, 0.0)
                found.append(row(method, "log_likelihood", gain - 91.0, error=0.8, **where))
                if lever != BASE:
                    found.append(row(method, "gain_over_base", gain, error=errors, **where))
    return found


@pytest.mark.parametrize(
    ("gains", "errors", "verdicts"),
    [
        ({BEFORE: -2.0, "K=1": -0.5}, 0.1, [True, True, True]),
        ({BEFORE: -2.0, "K=1": 0.5}, 0.1, [True, True, False]),
        ({BEFORE: 2.0, "K=1": -0.1}, 0.1, [False, False, None]),
        ({BEFORE: -2.0, "K=1": -0.5}, 1.5, [None, None, None]),
        ({BEFORE: -2.0, "K=1": -0.5}, None, [None, None, None]),
    ],
)
def test_a_claim_is_decided_by_paired_gains(gains, errors, verdicts):
    """The errors of the scores alone are far larger."""
    claims = nats_per_minute.claims(scored(gains, errors=errors))
    assert [claim.holds for claim in claims] == verdicts
    if errors is None:
        assert all("n/a" in claim.evidence for claim in claims)


def test_the_table_has_a_line_for_every_recipe():
    found = scored({BEFORE: -2.0, "K=1": 0.5})
    table, _ = nats_per_minute.tables(found)
    lines = {(line[0], line[1]): line[2:] for line in table.rows}
    assert lines["IWHVI", "K=1"] == [
        *("20.0", "3", "-90.50 ± 0.80", "+0.50 ± 0.10"),
        *("3", "-90.50 ± 0.80", "+0.50 ± 0.10"),
    ]
    assert lines["IWHVI", BASE][1:4] == ["3", "-91.00 ± 0.80", ""]
    assert len(lines) == 5
    assert all(len(line) == len(table.header) for line in table.rows)


def test_figures_show_only_what_was_measured():
    rows = [r for r in scored({BEFORE: -2.0, "K=1": 0.5}) if not _is_late(r)]
    (figure,) = nats_per_minute.figures(rows).values()
    curves, bars = figure.axes
    names = [text.get_text() for text in curves.get_legend().get_texts()]
    assert names == ["IWHVI, base", "IWHVI, before", "VAE, base", "VAE, before"]
    assert [text.get_text() for text in bars.get_yticklabels()] == [BEFORE, "K=1"]
    assert "nats" in curves.get_ylabel()
    assert "bars" in bars.get_title()
    assert nats_per_minute.tables(rows)[0].rows[2][-3:] == ["", "", ""]


def _is_late(r):
    return r["lever"] == "K=1" and r.get("minutes") == 10


def test_gains_over_seeds_combine_both_errors():
    rows = [
        row("IWHVI", "gain_over_base", gain, error=0.4, lever="K=1", minutes=5, seed=seed)
        for seed, gain in enumerate((1.0, 1.6))
    ]
    mean, error = nats_per_minute._gain(rows, "IWHVI", "K=1", 5)
    assert (mean, error) == (pytest.approx(1.3), pytest.approx(np.hypot(0.3, 0.4)))


def test_times_cover_every_k_and_a_validation(monkeypatch, context, capsys):
    monkeypatch.setattr(step_times, "VALIDATION_IMAGES", 40)
    monkeypatch.setattr(step_times, "SECONDS", 0.01)
    tiny = dict(hidden=[8, 8], latent_dim=2, aux_dim=2, batch_size=8, K=3, jit_compile="off")
    base = dict(tiny, bound="iwhvi", lr_schedule="cosine", K_schedule="0%:1,50%:3")
    flags = {"IWHVI base": base, "IWHVI no decay": base | {"lr_schedule": "exponential"}}
    rows = nats_per_minute.measure(Cell("times", dict(rounds=2, flags=flags)), context)
    assert "Load before: " in capsys.readouterr().out
    quantities = [(r["method"], r.get("lever"), r["quantity"], r.get("K")) for r in rows]
    assert quantities == [
        ("machine", None, "load", None),
        *(("IWHVI", lever, "seconds_to_start", None) for lever in (BASE, "no decay")),
        *(
            ("IWHVI", lever, quantity, K)
            for lever in (BASE, "no decay")
            for quantity, K in (
                *(("seconds_per_step", 1), ("seconds_per_step", 3)),
                ("seconds_per_validation", None),
            )
        ),
    ]
    assert all(0.0 < r["low"] <= r["value"] <= r["high"] for r in rows[3:])
    assert rows[-1]["change"] == "lr_schedule=exponential"
    mine = [r for r in rows if r.get("lever") == "no decay"]
    steps = [r["value"] for r in mine if r["quantity"] == "seconds_per_step"]
    assert step_times.seconds_per_step(mine) == pytest.approx(np.mean(steps))
