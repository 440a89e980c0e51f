"""Each cell is measured once, and all results are functions of the rows."""

import csv
import io
import json
import math

import numpy as np
import pytest

from hvi_tf.errors import UserError
from hvi_tf.experiments.harness import measuring, plots, rows
from hvi_tf.experiments.harness.experiment import (
    Cell,
    Claim,
    Context,
    Experiment,
    Table,
    settings_of,
)
from hvi_tf.experiments.harness.rows import row
from hvi_tf.storage import workdir as workdirs


class Squares:
    """An experiment that counts how often it measures."""

    def __init__(self):
        self.measured = []
        self.experiment = Experiment(
            about="Squares.",
            presets={"quick": dict(n=3, scale=1.0, names=["a", "b"])},
            cells=lambda s: [Cell(f"n{i}", {"i": i, "scale": s["scale"]}) for i in range(s["n"])],
            measure=self.measure,
            figures=self.figures,
            tables=lambda rows: [Table("Squares", ["i", "value"], [["0", "0"]])],
            claims=lambda rows: [Claim("they grow", rows[-1]["value"] > rows[0]["value"], "so")],
        )

    def measure(self, cell, context):
        self.measured.append(cell.name)
        assert context.cell.is_dir()
        value = cell.settings["scale"] * cell.settings["i"] ** 2
        return [row("square", "value", value, error=0.5, seconds=0.1, K=cell.settings["i"])]

    def figures(self, rows):
        figure, (axes,) = plots.panels()
        axes.plot([r["value"] for r in rows])
        return {"squares": figure}


@pytest.fixture
def squares():
    return Squares()


@pytest.fixture
def run(tmp_path, squares):
    def run(cells=None, preset="quick", **changes):
        settings = squares.experiment.presets["quick"] | changes
        context = Context(tmp_path, tmp_path / "runs", tmp_path / "pictures", "", "")
        chosen = [c for c in squares.experiment.cells(settings) if not cells or c.name in cells]
        measuring.measure_cells(squares.experiment, chosen, tmp_path, context)
        metadata = dict(name="squares", preset=preset, command="python ...")
        return measuring.collect(squares.experiment, settings, metadata, tmp_path)

    return run


def test_a_cell_is_measured_once(run, squares, tmp_path):
    first = run()
    text = (tmp_path / "results.csv").read_text()
    assert squares.measured == ["n0", "n1", "n2"]
    again = run()
    assert squares.measured == ["n0", "n1", "n2"]
    assert again == first
    assert (tmp_path / "results.csv").read_text() == text
    assert json.loads((tmp_path / "results.json").read_text()) == first


def test_a_cell_with_other_settings_is_not_overwritten(run, squares):
    run()
    with pytest.raises(UserError, match=r"n0 was measured with other settings \(scale: 1.0 -> 2.0"):
        run(scale=2.0)
    run(n=4)
    assert squares.measured == ["n0", "n1", "n2", "n3"]


def test_there_are_no_results_until_all_cells_are_measured(run, tmp_path):
    assert run(cells=["n1"]) is None
    assert not (tmp_path / "results.csv").exists()
    assert run() is not None


def test_the_csv_is_tidy(run, tmp_path):
    run()
    found = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert tuple(found[0]) == rows.COLUMNS
    assert [r["value"] for r in found] == ["0.0", "1.0", "4.0"]
    assert found[2]["K"] == "2"
    assert found[2]["dataset"] == ""


def test_additional_columns_follow_the_common_ones():
    text = rows.as_csv([row("a", "b", 1.0), row("a", "b", 2.0, order=3, seed=1)])
    header, first, second = text.splitlines()
    assert header == ",".join([*rows.COLUMNS, "order"])
    assert first == "a,,,,,b,1.0,,,"
    assert second == "a,,,,1,b,2.0,,,3"


def test_results_store_their_provenance(run):
    results = run()
    (source,) = results["provenance"]
    assert set(source) == {"commit", "data", "date", "machine", "versions"}
    assert "tensorflow" in source["versions"]
    assert results["command"] == "python ..."
    assert results["settings"]["n"] == 3
    assert results["claims"] == [dict(text="they grow", holds=True, evidence="so")]
    for holds, verdict in ((True, "holds"), (False, "REFUTED"), (None, "not decided")):
        results["claims"][0]["holds"] = holds
        assert f"\n{verdict}: they grow (so)" in measuring.as_text(results)


def test_equal_figures_are_equal_files(run, tmp_path):
    run()
    files = [tmp_path / f"squares.{kind}" for kind in ("png", "svg")]
    before = [file.read_bytes() for file in files]
    run()
    assert [file.read_bytes() for file in files] == before


def test_a_damaged_cell_is_named(run, tmp_path):
    run()
    (tmp_path / "cells" / "n1" / "rows.json").write_text('{"settings": ')
    with pytest.raises(UserError, match=r"n1/rows.json: cannot be read .* delete it"):
        run()


def test_a_cell_that_another_process_measures_is_skipped(run, squares, tmp_path, capsys):
    with workdirs.locked(tmp_path / "cells" / "n1", "--out"):
        assert run() is None
    assert squares.measured == ["n0", "n2"]
    assert "n1: skipped" in capsys.readouterr().out
    assert run() is not None
    assert squares.measured == ["n0", "n2", "n1"]


def experiment_with(**presets):
    return Squares().experiment._replace(presets=presets)


def test_settings_are_parsed_as_their_own_types():
    quick = dict(n=3, rate=0.5, K=[1, 2], name="x", names=["a"])
    experiment = experiment_with(quick=quick, full=dict(quick, name="y", names=["b", "c"]))
    changes = dict(n="7", rate="1e-3", K="5,6,7", name="y", names="c,a")
    found = settings_of(experiment, "quick", changes)
    assert found == dict(n=7, rate=1e-3, K=[5, 6, 7], name="y", names=["c", "a"])
    assert quick["n"] == 3


def test_a_preset_may_have_additional_settings():
    experiment = experiment_with(quick=dict(n=3), full=dict(n=9), long=dict(n=5, recipe="long"))
    assert settings_of(experiment, "long", dict(n="4")) == dict(n=4, recipe="long")
    with pytest.raises(UserError, match=r"--set=recipe=x: choose from long"):
        settings_of(experiment, "long", dict(recipe="x"))
    with pytest.raises(UserError, match=r"--set=recipe=long: unknown setting"):
        settings_of(experiment, "quick", dict(recipe="long"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m", "3", r"--set=m=3: unknown setting; choose from n, K, name"),
        ("n", "three", r"--set=n=three: must be a whole number of at least 1, like 3"),
        ("n", "0", r"--set=n=0: must be a whole number of at least 1, like 3"),
        ("K", "1,x", r"--set=K=x: must be a whole number of at least 1, like 1"),
        ("name", "z", r"--set=name=z: choose from x, y"),
    ],
)
def test_a_wrong_change_is_an_error_with_its_name(name, text, message):
    quick = dict(n=3, K=[1], name="x")
    experiment = experiment_with(quick=quick, full=dict(quick, name="y"))
    with pytest.raises(UserError, match=message):
        settings_of(experiment, "quick", {name: text})


def test_each_preset_has_its_own_caveat(run, squares):
    squares.experiment = squares.experiment._replace(
        caveats=dict(quick="small", long="night"),
        presets={
            preset: dict(n=3, scale=1.0, names=["a", "b"]) for preset in ("quick", "full", "long")
        },
    )
    assert run()["caveat"] == "small"
    assert run(preset="full")["caveat"] == ""
    assert run(preset="long")["caveat"] == "night"
    assert "preset quick (n: 3 -> 4)" in run(n=4)["caveat"]


def test_errors_combine_seeds_and_images():
    """All seeds share the images, so the error over images does not average out."""
    scores = [row("a", "b", value, error=4.0, seed=i) for i, value in enumerate((1.0, 7.0))]
    assert rows.mean_and_error(scores) == (4.0, 5.0)
    assert rows.mean_and_error(scores[:1]) == (1.0, 4.0)


def test_a_difference_is_shown_in_joint_standard_errors():
    assert rows.from_paper(-85.0, 0.3, -84.0, 0.4) == "-1.00 (-2.0 SE)"
    assert rows.from_paper(-85.0, 0.0, -84.0, 0.0) == "-1.00"
    assert rows.from_paper(-85.0, math.nan, -84.0, 0.1) == "-1.00 (n/a SE)"


@pytest.mark.parametrize("verdict", [True, False, None, np.True_, np.False_])
def test_a_verdict_is_stored(run, squares, tmp_path, verdict):
    squares.experiment = squares.experiment._replace(
        claims=lambda rows: [Claim("they grow", verdict, "so")]
    )
    run()
    (claim,) = json.loads((tmp_path / "results.json").read_text())["claims"]
    assert claim["holds"] is (None if verdict is None else bool(verdict))


def test_only_an_error_decides_a_difference():
    clear, within, turned, unknown = (1.0, 0.4), (1.0, 0.6), (-1.0, 0.4), (9.0, math.nan)
    assert rows.all_above(clear) is True
    assert rows.all_above(turned) is False
    assert rows.all_above(within) is None
    assert rows.all_above(unknown) is None
    assert rows.all_above((0.0, 0.0)) is None
    assert rows.all_above() is None


def test_one_refuted_difference_refutes_all():
    clear, within, turned = (1.0, 0.4), (1.0, 0.6), (-1.0, 0.4)
    assert rows.all_above(clear, clear) is True
    assert rows.all_above(clear, within) is None
    assert rows.all_above(clear, within, turned) is False
    assert rows.all_hold(True, True) is True
    assert rows.all_hold(True, None) is None
    assert rows.all_hold(None, False) is False


def test_pairing_removes_common_variation():
    """The error of a paired mean is that of the differences."""
    a, b = np.array([10.0, 20.0, 31.0]), np.array([9.0, 18.0, 28.0])
    assert rows.paired(a, b) == (2.0, pytest.approx(1.0 / math.sqrt(3)))
    assert rows.difference((3.0, 0.3), (1.0, 0.4)) == (2.0, 0.5)
    assert math.isnan(rows.paired([1.0], [0.0])[1])


def test_one_value_has_no_error():
    """An error of 0 would make any difference look significant."""
    (one,) = [rows.row_of_mean("a", "b", [7.0])]
    assert one["standard_error"] is None
    assert rows.plus_minus(*rows.mean_and_error([one])) == "7.00 ± n/a"
    assert math.isnan(rows.in_errors(1.0, rows.standard_error([7.0])))
    assert rows.in_errors(1.0, rows.standard_error([7.0, 7.0])) == math.inf
