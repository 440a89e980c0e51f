"""Writes one self-contained page of the experiments in a folder.

    python -m hvi_tf.report runs/reproduce-quick

Reads the results of `python -m hvi_tf.reproduce` in DIR/*/ and writes DIR/report.html. The page
contains figures, tables with the numbers of the papers, claims, pictures and the CSV files.
It opens from disk, without network and scripts. `--copy_to=FOLDER` also copies the page
and the results, but not the trained models, to another folder.
"""

import base64
import pathlib
import re
import shlex
import shutil
from collections.abc import Sequence
from typing import Any

from absl import flags

from hvi_tf.cli import exits
from hvi_tf.config import rules
from hvi_tf.errors import UserError
from hvi_tf.experiments.harness import catalogue
from hvi_tf.runtime.progress import counted, duration
from hvi_tf.storage import files

FLAGS = flags.FLAGS
PAGE = "report.html"
WIDE = 500.0  # points; a wider figure scrolls on a phone, because it would be illegible
_TEMPLATE = pathlib.Path(catalogue.__file__).parent / "report.html.jinja"


def data_uri(path: pathlib.Path) -> str:
    """Returns a data URI with the content of a file."""
    kinds = {".svg": "image/svg+xml", ".png": "image/png", ".csv": "text/csv"}
    encoded = base64.b64encode(files.read_bytes(path)).decode()
    return f"data:{kinds[path.suffix]};base64,{encoded}"


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the content of the page for every finished experiment, in the catalogue's order.

    Raises:
        UserError: if no experiment is finished, or a file is damaged.
    """
    sections = []
    for name, entry in catalogue.ENTRIES.items():
        path = folder / name / "results.json"
        if not path.exists():
            continue
        try:
            results = files.read_json(path)
            sections.append(_section(entry, results, path.parent))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: cannot be read ({error!r}); delete it and reproduce {name} again"
            ) from error
    if not sections:
        begun = [name for name in catalogue.ENTRIES if (folder / name / "cells").exists()]
        what = f"{', '.join(begun)}: not all cells are measured" if begun else "no results there"
        name = begun[0] if begun else "NAME"
        command = ["python", "-m", "hvi_tf.reproduce", name, f"--out={folder}"]
        raise UserError(f"{folder}: {what}; {shlex.join(command)}")
    return sections


def _section(
    entry: catalogue.Entry, results: dict[str, Any], folder: pathlib.Path
) -> dict[str, Any]:
    """Returns the content of the page for one experiment."""
    return results | {
        "title": entry.title,
        "source": entry.source,
        "verdicts": _verdicts([claim["holds"] for claim in results["claims"]]),
        "time": duration(results["seconds"]),
        "sources": [_source(record) for record in results["provenance"]],
        "figures": [
            {
                "name": figure.replace("_", " "),
                "uri": data_uri(folder / f"{figure}.svg"),
                "wide": _width(folder / f"{figure}.svg") > WIDE,
            }
            for figure in results["figures"]
        ],
        "pictures": [
            {"name": path.stem.replace("_", ", "), "uri": data_uri(path)}
            for path in sorted((folder / "pictures").glob("*.png"))
        ],
        "csv": data_uri(folder / "results.csv"),
    }


def _verdicts(holds: list[bool | None]) -> str:
    """Returns how many claims hold, and how many are not decided."""
    undecided = holds.count(None)
    shown = f"{holds.count(True)} of {len(holds)}"
    return f"{shown}, {undecided} not decided" if undecided else shown


def _width(path: pathlib.Path) -> float:
    """Returns the width of an SVG of matplotlib, in points."""
    width = re.search(r'width="([\d.]+)pt"', files.read_text(path))
    return float(width.group(1)) if width else 0.0


def _source(record: dict[str, Any]) -> str:
    """Returns a provenance record as a sentence."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"commit {record['commit']}, {record['date']}, {counted(machine['cores'], 'core')} of "
        f"{machine['processor']} with {machine['memory_gib']} GiB, {versions}{_data(record)}"
    )


def _data(record: dict[str, Any]) -> str:
    """Returns the digests of the images of each split; early records have none."""
    return "".join(
        f", {name}: {split} SHA-256 {digest}"
        for name, digests in record.get("data", {}).items()
        for split, digest in digests.items()
    )


def render(experiments: list[dict[str, Any]]) -> str:
    """Returns the HTML of the page."""
    try:
        import jinja2
    except ImportError:
        raise UserError("a report needs jinja2: pip install -e '.[plots]'") from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files.read_text(_TEMPLATE)).render(experiments=experiments)


def define_flags() -> None:
    """Defines the flags of this command, when it runs as one."""
    flags.DEFINE_string("copy_to", "", "Folder for a copy without the trained models.")


def copy(folder: pathlib.Path, names: Sequence[str], target: pathlib.Path) -> None:
    """Copies the page and the results of these experiments, without their trained models.

    Raises:
        UserError: if the target cannot be written.
    """
    if target.resolve() == folder.resolve():
        raise UserError(f"--copy_to={target}: is the folder of the results; name another")
    leave = shutil.ignore_patterns("cells", "tensorboard", ".*")
    try:
        for name in names:
            shutil.copytree(
                folder / name,
                target / name,
                ignore=leave,
                copy_function=_copy,
                dirs_exist_ok=True,
            )
        _copy(folder / PAGE, target / PAGE)
    except OSError as error:  # shutil.Error, which lists several files, is an OSError
        raise UserError(f"--copy_to={target}: {error}") from error


def _copy(source: str | pathlib.Path, target: str | pathlib.Path) -> None:
    files.check_regular([pathlib.Path(source)])  # a link may lead to an endless device
    shutil.copy2(source, target)


def main(argv: list[str]) -> None:
    """Writes the page of the named folder."""

    def command() -> None:
        if len(argv) != 2:
            raise UserError("name one folder of results, such as runs/reproduce-quick")
        folder = rules.local_path("DIR", argv[1])
        target = rules.local_path("--copy_to", FLAGS.copy_to)
        experiments = read(folder)
        files.write_atomically(folder / PAGE, render(experiments))
        print(f"Report: {folder / PAGE}")
        if FLAGS.copy_to:
            copy(folder, [e["name"] for e in experiments], target)
            print(f"Copied to {target}")

    exits.run(command, lambda: exits.again("hvi_tf.report"))
