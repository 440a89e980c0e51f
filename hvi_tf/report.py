"""Writes the page of a folder of results: `python -m hvi_tf.report FOLDER`."""

from absl import flags

from hvi_tf.cli import exits, report

if __name__ == "__main__":
    report.define_flags()
    flags.adopt_module_key_flags(report)
    exits.start(report.main, report.__doc__)
