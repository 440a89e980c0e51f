"""TensorBoard event files of a resumed run, rewritten to those of an uninterrupted one."""

import os
import pathlib
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError

from hvi_tf.storage import files

# TensorBoard reads the files of a folder in the order of their names, which contain the time.
# The time 0 puts the gathered events first, even if the clock was set back.
_GATHERED = "events.out.tfevents.0000000000.gathered"


def rewind(folder: pathlib.Path, step: int) -> None:
    """Gathers the events up to a step in one file, and removes all others.

    A killed process may have written events after its last checkpoint, and the resumed run
    writes them again. After `rewind` each event is there once. An interrupted `rewind` can be
    repeated, because it skips duplicates.

    Args:
        folder: folder of the event files of one run.
        step: the last one to keep.

    Raises:
        UserError: if an event file is not a regular file.
    """
    paths = sorted(folder.glob("events.out.tfevents.*"))
    if not paths:
        return
    for path in paths:  # TensorFlow would block at a FIFO
        try:
            files.open_regular(path).close()
        except OSError as error:
            raise files.read_error(path, error) from error
    temporary = files.temporary(folder / _GATHERED)
    files.remove(temporary)  # because TensorFlow would follow a link of that name
    with tf.io.TFRecordWriter(str(temporary)) as gathered:
        seen = set()
        for record, event in _events(paths):
            key = event.step, *(value.tag for value in event.summary.value)
            if event.step <= step and key not in seen:
                seen.add(key)
                gathered.write(record)
    files.sync(temporary)
    os.replace(temporary, folder / _GATHERED)
    files.sync(folder)
    for path in paths:
        if path.name != _GATHERED:
            path.unlink()


def _events(paths: list[pathlib.Path]) -> Iterator[tuple[bytes, tf.compat.v1.Event]]:
    """Yields each event, as stored and parsed."""
    for path in paths:
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                yield record, tf.compat.v1.Event.FromString(record)
        except (tf.errors.DataLossError, DecodeError) as error:
            if "truncated" not in str(error):  # as the last event of a killed process is
                print(f"warning: {path} is damaged; its later events are lost", flush=True)
