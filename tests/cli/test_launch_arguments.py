"""Scripts that pass every argument unchanged, without a shell that interprets it.

Programs that record their arguments replace Python, srun and sbatch. The scripts run in a folder
that also has a hostile name.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from hvi_tf.experiments.harness import catalogue

ROOT = pathlib.Path(__file__).resolve().parents[2]

HOSTILE = [
    *("two words", "'", '"', "\\", "#", "~", "*", "?[!a]*", "{a,b}", "!!", "%a", "%j", "tail\n"),
    *(";touch canary;", "$(touch canary)", "`touch canary`", "${HOME}", "$1", "&touch canary&"),
    *("|touch canary", ">canary", "||touch canary", "\ntouch canary\n", "'; touch canary; '"),
    *("-n", "--help", "-", "=", '"; touch canary; "', "\t", " ", "EOF", "$'\\n'", "\x1b[2J", "é"),
]

RECORD = """#!{python}
import json, os, pathlib, sys
if sys.argv[1:2] == ["-"]:  # the script gets free ports from Python
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
name = pathlib.Path(sys.argv[0]).name
call = dict(name=name, argv=sys.argv[1:], cwd=os.getcwd(), tf_config=os.getenv("TF_CONFIG", ""))
(pathlib.Path({records!r}) / f"{{os.getpid()}}.json").write_text(json.dumps(call))
for argument in sys.argv[1:]:
    if name == "main.py" and argument.startswith("--workdir="):
        os.makedirs(argument[10:], exist_ok=True)
print("said")
sys.exit(int(os.getenv("RECORD_STATUS", "0")))
"""


class Clone:
    """A folder with `launch/`, and the programs that its scripts call."""

    def __init__(self, tmp_path):
        self.path = tmp_path / "a clone; $(touch canary) 'x' *"
        shutil.copytree(ROOT / "launch", self.path / "launch")
        self.records, programs = tmp_path / "records", tmp_path / "programs"
        for folder in (self.records, programs, self.path / "hvi_tf"):
            folder.mkdir()
        text = RECORD.format(python=sys.executable, records=str(self.records))
        for name in ("python", "srun", "sbatch", "scontrol"):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        # `python -m hvi_tf.main` runs this file if a script names its Python itself.
        (self.path / "hvi_tf" / "main.py").write_text(text)
        variables = {"PYTHONPATH": str(self.path), "CDPATH": str(tmp_path / "elsewhere")}
        (tmp_path / "elsewhere" / "launch").mkdir(parents=True)
        self.environment = {**os.environ, **variables}
        self.environment["PATH"] = os.pathsep.join([str(programs), os.environ["PATH"]])

    def run(self, *command, cwd=None, status=0, **variables):
        """Runs a command; returns the recorded calls of the programs in the order of workers."""
        for record in self.records.iterdir():
            record.unlink()
        result = subprocess.run(
            [*map(str, command)],
            cwd=cwd or self.path,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == status, result
        assert not list(self.path.parent.rglob("canary"))
        calls = [json.loads(record.read_text()) for record in self.records.iterdir()]
        return sorted(calls, key=lambda call: (call["name"], call["tf_config"]))


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


FLAGS = [*HOSTILE, *(f"--data_dir={value}" for value in HOSTILE)]


def workdirs(clone):
    for name in HOSTILE:
        if name != "~":  # the home folder
            yield from (name, f"{name}/{name}", f"{clone.path.parent}/{name}/run", f"{name}/")


@pytest.mark.parametrize("script", ["local.sh", "multiworker_local.sh"])
def test_the_scripts_pass_their_arguments_unchanged(script, clone):
    for arguments in ([f"--workdir={clone.path}/run", *FLAGS], [*FLAGS, "--workdir=run"]):
        count, added = ([], []) if script == "local.sh" else (["2"], ["--strategy=multiworker"])
        calls = clone.run(clone.path / "launch" / script, *count, *arguments)
        assert len(calls) == (1 if script == "local.sh" else 2)
        for worker in calls:
            assert worker["argv"] == ["-u", "-m", "hvi_tf.main", *arguments, *added]
            assert worker["cwd"] == str(clone.path)


def test_long_runs_pass_their_arguments_and_name_their_experiments(clone):
    arguments = [f"--out={clone.path}/long", *(f"--data_dir={value}" for value in HOSTILE)]
    calls = clone.run(clone.path / "launch" / "long_runs.sh", *arguments)
    given = [worker["argv"] for worker in calls]
    assert len(given) == 3
    first = ["-u", "-m", "hvi_tf.reproduce", *arguments]
    assert all(argv[: len(first)] == first and argv[-1] == "--preset=long" for argv in given)
    named = [{a for a in argv[len(first) :] if not a.startswith("-")} for argv in given]
    with_long = {e.name for e in catalogue.ENTRIES.values() if e.long}
    assert max(named, key=len) == with_long


@pytest.mark.parametrize(
    "script", ["local.sh", pytest.param("multiworker_local.sh", marks=pytest.mark.long)]
)
def test_a_folder_may_have_any_name(script, clone):
    count, log = ([], "log") if script == "local.sh" else (["2"], "worker1.log")
    for number, workdir in enumerate(workdirs(clone)):
        if script == "multiworker_local.sh" and number % 4 not in (0, 1):
            continue  # this script is slower, and the other one covers every name
        calls = clone.run(clone.path / "launch" / script, *count, f"--workdir={workdir}")
        assert f"--workdir={workdir}" in calls[0]["argv"]
        path = clone.path / f"{workdir.removesuffix('/')}.{log}"
        assert path.read_text() == "said\n", workdir
        path.unlink()


def test_a_tilde_is_the_home_folder_and_a_url_is_refused(clone):
    home = clone.path.parent / "home"
    (home / "runs").mkdir(parents=True)
    sweep = (sys.executable, clone.path / "launch" / "sweep.py", "--grid=K=1")
    scripts = {
        "x.log": (clone.path / "launch" / "local.sh", "--workdir="),
        "x.worker1.log": (clone.path / "launch" / "multiworker_local.sh", "2", "--workdir="),
        "x/K=1.log": (*sweep, "--out="),
    }
    for log, (*command, flag) in scripts.items():
        clone.run(*command, f"{flag}~/runs/x", HOME=str(home))
        assert (home / "runs" / log).read_text() == "said\n"
        assert not clone.run(*command, f"{flag}gs://bucket/x", status=2)
    assert not [p for p in clone.path.iterdir() if p.name in ("~", "gs:")]


@pytest.mark.parametrize("start", ["launch/local.sh", "./launch/local.sh"])
def test_the_scripts_find_their_clone(start, clone):
    """Checks a CDPATH with another `launch`, and a clone with a path that begins with a dash."""
    dashed = clone.path / "-clone"
    shutil.copytree(clone.path / "launch", dashed / "launch")
    (call,) = clone.run(start, "--workdir=run")
    assert call["cwd"] == str(clone.path)
    (call,) = clone.run("bash", "--", "-clone/launch/local.sh", "--workdir=run")
    assert call["cwd"] == str(dashed)


def test_slurm_gets_the_arguments_unchanged(clone):
    common = dict(SLURM_SUBMIT_DIR=str(clone.path), SLURM_JOB_ID="7")
    for python in ("python", "/a b/$(touch canary)/python"):
        arguments = [f"--workdir={clone.path}/run", *FLAGS]
        job = ("bash", clone.path / "launch" / "slurm.sbatch", *arguments)
        (call,) = clone.run(*job, cwd="/", PYTHON=python, **common)
        at = call["argv"].index(python)
        first = ["-u", "-m", "hvi_tf.main", "--strategy=multiworker"]
        assert call["argv"][at + 1 :] == [*first, *arguments]
        assert all(argument.startswith("--") for argument in call["argv"][:at])
        assert call["cwd"] == str(clone.path)


def test_slurm_gives_the_job_two_minutes_to_save(clone):
    script = (clone.path / "launch" / "slurm.sbatch").read_text().splitlines()
    assert {"#SBATCH --signal=TERM@120", "#SBATCH --requeue"} <= {*script}


def test_slurm_does_not_run_in_another_folder(clone):
    job = ("bash", clone.path / "launch" / "slurm.sbatch", "--workdir=run")
    assert not clone.run(*job, SLURM_SUBMIT_DIR=f"{clone.path}/none", status=1)


def test_cells_of_a_sweep_get_their_values_unchanged(clone):
    values = [v for v in HOSTILE if "," not in v and ";" not in v]  # these separate values
    sweep = [sys.executable, clone.path / "launch" / "sweep.py", "--jobs=2"]
    for out in ("-out", f"{clone.path}/o u't$(touch canary)"):
        calls = clone.run(
            *sweep, f"--grid=data_dir={','.join(values)}", f"--out={out}", "--", *FLAGS
        )
        folders = {}
        for cell in calls:
            flags = cell["argv"]
            assert flags[: len(FLAGS)] == FLAGS
            value, workdir = flags[len(FLAGS) :]
            folders[value.removeprefix("--data_dir=")] = workdir.removeprefix("--workdir=")
        assert set(folders) == set(values)
        assert len(set(folders.values())) == len(values)
        for workdir in folders.values():
            assert pathlib.Path(workdir).parent == pathlib.Path(out)
            assert (clone.path / f"{workdir}.log").read_text() == "said\n"


def test_an_array_gets_its_values_unchanged(clone):
    values = [v for v in HOSTILE if "," not in v and ";" not in v]
    sweep = [sys.executable, clone.path / "launch" / "sweep.py"]
    grid = f"--grid=data_dir={','.join(values)}"
    options = ["--sbatch=--time=1:00 --comment='two words' --exclude=$(touch canary)"]
    for number, out in enumerate(("-out", f"{clone.path}/o %a u't\n$(touch canary)")):
        arguments = [grid, f"--out={out}", "--slurm", *options, "--", *FLAGS]
        (call,) = clone.run(*sweep, *arguments)
        folder = (clone.path / out).resolve()
        log = f"{folder}/array-".replace("%", "%%") + "%a.log"  # sbatch escapes a % in this way
        indices = ",".join(map(str, range(len(values))))
        assert call["argv"][:1] == [f"--array={indices}"]
        assert call["argv"][-7:] == [
            *("--signal=B:TERM@120", f"--output={log}", "--time=1:00", "--comment=two words"),
            *("--exclude=$(touch", "canary)", f"{folder}/array.sbatch"),
        ]
        for index in (number, -1 % len(values)):  # Slurm runs a copy of the script for each task
            script = clone.path.parent / "slurm_script"
            shutil.copy(folder / "array.sbatch", script)
            (task,) = clone.run("bash", script, SLURM_ARRAY_TASK_ID=str(index))
            assert task["argv"][:-1] == [*FLAGS, f"--data_dir={values[index]}"]
