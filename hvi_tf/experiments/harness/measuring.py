"""Measures each cell of an experiment once, and summarizes the rows of all cells.

A cell is one training or one repetition. Its rows are stored on disk and never measured again, so
an experiment that was killed resumes with the next cell. Its CSV then equals that of an unbroken
run, except for the seconds.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from hvi_tf.config import strict_json
from hvi_tf.errors import UserError
from hvi_tf.experiments.harness import plots
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings
from hvi_tf.experiments.harness.rows import as_csv
from hvi_tf.runtime.progress import duration
from hvi_tf.storage import files, locks, provenance
from hvi_tf.storage import workdir as workdirs

# Words for the verdicts on claims, as a terminal prints them.
VERDICTS = {True: "holds", False: "REFUTED", None: "not decided"}


def unfinished(cells: Sequence[Cell], folder: pathlib.Path) -> list[Cell]:
    """Returns the cells that have not been measured.

    Raises:
        UserError: if the file of a cell is damaged or has other settings.
    """
    return [cell for cell in cells if _finished(folder / "cells" / cell.name, cell) is None]


def measure_cells(
    experiment: Experiment, cells: Sequence[Cell], folder: pathlib.Path, context: Context
) -> None:
    """Measures every cell that has not been measured.

    Skips cells that another process is measuring, so several processes share the work.

    Raises:
        UserError: if the disk is full, or the file of a cell is damaged or has other settings.
    """
    provenance.commit()  # now, because the source may change during a measurement
    for i, cell in enumerate(cells):
        own, title = folder / "cells" / cell.name, f"[{i + 1}/{len(cells)}] {cell.name}"
        if _finished(own, cell) is not None:
            continue
        try:
            with workdirs.locked(own, "--out"):
                if _finished(own, cell) is None:  # unless another process has just measured it
                    _measure(experiment, cell, context._replace(cell=own), title)
        except locks.InUseError:
            print(f"{title}: skipped, another process is measuring it", flush=True)


def _measure(experiment: Experiment, cell: Cell, context: Context, title: str) -> None:
    print(title, flush=True)
    provenance.begin()
    started = time.monotonic()
    rows = experiment.measure(cell, context)
    seconds = time.monotonic() - started
    measurement = {
        "settings": cell.settings,
        "seconds": round(seconds, 1),
        "provenance": provenance.record(),
        "rows": rows,
    }
    files.write_json(context.cell / "rows.json", measurement)
    print(f"{title}: {duration(seconds)}", flush=True)


def collect(
    experiment: Experiment, settings: Settings, metadata: dict[str, Any], folder: pathlib.Path
) -> dict[str, Any] | None:
    """Writes CSV, figures and JSON of an experiment whose cells are all measured.

    Args:
        experiment: whose rows are summarized.
        settings: of the measurement.
        metadata: of this reproduction, for the JSON: its name, preset and command.
        folder: of the results.

    Returns:
        The content of the JSON file; None if a cell is missing.
    """
    cells = experiment.cells(settings)
    stored = [_finished(folder / "cells" / cell.name, cell) for cell in cells]
    done = [cell for cell in stored if cell is not None]
    if len(done) < len(cells):
        return None
    rows = [r for cell in done for r in cell["rows"]]
    files.write_atomically(folder / "results.csv", as_csv(rows))
    figures = experiment.figures(rows)
    for figure_name, figure in figures.items():
        plots.save(figure, folder / figure_name)
    results = {
        **metadata,
        "settings": settings,
        "about": experiment.about,
        "caveat": _caveat(experiment, metadata, settings),
        "seconds": round(sum(cell["seconds"] for cell in done), 1),
        "provenance": _without_repeats([cell["provenance"] for cell in done]),
        "figures": list(figures),
        "tables": [table._asdict() for table in experiment.tables(rows)],
        "claims": [_as_json(claim) for claim in experiment.claims(rows)],
    }
    files.write_json(folder / "results.json", results)
    return results


def _as_json(claim: Claim) -> dict[str, Any]:
    """Returns a claim as JSON values; its verdict may be a NumPy boolean."""
    return {**claim._asdict(), "holds": None if claim.holds is None else bool(claim.holds)}


def _caveat(experiment: Experiment, metadata: dict[str, Any], settings: Settings) -> str:
    """Returns how these settings fall short of the paper, as far as that is known."""
    preset = experiment.presets[metadata["preset"]]
    changes = [f"{n}: {preset[n]} -> {v}" for n, v in settings.items() if v != preset[n]]
    if changes:
        return (
            f"Settings were changed from the preset {metadata['preset']} ({'; '.join(changes)}); "
            "what is said above describes the unchanged one."
        )
    return experiment.caveats.get(metadata["preset"], "")


def _without_repeats(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the distinct sources of the cells, each with its latest date."""
    latest: dict[str, dict[str, Any]] = {}
    for record in records:
        rest = {name: value for name, value in record.items() if name != "date"}
        key = json.dumps(rest, sort_keys=True)
        if key not in latest or record["date"] > latest[key]["date"]:
            latest[key] = record
    return list(latest.values())


def as_text(results: dict[str, Any]) -> str:
    """Returns tables and claims for a terminal."""
    lines = []
    for table in results["tables"]:
        grid = [list(table["header"]), *table["rows"]]
        widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
        lines += ["", table["title"]]
        lines += ["  ".join(c.ljust(w) for c, w in zip(g, widths, strict=True)) for g in grid]
    lines.append("")
    for claim in results["claims"]:
        lines.append(f"{VERDICTS[claim['holds']]}: {claim['text']} ({claim['evidence']})")
    if results["caveat"] and not all(claim["holds"] for claim in results["claims"]):
        lines.append(f"Caveat: {results['caveat']}")
    return "\n".join(lines)


def _finished(folder: pathlib.Path, cell: Cell) -> dict[str, Any] | None:
    """Returns the stored measurement of a cell, or None if there is none.

    Raises:
        UserError: if the file is damaged or has other settings.
    """
    try:
        measurement = files.read_json(folder / "rows.json")
        stored, requested = measurement["settings"], strict_json.parse(json.dumps(cell.settings))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'rows.json'}: cannot be read ({error}); delete it to measure the cell again"
        ) from error
    if stored != requested:
        names = [n for n in {**stored, **requested} if stored.get(n) != requested.get(n)]
        changes = "; ".join(f"{n}: {stored.get(n)} -> {requested.get(n)}" for n in names)
        raise UserError(
            f"{folder} was measured with other settings ({changes}); choose another --out"
        )
    return measurement
