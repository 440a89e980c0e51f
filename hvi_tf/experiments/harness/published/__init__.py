"""The numbers of both papers, to hold ours against."""

import functools
import pathlib
from typing import Any

from hvi_tf.storage import files


@functools.cache
def load(name: str) -> dict[str, Any]:
    """The numbers of a paper, iwhvi or bsvi: nats per image; each [mean, spread over runs]."""
    return files.read_json(pathlib.Path(__file__).parent / f"{name}.json")
