"""BUILD has a target for every file, whose deps are exactly that file's imports.

`python -m tests.test_build > BUILD` writes it anew after a change of imports.
"""

import ast
import pathlib
import re

import hvi_tf
from hvi_tf.experiments import catalogue

ROOT = pathlib.Path(__file__).resolve().parent.parent

HEADER = '''"""One py_library per module, one py_test per test file.

TensorFlow and the other packages come from the Python that Bazel runs; see
pyproject.toml. The rules are Bazel's own, of Bazel 7 and older.
"""

package(default_visibility = ["//visibility:public"])
'''

# Files that a test reads besides what it imports.
TEST_DATA = {
    "test_build": [
        "BUILD",
        "pyproject.toml",
        'glob(["hvi_tf/**/*.py"])',
        'glob(["tests/**/*.py"])',
    ],
    "test_source": [
        'glob(["hvi_tf/**/*.py"])',
        'glob(["launch/*.py"])',
        'glob(["tests/**/*.py"])',
    ],
    "test_command_line": ['glob(["hvi_tf/**/*.py"])', 'glob(["launch/*"])'],
    "test_launch_arguments": ['glob(["launch/*"])'],
    "test_reliability": ['glob(["docs/*"])'],
    "test_main": ['glob(["flags/*.cfg"])'],
    "test_benchmark": ["docs/benchmark.json"],
    "test_inference": ["README.md"],
    "test_launch": ['glob(["launch/*"])'],
    "test_slurm": ['glob(["launch/*"])', 'glob(["tests/slurm/*"])'],
    "test_report": ["README.md", 'glob(["docs/**"])', 'glob(["flags/**"])'],
}

# Files that a module reads.
MODULE_DATA = {
    "hvi_tf.data.datasets": 'glob(["hvi_tf/data/mnist/*"])',
    "hvi_tf.experiments.published": 'glob(["hvi_tf/experiments/published/*.json"])',
    "hvi_tf.experiments.trained": 'glob(["flags/*.cfg"])',
    "hvi_tf.report": '["hvi_tf/experiments/report.html.jinja"]',
    "tests.stored": 'glob(["docs/results/**"])',
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_modules():
    paths = [*ROOT.glob("hvi_tf/**/*.py"), *ROOT.glob("tests/**/*.py")]
    return {module_name(path): path for path in sorted(paths)}


class WithoutTypeChecking(ast.NodeTransformer):
    def visit_If(self, node):
        return None if getattr(node.test, "id", "") == "TYPE_CHECKING" else node


def imports(path, modules):
    """The modules of this repository that a file imports, and the packages above it.

    `import hvi_tf as hvi` may load all that the package's front door leads to.
    """
    found = set()
    for node in ast.walk(WithoutTypeChecking().visit(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            if any(alias.asname == "hvi" for alias in node.names):
                homes = {*hvi_tf._HOME_OF.values(), *(set(hvi_tf.__all__) - set(hvi_tf._HOME_OF))}
                found |= {f"hvi_tf.{home}" for home in homes}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    name = module_name(path)
    if name == "hvi_tf.experiments.catalogue":  # which imports them by name
        found |= {entry.module for entry in catalogue.ENTRIES.values()}
    found |= {name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)}
    return sorted(found & modules.keys() - {name})


def string_list(indent, values):
    if not values:
        return "[]"
    inner = "".join(f'{indent}    "{value}",\n' for value in values)
    return f"[\n{inner}{indent}]"


def data_expression(entries):
    plain = [e for e in entries if not e.startswith("glob(")]
    globs = [e for e in entries if e.startswith("glob(")]
    return " + ".join([string_list("    ", plain)] * bool(plain) + globs)


def expected_build():
    modules = own_modules()
    targets = []
    for name, path in modules.items():
        file = path.relative_to(ROOT).as_posix()
        deps = [f":{dep}" for dep in imports(path, modules)]
        is_test = path.name.startswith("test_")
        if is_test:
            # The shared fixtures are imported by pytest, not by the file.
            deps = sorted({*deps, ":tests.conftest", ":tests.bazel_main"})
        lines = [f'    name = "{name}",', f'    srcs = ["{file}"],']
        if name.startswith("tests") and not is_test:
            lines.append("    testonly = True,")  # or it may depend on no test
        if is_test:
            lines = [
                f'    name = "{name}",',
                f'    srcs = ["{file}", "tests/bazel_main.py"],',
                '    main = "tests/bazel_main.py",',
                f'    args = ["{file}"],',
                '    size = "large",',
            ]
            data = TEST_DATA.get(path.stem)
            if data:
                lines.append(f"    data = {data_expression(data)},")
            if path.stem in ("test_main", "test_launch", "test_launch_arguments", "test_slurm"):
                deps = sorted({*deps, ":hvi_tf.main"})
        if name in MODULE_DATA:
            lines.append(f"    data = {MODULE_DATA[name]},")
        lines.append(f"    deps = {string_list('    ', deps)},")
        rule = "py_test" if is_test else "py_library"
        targets.append("\n".join([f"{rule}(", *lines, ")"]))
    binary = """py_binary(
    name = "main",
    srcs = ["hvi_tf/main.py"],
    deps = [":hvi_tf.main"],
)"""
    return "\n".join([HEADER, "\n\n".join([*targets, binary])]) + "\n"


def test_targets_are_in_step_with_imports():
    assert (ROOT / "BUILD").read_text() == expected_build()


def test_imports_point_one_way():
    """Bounds, schedules and methods import none; only what is run imports flags."""
    modules = own_modules()
    graph = {name: set(imports(path, modules)) for name, path in modules.items()}

    def outside_package(name):
        anywhere = ("hvi_tf", "hvi_tf.arguments", name.rsplit(".", 1)[0])
        return {d for d in graph[name] if d not in anywhere}

    for module in ("arguments", "bounds", "training.schedules", "methods", "errors"):
        name = f"hvi_tf.{module}"
        assert outside_package(name) == set(), name
    core = {"hvi_tf.bounds", "hvi_tf.methods"}
    assert outside_package("hvi_tf.hierarchy") == {"hvi_tf.bounds"}
    shared = {"hvi_tf.mixtures", "hvi_tf.pairs"}
    assert outside_package("hvi_tf.mixtures") == {
        *("hvi_tf.bounds", "hvi_tf.noise", "hvi_tf.pairs")
    }
    of_draws = {"hvi_tf.hierarchy", "hvi_tf.noise"}
    assert outside_package("hvi_tf.sampling") == core | shared | of_draws
    terms = {"hvi_tf.sampling", "hvi_tf.subsampling"}
    assert outside_package("hvi_tf.subsampling") == {
        *("hvi_tf.bounds", "hvi_tf.noise", "hvi_tf.sampling")
    }
    assert outside_package("hvi_tf.gradients") == core | terms
    assert outside_package("hvi_tf.svi") == core | {"hvi_tf.gradients", "hvi_tf.sampling"}
    assert outside_package("hvi_tf.svi_gradients") == {
        *(core | terms),
        *("hvi_tf.gradients", "hvi_tf.svi"),
    }
    for name in ("hvi_tf.callables", "hvi_tf.noise", "hvi_tf.pairs"):
        assert outside_package(name) == set(), name
    for name in ("hvi_tf.jackknife", "hvi_tf.diagnostics"):
        assert outside_package(name) == {"hvi_tf.bounds"}, name
    with_flags = {
        n for n, p in modules.items() if re.search("from absl import .*flags", p.read_text())
    }
    allowed = {
        f"hvi_tf.{name}" for name in ("main", "command_line", "flagfiles", "reproduce", "report")
    }
    allowed |= {"hvi_tf.benchmark.__main__", "hvi_tf.experiments.svi_learning_rate"}
    assert with_flags - {"tests.test_build"} <= allowed
    state = dict.fromkeys(graph, 0)

    def visit(name):
        assert state[name] != 1, f"import cycle through {name}"
        if state[name] == 0:
            state[name] = 1
            for dep in graph[name]:
                # A package's __init__ is above its modules and imports none of them.
                visit(dep)
            state[name] = 2

    for name in graph:
        visit(name)


if __name__ == "__main__":
    print(expected_build(), end="")
