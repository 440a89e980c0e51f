"""Runs pytest on the files that the arguments name, for Bazel's py_test."""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(["-q", *sys.argv[1:]]))
