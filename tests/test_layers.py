"""Imports between folders point down, and the files of the build follow them."""

import ast

import pytest

from tools import layers, write_build

pytestmark = pytest.mark.quick

FOLDERS = sorted(layers.HEIGHT, key=lambda folder: layers.HEIGHT[folder])
CORE = ("base", "bounds", "inference")
# Modules that need a network, or that build one.
NETWORKS = ("keras.layers", "keras.models", "keras.Model", "keras.Sequential", "tensorflow.keras")


def test_every_folder_has_a_layer():
    folders = {path.parent.name for path in (layers.ROOT / "hvi_tf").glob("*/__init__.py")}
    assert folders == set(FOLDERS) - {"base"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_down(folder):
    assert layers.upward_imports(folder) == []


def test_bounds_import_only_base():
    assert layers.folder_imports("bounds").keys() <= {"base"}
    names = {name for pairs in layers.folder_imports("bounds").values() for _, name in pairs}
    assert names <= {"hvi_tf.errors", "hvi_tf.arguments", "hvi_tf.randomness"}


@pytest.mark.parametrize("folder", CORE)
def test_core_knows_no_network_and_no_configuration(folder):
    assert layers.folder_imports(folder).keys() <= set(CORE)
    paths = [path for name, path in layers.modules().items() if layers.folder_of(name) == folder]
    uses = {
        (path.name, name)
        for path in paths
        for name in (*layers.imported_names(path), *attributes(path))
        if name.startswith(NETWORKS)
    }
    assert uses == set()


def attributes(path):
    """Returns dotted names that a file looks up, such as `keras.layers`."""
    nodes = ast.walk(layers.syntax_tree(path))
    return {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}


def test_only_commands_define_flags():
    defining = {name for name, path in layers.modules().items() if layers.uses_flags(path)}
    assert {n for n in defining if layers.folder_of(n) != "cli"} <= layers.COMMAND_MODULES


def test_commands_are_listed():
    running = {name for name, path in layers.modules().items() if layers.runs_as_main(path)}
    examples = {name for name in running if layers.folder_of(name) == "examples"}
    assert running - examples == set(layers.COMMANDS)
    assert layers.modules().keys() >= layers.COMMAND_MODULES


def test_no_library_imports_a_command():
    importing = {
        (module, command)
        for module in layers.modules().keys() - layers.COMMAND_MODULES
        for command in layers.imports(module) & layers.COMMAND_MODULES
    }
    assert importing == set()


def test_folders_are_few():
    """A newcomer reads `ls hvi_tf` at one glance."""
    files = [path for path in (layers.ROOT / "hvi_tf").iterdir() if path.is_file()]
    assert len([path for path in files if path.name != "BUILD"]) <= 10


def test_no_test_imports_a_test():
    importing = {
        (name, test)
        for name, path in layers.modules("tests").items()
        for test in layers.imported_tests(path)
    }
    assert importing == set()


def test_build_files_follow_the_sources():
    assert write_build.outdated() == []
    texts = write_build.build_files().values()
    assert sum(text.count("\n") for text in texts) < 900
