"""No file of this repository turns data into code, or an argument into a command of a shell.

Files are opened, read and written in few places, which check what they open.
"""

import pathlib
import re

import pytest

from tests.oracles.unsafe_code import careless_lines, violations

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("hvi_tf", "launch", "tests", "tools")

# Where a banned name is allowed, and the reason. A place is a file, or a folder with all below.
ALLOWED = {
    ("hvi_tf/evaluation/saved_model.py", "tensorflow.saved_model.load"): "see its docstring",
    ("hvi_tf/evaluation/", "hvi_tf.evaluation.saved_model.load"): "the folder that a flag names",
    ("hvi_tf/__init__.py", "importlib.import_module"): "modules of the package, by name",
    ("hvi_tf/experiments/harness/", "importlib.import_module"): "experiments of the package",
    ("hvi_tf/storage/", "zipfile"): "reads members into memory and extracts none",
    # Only a process and its children exchange pickles, over their own pipe. None is stored.
    ("hvi_tf/benchmark/memory.py", "multiprocessing"): "children of this process",
    ("hvi_tf/benchmark/peers/compare.py", "multiprocessing"): "children of this process",
    ("tests/benchmark/", "importlib.import_module"): "modules of this repository",
    ("tests/cli/", "importlib.util.spec_from"): "launch/sweep.py, which is not a module",
    ("tests/cli/", "exec_module"): "launch/sweep.py, which is not a module",
    ("tests/docs/", "exec"): "the code of the documentation",
    ("tests/docs/", "compile"): "the code of the documentation",
    ("tests/models/", "tensorflow.saved_model.load"): "exports that the test wrote",
    ("tests/training/", "tensorflow.saved_model.load"): "an export that the test wrote",
    ("tests/faults/", "tarfile"): "writes hostile archives",
    ("tests/faults/", "zipfile"): "writes archives with false sizes, and hostile ones",
    ("tests/faults/", "extract"): "runs the extractor of TFDS in a folder of the test",
}


def python_files(*folders):
    """Returns the Python files of some folders, by path relative to the root."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def is_in(path, place):
    """Returns whether a path is a file, or below a folder, whose name ends with a slash."""
    return path.startswith(place) if place.endswith("/") else path == place


def test_no_file_turns_data_into_code():
    files = python_files(*FOLDERS)
    assert len(files) > 150
    uses = {(path, name) for path, source in files.items() for name in violations(source)}
    reasons = {
        use: [key for key in ALLOWED if is_in(use[0], key[0]) and use[1] == key[1]] for use in uses
    }
    assert {use for use, keys in reasons.items() if not keys} == set()
    unused = ALLOWED.keys() - {key for keys in reasons.values() for key in keys}
    assert unused == set()  # an exception that nothing needs is removed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import dill as d",
        "import joblib",
        "import shelve",
        "import marshal",
        "import yaml",
        "from yaml import safe_load",
        "import multiprocessing.pool",
        "from concurrent.futures import ProcessPoolExecutor",
        "import concurrent\nconcurrent.futures.ProcessPoolExecutor(2)",
        "import tarfile",
        "import numpy as np\nnp.load(f)",
        "import numpy\nnumpy.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, allow_pickle=flag)",
        "import numpy as np\nf(np.load)",
        "from numpy import load\nload(f)",
        "import numpy as n\nn.load(f, None, True)",
        "import numpy as np\nnp.lib.format.read_array(f)",
        "format.read_array(f, True)",
        "from numpy.lib.format import read_array as r\nr(f)",
        "eval(s)",
        "f = exec",
        "__import__(s)",
        "compile(s, '', 'exec')",
        "import builtins",
        "import os\nos.system(s)",
        "from os import popen",
        "import os as o\no.execvp(a, b)",
        "import subprocess as s\ns.getoutput(c)",
        "import subprocess\nsubprocess.run(c, shell=True)",
        "from subprocess import Popen\nPopen('a b')",
        "import subprocess\nsubprocess.run(f'a {b}')",
        "import subprocess\nsubprocess.run('a' + b)",
        "import subprocess\nsubprocess.run(' '.join(c))",
        "import subprocess\nsubprocess.run(args='a')",
        "import subprocess\nsubprocess.run(c, shell=flag)",
        "import asyncio\nasyncio.create_subprocess_shell(c)",
        "archive.extractall(p)",
        "archive.extract(m)",
        "import shutil\nshutil.unpack_archive(p)",
        "from shutil import unpack_archive as u",
        "import zipfile",
        "keras.models.load_model(p)",
        "from keras.models import load_model",
        "keras.layers.Lambda(f)",
        "from keras.layers import Lambda",
        "keras.config.enable_unsafe_deserialization()",
        "import ctypes",
        "import torch\ntorch.load(p)",
        "import torch\ntorch.jit.load(p)",
        "import importlib\nimportlib.import_module(s)",
        "from importlib import import_module",
        "import runpy\nrunpy.run_path(p)",
        "spec.loader.exec_module(m)",
        "import keras\nkeras.models.model_from_json(s)",
        "from hvi_tf.evaluation import saved_model\nsaved_model.load(p, 784)",
        "import tensorflow as tf\ntf.saved_model.load(p)",
        "from tensorflow import saved_model\nsaved_model.load(p)",
        "import tensorflow as tf\ntf.compat.v1.saved_model.loader.load(s, t, p)",
        "from tensorflow.saved_model import load",
        "tf.saved_model.load_v2(p)",
        "tf.py_function(f, a, t)",
        "tf.numpy_function(f, a, t)",
        "tf.load_op_library(p)",
        "tf.graph_util.import_graph_def(g)",
        "def f():\n    if x:\n        import pickle",
    ],
)
def test_checker_refuses(source):
    assert violations(source)


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile(s)",
        "model.compile(optimizer)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', code], check=True)",
        "import subprocess\nsubprocess.Popen(command, shell=False)",
        "import concurrent.futures\nconcurrent.futures.ThreadPoolExecutor(2)",
        "import tensorflow as tf\ntf.saved_model.save(m, p)",
        "import json, os\njson.loads(s)\nos.replace(a, b)",
    ],
)
def test_checker_accepts(source):
    assert not violations(source)


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        # For text that nests too deeply `json` raises no ValueError, but a RecursionError.
        (r"json\.load", {"hvi_tf/config/strict_json.py"}),
        # `storage` writes whole files, locks, and logs that grow. Messages of
        # the start of TensorFlow is read through a pipe.
        (
            r"write_text|write_bytes|fdopen|open\([^)]*[\"'][rb]*[wax+]|savefig\((?!buffer)",
            {"hvi_tf/storage/", "hvi_tf/runtime/startup.py"},
        ),
        # A FIFO or /dev/zero would never end, so `storage` checks what it opens. `runtime` reads
        # files of the kernel in /proc.
        (
            r"(?<!files)\.read_(text|bytes)\(|(?<!\w)open\(",
            {"hvi_tf/storage/", "hvi_tf/runtime/", "hvi_tf/cli/", "launch/sweep.py"},
        ),
        # Libraries that open a path themselves, after `files.check_regular` or a similar check.
        (
            r"TFRecordDataset\(|load_checkpoint\(|EventAccumulator\(|io\.(loadmat|whosmat)\(|"
            r"tfds\.builder\(|saved_model\.load\(|ZipFile\(|np\.(load|fromfile|loadtxt|memmap)\(",
            {
                *("hvi_tf/storage/", "hvi_tf/data/", "hvi_tf/training/"),
                *("hvi_tf/experiments/harness/trained.py", "hvi_tf/evaluation/saved_model.py"),
            },
        ),
    ],
    ids=["JSON is parsed", "files are written", "files are opened", "libraries open files"],
)
def test_where(pattern, places):
    files = python_files("hvi_tf", "launch")
    matching = {path for path, source in files.items() if re.search(pattern, source)}
    assert {path for path in matching if not any(is_in(path, place) for place in places)} == set()
    assert {place for place in places if not any(is_in(path, place) for path in matching)} == set()


SCRIPTS = sorted(p for p in (ROOT / "launch").iterdir() if p.suffix in (".sh", ".sbatch"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_no_script_runs_text(path):
    assert careless_lines(path.read_text()) == []


def test_all_scripts_are_checked():
    names = {path.name for path in SCRIPTS}
    assert names == {"local.sh", "long_runs.sh", "multiworker_local.sh", "slurm.sbatch"}


@pytest.mark.parametrize(
    "line",
    ["eval $x", "python $@", "a; eval b", 'bash -c "$x"', "x=`date`", 'python "$*"', ". ./file"],
)
def test_checker_of_scripts_refuses(line):
    assert careless_lines(f"set -e\n{line}\n")
