"""What no file of this repository does: let data become code, or an argument a command.

A checker of syntax trees against slips, not against an author who means harm.
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Modules that make objects, and so code, of bytes, or write to paths that an archive names.
MODULES = (
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "shelve"),
    *("marshal", "yaml", "ruamel", "pandas", "tarfile", "zipfile", "builtins", "ctypes"),
    *("multiprocessing", "concurrent.futures.process", "concurrent.futures.ProcessPoolExecutor"),
    *("os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "pty", "subprocess.get"),
    *("torch.load", "torch.hub", "torch.jit", "tensorflow.train.import_meta_graph"),
    *(
        "importlib.import_module",
        "importlib.util.spec_from",
        "runpy",
        "hvi_tf.evaluation.saved_model.load",
    ),
)
BUILTINS = ("eval", "exec", "compile", "__import__")
# Names that are banned whatever they are looked up in.
ENDINGS = (
    *("extractall", "extract", "unpack_archive", "load_model", "enable_unsafe_deserialization"),
    *("deserialize_keras_object", "Lambda", "py_function", "numpy_function", "py_func"),
    *("load_op_library", "load_library", "import_graph_def", "create_subprocess_shell"),
    *("model_from_json", "model_from_config", "TFSMLayer", "exec_module"),
    *("saved_model.load", "saved_model.load_v2", "loader.load", "loader_impl.load"),
)
# Readers of NumPy's files, which must say that they make no objects.
READERS = ("numpy.load", "format.read_array")
PROCESSES = tuple(
    f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")
)

# What is allowed where, and why.
ALLOWED = {
    (
        "hvi_tf/evaluation/saved_model.py",
        "tensorflow.saved_model.load",
    ): "the one place, see its docstring",
    (
        "hvi_tf/evaluation/by_saved_model.py",
        "hvi_tf.evaluation.saved_model.load",
    ): "what flags have named",
    ("hvi_tf/__init__.py", "importlib.import_module"): "its own modules, by name",
    ("hvi_tf/experiments/harness/catalogue.py", "importlib.import_module"): "its own experiments",
    ("hvi_tf/storage/files.py", "zipfile"): "reads members into memory, extracts none",
    # Pickles between a process and the children that it has started itself, over their own
    # pipe: nobody else writes to it, and nothing of it is kept.
    ("hvi_tf/benchmark/memory.py", "multiprocessing"): "its own children",
    ("hvi_tf/benchmark/peers/compare.py", "multiprocessing"): "its own children",
    ("tests/benchmark/test_peers.py", "importlib.import_module"): "modules of this repository",
    ("tests/cli/test_launch.py", "importlib.util.spec_from"): "launch/sweep.py, which is no module",
    ("tests/cli/test_launch.py", "exec_module"): "launch/sweep.py, which is no module",
    ("tests/docs/test_pages.py", "exec"): "the code of the documentation",
    ("tests/docs/test_pages.py", "compile"): "the code of the documentation",
    ("tests/models/test_export.py", "tensorflow.saved_model.load"): "exports that it has made",
    ("tests/training/test_levers.py", "tensorflow.saved_model.load"): "an export that it has made",
    ("tests/faults/test_hostile.py", "tarfile"): "writes hostile archives",
    ("tests/faults/test_damaged_files.py", "zipfile"): "makes archives whose sizes lie",
    ("tests/faults/test_hostile.py", "zipfile"): "writes hostile archives",
    ("tests/faults/test_hostile.py", "extract"): "asks TFDS's extractor to, into a test's folder",
}


def violations(source):
    """The names of all that a file does of it."""
    tree = ast.parse(source)
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    found = {banned(name) for name in (*imported, *aliases.values())}
    calls = {id(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            found |= of_name(dotted(node, aliases), calls.get(id(node)))
    return found - {None}


def dotted(node, aliases):
    """`np.load` as `numpy.load`; what is looked up in an expression begins with a dot."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, aliases)}.{node.attr}"
    return aliases.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def of_name(name, call):
    found = {banned(name), name if name in BUILTINS else None}
    keywords = {k.arg: k.value for k in call.keywords} if call else {}
    if name.endswith(READERS) and not is_constant(keywords.get("allow_pickle"), False):
        found.add(name)
    if name.endswith(PROCESSES) and call:
        shell = keywords.get("shell")
        words = call.args[0] if call.args else keywords.get("args")
        if (shell is not None and not is_constant(shell, False)) or is_text(words):
            found.add(name)
    return found


def banned(name):
    for module in MODULES:
        prefix = module in ("os.exec", "os.spawn", "subprocess.get", "importlib.util.spec_from")
        if name == module or name.startswith(module if prefix else f"{module}."):
            return module
    endings = [e for e in ENDINGS if name == e or name.endswith(f".{e}")]
    return (name if "." in endings[0] else endings[0]) if endings else None


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def is_text(node):
    """Whether the command is a string, which would be for a shell."""
    if isinstance(node, ast.BinOp):
        return is_text(node.left) or is_text(node.right)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "format")
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_no_file_makes_code_of_data():
    files = [p for f in ("hvi_tf", "launch", "tests") for p in sorted((ROOT / f).rglob("*.py"))]
    assert len(files) > 150
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in files
        for name in violations(path.read_text())
    }
    assert found - ALLOWED.keys() == set()
    assert ALLOWED.keys() - found == set()  # what is allowed is still needed


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
        "from hvi_tf.evaluation import saved_model as s\ns.load(p, 784)",
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
def test_the_checker_refuses(source):
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
def test_the_checker_lets_through(source):
    assert not violations(source)


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        # `json` itself raises no `ValueError` of a stranger's text that nests too deeply.
        (r"json\.load", {"files.py"}),
        # Whole files are written in one place; a lock and a log of epochs are written on.
        (
            r"write_text|write_bytes|fdopen|open\([^)]*[\"'][rb]*[wax+]|savefig\((?!buffer)",
            {"files.py", "locks.py", "main.py"},  # the last to /dev/null
        ),
        # A FIFO would never end, nor /dev/zero: what opens looks first. A command opens /dev/null.
        (
            r"(?<!files)\.read_(text|bytes)\(|(?<!\w)open\(",
            {"files.py", "locks.py", "main.py", "command_line.py", "launch/sweep.py"},
        ),
        # Libraries that open a path themselves, after `files.check_regular` or such.
        (
            r"TFRecordDataset\(|load_checkpoint\(|EventAccumulator\(|io\.(loadmat|whosmat)\(|"
            r"tfds\.builder\(|saved_model\.load\(|ZipFile\(|np\.(load|fromfile|loadtxt|memmap)\(",
            {
                *("files.py", "training/event_files.py", "training/checkpoints.py"),
                *("experiments/trained.py", "data/omniglot/chardata.py", "data/datasets.py"),
                "saved_models.py",
            },
        ),
    ],
    ids=["JSON is parsed", "files are written", "files are opened", "libraries open files"],
)
def test_where(pattern, allowed):
    found = {
        path.relative_to(ROOT).as_posix().removeprefix("hvi_tf/")
        for folder in ("hvi_tf", "launch")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(pattern, path.read_text())
    }
    assert found == allowed


SCRIPTS = sorted(p for p in (ROOT / "launch").iterdir() if p.suffix in (".sh", ".sbatch"))


def careless(script):
    """Lines of a shell script that run text, or that split or expand an argument."""
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("#")]
    banned = r'(^|[\s;&|(])(eval|source|\.)\s|\b(ba)?sh\s+-c\b|(?<!")\$[@*]|`|xargs|"[^"]*\$\*'
    return [line for line in lines if re.search(banned, line)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_no_script_runs_text(path):
    assert len(SCRIPTS) == 4
    assert not careless(path.read_text())


@pytest.mark.parametrize(
    "line",
    ["eval $x", "python $@", "a; eval b", 'bash -c "$x"', "x=`date`", 'python "$*"', ". ./file"],
)
def test_the_scripts_checker_refuses(line):
    assert careless(f"set -e\n{line}\n")
