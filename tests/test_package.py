"""The public names of the package."""

import subprocess
import sys

import pytest

import hvi_tf as hvi


def test_every_public_name_exists_and_the_import_does_not_load_tensorflow():
    for name in hvi.__all__:
        assert getattr(hvi, name) is not None
    code = "import sys, hvi_tf; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'elbo'"):
        _ = hvi.elbo
