"""Prints digests of weights and scores, to show that a change keeps them bit for bit.

    python tools/fingerprint.py --out=FOLDER [--against=FOLDER]

Trains ten steps of MNIST from seed 0 for each configuration below, and scores the first 20 test
images with the last weights. FOLDER/digests.json then contains a SHA-256 digest of every weight
and of every score of an image. `--checkpoints=FOLDER2` also scores the runs that an earlier
version of the code stored in FOLDER2. With `--against` the digests are compared with those of
another folder, and the exit status is 1 if one differs.

TensorFlow adds gradients in the order in which threads finish, and its graph optimizer groups
operations by the shape of the whole graph. Both change last digits. So each run has one
thread and no graph optimizer.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

COMMON = ["--dataset=mnist", "--epochs=1", "--max_steps=10", "--batch_size=50", "--jit_compile=off"]
SCORES = ["--eval_images=20", "--eval_M=5"]
SMALL = ["--hidden=32,32", "--latent_dim=8"]
HIERARCHICAL = ["--aux_dim=8"]
CONFIGURATIONS = {
    "iwhvi": ["--bound=iwhvi", "--K=5", *HIERARCHICAL],
    "diwhvi": ["--bound=diwhvi", "--K=5", "--M=3", *HIERARCHICAL],
    "sivi-equicomp": ["--bound=sivi-equicomp", "--K=5", "--M=3", *HIERARCHICAL],
    "mixture": ["--bound=diwhvi-mixture", "--K=5", "--M=3", *HIERARCHICAL],
    "dsivi": [
        "--bound=dsivi",
        "--K=5",
        "--L=3",
        "--prior=hierarchical",
        "--prior_dim=8",
        *HIERARCHICAL,
    ],
    "bsvi": ["--bound=bsvi", "--svi_steps=3"],
    "bsvi-hierarchical": [
        "--bound=bsvi",
        "--svi_steps=3",
        "--posterior=hierarchical",
        *HIERARCHICAL,
    ],
    "backward-samples": ["--bound=diwhvi", "--K=5", "--M=5", "--backward_samples=2", *HIERARCHICAL],
}
START = """
import runpy, sys
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
sys.argv[0] = "hvi_tf.main"
runpy.run_module("hvi_tf.main", run_name="__main__", alter_sys=True)
"""


def hvi(*flags: str) -> None:
    """Runs the command with one thread; its output goes to a log and is printed on failure."""
    done = subprocess.run([sys.executable, "-c", START, *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(flags)} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")


def digest(*parts: bytes) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 digest of all parts."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def weights(workdir: pathlib.Path) -> dict[str, str]:
    """Digests of all that the latest checkpoint stores, by name."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(workdir / "checkpoints")))
    digests = {}
    for name in reader.get_variable_to_shape_map():
        if "VARIABLE_VALUE" in name:
            digests[f"weights {name}"] = digest(reader.get_tensor(name).tobytes())
    return digests


def scores(workdir: pathlib.Path) -> dict[str, str]:
    """Digests of the arrays of scores by image, without the times."""
    import numpy as np

    digests = {}
    for path in sorted(workdir.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            for name in sorted(set(arrays.files) - {"seconds"}):
                digests[f"scores {name}"] = digest(arrays[name].tobytes())
    return digests


def main() -> None:
    """Trains and scores the configurations; stores, prints and compares the digests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--against", type=pathlib.Path)
    parser.add_argument("--checkpoints", type=pathlib.Path)
    parser.add_argument("--only", default=",".join(CONFIGURATIONS))
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    arguments.out.mkdir(parents=True, exist_ok=True)
    stored = arguments.out / "digests.json"
    digests = json.loads(stored.read_text()) if stored.exists() else {}
    for name in arguments.only.split(","):
        if name in digests:
            continue
        workdir = arguments.out / name
        shutil.rmtree(workdir, ignore_errors=True)
        hvi(*COMMON, *SMALL, *SCORES, *CONFIGURATIONS[name], f"--workdir={workdir}")
        digests[name] = weights(workdir) | scores(workdir)
        if arguments.checkpoints:
            copy = arguments.out / f"stored-{name}"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(arguments.checkpoints / name, copy)
            for path in copy.rglob("*.npz"):
                path.unlink()
            hvi("--mode=evaluate", *SCORES, f"--workdir={copy}")
            digests[f"stored {name}"] = scores(copy)
        stored.write_text(json.dumps(digests, indent=1, sort_keys=True))
        print(name, len(digests[name]), "digests", flush=True)
    if arguments.against:
        before = json.loads((arguments.against / "digests.json").read_text())
        differing = 0
        for name, values in digests.items():
            earlier = before[name.removeprefix("stored ")]
            keys = [key for key in values if key in earlier]
            wrong = [key for key in keys if values[key] != earlier[key]]
            differing += len(wrong) + (not keys)
            print(f"{name}: {len(keys) - len(wrong)} of {len(keys)} digests identical", *wrong[:5])
        sys.exit(differing > 0)


if __name__ == "__main__":
    main()
