"""Tiny models with random settings, trained for three steps: none may crash.

`python -m tests.faults.random_configurations --count=10000 --seed=0 --processes=2` tries 10,000
configurations and prints how many were trained, refused or crashed. `--log=FILE` stores the
outcomes; another start at the same commit with the same file resumes. A configuration is a pure
function of the seed and its number, and `--only=NUMBER` runs one alone, with its traceback.

Every configuration has one of three outcomes:

* refused: a message of one line that names a setting;
* trained: three steps on images, which may be all black or all white, and one score;
* crashed: any other exception, a message of several lines, weights that are not finite or that a
  step with a term that is not finite has changed, or a process that died or took too long.

The metrics of a trained configuration need not be finite, since a learning rate may be 10.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from hvi_tf.config import config as config_lib
from hvi_tf.errors import UserError
from hvi_tf.inference.methods import METHODS
from hvi_tf.storage import provenance

PIXELS = 16  # images of 4x4
STEPS = 3
# Share of configurations that run in a graph, as a command does; tracing takes seconds.
GRAPHS = 0.02
# Share of refusals that are kept. Otherwise the refused setting is left out, so that most train.
KEPT_AS_REFUSED = 0.03
# Configurations per process, because Keras and TensorFlow keep memory of deleted models.
PER_PROCESS = 150
SECONDS = 300.0  # time limit of a configuration

# The values from which each setting of the command line is drawn, valid or nearly so.
DRAWN = {
    "dataset": ["mnist", "omniglot", "svhn"],
    "keep_checkpoints": [1, 3, 0],
    "keep_every": [0, 2, -1],
    "on_nonfinite": ["stop", "skip", "rollback", "ignore"],
    "split": ["sobolev", "shu", "burda"],
    "split_seed": [0, 2**31 - 1, 2**31],
    "data_dir": ["/data"],
    "manual_dir": ["/data"],
    "bound": [*METHODS],
    "K": [0, 1, 2, 5, 1_000, 10_000, -1],
    "M": [1, 2, 3, 7, 50, 0],
    "L": [1, 2, 3, 7, 50, 0],
    "gradient": ["reparameterized", "dreg", "gdreg", "iwae-dreg", "stl", "dreg-biased"],
    "backward_samples": [0, 1, 2, 3, 6, 50],
    "defensive": [0.0, 1e-30, 0.2, 0.99, 1.0],
    "prior": ["normal", "hierarchical"],
    "posterior": ["gaussian", "iaf", "realnvp", "hierarchical"],
    "svi_steps": [1, 2, 3, 8],
    "svi_learning_rate": [0.0, 0.1, 1.0, 10.0, 1e4, 1e30, 1e39],
    "svi_momentum": [0.0, 0.5, 0.9, 0.999, 1.0],
    "svi_clip_norm": [0.0, 1e-30, 1.0, 5.0, 1e30, 1e37, 1e39],
    "pi": ["uniform", "learned"],
    "sir": [False, True],
    "double_sampling": [False, True],
    "encoder_objective": ["elbo", "kl"],
    "hidden": [(1,), (4,), (5, 3), (8, 8), (3, 3, 3), (64,), ()],
    "latent_dim": [1, 2, 3, 5],
    "aux_dim": [1, 2, 3, 5],
    "prior_dim": [1, 2, 3, 5],
    "num_flows": [1, 2, 3, 0],
    "flow_hidden": [(1,), (2,), (5, 3), (8, 8)],
    "scale": ["softplus", "log_variance"],
    "likelihood": ["bernoulli", "discretized_logistic"],
    "encoder": ["mlp", "resnet"],
    "resnet_channels": [(1,), (3,), (3, 2), (2, 2), (2, 2, 2)],
    "decoder": ["mlp", "pixelcnn"],
    "pixelcnn_channels": [1, 2, 3],
    "pixelcnn_kernels": [(3,), (7,), (5, 3), (3, 3, 3), (4,), (9,)],
    "tau_gate_bias": [-1e3, -5.0, 0.0, 5.0, 1e3, 1e4],
    "precision": ["float32", "bfloat16", "float16"],
    "epochs": [1, 2, 20, 0],
    "max_steps": [0, 1, 3],
    "patience": [0, 1, 5],
    "batch_size": [1, 2, 3, 4],
    "optimizer": ["adam", "amsgrad", "adamw", "sgd"],
    "weight_decay": [0.0, 0.1, 10.0, 1e39],
    "lr_schedule": ["exponential", "cosine", "linear", "constant"],
    "lr_final_fraction": [0.0, 0.5, 1.0, 2.0],
    "lr_warmup_steps": [0, 1, 2, 2**40],
    "ema_decay": [0.0, 0.5, 0.999, 1.0],
    "inner_free_bits": [0.0, 1e-9, 1.0, 1e30, 1e39],
    "outer_free_bits": [0.0, 1e-9, 1.0, 1e30, 1e39],
    "tau_steps": [0, 1, 2],
    "minutes": [0.0, 1.0, -1.0],
    "clip_norm": [0.0, 1e-30, 1e-3, 5.0, 1e30, 1e37, 1e39],
    "learning_rate": [0.0, 1e-30, 1e-3, 0.1, 1.0, 10.0, 1e39],
    "annealing_factor": [1e-9, 0.5, 0.95, 1.0, 0.0],
    "annealing_epochs": [1e-9, 0.5, 1.0, 100.0, 1e30],
    "K_schedule": [
        *("0:0", "0:0,1:2", "0:3,2:0", "0:1,1:2,2:5", "0%:1,50%:2", "1:0", "0:0,0:1", "0:x")
    ],
    "inner_warmup_epochs": [0.0, 1e-9, 0.5, 2.0, 3.0, 1e30],
    "outer_warmup_epochs": [0.0, 1e-9, 0.5, 2.0, 3.0, 1e30],
    "kl_annealing_steps": [0, 1, 2, 5_000, 2**40],
    "kl_annealing_start": [0.0, 0.1, 1.0, 1.5],
    "seed": [0, 1, 2**31 - 1, 2**31],
    "checkpoint_every": [1, 3],
    "eval_every": [1, 3],
    "jit_compile": ["auto", "off"],  # graphs also draw on
    "steps_per_call": [1, 2, 10],
    "tau_epochs": [1, 7],
    "estimator": ["auto", "ais", "bsvi", "svi", *METHODS],
    "eval_steps": [1, 500],
    "eval_M": [1, 100, 10_000_000],
    "eval_tolerance": [0.0, 0.1],
    "eval_K": [0, 20, 10_000_000],
    "eval_L": [1, 20],
    "eval_defensive": [0.0, 0.2],
    "eval_mixture_size": [0, 1, 1_000],
    "eval_split": ["test", "validation", "train", "all"],
    "eval_images": [1, 100],
    "eval_svi_learning_rate": [0.0, 0.02, 10.0],
    "num_samples": [1, 64],
    "ais_chains": [1, 16],
    "ais_steps": [1, 1_000],
    "ais_leapfrog_steps": [1, 5],
}

# Settings that every configuration has, to keep models tiny and to cover all methods.
ALWAYS = {
    *("bound", "hidden", "latent_dim", "aux_dim", "prior_dim", "flow_hidden", "batch_size"),
    *("learning_rate", "resnet_channels", "pixelcnn_channels", "pixelcnn_kernels"),
    *("K", "svi_steps"),
}
# Settings without a tiny default: if a value is refused, another one is drawn.
REDRAWN = {"hidden", "latent_dim", "aux_dim", "prior_dim", "flow_hidden"}
# Settings without effect on a training step, which are drawn less often.
SELDOM = {
    *("dataset", "split", "split_seed", "data_dir", "manual_dir", "epochs", "max_steps", "minutes"),
    *("patience", "checkpoint_every", "eval_every", "steps_per_call", "tau_epochs", "estimator"),
    *("eval_steps", "eval_M", "eval_tolerance", "eval_K", "eval_L", "eval_split", "eval_images"),
    *("eval_defensive", "eval_mixture_size"),
    *("eval_svi_learning_rate", "num_samples", "ais_chains", "ais_steps", "ais_leapfrog_steps"),
}
# Number of last values that are rarely drawn: thousands of rows, or out of range.
RARE = {
    **{"K": 3, "M": 2, "L": 2, "hidden": 1, "resnet_channels": 1, "pixelcnn_kernels": 2},
    **{
        "num_flows": 1,
        "defensive": 1,
        "svi_steps": 1,
        "learning_rate": 1,
        "svi_learning_rate": 1,
        "svi_momentum": 1,
    },
    **{"svi_clip_norm": 1, "clip_norm": 1, "tau_gate_bias": 1, "precision": 1, "optimizer": 1},
    **{"annealing_factor": 1, "kl_annealing_start": 1, "seed": 1, "K_schedule": 3, "epochs": 1},
    **{"weight_decay": 1, "lr_schedule": 1, "lr_final_fraction": 1, "ema_decay": 1},
    **{"inner_free_bits": 1, "outer_free_bits": 1, "minutes": 1},
}

IMAGES = ("black", "white", "noise", "mixed")


def draw(seed, number):
    """Returns a configuration's settings, its refusal or None, whether in a graph, a generator."""
    rng = np.random.default_rng([seed, number])
    values = {}
    for name in DRAWN:
        often = 1.0 if name in ALWAYS else 0.02 if name in SELDOM else 0.3
        if rng.random() < often:
            values[name] = pick(rng, name)
    if "gradient" in values and rng.random() < 0.9:
        own = METHODS[values["bound"]].gradients
        values["gradient"] = own[rng.integers(len(own))]
    in_graph = bool(rng.random() < GRAPHS)
    if in_graph and rng.random() < 0.2:
        values["jit_compile"] = "on"
    values, refusal = settle(values, rng)
    return values, refusal, in_graph, rng


def pick(rng, name):
    """Draws a value of a setting."""
    choices, rare = DRAWN[name], RARE.get(name, 0)
    count = len(choices) - (rare if rng.random() < 0.95 else 0)
    return choices[rng.integers(count)]


def settle(values, rng):
    """Replaces most refused values; returns the settings and their refusal or None."""
    while True:
        try:
            config_lib.make(**values)
        except UserError as refusal:
            flag = re.match(r"--(\w+)", str(refusal))
            if not flag or flag[1] not in values or rng.random() < KEPT_AS_REFUSED:
                return values, str(refusal)
            if flag[1] in REDRAWN and "leave it out" not in str(refusal):
                values[flag[1]] = pick(rng, flag[1])
            else:
                del values[flag[1]]
        else:
            return values, None


def images(rng, batch, likelihood):
    """Draws images `[B, 16]`: all black, all white, noise, or a row of each."""
    kind = IMAGES[rng.integers(len(IMAGES))]
    noise = rng.random((batch, PIXELS))
    levels = np.round(255 * noise) / 255 if likelihood == "discretized_logistic" else noise < 0.5
    if kind == "mixed":
        levels = np.array(levels)
        levels[:1], levels[1:2] = 0.0, 1.0
    constant = {"black": 0.0, "white": 1.0}
    return np.full((batch, PIXELS), constant[kind]) if kind in constant else levels


def run(seed, number, in_graph=None):
    """Trains and scores one configuration.

    Args:
        seed: seed of all configurations.
        number: number of this configuration.
        in_graph: whether to run in a graph; None takes the drawn value.

    Returns:
        "trained" or "refused", and a message.

    Raises:
        Exception: any that is not a refusal.
    """
    import tensorflow as tf

    from hvi_tf.models.vae import make_vae
    from hvi_tf.training.loop import StepRunner

    values, refusal, drawn_in_graph, rng = draw(seed, number)
    in_graph = drawn_in_graph if in_graph is None else in_graph
    if refusal is None:
        config = config_lib.make(**values)
        try:
            model = make_vae(config, PIXELS)
        except UserError as error:
            refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal, f"a refusal of several lines: {refusal}"
        assert refusal.startswith("--"), f"a refusal that names no setting: {refusal}"
        return "refused", refusal
    tf.config.run_functions_eagerly(not in_graph)
    x = tf.constant(images(rng, config.training.batch_size, config.model.likelihood), tf.float32)
    try:
        run_steps = StepRunner(model) if in_graph else None
        finite = [_step(model, config, x, epoch, run_steps) for epoch in range(STEPS)]
        scores = model.validation_scores(x, tf.constant([1, 2]))
    finally:
        tf.config.run_functions_eagerly(False)
    for name, score in scores._asdict().items():
        assert score.shape == x.shape[:1], f"{name} has shape {score.shape}"
    return "trained", "".join("." if all_finite else "n" for all_finite in finite)


def _step(model, config, x, epoch, run_steps):
    """Takes a step of this epoch, by `run_steps` if given; returns whether metrics were finite."""
    import tensorflow as tf

    model.set_schedule(*config.schedule(epoch))
    model.set_run_length(STEPS)
    before = [v.numpy().copy() for v in model.trainable_variables]
    if run_steps is not None:
        metrics = run_steps(iter(tf.data.Dataset.from_tensors(x)), 1).values
    else:
        metrics = [float(m) for m in model.train_step(x).values()]
    finite = bool(np.all(np.isfinite(metrics)))
    for old, new in zip(before, model.trainable_variables, strict=True):
        assert np.all(np.isfinite(new)), f"{new.path} is not finite after step {epoch}"
        unchanged = finite or np.array_equal(old, new)
        assert unchanged, f"{new.path} has changed in step {epoch}, whose metrics were not finite"
    return finite


def reproduce(seed, number):
    """Returns the command that runs a configuration alone, and its settings."""
    values, _, in_graph, _ = draw(seed, number)
    shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
    return (
        f"python -m tests.faults.random_configurations --seed={seed} --only={number}"
        f"  # {'graph' if in_graph else 'eager'}: {shown}"
    )


# Configurations run in several processes, so that one that dies loses no other outcome.


def work(seed, numbers):
    """Runs configurations and prints a line before and after each."""
    for number in numbers:
        print(json.dumps({"number": number, "begun": True}), flush=True)
        began = time.monotonic()
        try:
            outcome, message = run(seed, number)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            outcome = "crashed"
            message = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
        seconds = round(time.monotonic() - began, 3)
        line = {"number": number, "outcome": outcome, "said": message, "seconds": seconds}
        print(json.dumps(line), flush=True)


def supervise(seed, numbers, record):
    """Runs configurations in a process, and in a new one after a process died or hung.

    Args:
        seed: seed of the configurations.
        numbers: numbers of the configurations to run.
        record: function called with the outcome of each.
    """
    left = list(numbers)
    while left:
        command = [sys.executable, "-m", "tests.faults.random_configurations", f"--seed={seed}"]
        process = subprocess.Popen(
            [*command, "--work", *map(str, left[:PER_PROCESS])],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        begun = None
        with concurrent.futures.ThreadPoolExecutor(1) as reader:
            while True:
                try:
                    line = reader.submit(process.stdout.readline).result(timeout=SECONDS)
                except concurrent.futures.TimeoutError:
                    process.kill()
                    line = ""
                if not line:
                    break
                event = json.loads(line)
                begun = event["number"]
                if "outcome" in event:
                    left.remove(begun)
                    record(event)
                    begun = None
        status = process.wait()
        if begun is not None:
            left.remove(begun)
            message = f"its process ended with status {status}, or took over {SECONDS:.0f} s"
            record({"number": begun, "outcome": "crashed", "said": message, "seconds": SECONDS})
        elif status:
            raise RuntimeError(f"a process ended with status {status} before any configuration")


def try_all(count, seed, processes, log=None):
    """Runs configurations 0 to count - 1, prints a summary, and returns the outcomes' counts."""
    outcomes, commit = {}, provenance.commit()
    if log and log.exists():
        lines = map(json.loads, log.read_text().splitlines())
        outcomes = {
            o["number"]: o for o in lines if o.get("commit") == commit and o["number"] < count
        }
    missing = [number for number in range(count) if number not in outcomes]
    began = time.monotonic()
    file = log.open("a") if log else None

    def record(line):
        outcomes[line["number"]] = line
        if file:
            print(json.dumps({"commit": commit, **line}), file=file, flush=True)
        if line["outcome"] == "crashed":
            print(f"crashed: {line['said']}\n  {reproduce(seed, line['number'])}", flush=True)
        if len(outcomes) % 100 == 0:
            print(f"{summary(outcomes)}, {time.monotonic() - began:.0f} s", flush=True)

    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        shares = [missing[i::processes] for i in range(processes)]
        for future in [pool.submit(supervise, seed, share, record) for share in shares]:
            future.result()
    print(f"{summary(outcomes)}, {time.monotonic() - began:.0f} s", flush=True)
    return count_outcomes(outcomes)


def count_outcomes(outcomes):
    """Returns the number of configurations of each outcome."""
    return collections.Counter(line["outcome"] for line in outcomes.values())


def summary(outcomes):
    """Returns the numbers of outcomes as a phrase."""
    kinds = count_outcomes(outcomes)
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in ("trained", "refused", "crashed"))
    return f"{len(outcomes)} configurations: {counts}"


def main():
    """Runs the command that the module docstring describes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="number of configurations")
    parser.add_argument("--seed", type=int, default=0, help="seed of all configurations")
    parser.add_argument("--processes", type=int, default=2, help="number of processes")
    parser.add_argument(
        "--log", type=pathlib.Path, help="file that stores outcomes, to resume from"
    )
    parser.add_argument("--only", type=int, help="the number of one configuration")
    parser.add_argument("--work", type=int, nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.seed, given.work)
    elif given.only is not None:
        print(reproduce(given.seed, given.only))
        print(*run(given.seed, given.only))
    else:
        counts = try_all(given.count, given.seed, given.processes, given.log)
        sys.exit(bool(counts["crashed"]))


if __name__ == "__main__":
    main()
