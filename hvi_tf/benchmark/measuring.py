"""Measures cells, families and evaluations; what comes back is plain data for JSON."""

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

tf.get_logger().setLevel("ERROR")  # it takes many steps, one a cell, for retracing

# The published recipe trains on 55,000 images for so many epochs.
TRAINING_IMAGES = 55_000
EPOCHS = 10_000


def cell(asked: Cell, peak: Peak, count: int, seconds: float) -> Record:
    """A training step: time, parts, operations, and share of the rate of its products.

    `one image` is the same step with a batch of one, where next to nothing is computed: the
    time that launches, the host and everything else takes which does not shrink with the
    work. The step's time beyond that is what computing takes, on a GPU or a CPU.

    Args:
        asked: the cell.
        peak: its memory.
        count: of rounds.
        seconds: a measurement should last at least.
    """
    step = Step(asked)
    single = Step(asked.but(batch_size=1))
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
    # Of short steps, where what a call costs is not lost in the noise.
    host = np.subtract(times["one image a call"], times["one image"])
    timed_alone = ("step", "one image", "one image a call", "products")
    split = {name: ms for name, ms in median.items() if name not in timed_alone}
    t = step.config.training
    steps = EPOCHS * (TRAINING_IMAGES // t.batch_size)
    return {
        **_shared(asked, counted, times),
        "peak": peak._asdict(),
        "steps_per_second": 1e3 / median["step"],
        "split": {**split, "host": float(np.median(host))},
        "one_image": median["one image"],
        "compute_bound": float(np.median(np.subtract(times["step"], times["one image"]))),
        "recipe_hours": steps * median["step"] / 3.6e6,
    }


def family(asked: Family, peaks: tuple[Peak, Peak] | None, count: int, seconds: float) -> Record:
    """The steps of a family and the products of each, all in the same rounds.

    Args:
        asked: the family.
        peaks: of its first and last cell, if they were asked for.
        count: of rounds.
        seconds: a measurement should last at least.
    """
    steps = {cell.name: Step(cell) for cell in asked.cells()}
    counts = {name: step.count() for name, step in steps.items()}
    contestants: dict[str, Any] = dict(steps)
    contestants |= {f"{name} products": Replay(c) for name, c in counts.items()}
    times = rounds.in_turn(contestants, count, seconds)
    medians = [float(np.median(times[name])) for name in steps]
    products = [float(np.median(times[f"{name} products"])) for name in steps]
    grown = scaling.growth(np.array(asked.values), np.array(medians), np.array(products))
    record: Record = {
        "name": asked.name,
        "setting": asked.setting,
        "values": list(asked.values),
        "settings": asked.cell.settings,
        "gigaflops": [c.flops / 1e9 for c in counts.values()],
        "times": times,
        "medians": medians,
        "products": products,
        "growth": {**grown._asdict(), **{n: getattr(grown, n)._asdict() for n in _FITS}},
    }
    if peaks is not None:
        first, last = peaks
        record["peak_growth"] = {n: getattr(last, n) - getattr(first, n) for n in Peak._fields}
    if asked.cell == FAMILIES["K"].cell:  # the networks of the recipe, not small ones
        record["recipe_hours"] = _scheduled_hours(grown.line)
    return record


_FITS = ("exponent", "line", "products")
# Of flags/mnist_iwhvi.cfg, which only a clone has; a test compares.
SCHEDULE = "0:0,250:5,500:25,1000:50"


def _scheduled_hours(line: scaling.Fit) -> float:
    """All epochs of the published recipe with its own schedule of K, batch 256."""
    K = Cell("", dict(bound="iwhvi", K_schedule=SCHEDULE, epochs=EPOCHS)).config.schedule
    each = [line.start + line.slope * K(epoch).K for epoch in range(EPOCHS)]
    return TRAINING_IMAGES // 256 * sum(each) / 3.6e6


def evaluations(
    asked: list[Evaluation], peaks: list[Peak], count: int, seconds: float
) -> list[Record]:
    """Streamed scores, and the products of each, all in the same rounds."""
    scorers = {task.name: Scoring(task) for task in asked}
    counts = {name: scorer.count() for name, scorer in scorers.items()}
    contestants: dict[str, Any] = dict(scorers)
    contestants |= {f"{name} products": Replay(c) for name, c in counts.items()}
    times = rounds.in_turn(contestants, count, seconds)
    records = []
    for task, peak, (name, scorer) in zip(asked, peaks, scorers.items(), strict=True):
        own = {"step": times[name], "products": times[f"{name} products"]}
        images = scorer.images
        record = _shared(task.cell._replace(name=name), counts[name], own)
        record |= {"M": task.M, "K": task.K, "peak": peak._asdict(), "images": images}
        record["images_per_second"] = 1e3 * images / record["median"]
        records.append(record)
    return records


def _shared(asked: Cell, counted: Operations, times: Times) -> Record:
    gigaflops = counted.flops / 1e9
    return {
        "name": asked.name,
        "settings": asked.settings,
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
    """Of all cells, of the first and last of each family that wants it, and of all scores."""
    ends = [cell for f in families if f.memory for cell in (f.cells()[0], f.cells()[-1])]
    found = iter(memory.measure([*cells, *ends, *scores]))
    of_cells = [next(found) for _ in cells]
    of_families = [(next(found), next(found)) if f.memory else None for f in families]
    return of_cells, of_families, list(found)
