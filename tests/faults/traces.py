"""The results in a run's workdir, without times, for comparison."""

import json

import numpy as np
import tensorflow as tf

from hvi_tf.storage import npz

_TIMES = ("seconds", "speed/steps_per_second", "scores")  # "scores" is a path


def of(workdir):
    """Returns all results by name; two equal runs have equal traces, bit for bit."""
    trace = {}
    for folder in ("checkpoints", "best"):
        steps = sorted(int(p.stem[5:]) for p in (workdir / folder).glob("ckpt-*.index"))
        trace[f"{folder}: steps"] = steps
        for name, value in _tensors(workdir / folder / f"ckpt-{steps[-1]}"):
            trace[f"{folder}: {name}"] = value
    for name, value in _tensors(workdir / "saved_model" / "variables" / "variables"):
        trace[f"export: {name}"] = value
    for path in sorted((workdir / "evaluation").iterdir()):
        if path.suffix == ".json":
            trace[path.name] = _without_times(json.loads(path.read_text()))
        else:
            arrays = _without_times(npz.read_arrays(path))
            trace |= {f"{path.name}: {name}": value for name, value in arrays.items()}
    trace["metrics"] = metrics(workdir)
    trace["events"] = events(workdir)
    return trace


def metrics(workdir):
    """Returns the scalars of each epoch."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [_without_times(json.loads(line)) for line in lines]


def events(workdir):
    """Returns (step, tag, content) of every event of every file, in order."""
    contents = []
    for path in sorted((workdir / "tensorboard").glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.tag not in _TIMES:
                    contents.append((event.step, value.tag, value.tensor.SerializeToString()))
    return contents


def assert_equal(one, other):
    """Asserts that two traces are equal."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, np.ndarray):
            array = other[name]
            np.testing.assert_array_equal(value, array, err_msg=name)  # shows the numbers
            assert (value.dtype, value.tobytes()) == (array.dtype, array.tobytes()), name
        else:
            assert value == other[name], name


def _without_times(values):
    return {name: value for name, value in values.items() if name not in _TIMES}


def _tensors(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    for name in sorted(reader.get_variable_to_shape_map()):
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH":
            yield name, np.asarray(reader.get_tensor(name))
