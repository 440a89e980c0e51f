"""Writes the page of a folder of results: `python -m hvi_tf.report FOLDER`."""

from hvi_tf.cli import exits, report

if __name__ == "__main__":
    report.define_flags()
    exits.start(report.main, report.__doc__)
