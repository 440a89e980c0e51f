"""The help and the exit status of commands with closed, full or unread standard streams."""

import os
import pathlib
import subprocess
import sys

import pytest

SWEEP = pathlib.Path(__file__).resolve().parents[2] / "launch" / "sweep.py"
REPORT = ["-m", "hvi_tf.report"]
MODULES = ("main", "reproduce", "report", "benchmark", "training.replay")
COMMANDS = {name: ["-m", f"hvi_tf.{name}"] for name in MODULES}
COMMANDS["svi_learning_rate"] = ["-m", "hvi_tf.experiments.svi_learning_rate"]
COMMANDS["sweep"] = [str(SWEEP)]
# Runs `print(...)` as a command does, without TensorFlow.
PRINTS = (
    "import os, pathlib, sys, warnings\n"
    "from hvi_tf.cli import exits as command_line\n"
    "{command}\n"
    "def main(argv):\n"
    "    command_line.run(command, lambda: 'the same')\n"
    "command_line.start(main, 'doc')\n"
)


def run(*arguments, stdout="", stderr="", **environment):
    """Runs a Python process whose streams a shell redirects."""
    command = 'exec "$@"' + (f" >{stdout}" if stdout else "") + (f" 2>{stderr}" if stderr else "")
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_one_line(result, *words):
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    "flag", ["--help", "-h", "-?", "--help=true", "--helpshort", "--helpfull", "--helpxml"]
)
def test_every_help_flag_exits_with_0(flag):
    result = run(*REPORT, flag)
    assert (result.returncode, result.stderr) == (0, "")
    assert "copy_to" in result.stdout


@pytest.mark.parametrize("columns", [50, 80])
def test_help_begins_with_the_main_flags_and_fits_the_terminal(columns):
    lines = run(*COMMANDS["main"], "--help", COLUMNS=str(columns)).stdout.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  --")]
    assert {"--workdir", "--dataset", "--bound", "--epochs", "--eval_M"} < set(names[:21])
    assert len(names) == len(set(names)) > 80
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Main flags:"
    assert {"Data:", "Networks:", "Optimizer:", "Evaluation:", "Devices:"} < set(headings)
    longest = max((line for line in lines if line.startswith("      ")), key=len)
    assert len(longest) <= columns


def test_the_console_command_equals_the_module():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((SWEEP.parents[1] / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["hvi"].split(":")
    code = f"import sys; sys.argv[0] = 'hvi'; from {module} import {function} as f; f()"
    by_console, by_module = (
        run(*command, "--help", "--mode=none").stdout
        for command in (["-c", code], COMMANDS["main"])
    )
    assert by_console == by_module
    mistake = run("-c", code, "--mode=none")
    assert_one_line(mistake, "--mode=none: choose one of train")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_exits_with_0_if_its_reader_closes_the_pipe(name):
    """Closes the pipe early, as `--help | head -1` does."""
    command = [sys.executable, *COMMANDS[name], "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=120)) == ("", 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_reports_a_full_disk(name):
    assert_one_line(run(*COMMANDS[name], "--help", stdout="/dev/full"), "No space left on device")


@pytest.mark.parametrize("stderr", ["&-", "/dev/full"])
@pytest.mark.parametrize("mistake", ["nowhere", "--no_such_flag"])
def test_a_mistake_exits_with_2_even_if_it_cannot_be_printed(stderr, mistake):
    result = run(*REPORT, mistake, stderr=stderr)
    assert (result.returncode, result.stdout) == (2, "")


def test_closed_streams_go_to_the_null_device(tmp_path):
    """Checks that a file does not get the number of a closed stream, and with it the output."""
    command = (
        "def command():\n"
        "    with open('file', 'w') as file:\n"
        "        assert file.fileno() > 2 and not sys.stdout.isatty()\n"
        "        print('printed', flush=True)\n"
        "        os.write(1, b'out'), os.write(2, b'err')\n"
        "        file.write('content')\n"
    )
    code = f"import os; os.chdir({str(tmp_path)!r})\n" + PRINTS.format(command=command)
    result = run("-c", code, stdout="&- <&-", stderr="&-")
    assert result.returncode == 0
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_reports_a_full_disk(unbuffered):
    code = PRINTS.format(command="def command(): print('x')")
    result = run("-c", code, stdout="/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert_one_line(result, "No space left on device", "standard output")


def test_a_character_that_the_terminal_lacks_becomes_a_question_mark():
    code = PRINTS.format(command="def command(): print('1 \\u00b1 2')")
    result = run("-c", code, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stdout) == (0, "1 ? 2\n")


def test_a_warning_that_python_raises_prints_one_line():
    code = PRINTS.format(command="def command(): warnings.warn('old', DeprecationWarning)")
    assert_one_line(run("-W", "error", "-c", code), "python -W", "DeprecationWarning: old")


def test_python_without_docstrings_is_refused():
    """Checks the error because tf_keras cannot be imported without docstrings."""
    result = run("-OO", *REPORT, "--help")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "PYTHONOPTIMIZE=2" in result.stderr
