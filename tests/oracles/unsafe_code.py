"""Finds calls that turn data into code, or an argument into a command of a shell.

The checks read syntax trees. They catch slips; they do not stop an author who means harm.
"""

import ast
import re

# Modules that build objects from bytes, or write to paths that an archive names.
MODULES = (
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "shelve"),
    *("marshal", "yaml", "ruamel", "pandas", "tarfile", "zipfile", "builtins", "ctypes"),
    *("multiprocessing", "concurrent.futures.process", "concurrent.futures.ProcessPoolExecutor"),
    *("os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "pty", "subprocess.get"),
    *("torch.load", "torch.hub", "torch.jit", "tensorflow.train.import_meta_graph"),
    *("importlib.import_module", "importlib.util.spec_from", "runpy"),
    "hvi_tf.evaluation.saved_model.load",
)
PREFIXES = ("os.exec", "os.spawn", "subprocess.get", "importlib.util.spec_from")
BUILTINS = ("eval", "exec", "compile", "__import__")
# Names that are banned in every object.
ENDINGS = (
    *("extractall", "extract", "unpack_archive", "load_model", "enable_unsafe_deserialization"),
    *("deserialize_keras_object", "Lambda", "py_function", "numpy_function", "py_func"),
    *("load_op_library", "load_library", "import_graph_def", "create_subprocess_shell"),
    *("model_from_json", "model_from_config", "TFSMLayer", "exec_module"),
    *("saved_model.load", "saved_model.load_v2", "loader.load", "loader_impl.load"),
)
# Readers of NumPy's files, which must pass `allow_pickle=False`.
READERS = ("numpy.load", "format.read_array")
PROCESSES = tuple(
    f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")
)


def violations(source):
    """Returns the banned names that a Python source uses."""
    tree = ast.parse(source)
    aliases, imported = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.split(".")[0]
                aliases[alias.asname or name] = name
                imported.append(alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    names = {banned(name) for name in (*imported, *aliases.values())}
    calls = {id(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            names |= violations_of_name(dotted(node, aliases), calls.get(id(node)))
    return names - {None}


def dotted(node, aliases):
    """Returns `np.load` as "numpy.load"; an attribute of an expression begins with a dot."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, aliases)}.{node.attr}"
    return aliases.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def violations_of_name(name, call):
    """Returns the banned names in a dotted name, and in the call of it, if there is one."""
    names = {banned(name), name if name in BUILTINS else None}
    keywords = {k.arg: k.value for k in call.keywords} if call else {}
    if name.endswith(READERS) and not is_constant(keywords.get("allow_pickle"), False):
        names.add(name)
    if name.endswith(PROCESSES) and call:
        shell = keywords.get("shell")
        words = call.args[0] if call.args else keywords.get("args")
        if (shell is not None and not is_constant(shell, False)) or is_text(words):
            names.add(name)
    return names


def banned(name):
    """Returns the banned module or ending that a dotted name has, or None."""
    for module in MODULES:
        prefix = module if module in PREFIXES else f"{module}."
        if name == module or name.startswith(prefix):
            return module
    endings = [e for e in ENDINGS if name == e or name.endswith(f".{e}")]
    return (name if "." in endings[0] else endings[0]) if endings else None


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def is_text(node):
    """Returns whether a command is a string, which only a shell would split."""
    if isinstance(node, ast.BinOp):
        return is_text(node.left) or is_text(node.right)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "format")
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def careless_lines(script):
    """Returns the lines of a shell script that run text, or that split or expand an argument."""
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("#")]
    pattern = r'(^|[\s;&|(])(eval|source|\.)\s|\b(ba)?sh\s+-c\b|(?<!")\$[@*]|`|xargs|"[^"]*\$\*'
    return [line for line in lines if re.search(pattern, line)]
