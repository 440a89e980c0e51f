"""The ratios of a benchmark: stored in a file, and compared with new ones.

Ratios of times in the same rounds are comparable between machines, and between busy and idle
hours; times are not.
"""

import pathlib
from typing import Any, NamedTuple

from hvi_tf.benchmark.peers.compare import OURS
from hvi_tf.benchmark.tables import table
from hvi_tf.errors import UserError
from hvi_tf.storage import files

Ratios = dict[str, dict[str, float]]  # by name: a value and its spread


class Stored(NamedTuple):
    """The content of a file of `--store`."""

    ratios: Ratios
    about: str  # when and where they were measured


def ratios(results: dict[str, Any]) -> Ratios:
    """Returns every ratio in the results, by a stable name."""
    by_name: Ratios = {}
    for r in results["cells"]:
        by_name[f"share of the product rate: {r['name']}"] = r["share_of_product_rate"]
    for r in results["evaluations"]:
        by_name[f"share of the product rate: score {r['name']}"] = r["share_of_product_rate"]
    for r in results["families"]:
        exponent = r["growth"]["exponent"]
        by_name[f"exponent: {r['name']}"] = {
            "median": exponent["slope"],
            "error": exponent["slope_error"],
        }
        by_name[f"slope ratio: {r['name']}"] = {"median": r["growth"]["slope_ratio"]}
    for r in results["comparison"]:
        if r["name"] != OURS:
            by_name[f"time over ours: {r['name']}"] = r["over_ours"]
    return {n: {k: round(v, 4) for k, v in ratio.items()} for n, ratio in by_name.items()}


def read(path: pathlib.Path) -> Stored:
    """Reads a file that `--store` wrote.

    Raises:
        UserError: if the file is missing or has another content.
    """
    try:
        content = files.read_json(path)
        when = content["provenance"]
        about = f"{when['date']}, commit {when['commit']}, {when['machine']['processor']}"
        return Stored(content["ratios"], about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--check={path}: cannot be read as ratios ({error})") from error


def check(stored: Stored, today: Ratios) -> str:
    """Returns a table of stored and new ratios; no difference is an error."""
    rows = []
    for name in dict.fromkeys([*stored.ratios, *today]):
        then, now = stored.ratios.get(name), today.get(name)
        both = f"{now['median'] / then['median']:.2f}" if then and now and then["median"] else ""
        rows.append([name, _shown(then), _shown(now), both])
    return table(["ratio", f"stored ({stored.about})", "today", "today / stored"], rows)


def _shown(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return ""
    if "q1" in ratio:
        return f"{ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f})"
    return f"{ratio['median']:.2f}" + (f" ± {ratio['error']:.2f}" if "error" in ratio else "")
