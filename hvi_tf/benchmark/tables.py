"""The measurements as Markdown tables."""

from typing import Any

Record = dict[str, Any]

_PARTS = (
    *("encoder", "inner terms", "inner loop", "decoder", "prior terms"),
    *("optimizer", "input", "host"),
)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def training(records: list[Record]) -> str:
    """Returns speed, operations and memory of the cells."""
    header = [
        *("step", "steps/s", "ms: median (quartiles)", "GFLOP in products"),
        *("other operations, millions", "share of the product rate", "peak MB"),
    ]
    rows = [
        [
            *(r["name"], f"{r['steps_per_second']:.1f}", _spread(r["spread"], 1)),
            *(f"{r['gigaflops']:.3g}", f"{r['elementwise_millions']:.0f}"),
            *(_share(r), _peak(r["peak"])),
        ]
        for r in records
    ]
    return table(header, rows)


def split(records: list[Record]) -> str:
    """Returns the time of each part, and the hours of the whole recipe."""
    parts = [part for part in _PARTS if any(part in r["split"] for r in records)]
    header = [
        "ms",
        *parts,
        "launch-bound (one image)",
        "compute-bound (the rest)",
        "10,000 epochs, hours",
    ]
    rows = [
        [
            r["name"],
            *(f"{r['split'][part]:.1f}" if part in r["split"] else "" for part in parts),
            *(f"{r['one_image']:.1f}", f"{r['compute_bound']:.1f}", f"{r['recipe_hours']:.0f}"),
        ]
        for r in records
    ]
    return table(header, rows)


def evaluation(records: list[Record]) -> str:
    """Returns speed, operations and memory of the streamed scores."""
    header = [
        *(
            "score: MxK, or steps of SVI",
            "images/s",
            "ms an image: median (quartiles)",
            "GFLOP an image",
        ),
        *("share of the product rate", "peak MB"),
    ]
    rows = []
    for r in records:
        each = {name: value / r["images"] for name, value in r["spread"].items()}
        rows.append(
            [
                *(r["name"], f"{r['images_per_second']:.3g}", _spread(each, 1)),
                *(f"{r['gigaflops'] / r['images']:.3g}", _share(r), _peak(r["peak"])),
            ]
        )
    return table(header, rows)


def growth(records: list[Record]) -> str:
    """Returns exponents and lines of the families."""
    header = [
        *("family", "values", "ms: medians", "exponent", "line, ms (furthest off)"),
        *("slope over the products' slope", "MB from first to last"),
    ]
    rows = []
    for r in records:
        exponent, line = r["growth"]["exponent"], r["growth"]["line"]
        rows.append(
            [
                *(r["name"], ", ".join(map(str, r["values"]))),
                ", ".join(f"{ms:.1f}" for ms in r["medians"]),
                f"{exponent['slope']:.2f} ± {exponent['slope_error']:.2f}",
                f"{line['start']:.1f} + {line['slope']:.3g} n ({line['residual']:.1f})",
                f"{r['growth']['slope_ratio']:.2f}",
                f"{r['peak_growth']['host']:+.0f}" if "peak_growth" in r else "",
            ]
        )
    text = table(header, rows)
    for r in records:
        if "recipe_hours" in r:
            text += (
                f"\n\nThe published MNIST recipe, 10,000 epochs with its schedule of K, by the "
                f"line of {r['name']}: {r['recipe_hours']:.0f} hours of steps."
            )
    return text


def comparison(records: list[Record]) -> str:
    """Returns our times next to those of other frameworks."""
    header = [
        *("step", "written as", "ms: median (quartiles)"),
        *("time over ours, paired: median (quartiles; least)", "peak MB"),
    ]
    rows = [
        [
            *(r["name"], r["about"], _spread(r["spread"], 1)),
            *(f"{_spread(r['over_ours'], 2)[:-1]}; {r['over_ours']['min']:.2f})",),
            f"{r['peak']:.0f}",
        ]
        for r in records
    ]
    return table(header, rows)


def _spread(spread: dict[str, float], digits: int) -> str:
    low, middle, high = (f"{spread[name]:.{digits}f}" for name in ("q1", "median", "q3"))
    return f"{middle} ({low} to {high})"


def _share(record: Record) -> str:
    share = record["share_of_product_rate"]["median"]
    return f"{share:.0%} of {record['product_gigaflops_per_second']:.0f} GFLOP/s"


def _peak(peak: dict[str, float]) -> str:
    device = f", device {peak['device']:.0f}" if peak["device"] else ""
    return f"{peak['host']:.0f}{device}"
