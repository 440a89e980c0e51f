"""The page of promises: its figures are those of the last long run, its tests are there."""

import json
import pathlib
import re

import pytest

from hvi_tf.config.settings import TrainingConfig
from hvi_tf.storage import workdir
from hvi_tf.training import loop, nonfinite, recovery
from tests.faults import cases, test_damaged_files, test_input
from tests.faults.__main__ import PAGE, STORED, table

FOLDER = pathlib.Path(__file__).parent


def test_the_page_has_the_stored_figures():
    assert table(json.loads(STORED.read_text())) in PAGE.read_text()


@pytest.mark.parametrize(
    "limit",
    [
        f"after more than {recovery.MAX_IN_EPOCH} such steps",
        f"at most {nonfinite.MAX_DUMPS} dumps",
        f"at most {loop.MAX_EPOCHS_TOLD:,} epochs",
        f"if there are {workdir.MIN_FREE_BYTES >> 20} MB",
        f"`--keep_checkpoints` ({TrainingConfig().keep_checkpoints})",
    ],
)
def test_the_page_has_the_limits_of_the_program(limit):
    assert limit in PAGE.read_text()


def test_what_the_page_names_is_there():
    page = PAGE.read_text()
    named = set(re.findall(r"`(test_\w+)(?:\.py)?`", page))
    assert named <= {p.stem for p in FOLDER.parent.rglob("test_*.py")}
    assert named >= {p.stem for p in FOLDER.glob("test_*.py")} - {"test_reliability"}


def test_the_shares_of_all_property_tests_make_up_the_whole():
    tests = {*vars(test_input), *vars(test_damaged_files)}
    assert sum(s for name, s in cases.SHARES.items() if name in tests) == pytest.approx(1.0)
