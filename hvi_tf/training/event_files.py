"""Event files of TensorBoard as if a run had never been interrupted."""

import os
import pathlib
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError

from hvi_tf.storage import files

# TensorBoard reads the files of a folder in the order of their names, which begin with the
# time. Whatever the clock says, what was gathered comes first.
_GATHERED = "events.out.tfevents.0000000000.gathered"


def rewind(folder: pathlib.Path, step: int) -> None:
    """Gathers what was written up to a step in one file, and drops the rest.

    A run goes on from a checkpoint, and a killed process may have written more than that; so
    each step is there once. Can itself be interrupted: what is there twice is taken once.

    Args:
        folder: of the event files of one run.
        step: the last one to keep.

    Raises:
        UserError: if one is no regular file.
    """
    found = sorted(folder.glob("events.out.tfevents.*"))
    if not found:
        return
    for path in found:  # TensorFlow would wait at a FIFO
        try:
            files.open_regular(path).close()
        except OSError as error:
            raise files.read_error(path, error) from error
    beside = files.temporary(folder / _GATHERED)
    files.remove(beside)  # or a link of that name would be followed
    with tf.io.TFRecordWriter(str(beside)) as gathered:
        seen = set()
        for record, event in _events(found):
            key = event.step, *(value.tag for value in event.summary.value)
            if event.step <= step and key not in seen:
                seen.add(key)
                gathered.write(record)
    files.sync(beside)
    os.replace(beside, folder / _GATHERED)
    files.sync(folder)
    for path in found:
        if path.name != _GATHERED:
            path.unlink()


def _events(paths: list[pathlib.Path]) -> Iterator[tuple[bytes, tf.compat.v1.Event]]:
    """Each event, as it was and parsed."""
    for path in paths:
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                yield record, tf.compat.v1.Event.FromString(record)
        except (tf.errors.DataLossError, DecodeError) as error:
            if "truncated" not in str(error):  # as a process that is killed leaves its last one
                print(f"warning: {path} is damaged; its later events are lost", flush=True)
