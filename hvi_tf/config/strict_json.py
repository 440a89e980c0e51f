"""A JSON parser that raises one kind of error for every malformed text."""

import json
from typing import Any


def parse(text: str) -> Any:
    """Returns the value of a JSON text.

    Raises:
        ValueError: if the text is not JSON, or nests deeper than Python's stack allows.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
