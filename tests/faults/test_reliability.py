"""The page of promises: its figures are those of the last long run, its tests are there."""

import json
import pathlib
import re

from tests.faults.__main__ import PAGE, STORED, table

FOLDER = pathlib.Path(__file__).parent


def test_the_page_has_the_stored_figures():
    assert table(json.loads(STORED.read_text())) in PAGE.read_text()


def test_what_the_page_names_is_there():
    page = PAGE.read_text()
    named = set(re.findall(r"`(test_\w+)(?:\.py)?`", page))
    assert named == {p.stem for p in FOLDER.glob("test_*.py")} - {"test_reliability"}
