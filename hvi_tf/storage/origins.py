"""The provenance records in the config.json of a run, one for each kind of command on it."""

import pathlib
import sys
from typing import Any

from hvi_tf.config.config import PROVENANCE, Config
from hvi_tf.errors import UserError
from hvi_tf.storage import files, provenance

MAX_ORIGINS = 100  # in a config.json


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the provenance records of the workdir `path`; empty for a new workdir.

    Raises:
        UserError: if config.json cannot be read, or holds no records of this package.
    """
    file = path / "config.json"
    if not file.exists():
        return []
    try:
        stored = files.read_json(file)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    records = stored.get(PROVENANCE, []) if isinstance(stored, dict) else None
    if not (isinstance(records, list) and all(map(_is_record, records))):
        raise UserError(f"--workdir={path}: cannot read {PROVENANCE} in {file}; remove it")
    return records


def unreadable(path: pathlib.Path, error: Exception) -> UserError:
    """Returns the error for a config.json that cannot be read."""
    return UserError(
        f"--workdir={path}: cannot read {path / 'config.json'} ({error}); restore it or name "
        "another --workdir"
    )


def updated(path: pathlib.Path, config: Config) -> list[dict[str, Any]]:
    """Returns the provenance records of the workdir `path` with that of this command.

    A record that differs from the latest one only in its date is left out.

    Raises:
        UserError: if config.json cannot be read.
    """
    records = read(path)
    now = {**provenance.record(config.data), "flags": sys.argv[1:]}
    if records and _without_date(records[-1]) == _without_date(now):
        return records
    return [*records[:1], *records[1:][2 - MAX_ORIGINS :], now]  # the first and the latest


def check_same_data(path: pathlib.Path, config: Config) -> None:
    """Compares the data that this process has loaded with those of the first command of a run.

    Raises:
        UserError: if they differ, although the data set has the same name; or if config.json
            cannot be read.
    """
    now = provenance.record(config.data)["data"]
    for record in read(path)[:1]:
        for name, digests in record["data"].items():
            for split, digest in digests.items():
                loaded = now.get(name, digests).get(split)
                if loaded != digest:
                    raise UserError(
                        f"--workdir={path}: this run began with other images ({name}, {split}: "
                        f"SHA-256 {digest[:8]}..., not {str(loaded)[:8]}...); name the --data_dir "
                        "of the first command"
                    )


def _is_record(value: Any) -> bool:
    """Returns whether a value has the form of a provenance record."""
    data = value.get("data") if isinstance(value, dict) else None
    if not (isinstance(data, dict) and all(isinstance(d, dict) for d in data.values())):
        return False
    return all(isinstance(digest, str) for digests in data.values() for digest in digests.values())


def _without_date(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a provenance record without its date."""
    return {name: value for name, value in record.items() if name != "date"}
