"""Prints the oldest allowed version of each dependency, as a constraints file for pip.

    python tools/oldest_versions.py > constraints.txt
    pip install -e '.[test]' -c constraints.txt

The versions are the lower bounds in pyproject.toml: of the dependencies and, unless `--extras`
names others, of the extras `test` and `plots`. A requirement whose marker excludes this Python is
left out. Needs Python 3.11, or `tomli`; and `packaging`.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = pathlib.Path(__file__).resolve().parents[1] / "pyproject.toml"


def oldest_versions(requirements: Iterable[str]) -> list[str]:
    """Returns `name==version` for the lower bound of each requirement, sorted by name.

    Args:
        requirements: requirements in the notation of pyproject.toml, such as "numpy>=2.0,<3".

    Raises:
        ValueError: if a requirement has no single lower bound `>=`.
    """
    pins = []
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        bounds = [s.version for s in requirement.specifier if s.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(f"{requirement}: needs one lower bound such as >=1.2")
        pins.append(f"{requirement.name}=={bounds[0]}")
    return sorted(pins)


def requirements_of(project: dict[str, Any], extras: Iterable[str]) -> list[str]:
    """Returns the dependencies of a project and of some of its extras, but not the project."""
    listed = [*project["dependencies"]]
    for extra in extras:
        listed += project["optional-dependencies"][extra]
    return [text for text in listed if Requirement(text).name != project["name"]]


def main() -> None:
    """Prints one constraint per line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", default="test,plots", help="extras, separated by commas")
    extras = [extra for extra in parser.parse_args().extras.split(",") if extra]
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    print("\n".join(oldest_versions(requirements_of(project, extras))))


if __name__ == "__main__":
    main()
