"""The pages of the documentation: their Python runs, their links and tables name what exists."""

import pathlib
import re

import pytest

from hvi_tf.inference.methods import METHODS

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])


def python_of(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def relative_links(path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target.partition("#")[0] for target in targets if ":" not in target]


def run(code, folder):
    """Runs code from a file, where TensorFlow's autograph looks for the source of a function."""
    path = folder / "page.py"
    path.write_text(code)
    exec(compile(code, str(path), "exec"), {})


@pytest.fixture
def methods():
    """The table of methods, which a page may extend."""
    before = dict(METHODS)
    yield METHODS
    METHODS.clear()
    METHODS.update(before)


@pytest.mark.parametrize(
    "name", ["docs/add_a_method.md", "docs/guides/own_data.md", "docs/guides/own_model.md"]
)
def test_the_python_of_a_page_runs(name, methods, tmp_path):
    run("\n".join(python_of(ROOT / name)), tmp_path)


def test_the_readme_example_runs_and_is_short(tmp_path):
    (code,) = [block for block in python_of(ROOT / "README.md") if "import hvi_tf" in block]
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    run(code, tmp_path)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(path):
    missing = [t for t in relative_links(path) if t and not (path.parent / t).is_file()]
    assert missing == []


def test_the_readme_has_every_method():
    page = (ROOT / "README.md").read_text()
    table = page.split("| `--bound` |")[1].split("\n\n")[0]
    assert {name for name in METHODS if f"`{name}`" not in table} == set()


def test_the_equations_name_functions_and_tests_that_exist():
    page = (DOCS / "equations.md").read_text()
    functions = re.findall(r"\[`(\w+)`\]\(\.\./(hvi_tf/[\w/]+\.py)\)", page)
    tests = re.findall(r"\[`[\w/]+\.py::(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", page)
    assert len(functions) > 30
    assert len(tests) > 30
    for name, path in functions:
        assert re.search(rf"^(def|class) {name}\b|^{name}\b", (ROOT / path).read_text(), re.M), name
    for name, path in tests:
        assert f"def {name}(" in (ROOT / path).read_text(), name
