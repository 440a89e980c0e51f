"""The stored results of docs/results."""

import csv
import json
import pathlib

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "results"


def number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def stored_rows(name):
    with open(RESULTS / name / "results.csv", newline="") as file:
        return [
            {column: number(text) for column, text in line.items() if text}
            for line in csv.DictReader(file)
        ]


def stored_results(name):
    return json.loads((RESULTS / name / "results.json").read_text())
