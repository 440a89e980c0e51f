"""The numbers of both papers, to hold ours against."""

import functools
import json
import pathlib
from typing import Any


@functools.cache
def load(name: str) -> dict[str, Any]:
    """The numbers of a paper, iwhvi or bsvi: nats per image; each [mean, spread over runs]."""
    return json.loads((pathlib.Path(__file__).parent / f"{name}.json").read_text())
