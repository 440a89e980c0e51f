"""What an experiment is: cells that are measured once each, and what is made of their rows.

A cell is one training, or one repetition: it is measured as a whole, its rows are kept on
disk, and it is never measured again. So an experiment that was killed goes on where it was,
and its CSV is that of an unbroken run but for the seconds.
"""

import csv
import io
import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hvi_tf import workdir as workdirs
from hvi_tf.errors import UserError
from hvi_tf.experiments import provenance
from hvi_tf.progress import duration

Settings = dict[str, Any]
Row = dict[str, Any]

# The first columns of every CSV; an experiment may have more.
COLUMNS = (
    *("method", "dataset", "K", "M", "seed", "quantity"),
    *("value", "standard_error", "seconds"),
)


class Cell(NamedTuple):
    """A part of an experiment that is measured as a whole.

    Attributes:
        name: of its folder, unique in the experiment.
        settings: what its rows are a function of; anything JSON can hold.
    """

    name: str
    settings: Settings


class Context(NamedTuple):
    """Where a cell finds and leaves things.

    Attributes:
        cell: folder of its own.
        runs: folder of trained models, which experiments share.
        pictures: folder of the images that the report shows.
        data_dir: as for `hvi_tf.main`.
        manual_dir: likewise.
    """

    cell: pathlib.Path
    runs: pathlib.Path
    pictures: pathlib.Path
    data_dir: str
    manual_dir: str


class Claim(NamedTuple):
    """What is said of the numbers, whether they bear it out, and by which numbers."""

    text: str
    holds: bool
    evidence: str


class Table(NamedTuple):
    """Text for the report."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Experiment(NamedTuple):
    """One figure or table of the papers, or one beyond them.

    Attributes:
        about: what is measured and how to read the figure; paragraphs.
        presets: the settings of `quick` and `full`, with the same names.
        cells: the settings' cells, in the order of the CSV.
        measure: the rows of a cell, see `row`.
        figures: rows -> matplotlib figures by name.
        tables: rows -> tables.
        claims: rows -> claims.
        caveat: why quick falls short of the paper, if it does.
    """

    about: str
    presets: dict[str, Settings]
    cells: Callable[[Settings], list[Cell]]
    measure: Callable[[Cell, Context], list[Row]]
    figures: Callable[[list[Row]], dict[str, Any]]
    tables: Callable[[list[Row]], list[Table]]
    claims: Callable[[list[Row]], list[Claim]]
    caveat: str = ""


def row(
    method: str,
    quantity: str,
    value: float,
    *,
    error: float | None = None,
    seconds: float | None = None,
    **where: Any,
) -> Row:
    """One measurement.

    Args:
        method: what was measured, such as IWHVI.
        quantity: of which this is the value, such as log_likelihood (nats).
        value: the number.
        error: its standard error, if known.
        seconds: that it took, if measured.
        **where: dataset, K, M, seed, and any column of the experiment's own.
    """
    values = {"value": float(value), "standard_error": None if error is None else float(error)}
    timed = {"seconds": None if seconds is None else round(float(seconds), 6)}
    return {"method": method, "quantity": quantity, **where, **values, **timed}


def select(rows: Sequence[Row], **where: Any) -> list[Row]:
    """The rows whose columns have these values."""
    return [r for r in rows if all(r.get(name) == value for name, value in where.items())]


def values(rows: Sequence[Row], **where: Any) -> list[float]:
    """The values of those rows."""
    return [r["value"] for r in select(rows, **where)]


def curve(rows: Sequence[Row], **where: Any) -> dict[int, list[float]]:
    """The validation bounds of those rows by training step, one for each seed."""
    mine = select(rows, quantity="validation_bound", **where)
    return {step: values(mine, step=step) for step in distinct(mine, "step")}


def distinct(rows: Sequence[Row], column: str) -> list[Any]:
    """The values of a column that occur, in their order."""
    return list(dict.fromkeys(r[column] for r in rows if r.get(column) is not None))


def plus_minus(mean: float, error: float | None, digits: int = 2) -> str:
    """A value with its error, if that is known."""
    shown = f"{mean:.{digits}f}"
    return shown if not error else f"{shown} ± {error:.{digits}f}"


def mean_and_error(rows: Sequence[Row]) -> tuple[float, float]:
    """The mean over seeds of a score, and its standard error over seeds and images.

    All seeds score the same images, so the error over images is that of any one of them.
    """
    sample = np.array([r["value"] for r in rows])
    of_seeds = sample.std(ddof=1) / math.sqrt(len(sample)) if len(sample) > 1 else 0.0
    of_images = float(np.mean([r["standard_error"] or 0.0 for r in rows]))
    return float(sample.mean()), math.hypot(of_seeds, of_images)


def from_paper(ours: float, error: float, paper: float, paper_error: float) -> str:
    """Ours less the paper's, and that in units of both standard errors together."""
    difference, total = ours - paper, math.hypot(error, paper_error)
    distance = f" ({difference / total:+.1f} SE)" if total > 0 else ""
    return f"{difference:+.2f}{distance}"


def settings_of(experiment: Experiment, preset: str, changes: dict[str, str]) -> Settings:
    """The settings of a preset with some of them given anew, as text of the same kind.

    Raises:
        UserError: for a name that there is not, a negative number, or a value of another kind;
            words must be among those of the presets.
    """
    settings = experiment.presets[preset]
    changed = dict(settings)
    for name, text in changes.items():
        if name not in settings:
            known = ", ".join(settings)
            raise UserError(f"--set={name}={text}: no such setting; there are {known}")
        known_values = [preset[name] for preset in experiment.presets.values()]
        changed[name] = _parse(name, text, settings[name], known_values)
    return changed


def _parse(name: str, text: str, like: Any, known: list[Any]) -> Any:
    if isinstance(like, list):
        members = [value for values in known for value in values]
        return [_parse(name, part, like[0], members) for part in text.split(",")]
    if isinstance(like, str):
        words = list(dict.fromkeys(known))
        if text not in words:
            raise UserError(f"--set={name}={text}: choose from {', '.join(words)}")
        return text
    try:
        value = type(like)(text)
    except ValueError:
        value = -1
    if not value >= 0:
        kind = "a whole number" if isinstance(like, int) else "a number"
        raise UserError(f"--set={name}={text}: must be {kind} of at least 0, like {like}")
    return value


def measure_cells(
    experiment: Experiment, cells: Sequence[Cell], folder: pathlib.Path, context: Context
) -> None:
    """Measures every cell that has not been measured.

    Cells that another process is at work on are left to it, so several share the work.

    Raises:
        UserError: if the disk is full, or a cell's file is damaged or of other settings.
    """
    for i, cell in enumerate(cells):
        own, title = folder / "cells" / cell.name, f"[{i + 1}/{len(cells)}] {cell.name}"
        if _finished(own, cell) is not None:
            continue
        try:
            with workdirs.locked(own, "--out"):
                if _finished(own, cell) is None:  # not even by now
                    _measure(experiment, cell, context._replace(cell=own), title)
        except workdirs.InUseError:
            print(f"{title}: another process measures it", flush=True)


def _measure(experiment: Experiment, cell: Cell, context: Context, title: str) -> None:
    print(title, flush=True)
    started = time.monotonic()
    rows = experiment.measure(cell, context)
    seconds = time.monotonic() - started
    found = {
        "settings": cell.settings,
        "seconds": round(seconds, 1),
        "provenance": provenance.record(),
        "rows": rows,
    }
    workdirs.write_json(context.cell / "rows.json", found)
    print(f"{title}: {duration(seconds)}", flush=True)


def collect(
    experiment: Experiment, settings: Settings, told: dict[str, Any], folder: pathlib.Path
) -> dict[str, Any] | None:
    """Writes CSV, figures and JSON of an experiment whose cells are all measured.

    Args:
        experiment: which.
        settings: with which it was measured.
        told: of this reproduction, for the JSON: its name, preset and command.
        folder: of the results.

    Returns:
        What the JSON holds; None if a cell is missing.
    """
    cells = experiment.cells(settings)
    found = [_finished(folder / "cells" / cell.name, cell) for cell in cells]
    done = [cell for cell in found if cell is not None]
    if len(done) < len(cells):
        return None
    rows = [r for cell in done for r in cell["rows"]]
    workdirs.write_atomically(folder / "results.csv", as_csv(rows))
    figures = experiment.figures(rows)
    for figure_name, figure in figures.items():
        save_figure(figure, folder / figure_name)
    results = {
        **told,
        "settings": settings,
        "about": experiment.about,
        "caveat": experiment.caveat if told["preset"] == "quick" else "",
        "seconds": round(sum(cell["seconds"] for cell in done), 1),
        "provenance": _without_repeats([cell["provenance"] for cell in done]),
        "figures": list(figures),
        "tables": [table._asdict() for table in experiment.tables(rows)],
        "claims": [
            {**claim._asdict(), "holds": bool(claim.holds)} for claim in experiment.claims(rows)
        ],
    }
    workdirs.write_json(folder / "results.json", results)
    return results


def _without_repeats(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct sources of the cells, each with the date of its last one."""
    latest: dict[str, dict[str, Any]] = {}
    for record in records:
        rest = {name: value for name, value in record.items() if name != "date"}
        key = json.dumps(rest, sort_keys=True)
        if key not in latest or record["date"] > latest[key]["date"]:
            latest[key] = record
    return list(latest.values())


def as_text(results: dict[str, Any]) -> str:
    """Tables and claims for a terminal."""
    lines = []
    for table in results["tables"]:
        grid = [list(table["header"]), *table["rows"]]
        widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
        lines += ["", table["title"]]
        lines += ["  ".join(c.ljust(w) for c, w in zip(g, widths, strict=True)) for g in grid]
    lines.append("")
    for claim in results["claims"]:
        verdict = "holds" if claim["holds"] else "NOT SHOWN"
        lines.append(f"{verdict}: {claim['text']} ({claim['evidence']})")
    if results["caveat"] and not all(claim["holds"] for claim in results["claims"]):
        lines.append(f"Mind: {results['caveat']}")
    return "\n".join(lines)


def _finished(folder: pathlib.Path, cell: Cell) -> dict[str, Any] | None:
    """What was measured of a cell, if it was with these settings."""
    try:
        found = json.loads((folder / "rows.json").read_text())
        stored, asked = found["settings"], json.loads(json.dumps(cell.settings))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'rows.json'}: cannot be read ({error}); delete it to measure anew"
        ) from error
    if stored != asked:
        names = [n for n in {**stored, **asked} if stored.get(n) != asked.get(n)]
        changes = "; ".join(f"{n}: {stored.get(n)} -> {asked.get(n)}" for n in names)
        raise UserError(
            f"{folder} was measured with other settings ({changes}); name another --out"
        )
    return found


def as_csv(rows: Sequence[Row]) -> str:
    """The rows under `COLUMNS` and whatever other columns they have."""
    more = [name for name in dict.fromkeys(c for r in rows for c in r) if name not in COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *more], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({c: "" if v is None else v for c, v in r.items()} for r in rows)
    return text.getvalue()


def save_figure(figure: Any, stem: pathlib.Path) -> None:
    """Writes a matplotlib figure as PNG and SVG, which the same figure makes byte by byte."""
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
        workdirs.write_atomically(stem.with_suffix(f".{kind}"), buffer.getvalue())
