"""Checks that a setting changes something in a run, or in a mode of the command line."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hvi_tf.config.settings import SECTIONS
from hvi_tf.errors import UserError

if TYPE_CHECKING:
    from hvi_tf.config.config import Config

_FIELDS = {f.name: f for section in SECTIONS.values() for f in dataclasses.fields(section)}


def unused(config: "Config", values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Returns the settings that differ from their defaults and change nothing in `config`."""
    return [
        name
        for name, field in _FIELDS.items()
        if (use := field.metadata["use"]) is not None
        and values[name] != defaults[name]
        and not use.applies(config)
    ]


def refuse(name: str, value: Any) -> UserError:
    """Returns the error of a setting that changes nothing in its configuration."""
    where = _FIELDS[name].metadata["use"].where
    return UserError(f"--{name}={_shown(value)}: for {where}; give that, or leave it out")


def check_mode(mode: str, given: Mapping[str, Any], otherwise: Mapping[str, Any]) -> None:
    """Raises `UserError` if a given setting changes nothing in this mode of the command line.

    Args:
        mode: the command's mode.
        given: the settings on the command line, by name.
        otherwise: the values of the settings without the command line: those of the run, or the
            defaults.
    """
    for name, value in given.items():
        modes = _FIELDS[name].metadata["modes"]
        if mode not in modes and value != otherwise[name]:
            raise UserError(
                f"--{name}={_shown(value)}: for --mode={'|'.join(modes)}, not --mode={mode}; "
                "leave it out"
            )
    if given.get("minutes") and "epochs" in given:
        raise UserError(
            f"--epochs={given['epochs']}: --minutes plans the epochs; leave one of them out"
        )


def _shown(value: Any) -> str:
    """Returns a value as the command line takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
