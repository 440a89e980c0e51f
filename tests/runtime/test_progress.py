"""Progress as a bar on a terminal and as whole lines in a pipe."""

import sys

from hvi_tf.runtime import progress
from hvi_tf.runtime.progress import Progress


def run(total=20):
    stage = Progress("epoch 1/3", "steps", total)
    for _ in range(total // 5):
        stage.update(5, left_after=2 * total, train=-100.123)
    stage.close(left_after=2 * total, train=-100.123, validation=-101.5)


def test_a_pipe_gets_one_whole_line(capsys):
    run()
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/3 20/20 ")
    for part in ("steps/s", "left", "train -100.12", "validation -101.50"):
        assert part in lines[0]
    assert "\r" not in lines[0]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run()
    out = capsys.readouterr().out
    assert "\r" in out
    assert "20/20" in out
    assert "steps/s" in out
    assert "validation -101.50" in out


def test_a_count_of_one_is_singular():
    assert progress.counted(0, "image") == "0 images"
    assert progress.counted(1, "image") == "1 image"


def test_a_duration_shows_hours_only_from_one_hour_on():
    assert progress.duration(59.6) == "1:00"
    assert progress.duration(3725) == "1:02:05"
