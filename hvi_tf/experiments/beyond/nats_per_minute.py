"""Beyond the papers: the gain of each change to the training recipe, in the same minutes."""

import itertools
from typing import Any

import numpy as np

from hvi_tf.benchmark import cells as steps
from hvi_tf.errors import UserError
from hvi_tf.experiments.beyond import step_times
from hvi_tf.experiments.harness import plots, recipes, trained
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings, Table
from hvi_tf.experiments.harness.rows import (
    Row,
    all_above,
    distinct,
    in_errors,
    mean_and_error,
    plus_minus,
    select,
    signed,
    values,
)
from hvi_tf.runtime.progress import counted
from hvi_tf.storage import files

BASE, BEFORE = "base", "before"  # recipes.BEST and recipes.BEFORE
BOUND_OF_LABEL = {"IWHVI": "iwhvi", "VAE": "vae", "HVM": "hvm"}
# Each lever is one change of the base recipe.
LEVERS: dict[str, Settings] = {
    "batch 64": dict(batch_size=64),
    "batch 256": dict(batch_size=256),
    "half the rate": dict(learning_rate=recipes.BEST["learning_rate"] / 2.0),
    "twice the rate": dict(learning_rate=recipes.BEST["learning_rate"] * 2.0),
    "no decay": dict(lr_schedule="exponential"),
    "linear decay": dict(lr_schedule="linear"),
    "decay to a tenth": dict(lr_final_fraction=0.1),
    "no rate warm-up": dict(lr_warmup_steps=0),
    "AdamW": dict(optimizer="adamw"),
    "averaged weights": dict(ema_decay=0.999),
    "DReG": dict(gradient="dreg"),
    "autodiff": dict(gradient="reparameterized"),
    "K=0": dict(K_schedule="0:0"),
    "K=5": dict(K_schedule="0:5"),
    "K=50 S=8": dict(K_schedule="", backward_samples=8),
    "K in steps": dict(K_schedule="0%:1,50%:5,90%:20"),
    "inner free bits": dict(inner_free_bits=1.0),
    "outer free bits": dict(outer_free_bits=8.0),
    "extra tau steps": dict(tau_steps=1),
    "outer warm-up": dict(outer_warmup_epochs=2.0),
    "no XLA": dict(jit_compile="off"),
    "bfloat16": dict(precision="bfloat16"),
}
GAIN = "gain_over_base"

PRESETS: dict[str, Settings] = {
    "quick": dict(
        methods=["IWHVI", "VAE"], levers=["batch 256", "averaged weights"], rounds=3,
        minutes=[1], seeds=[1], finalists=["averaged weights"], rival_budgets=1,
        eval_M=100, eval_K=20, eval_images=200,
    ),
    "full": dict(
        methods=list(BOUND_OF_LABEL), levers=list(LEVERS), rounds=9,
        minutes=[5, 10, 30, 60], seeds=[1, 3, 1, 1], finalists=["K=0", "K=5", "half the rate"],
        rival_budgets=2, eval_M=100, eval_K=20, eval_images=1_000,
    ),
}  # fmt: skip
_OF_SCORE = ("eval_M", "eval_K", "eval_images")


def flags(method: str, lever: str) -> Settings:
    """Returns the settings of a method's training, without its length and seed."""
    recipe = recipes.BEFORE if lever == BEFORE else recipes.BEST | LEVERS.get(lever, {})
    shared = dict(dataset="mnist", checkpoint_every=1, eval_every=1, steps_per_call=10)
    return recipes.fitting({**shared, "bound": BOUND_OF_LABEL[method], **recipe})


def _contestants(s: Settings, budget: int) -> list[tuple[str, str]]:
    """Returns methods with their levers for a budget of minutes, counted from 0.

    IWHVI has all levers at the first budget, and those of the finalists at the others. Its rivals
    take part at the first `rival_budgets`.
    """
    of_iwhvi = [BASE, BEFORE, *(s["finalists"] if budget else s["levers"])]
    levers = {m: of_iwhvi if m == "IWHVI" else [BASE, BEFORE] for m in s["methods"]}
    if budget >= s["rival_budgets"]:
        levers = {"IWHVI": of_iwhvi}
    return [(method, lever) for method in levers for lever in levers[method]]


def cells(settings: Settings) -> list[Cell]:
    """Returns a cell for the times, then all levers at the first budget, and finalists at more."""
    s = settings
    if len(s["seeds"]) != len(s["minutes"]) or sorted(s["minutes"]) != s["minutes"]:
        raise UserError(
            f"minutes={s['minutes']}, seeds={s['seeds']}: must be as many, minutes in order"
        )
    all_flags = {_name(*contestant): flags(*contestant) for contestant in _contestants(s, 0)}
    result = [Cell("times", dict(rounds=s["rounds"], flags=all_flags))]
    evaluation = {name: s[name] for name in _OF_SCORE}
    for budget, minutes in enumerate(s["minutes"]):
        for seed in range(s["seeds"][budget]):
            for method, lever in _contestants(s, budget):
                own = dict(method=method, lever=lever, minutes=minutes, seed=seed)
                own |= {"flags": flags(method, lever), "base": flags(method, BASE)}
                name = _name(method, lever).replace(" ", "-")
                result.append(Cell(f"{minutes}min-{name}-seed{seed}", own | evaluation))
    return result


def _name(method: str, lever: str) -> str:
    return f"{method} {lever}"


def measure(cell: Cell, context: Context) -> list[Row]:
    """Returns the times of all contestants, or the score of one of them."""
    return _times(cell.settings) if cell.name == "times" else _training(cell.settings, context)


def _times(s: Settings) -> list[Row]:
    """Returns the times of every contestant's step and validation, with its change of the base."""
    changes = {
        name: steps.settings_text(_change(s["flags"], name.partition(" ")[0], own))
        for name, own in s["flags"].items()
    }
    return step_times.measure(s["flags"], changes, s["rounds"])


def _change(all_flags: dict[str, Settings], method: str, own: Settings) -> Settings:
    """Returns the settings that differ from the base; for the base itself, all settings."""
    base = all_flags[_name(method, BASE)]
    names = [name for name in own if own[name] != base.get(name)]
    return {name: own[name] for name in names or own}


def _training(s: Settings, context: Context) -> list[Row]:
    """Returns the test score, and the gain over the base, paired by image."""
    evaluation = {name: s[name] for name in _OF_SCORE}

    def scored(lever: str, own: Settings) -> tuple[dict[str, Any], int]:
        times = _measured_times(context, _name(s["method"], lever), own)
        epochs = step_times.epochs_of(times, s["minutes"], own["batch_size"])
        run = trained.train(context, own | dict(epochs=epochs, seed=s["seed"]))
        return trained.score(run, **evaluation), epochs

    scores, epochs = scored(s["lever"], s["flags"])
    where = dict(dataset="mnist", lever=s["lever"], minutes=s["minutes"], seed=s["seed"])
    where |= dict(M=s["eval_M"], K=scores["K"], epochs=epochs)
    quantities = ("log_likelihood", "kl_tau_mixing")
    rows = trained.score_rows(scores, s["method"], quantities, **where)
    if s["lever"] != BASE:
        base, _ = scored(BASE, s["base"])
        rows.append(trained.gain_row(s["method"], GAIN, scores, base, **where))
    return rows


def _measured_times(context: Context, name: str, own: Settings) -> list[Row]:
    """Returns the times of a contestant, as the cell `times` measured them."""
    path = context.cell.parent / "times" / "rows.json"
    if not path.exists():
        raise UserError(
            "the times are not measured yet; run this command with --cells=times on an idle machine"
        )
    stored = files.read_json(path)
    if stored["settings"]["flags"].get(name) != own:
        raise UserError(f"{path}: the times of {name} have other settings; choose another --out")
    method, _, lever = name.partition(" ")
    return select(stored["rows"], method=method, lever=lever)


def _levers(rows: list[Row], method: str) -> list[str]:
    return distinct(select(rows, method=method, quantity="log_likelihood"), "lever")


def _gain(rows: list[Row], method: str, lever: str, minutes: int) -> tuple[float, float] | None:
    """Returns the gain over the base with its error; None if it was not measured."""
    mine = select(rows, quantity=GAIN, method=method, lever=lever, minutes=minutes)
    return mean_and_error(mine) if mine else None


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws nats against minutes, and the gain of each lever at the first budget."""
    scores = select(rows, quantity="log_likelihood")
    budgets = sorted(distinct(scores, "minutes"))
    figure, (curves, bars) = plots.panels(2, width=5.6, height=4.2)
    for i, method in enumerate(distinct(scores, "method")):
        styles = itertools.cycle(("o-", "s--", "D:", "^-.", "v-", "P--"))
        for lever in _levers(rows, method):
            mine = select(scores, method=method, lever=lever)
            spent = sorted(distinct(mine, "minutes"))
            if len(spent) > 1 or lever in (BASE, BEFORE):
                means = [np.mean(values(mine, minutes=minutes)) for minutes in spent]
                curves.plot(spent, means, next(styles), color=f"C{i}", label=f"{method}, {lever}")
    plots.count_axis(curves, "minutes of training on an idle machine", budgets)
    curves.set_ylabel("test log-likelihood, nats")
    curves.set_title("MNIST, the same images for all; mean over seeds", fontsize=8)
    curves.legend(fontsize=7)
    levers = [lever for lever in _levers(rows, "IWHVI") if lever != BASE]
    for i, lever in enumerate(levers):
        gain = _gain(rows, "IWHVI", lever, budgets[0])
        if gain:
            bars.errorbar(gain[0], -i, xerr=2.0 * gain[1], fmt="o", color="C0", capsize=3)
    bars.set_yticks([-i for i in range(len(levers))], levers)
    bars.axvline(0.0, color="0.35", linestyle="--", linewidth=1.0)
    bars.set_xlabel("gain over the base, nats")
    shown = counted(budgets[0], "minute")
    bars.set_title(f"IWHVI after {shown}; bars: 2 standard errors, by image", fontsize=8)
    return {"nats_per_minute": figure}


def tables(rows: list[Row]) -> list[Table]:
    """Returns the scores of every method and lever, and the settings of each lever."""
    scores = select(rows, quantity="log_likelihood")
    budgets = sorted(distinct(scores, "minutes"))
    header = ["method", "recipe", "ms per step"]
    for minutes in budgets:
        header += [f"epochs in {minutes} min", "nats", "gain over base"]
    body, changes = [], []
    for method in distinct(scores, "method"):
        for lever in _levers(rows, method):
            mine = select(rows, method=method, lever=lever)
            line = [method, lever, f"{1e3 * step_times.seconds_per_step(mine):.1f}"]
            for minutes in budgets:
                own = select(mine, quantity="log_likelihood", minutes=minutes)
                gain = _gain(rows, method, lever, minutes)
                line += (
                    [str(own[0]["epochs"]), plus_minus(*mean_and_error(own))] if own else ["", ""]
                )
                line.append(signed(*gain) if gain else "")
            body.append(line)
            (timed,) = select(mine, quantity="seconds_per_validation")
            changes.append([method, lever, timed["change"]])
    title = (
        "Test log-likelihood after equal minutes, ± standard error over images and seeds; gains "
        "are paired by image"
    )
    return [
        Table(title, header, body),
        Table("Each recipe: the base, and what others change of it", [*header[:2], ""], changes),
    ]


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims: the base is above the previous recipe and above every single change."""
    scores = select(rows, quantity="log_likelihood")
    budgets = sorted(distinct(scores, "minutes"))
    statements = []
    for method in distinct(scores, "method"):
        own = distinct(select(scores, method=method), "minutes")
        gains = {minutes: _over(rows, method, BEFORE, minutes) for minutes in own}
        least = min(gains, key=lambda minutes: in_errors(*gains[minutes]))
        text = f"{method}: the base recipe is above the one before in every number of minutes"
        evidence = f"least clear after {least} min: {signed(*gains[least])} nats"
        statements.append(Claim(text, all_above(*gains.values()), evidence))
    levers = [lever for lever in _levers(rows, "IWHVI") if lever not in (BASE, BEFORE)]
    over = {lever: _over(rows, "IWHVI", lever, budgets[0]) for lever in levers}
    if over:
        best = min(over, key=lambda lever: in_errors(*over[lever]))
        text = f"IWHVI: the base recipe is above every change of it after {budgets[0]} min"
        evidence = f"least clear above {best}: {signed(*over[best])} nats"
        statements.append(Claim(text, all_above(*over.values()), evidence))
    return statements


def _over(rows: list[Row], method: str, lever: str, minutes: int) -> tuple[float, float]:
    """Returns the base less a lever, with its error."""
    mean, error = mean_and_error(
        select(rows, quantity=GAIN, method=method, lever=lever, minutes=minutes)
    )
    return -mean, error


EXPERIMENT = Experiment(
    about=(
        "Which recipe trains best in the same minutes: IWHVI autoencoders of MNIST with one "
        "setting changed at a time, and the VAE and HVM with the base recipe and the one before "
        "it. The minutes are those of an idle machine: the seconds of a step and of a validation "
        "are measured for all in turn, and a training then has the epochs that fit, compilation "
        "included. So trainings may run next to other work. Learning-rate decay and schedules "
        "end with the run. The score is DIWHVI of the same first test images for all (IWAE for "
        "the VAE)."
    ),
    presets=PRESETS,
    cells=cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
    caveats=dict(
        quick=(
            "One minute, which shows how the measurement works: what pays off later is not seen. "
            "The errors are those over images, which leave out how much two trainings differ."
        ),
        full=(
            "A lever is judged by its gain in the fewest minutes. That is one training, whose "
            "error is that over images. Only some are trained for longer. Levers may add up, or "
            "stand for each other: each is changed alone."
        ),
    ),
)
