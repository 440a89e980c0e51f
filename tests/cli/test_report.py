"""The page of results: self-contained, complete, and seen in a browser."""

import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.cli import report
from hvi_tf.errors import UserError
from hvi_tf.experiments.harness import catalogue
from tests.oracles import browser

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report.render(report.read(RESULTS)))
    return path


def test_the_page_has_every_experiment_with_its_figures_and_numbers(page):
    text = page.read_text()
    for name in catalogue.ENTRIES:
        if not (RESULTS / name).exists():
            continue  # test_experiments lists these
        stored = json.loads((RESULTS / name / "results.json").read_text())
        section = text.split(f'<section id="{name}">')[1].split("</section>")[0]
        assert section.count("data:image/svg+xml") == len(stored["figures"])
        assert section.count("<caption>") == len(stored["tables"])
        assert len(re.findall("(shown|refuted|decided)</span>", section)) == len(stored["claims"])
        assert f'download="{name}.csv"' in section
        assert all(source["commit"] in section for source in stored["provenance"])


def test_the_page_needs_no_network_and_no_script(page):
    text = page.read_text()
    assert "<script" not in text
    links = re.findall(r'(?:src|href)="([^"]{1,40})', text)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "url(" not in text


def test_the_committed_page_equals_that_of_the_committed_results(page):
    assert (RESULTS / "report.html").read_text() == page.read_text()


def test_an_undecided_claim_is_neither_shown_nor_refuted():
    stored = json.loads((RESULTS / "laplace" / "results.json").read_text())
    claims = [dict(text=f"{holds}", holds=holds, evidence="e") for holds in (True, False, None)]
    entry = catalogue.ENTRIES["laplace"]
    section = report._section(entry, stored | {"claims": claims}, RESULTS / "laplace")
    page = report.render([section])
    assert "<td>1 of 3, 1 not decided</td>" in page
    verdicts = re.findall(r'<span class="(yes|no|open)">. (.*)</span>\n(\w+): ', page)
    assert verdicts == [
        ("yes", "shown", "True"),
        ("no", "refuted", "False"),
        ("open", "not decided", "None"),
    ]


def test_text_is_escaped():
    entry = catalogue.ENTRIES["laplace"]
    section = report._section(
        entry,
        json.loads((RESULTS / "laplace" / "results.json").read_text()) | {"about": "<b>&x"},
        RESULTS / "laplace",
    )
    assert "&lt;b&gt;&amp;x" in report.render([section])


def test_the_error_names_a_folder_without_results(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: no results there; .*hvi_tf.reproduce NAME"):
        report.read(tmp_path)
    (tmp_path / "laplace" / "cells").mkdir(parents=True)
    with pytest.raises(UserError, match=r"laplace: not all cells are measured; .* laplace --out="):
        report.read(tmp_path)
    (tmp_path / "laplace" / "results.json").write_text('{"name": "laplace"}')
    with pytest.raises(UserError, match=r"results.json: cannot be read .*KeyError"):
        report.read(tmp_path)


def test_a_copy_has_the_results_without_cells_and_events(tmp_path):
    folder, target = tmp_path / "out", tmp_path / "copy"
    shutil.copytree(RESULTS / "laplace", folder / "laplace")
    for name in ("cells/repetition0/rows.json", "tensorboard/events", ".lock"):
        (folder / "laplace" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "laplace" / name).write_text("")
    (folder / "report.html").write_text("page")
    for _ in range(2):  # a second copy replaces the first
        report.copy(folder, ["laplace"], target)
    copied = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    expected = {f"laplace/{name}" for name in ("laplace.png", "laplace.svg")}
    assert copied == expected | {"laplace/results.csv", "laplace/results.json", "report.html"}
    with pytest.raises(UserError, match=r"--copy_to=.* is the folder of the results"):
        report.copy(folder, ["laplace"], folder)
    with pytest.raises(UserError, match="--copy_to="):
        report.copy(folder, ["laplace"], folder / "report.html")


@browser.needs_browser
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_the_page(page, width, tmp_path):
    path = browser.screenshot(f"file://{page}", tmp_path / "page.png", width=width, height=2500)
    pixels = tf.io.decode_png(path.read_bytes(), channels=3).numpy()
    assert pixels.shape == (2500, width, 3)
    for band in np.split(pixels, 5):  # no band is blank
        assert band.std() > 5.0
    # Figures have color, text does not.
    assert (np.ptp(pixels.astype(int), axis=-1) > 60).mean() > 0.002


@pytest.fixture
def tensorboard(tmp_path):
    """Returns a function that starts TensorBoard on a folder and returns its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []

    def serve(folder):
        command = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}"]
        command += ["--host=127.0.0.1", f"--port={port}"]
        processes.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                if "validation/bound" in _get(f"{address}/data/plugin/timeseries/tags"):
                    return address
            except OSError:
                pass
            time.sleep(0.2)
        raise AssertionError("TensorBoard did not find the run")

    yield serve
    for process in processes:
        process.kill()
        process.wait()


def _get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


@browser.needs_browser
@pytest.mark.long
def test_tensorboard_shows_scalars_and_images_of_a_run(tensorboard, tmp_path, mnist_dir):
    command = [
        *(sys.executable, "-m", "hvi_tf.main", "--hidden=16,16", "--K=1", "--epochs=1"),
        "--lr_warmup_steps=0",  # with a warmup, images are still gray after 53 steps
        *("--latent_dim=4", "--aux_dim=3", "--batch_size=1024", "--eval_images=10"),
        *(f"--data_dir={mnist_dir}", f"--workdir={tmp_path / 'run'}"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    address = tensorboard(tmp_path / "run")
    words = ("validation", "train", "diagnostics", "bound", "ess_inner")
    for _ in range(5):  # a busy machine may not show all words at once
        scalars = browser.dom(f"{address}/#timeseries", height=4000)
        if all(word in scalars for word in words):
            break
    for word in words:
        assert word in scalars
    images = browser.screenshot(f"{address}/#images", tmp_path / "images.png")
    pixels = tf.io.decode_png(images.read_bytes(), channels=3).numpy()
    # The digits are black squares with gray pixels, far below the header of the page.
    assert (pixels[150:].max(axis=-1) < 40).mean() > 0.02
