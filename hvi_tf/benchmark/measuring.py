"""Measures cells, families and evaluations, and returns plain data for JSON."""

from typing import Any

import numpy as np
import tensorflow as tf

from hvi_tf.benchmark import memory, parts, rounds, scaling
from hvi_tf.benchmark.cells import FAMILIES, Cell, Evaluation, Family
from hvi_tf.benchmark.evaluation import Scoring
from hvi_tf.benchmark.memory import Peak
from hvi_tf.benchmark.operations import Operations
from hvi_tf.benchmark.products import Replay
from hvi_tf.benchmark.rounds import Times
from hvi_tf.benchmark.training import Step

Record = dict[str, Any]

tf.get_logger().setLevel("ERROR")  # it warns of retracing, because every cell traces a step

# Training images and epochs of the published recipe.
TRAINING_IMAGES = 55_000
EPOCHS = 10_000


def cell(requested: Cell, peak: Peak, count: int, seconds: float) -> Record:
    """Measures a training step: time, parts, operations, and share of the product rate.

    `one image` is the same step with a batch of one, which computes almost nothing. Its time is the
    fixed cost of launches, the host and everything else that does not shrink with the work. The
    rest of the step's time is computation, on a GPU or a CPU.

    Args:
        requested: the cell.
        peak: its peak memory.
        count: number of rounds.
        seconds: minimum duration of a measurement.
    """
    step = Step(requested)
    single = Step(requested.but(batch_size=1))
    counted = step.count()
    times = rounds.in_turn(
        {
            "step": step,
            "one image": single,
            "one image a call": single.one_by_one,
            "products": Replay(counted),
            **parts.make(step),
            "input": step.next_batches,
        },
        count,
        seconds,
    )
    median = {name: float(np.median(row)) for name, row in times.items()}
    # The cost of a call is measured on short steps, where noise does not hide it.
    host = np.subtract(times["one image a call"], times["one image"])
    timed_alone = ("step", "one image", "one image a call", "products")
    split = {name: ms for name, ms in median.items() if name not in timed_alone}
    t = step.config.training
    steps = EPOCHS * (TRAINING_IMAGES // t.batch_size)
    return {
        **_shared(requested, counted, times),
        "peak": peak._asdict(),
        "steps_per_second": 1e3 / median["step"],
        "split": {**split, "host": float(np.median(host))},
        "one_image": median["one image"],
        "compute_bound": float(np.median(np.subtract(times["step"], times["one image"]))),
        "recipe_hours": steps * median["step"] / 3.6e6,
    }


def family(
    requested: Family, peaks: tuple[Peak, Peak] | None, count: int, seconds: float
) -> Record:
    """Measures the steps of a family and the products of each, all in the same rounds.

    Args:
        requested: the family.
        peaks: of its first and last cell, if they were measured.
        count: number of rounds.
        seconds: minimum duration of a measurement.
    """
    steps = {cell.name: Step(cell) for cell in requested.cells()}
    counts = {name: step.count() for name, step in steps.items()}
    contestants: dict[str, Any] = dict(steps)
    contestants |= {f"{name} products": Replay(c) for name, c in counts.items()}
    times = rounds.in_turn(contestants, count, seconds)
    medians = [float(np.median(times[name])) for name in steps]
    products = [float(np.median(times[f"{name} products"])) for name in steps]
    grown = scaling.growth(np.array(requested.values), np.array(medians), np.array(products))
    record: Record = {
        "name": requested.name,
        "setting": requested.setting,
        "values": list(requested.values),
        "settings": requested.cell.settings,
        "gigaflops": [c.flops / 1e9 for c in counts.values()],
        "times": times,
        "medians": medians,
        "products": products,
        "growth": {**grown._asdict(), **{n: getattr(grown, n)._asdict() for n in _FITS}},
    }
    if peaks is not None:
        first, last = peaks
        record["peak_growth"] = {n: getattr(last, n) - getattr(first, n) for n in Peak._fields}
    if requested.cell == FAMILIES["K"].cell:  # it has the networks of the recipe
        record["recipe_hours"] = _scheduled_hours(grown.line)
    return record


_FITS = ("exponent", "line", "products")
# The schedule of K in flags/mnist_iwhvi.cfg; a test compares them.
SCHEDULE = "0:0,250:5,500:25,1000:50"


def _scheduled_hours(line: scaling.Fit) -> float:
    """Returns the hours of the published recipe with its schedule of K, at batch 256."""
    K = Cell("", dict(bound="iwhvi", K_schedule=SCHEDULE, epochs=EPOCHS)).config.schedule
    each = [line.start + line.slope * K(epoch).K for epoch in range(EPOCHS)]
    return TRAINING_IMAGES // 256 * sum(each) / 3.6e6


def evaluations(
    requested: list[Evaluation], peaks: list[Peak], count: int, seconds: float
) -> list[Record]:
    """Measures streamed scores and the products of each, all in the same rounds."""
    scorers = {task.name: Scoring(task) for task in requested}
    counts = {name: scorer.count() for name, scorer in scorers.items()}
    contestants: dict[str, Any] = dict(scorers)
    contestants |= {f"{name} products": Replay(c) for name, c in counts.items()}
    times = rounds.in_turn(contestants, count, seconds)
    records = []
    for task, peak, (name, scorer) in zip(requested, peaks, scorers.items(), strict=True):
        own = {"step": times[name], "products": times[f"{name} products"]}
        images = scorer.images
        record = _shared(task.cell._replace(name=name), counts[name], own)
        record |= {"M": task.M, "K": task.K, "peak": peak._asdict(), "images": images}
        record["images_per_second"] = 1e3 * images / record["median"]
        records.append(record)
    return records


def _shared(requested: Cell, counted: Operations, times: Times) -> Record:
    gigaflops = counted.flops / 1e9
    return {
        "name": requested.name,
        "settings": requested.settings,
        "gigaflops": gigaflops,
        "elementwise_millions": counted.elementwise / 1e6,
        "times": times,
        "median": float(np.median(times["step"])),
        "spread": rounds.spread(times["step"]),
        "product_gigaflops_per_second": 1e3 * gigaflops / float(np.median(times["products"])),
        "share_of_product_rate": rounds.ratios(times["products"], times["step"]),
    }


def peaks(
    cells: list[Cell], families: list[Family], scores: list[Evaluation]
) -> tuple[list[Peak], list[tuple[Peak, Peak] | None], list[Peak]]:
    """Returns the peak memory of all cells, of families, and of all scores.

    A family that requests its memory has the peaks of its first and last cell.
    """
    ends = [cell for f in families if f.memory for cell in (f.cells()[0], f.cells()[-1])]
    remaining = iter(memory.measure([*cells, *ends, *scores]))
    of_cells = [next(remaining) for _ in cells]
    of_families = [(next(remaining), next(remaining)) if f.memory else None for f in families]
    return of_cells, of_families, list(remaining)
