"""Bazel's own Python rules, for versions of Bazel without modules."""

py_binary = native.py_binary
py_library = native.py_library
py_test = native.py_test
