"""The layers of the package, and the imports between its folders.

A module belongs to the folder of `hvi_tf` that it is in, or to `base` if it is in none of
them. A command is a module that runs as `python -m MODULE`, and the body of such a module.
Commands are above all folders.
"""

import ast
import functools
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "hvi_tf"

# From the lowest to the highest. A folder imports folders of lower layers and itself.
LAYERS = (
    ("base",),
    ("bounds",),
    ("inference",),
    ("config",),
    ("runtime",),
    ("storage",),
    ("data", "models"),
    ("training",),
    ("evaluation",),
    ("benchmark", "examples"),
    ("experiments",),
    ("cli",),
)
HEIGHT = {folder: height for height, layer in enumerate(LAYERS) for folder in layer}

# A command, and the module with its body where that is another one outside of `cli`.
COMMANDS = {
    "hvi_tf.main": None,
    "hvi_tf.report": None,
    "hvi_tf.reproduce": None,
    "hvi_tf.benchmark.__main__": None,
    "hvi_tf.experiments.svi_learning_rate": "hvi_tf.experiments.bsvi.svi_learning_rate",
    "hvi_tf.training.replay": None,
}
COMMAND_MODULES = {*COMMANDS, *(body for body in COMMANDS.values() if body)}


def module_name(path: pathlib.Path) -> str:
    """Returns the dotted name of a source file of this repository."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules(package: str = PACKAGE) -> dict[str, pathlib.Path]:
    """Returns the paths of all modules of a package of this repository, by dotted name."""
    return {module_name(path): path for path in sorted((ROOT / package).rglob("*.py"))}


def folder_of(module: str) -> str:
    """Returns the folder of a module of the package, or "base"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / PACKAGE / parts[1]).is_dir() else "base"


@functools.cache
def syntax_tree(path: pathlib.Path) -> ast.Module:
    """Returns the syntax tree of a source file."""
    return ast.parse(path.read_text(), filename=str(path))


def is_main_block(node: ast.AST) -> bool:
    """Returns whether a statement is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def runs_as_main(path: pathlib.Path) -> bool:
    """Returns whether a file has a block that runs only under `python -m`."""
    return any(map(is_main_block, syntax_tree(path).body))


def library_nodes(path: pathlib.Path) -> Iterator[ast.AST]:
    """Yields every syntax node of a file that can run when the file is imported.

    An example or a command may import `cli` in its `if __name__ == "__main__":` block, which
    no other module runs.
    """
    for statement in syntax_tree(path).body:
        if not is_main_block(statement):
            yield from ast.walk(statement)


def imported_names(path: pathlib.Path, with_main_block: bool = False) -> set[str]:
    """Returns the dotted names that a file imports, also inside functions.

    `from a import b` gives both "a" and "a.b", since b may be a module.
    """
    names = set()
    for node in ast.walk(syntax_tree(path)) if with_main_block else library_nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imports(module: str, with_main_block: bool = False) -> set[str]:
    """Returns the modules of the package that one of its modules imports.

    The package itself counts if it is imported under a name, `import hvi_tf as hvi`.
    """
    path = modules()[module]
    names = imported_names(path, with_main_block) & modules().keys()
    if PACKAGE in names and not imports_front_door(path):
        names.remove(PACKAGE)
    return names - {module}


def imports_front_door(path: pathlib.Path) -> bool:
    """Returns whether a file has `import hvi_tf`, with or without another name."""
    nodes = (node for node in ast.walk(syntax_tree(path)) if isinstance(node, ast.Import))
    return any(alias.name == PACKAGE for node in nodes for alias in node.names)


@functools.cache
def front_door_folders() -> frozenset[str]:
    """Returns the folders that `hvi_tf/__init__.py` loads names from."""
    path = modules()[PACKAGE]
    names = imported_names(path) & modules().keys()
    strings = {n.value for n in ast.walk(syntax_tree(path)) if isinstance(n, ast.Constant)}
    named = {name for name in map(str, strings) if name in modules()}
    return frozenset(folder_of(name) for name in names | named if name != PACKAGE)


def folders_of(names: set[str]) -> set[str]:
    """Returns the folders of some modules; the package stands for what it loads names from."""
    folders = {folder_of(name) for name in names if name != PACKAGE}
    return folders | front_door_folders() if PACKAGE in names else folders


def folder_imports(folder: str) -> dict[str, set[tuple[str, str]]]:
    """Returns the other folders that a folder's libraries import, each with pairs of modules.

    Commands are left out.
    """
    imported: dict[str, set[tuple[str, str]]] = {}
    for module in modules():
        if folder_of(module) != folder or module in COMMAND_MODULES or module == PACKAGE:
            continue
        for name in imports(module):
            for target in folders_of({name}) - {folder}:
                imported.setdefault(target, set()).add((module, name))
    return imported


def upward_imports(folder: str) -> list[str]:
    """Returns `MODULE imports MODULE` for every import that does not point down."""
    return sorted(
        f"{module} imports {name}"
        for target, pairs in folder_imports(folder).items()
        if HEIGHT[target] >= HEIGHT[folder]
        for module, name in pairs
    )


def uses_flags(path: pathlib.Path) -> bool:
    """Returns whether a file imports absl's flags."""
    return "absl.flags" in imported_names(path, with_main_block=True)


def imported_tests(path: pathlib.Path) -> set[str]:
    """Returns the test modules that a file below `tests` imports."""
    names = imported_names(path, with_main_block=True)
    return {n for n in names & modules("tests").keys() if n.rsplit(".")[-1].startswith("test_")}
