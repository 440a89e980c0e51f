"""docs/reliability.md: its figures are those of the last long run, and its tests exist."""

import json
import pathlib
import re

import pytest

from hvi_tf.config.settings import TrainingConfig
from hvi_tf.storage import workdir
from hvi_tf.training import loop, nonfinite, recovery
from tests.faults.__main__ import PAGE, STORED, named_tests, table

FOLDER = pathlib.Path(__file__).parent


def test_the_page_has_the_stored_figures():
    assert table(json.loads(STORED.read_text())) in PAGE.read_text()


@pytest.mark.parametrize(
    "limit",
    [
        f"after more than {recovery.MAX_IN_EPOCH} such steps",
        f"at most {nonfinite.MAX_DUMPS} dumps",
        f"at most {loop.MAX_EPOCHS_PRINTED:,} epochs",
        f"if there are {workdir.MIN_FREE_BYTES >> 20} MB",
        f"`--keep_checkpoints` ({TrainingConfig().keep_checkpoints})",
    ],
)
def test_the_page_has_the_limits_of_the_program(limit):
    assert limit in PAGE.read_text()


def test_the_page_names_every_fault_test():
    names = {pathlib.Path(path).stem for path in named_tests()}  # which checks that they exist
    assert {path.stem for path in FOLDER.glob("test_*.py")} <= names


def test_the_shares_of_all_property_tests_sum_to_one():
    texts = [path.read_text() for path in FOLDER.glob("test_*.py")]
    shares = [
        float(share)
        for text in texts
        for share in re.findall(r"^@cases\.share\((.*)\)$", text, re.MULTILINE)
    ]
    assert len(shares) > 5
    assert sum(shares) == pytest.approx(1.0)
