"""Workers on this machine that are stopped, killed and restarted; and sweeps."""

import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.oracles.runs import assert_same_weights

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = [
    *("--hidden=16,16", "--latent_dim=4", "--aux_dim=3", "--K=2", "--gradient=dreg"),
    *("--batch_size=1024", "--epochs=3", "--steps_per_call=7"),  # 53 steps an epoch
    *("--eval_M=4", "--eval_K=3", "--eval_images=60"),
]


def load_sweep():
    spec = importlib.util.spec_from_file_location("sweep", ROOT / "launch" / "sweep.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sweep = load_sweep()


def start_workers(*arguments):
    # The script calls `python`.
    paths = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        [ROOT / "launch" / "multiworker_local.sh", "2", *map(str, arguments)],
        env={**os.environ, "PATH": paths, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children(process):
    """Returns the process ids of the workers by their index."""
    workers = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            variables = (folder / "environ").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if int(parent) == process.pid:
            config = next((v for v in variables if v.startswith("TF_CONFIG=")), None)
            if config:
                workers[json.loads(config.partition("=")[2])["task"]["index"]] = int(folder.name)
    return workers


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.long
def test_workers_stopped_and_killed_end_bit_identical(tmp_path, mnist_dir):
    data = f"--data_dir={mnist_dir}"
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    process = start_workers(*TINY, data, f"--workdir={unbroken}")
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out[-3000:]
    assert re.search(r"test log-likelihood \(DIWHVI, M=4, K=3\) +-\d+", out)
    assert out.count("epoch 3/3 53/53") == 1

    # One worker gets Ctrl-C, and both stop at the same step with a checkpoint.
    process = start_workers(*TINY, data, f"--workdir={broken}")
    wait_for((broken / "checkpoints" / "ckpt-53.index").exists, process)
    os.kill(children(process)[1], signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out[-3000:]
    assert "nothing is lost" in out

    # Killing one worker ends the job; the last checkpoint remains.
    process = start_workers(*TINY, data, f"--workdir={broken}")
    wait_for((broken / "checkpoints" / "ckpt-106.index").exists, process)
    os.kill(children(process)[1], signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 137, out[-3000:]
    assert 53 < int(re.search(r"Resuming from step (\d+) of 159", out)[1]) < 106
    assert not (broken / "checkpoints" / "ckpt-159.index").exists()

    process = start_workers(*TINY, data, f"--workdir={broken}")
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out[-3000:]
    assert "Resuming from step 106 of 159" in out
    assert_same_weights(broken, unbroken)


def test_the_script_needs_a_number_and_a_workdir():
    script = ROOT / "launch" / "multiworker_local.sh"
    for arguments in (["--workdir=x"], ["2"], ["0", "--workdir=x"], []):
        result = subprocess.run([script, *arguments], capture_output=True, text=True)
        assert result.returncode == 2
        assert result.stderr.startswith("usage: ")


def test_a_grid_is_every_combination_each_in_its_own_folder(tmp_path):
    cells = sweep.make_cells("K=1,5;gradient=dreg,stl", tmp_path, ["--epochs=2"])
    assert [tuple(c.settings.values()) for c in cells] == [
        *(("1", "dreg"), ("1", "stl"), ("5", "dreg"), ("5", "stl"))
    ]
    workdir = tmp_path / "K=5-gradient=stl"
    assert cells[-1].flags == ["--epochs=2", "--K=5", "--gradient=stl", f"--workdir={workdir}"]


@pytest.mark.parametrize("grid", ["", "K", "K=", "=1", "K=1;K=2", "a b=1", "workdir=x", "--K=1"])
def test_the_error_names_the_flag_of_an_invalid_grid(grid, tmp_path, capsys):
    assert sweep.main([f"--grid={grid}", f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: --grid")


def test_the_help_has_the_command_in_two_lines(capsys):
    assert sweep.main(["--help"]) == 0
    assert "--out=runs/sweep \\\n        --jobs=2" in capsys.readouterr().out


def test_a_sweep_uses_the_package_of_its_own_clone(tmp_path):
    """Checks that a sweep runs although no package is installed."""
    for folder in ("launch", "hvi_tf"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "launch" / "sweep.py", tmp_path / "launch")
    (tmp_path / "hvi_tf" / "__init__.py").write_text("raise SystemExit(55)")
    assert subprocess.run([sys.executable, tmp_path / "launch" / "sweep.py"]).returncode == 55


@pytest.mark.parametrize(
    "out", ["file/sweep", "a\0b", "x" * 300, "gs://bucket/x", "~nobody-here/x"]
)
def test_an_impossible_folder_prints_one_line(out, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert sweep.main(["--grid=K=1", f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_no_value_reaches_a_shell_or_another_folder(tmp_path, monkeypatch):
    """Checks the script of the array and the names of folders."""
    nasty = "$(touch x)/../'; rm -rf *"
    argv = [
        f"--grid=dataset={nasty[:-9]}",
        f"--out={tmp_path}",
        "--slurm",
        "--",
        f"--data_dir={nasty}",
    ]
    called = []
    monkeypatch.setattr(
        sweep.subprocess,
        "run",
        lambda c, check: called.append(c) or subprocess.CompletedProcess(c, 0),
    )
    assert sweep.main(argv) == 0
    script = (tmp_path / "array.sbatch").read_text()
    words = shlex.split(script.splitlines()[-1])
    at = words.index("--cell=$SLURM_ARRAY_TASK_ID")
    assert words[3:at] + words[at + 1 :] == argv
    assert called[0][:2] == ["sbatch", "--array=0"]
    (cell,) = sweep.make_cells(f"dataset={nasty[:-9]}", tmp_path, [])
    assert cell.workdir.parent == tmp_path
    assert cell.workdir.resolve().parent == tmp_path.resolve()


def test_finished_cells_are_skipped_and_failures_are_printed(tmp_path, capsys, monkeypatch):
    fake = tmp_path / "fake"  # replaces the training: K=1 succeeds, K=2 fails
    (fake / "hvi_tf").mkdir(parents=True)
    (fake / "hvi_tf" / "__init__.py").touch()
    (fake / "hvi_tf" / "main.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(fake))
    monkeypatch.chdir(fake)
    argv = ["--grid=K=1,2", f"--out={tmp_path / 'out'}", "--jobs=2", "--", "--epochs=1"]
    assert sweep.main(argv) == 1
    out = capsys.readouterr().out
    assert "Finished cells: 0 of 2." in out
    assert "K=2 failed: error: no (see" in out
    assert re.search(r"^1 +-90\.500 +0\.250 +7 +3$", out, re.MULTILINE)
    assert re.search(r"^2 +unfinished$", out, re.MULTILINE)
    assert sweep.main(argv) == 1
    assert "Finished cells: 1 of 2." in capsys.readouterr().out
    assert (tmp_path / "out" / "K=1.log").read_text().count("ran") == 1
    # Another flag for all cells makes the finished cell run again.
    sweep.main([*argv[:-1], "--epochs=2"])
    assert "Finished cells: 0 of 2." in capsys.readouterr().out


FAKE = """
import json, pathlib, sys
flags = dict(a[2:].split("=", 1) for a in sys.argv[1:])
print("ran")
if flags["K"] == "2":
    print("error: no")
    sys.exit(2)
folder = pathlib.Path(flags["workdir"]) / "evaluation"
folder.mkdir(parents=True, exist_ok=True)
score = {"images": 7, "step": 3, "bound": {"mean": -99.0, "standard_error": 1.0}}
score["log_likelihood"] = {"mean": -90.5, "standard_error": 0.25}
(folder / "test.json").write_text(json.dumps(score))
"""
