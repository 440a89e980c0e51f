"""The public names of the package, and the library example of the README."""

import pathlib
import re
import subprocess
import sys

import pytest

import hvi_tf as hvi

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_examples_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "import hvi_tf as hvi" in block]
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    (sandwich,) = [block for block in blocks if "hvi.Hierarchy(" in block]
    (refinement,) = [block for block in blocks if "hvi.LocalModel(" in block]
    exec(compile(code + refinement + sandwich, "README.md", "exec"), {})


def test_every_public_name_exists_and_the_import_does_not_load_tensorflow():
    for name in hvi.__all__:
        assert getattr(hvi, name) is not None
    code = "import sys, hvi_tf; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'elbo'"):
        _ = hvi.elbo
