"""The numbers that both papers report, for comparison with ours."""

import functools
import pathlib
from typing import Any

from hvi_tf.storage import files


@functools.cache
def load(name: str) -> dict[str, Any]:
    """Returns the numbers that a paper reports, in nats per image.

    Args:
        name: of the paper, iwhvi or bsvi.

    Returns:
        Tables of scores, each `[mean, spread over runs]`.
    """
    return files.read_json(pathlib.Path(__file__).parent / f"{name}.json")
