"""Writes the BUILD files: one per folder, with the dependencies that its imports need.

    python -m tools.write_build [--check]

With `--check` nothing is written; the exit status is 1 if a file would change.

A library holds the modules of a folder except its commands, and only higher folders may depend
on it. TensorFlow and the other packages come from the Python that Bazel runs. Bazel 7 and later
take the rules from MODULE.bazel. For older versions WORKSPACE names Bazel's own rules.

Verified with Bazel 4.2.3 without a network: `bazel query //...`, `bazel build //...`, `bazel test
//tests:test_source //tests/bounds:test_jackknife`, and that Bazel refuses a library of `data` that
depends on `models`. Stubs replaced the repositories that this version downloads (rules_cc,
rules_java, rules_proto, remote_coverage_tools). MODULE.bazel is not verified.
"""

import argparse
import ast
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence

from tools import layers
from tools.layers import COMMAND_MODULES, COMMANDS, HEIGHT, PACKAGE, ROOT

RULES = "@rules_python//python:defs.bzl"
MACRO = "//tests:pytest.bzl"
TESTS = "//tests:__subpackages__"

# Files outside of a folder that its tests read.
TEST_DATA = {
    "benchmark": ["//:docs"],
    "cli": ["//:docs", "//:flags", "//:launch"],
    "docs": ["//:docs"],
    "experiments": ["//:docs", "//:flags", "//:pyproject.toml"],
    "faults": ["//:docs"],
    "oracles": ["//:docs"],
    "runtime": ["//:launch"],
}
# Libraries that the tests of a folder use in code that they read from pages.
TEST_DEPENDENCIES = {"docs": {"//hvi_tf", "//hvi_tf/cli"}}


class Expression(str):
    """An expression of Starlark, which is written without quotes."""


def rule(kind: str, **attributes: str | Sequence[str]) -> str:
    """Returns the call of a rule or macro, without its empty attributes."""
    lines = [f"    {name} = {value(entry)},\n" for name, entry in attributes.items() if entry]
    return f"{kind}(\n{''.join(lines)})\n"


def value(entry: str | Sequence[str]) -> str:
    """Returns an attribute's value; a list of several entries takes a line for each."""
    if isinstance(entry, Expression):
        return entry
    if isinstance(entry, str):
        return f'"{entry}"'
    if len(entry) < 2:
        return f"[{', '.join(map(value, entry))}]"
    return "[\n" + "".join(f"        {value(item)},\n" for item in entry) + "    ]"


def glob(include: Sequence[str], exclude: Sequence[str] = ()) -> Expression:
    """Returns a call of `glob`."""
    patterns = [f"[{', '.join(map(value, names))}]" for names in (include, exclude) if names]
    return Expression(f"glob({', exclude = '.join(patterns)})")


def load(file: str, *names: str) -> str:
    """Returns the statement that loads names from a file."""
    return f"load({', '.join(map(value, [file, *sorted(names)]))})\n"


def build_file(path: str, *statements: str) -> str:
    """Returns the text of a BUILD file."""
    header = f'"""Targets of {path}. Written by `python -m tools.write_build`."""\n'
    return "\n".join([header, *statements])


def label(module: str) -> str:
    """Returns the label of the library that holds a module of the package."""
    folder = layers.folder_of(module)
    place = f"//{PACKAGE}" if folder == "base" else f"//{PACKAGE}/{folder}"
    if module in COMMAND_MODULES:
        return f"{place}:commands"
    return f"{place}:base" if folder == "base" and module != PACKAGE else place


def dependencies(names: Iterable[str], own: str = "") -> list[str]:
    """Returns the labels of the libraries that hold some modules, without a library's own."""
    return sorted({f"//{PACKAGE}:base", *map(label, names)} - {own})


def imported(modules: Iterable[str], with_main_block: bool = False) -> set[str]:
    """Returns all that some modules import of the package."""
    return {name for module in modules for name in layers.imports(module, with_main_block)}


def modules_in(folder: str) -> list[str]:
    """Returns the modules of a folder, commands included."""
    return [name for name in layers.modules() if layers.folder_of(name) == folder]


def source(module: str, folder: str) -> str:
    """Returns the path of a module relative to its folder."""
    place = ROOT / PACKAGE if folder == "base" else ROOT / PACKAGE / folder
    return layers.modules()[module].relative_to(place).as_posix()


def visibility(folder: str) -> list[str]:
    """Returns the packages that may depend on a folder: those of higher layers, and tests.

    A command may use `cli`, which is above the folder that the command is in.
    """
    above = {name for name in HEIGHT if HEIGHT[name] > HEIGHT[folder]}
    if folder == "cli":
        above |= {layers.folder_of(name) for name in layers.modules() if runs(name)} - {"base"}
    return [
        f"//{PACKAGE}:__pkg__",
        *(f"//{PACKAGE}/{name}:__pkg__" for name in sorted(above)),
        TESTS,
    ]


def runs(module: str) -> bool:
    """Returns whether `python -m` runs a module."""
    return layers.runs_as_main(layers.modules()[module])


def commands_of(folder: str) -> list[str]:
    """Returns the library of a folder's commands, if it has some, and a binary for each."""
    modules = modules_in(folder)
    commands = [name for name in modules if name in COMMAND_MODULES]
    statements = []
    if commands:
        statements.append(
            rule(
                "py_library",
                name="commands",
                srcs=[source(name, folder) for name in commands],
                visibility=[TESTS],
                deps=dependencies(imported(commands, with_main_block=True), label(commands[0])),
            )
        )
    for name in filter(runs, modules):
        path, stem = source(name, folder), name.rsplit(".", 1)[-1]
        main_block = dependencies({name, *layers.imports(name, with_main_block=True)})
        statements.append(
            rule(
                "py_binary",
                name=f"{folder}_main" if stem == "__main__" else stem,
                srcs=[path],
                main="" if path == f"{stem}.py" != "__main__.py" else path,
                deps=[label(name)] if name in COMMANDS else main_block,
            )
        )
    return statements


def package_build(folder: str) -> str:
    """Returns the BUILD file of a folder of the package."""
    modules = modules_in(folder)
    commands = [name for name in modules if name in COMMAND_MODULES]
    library = [name for name in modules if name not in COMMAND_MODULES]
    library_rule = rule(
        "py_library",
        name=folder,
        srcs=glob(["**/*.py"], [source(name, folder) for name in commands]),
        data=package_data(folder),
        visibility=visibility(folder),
        deps=dependencies(imported(library), f"//{PACKAGE}/{folder}"),
    )
    statements = [library_rule, *commands_of(folder)]
    names = {"py_library"} | ({"py_binary"} if any(map(runs, modules)) else set())
    return build_file(f"{PACKAGE}/{folder}", load(RULES, *names), *statements)


def package_data(folder: str) -> Expression | list[str]:
    """Returns the files that the modules of a folder read, also behind links to folders."""
    walk = os.walk(ROOT / PACKAGE / folder, followlinks=True)
    suffixes = {pathlib.Path(name).suffix for _, _, names in walk for name in names}
    suffixes -= {".py", ".pyc", ""}
    return glob([f"**/*{suffix}" for suffix in sorted(suffixes)]) if suffixes else []


def base_build() -> str:
    """Returns the BUILD file of `hvi_tf` itself: the base, the public names and the doors."""
    doors = [source(name, "base") for name in modules_in("base") if name in COMMANDS]
    folders = [f"{PACKAGE}.{folder}" for folder in layers.front_door_folders()]
    return build_file(
        PACKAGE,
        load(RULES, "py_binary", "py_library"),
        rule(
            "py_library",
            name="base",
            srcs=glob(["*.py"], doors),
            data=["py.typed"],
            visibility=[f"//{PACKAGE}:__subpackages__", TESTS],
        ),
        rule(
            "py_library",
            name=PACKAGE,
            visibility=["//visibility:public"],
            deps=sorted({":base", *map(label, folders)}),
        ),
        *commands_of("base"),
    )


def tests_build(folder: pathlib.Path) -> str:
    """Returns the BUILD file of `tests` or of a folder of it."""
    place = folder.relative_to(ROOT).as_posix()
    paths = sorted(folder.glob("*.py"))
    tests = [path for path in paths if path.name.startswith("test_")]
    shared = [path for path in paths if path not in tests]
    data = TEST_DATA.get(folder.name, [])
    statements = []
    if shared:
        statements.append(
            rule(
                "py_library",
                name=folder.name,
                testonly=Expression("True"),
                srcs=glob(["*.py"], ["test_*.py"]),
                data=[] if tests else data,
                visibility=[TESTS],
                deps=sorted(dependencies_of_files(shared) - {f"//{place}"}),
            )
        )
    if tests:
        own = TEST_DEPENDENCIES.get(folder.name, set()) | ({f"//{place}"} if shared else set())
        deps = sorted((dependencies_of_files(tests) | own) - {"//tests"})
        statements.append(rule("pytest_tests", data=data, deps=deps))
    loads = [load(MACRO, "pytest_tests")] if tests else []
    loads += [load(RULES, "py_library")] if shared else []
    main = ['exports_files(["bazel_main.py"])\n'] if place == "tests" else []
    return build_file(place, "".join(sorted(loads, reverse=True)), *main, *statements)


def dependencies_of_files(paths: Iterable[pathlib.Path]) -> set[str]:
    """Returns the labels of what some files below `tests` import, or start as a command."""
    names: set[str] = set()
    labels: set[str] = set()
    for path in paths:
        imported = layers.imported_names(path, with_main_block=True)
        names |= (imported & layers.modules().keys()) - {PACKAGE}
        names |= {PACKAGE} if layers.imports_front_door(path) else set()
        names |= named_commands(path)
        for helper in (imported & layers.modules("tests").keys()) - layers.imported_tests(path):
            labels.add(f"//{layers.modules('tests')[helper].parent.relative_to(ROOT).as_posix()}")
        labels |= {"//tools"} if any(name.startswith("tools") for name in imported) else set()
    return labels | set(map(label, names))


def named_commands(path: pathlib.Path) -> set[str]:
    """Returns the commands that a file names in a string, as in `python -m hvi_tf.main`."""
    nodes = ast.walk(layers.syntax_tree(path))
    strings = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return {name for name in COMMANDS for text in strings if name.removesuffix(".__main__") == text}


def root_build() -> str:
    """Returns the BUILD file of the repository's root: files that modules and tests read."""
    exported = 'exports_files(["pyproject.toml"])\n'
    visible = [f"//{PACKAGE}:__subpackages__", TESTS]
    groups = {
        "docs": glob(["README.md", "docs/**"], ["docs/_build/**"]),
        "flags": glob(["flags/*.cfg"]),
        "launch": glob(["launch/*"]),
    }
    rules = [rule("filegroup", name=n, srcs=g, visibility=visible) for n, g in groups.items()]
    return build_file("the repository's root", exported, *rules)


def tools_build() -> str:
    """Returns the BUILD file of `tools`."""
    library = rule("py_library", name="tools", srcs=glob(["*.py"]), visibility=[TESTS])
    return build_file("tools", load(RULES, "py_library"), library)


def build_files() -> dict[pathlib.Path, str]:
    """Returns the text of every BUILD file, by path."""
    texts = {ROOT: root_build(), ROOT / PACKAGE: base_build(), ROOT / "tools": tools_build()}
    for folder in HEIGHT:
        if folder != "base":
            texts[ROOT / PACKAGE / folder] = package_build(folder)
    for place in {path.parent for path in layers.modules("tests").values()}:
        texts[place] = tests_build(place)
    return {folder / "BUILD": text for folder, text in texts.items()}


def outdated() -> list[str]:
    """Returns the paths of BUILD files that differ from the sources, or belong to no folder."""
    texts = build_files()
    stored = [p for top in (PACKAGE, "tests", "tools") for p in (ROOT / top).rglob("BUILD")]
    extra = {path for path in stored if (ROOT / "tools/bazel") not in path.parents} - texts.keys()
    differing = {p for p, text in texts.items() if not p.exists() or p.read_text() != text}
    return sorted(path.relative_to(ROOT).as_posix() for path in differing | extra)


def main() -> None:
    """Writes or checks the files."""
    parser = argparse.ArgumentParser(description="Writes the BUILD files.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    paths = outdated()
    if parser.parse_args().check:
        if paths:
            sys.exit(f"outdated: {', '.join(paths)}; run python -m tools.write_build")
        return
    texts = build_files()
    for path in paths:
        if (ROOT / path) in texts:
            (ROOT / path).write_text(texts[ROOT / path])
        else:
            (ROOT / path).unlink()
        print(path)


if __name__ == "__main__":
    main()
