"""The ratios of a benchmark, kept in a file, and today's beside them.

Ratios of times in the same rounds say something on another machine, or on the same one in a
slow hour; times do not.
"""

import json
import pathlib
from typing import Any

from hvi_tf.benchmark.tables import table
from hvi_tf.errors import UserError

Ratios = dict[str, dict[str, float]]  # by name: a value and what tells its spread


def ratios(results: dict[str, Any]) -> Ratios:
    """Every ratio that the results hold, by a name that stays."""
    found: Ratios = {}
    for r in results["cells"]:
        found[f"share of the product rate: {r['name']}"] = r["share_of_product_rate"]
    for r in results["evaluations"]:
        found[f"share of the product rate: score {r['name']}"] = r["share_of_product_rate"]
    for r in results["families"]:
        exponent = r["growth"]["exponent"]
        found[f"exponent: {r['name']}"] = {
            "median": exponent["slope"],
            "error": exponent["slope_error"],
        }
        for name in ("slope_ratio", "relative_slope_ratio"):
            found[f"{name.replace('_', ' ')}: {r['name']}"] = {"median": r["growth"][name]}
    for r in results["comparison"]:
        found[f"time over ours: {r['name']}"] = r["over_ours"]
    return found


def check(path: pathlib.Path, today: Ratios) -> str:
    """A table of the stored ratios and today's; nothing fails by what it says.

    Raises:
        UserError: if the file is missing or no such file.
    """
    try:
        stored = json.loads(path.read_text())
        before: Ratios = stored["ratios"]
        when = stored["provenance"]
        about = f"{when['date']}, commit {when['commit']}, {when['machine']['processor']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--check={path}: cannot be read as ratios ({error})") from error
    rows = []
    for name in dict.fromkeys([*before, *today]):
        then, now = before.get(name), today.get(name)
        both = f"{now['median'] / then['median']:.2f}" if then and now and then["median"] else ""
        rows.append([name, _shown(then), _shown(now), both])
    return table(["ratio", f"stored ({about})", "today", "today / stored"], rows)


def _shown(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return ""
    if "q1" in ratio:
        return f"{ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f})"
    return f"{ratio['median']:.2f}" + (f" ± {ratio['error']:.2f}" if "error" in ratio else "")
