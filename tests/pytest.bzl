"""The tests of a folder."""

load("@rules_python//python:defs.bzl", "py_test")

def pytest_tests(deps, data = []):
    """Runs pytest on each file of tests in a folder.

    Args:
      deps: libraries that the files of the folder import.
      data: files that they read.
    """
    for file in native.glob(["test_*.py"]):
        py_test(
            name = file[:-len(".py")],
            size = "large",
            srcs = [file, "//tests:bazel_main.py"],
            main = "//tests:bazel_main.py",
            args = ["$(rootpath {})".format(file)],
            data = data + ["//:pyproject.toml"],
            deps = deps + ["//tests"],
        )
