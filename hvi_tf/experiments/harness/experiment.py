"""The interface of an experiment: its cells, and the functions that summarize their rows."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from hvi_tf.errors import UserError
from hvi_tf.experiments.harness.rows import Row

Settings = dict[str, Any]


class Cell(NamedTuple):
    """One part of an experiment, measured as a whole.

    Attributes:
        name: of its folder, unique in the experiment.
        settings: JSON values that determine its rows.
    """

    name: str
    settings: Settings


class Context(NamedTuple):
    """The folders that a cell reads and writes.

    Attributes:
        cell: its own folder.
        runs: folder of trained models, which experiments share.
        pictures: folder of the images that the report shows.
        data_dir: as for `hvi_tf.main`.
        manual_dir: as for `hvi_tf.main`.
    """

    cell: pathlib.Path
    runs: pathlib.Path
    pictures: pathlib.Path
    data_dir: str
    manual_dir: str


class Claim(NamedTuple):
    """A statement about the numbers, with its verdict.

    Attributes:
        text: the statement.
        holds: True if the numbers show it, False if they refute it, None if their errors leave it
            undecided.
        evidence: the numbers, with their errors.
    """

    text: str
    holds: bool | None
    evidence: str


class Table(NamedTuple):
    """A table of text for the report."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Experiment(NamedTuple):
    """One figure or table of the papers, or one experiment beyond them.

    Attributes:
        about: paragraphs on the measurement and on how to read the figure.
        presets: the settings of each preset; quick and full have the same names.
        cells: settings -> cells, in the order of the CSV.
        measure: cell -> its rows, see `rows.row`.
        figures: rows -> matplotlib figures by name.
        tables: rows -> tables.
        claims: rows -> claims.
        caveats: how each preset falls short of the paper.
    """

    about: str
    presets: dict[str, Settings]
    cells: Callable[[Settings], list[Cell]]
    measure: Callable[[Cell, Context], list[Row]]
    figures: Callable[[list[Row]], dict[str, Any]]
    tables: Callable[[list[Row]], list[Table]]
    claims: Callable[[list[Row]], list[Claim]]
    caveats: Mapping[str, str] = MappingProxyType({})


def settings_of(experiment: Experiment, preset: str, changes: dict[str, str]) -> Settings:
    """Returns the settings of a preset with some of them changed.

    Args:
        experiment: whose preset.
        preset: name of the preset.
        changes: new values as text, by the name of the setting. Words must occur in a preset.

    Raises:
        UserError: for an unknown name, a number that is too small, or a value of another type.
    """
    settings = experiment.presets[preset]
    changed = dict(settings)
    for name, text in changes.items():
        if name not in settings:
            known = ", ".join(settings)
            raise UserError(f"--set={name}={text}: unknown setting; choose from {known}")
        known_values = [s[name] for s in experiment.presets.values() if name in s]
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
    least = min(1, *known, like) if isinstance(like, int) else 0  # 0 where a preset has it
    if not value >= least:
        kind = "a whole number" if isinstance(like, int) else "a number"
        raise UserError(f"--set={name}={text}: must be {kind} of at least {least}, like {like}")
    return value
