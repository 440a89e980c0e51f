"""The table of data sets: how each is opened, and its named splits.

TensorFlow and TFDS are imported in functions only: --help must not wait seconds for them.
"""

import functools
import hashlib
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hvi_tf.config import rules as validation
from hvi_tf.config.settings import DataConfig
from hvi_tf.data import preparation, splits
from hvi_tf.data.omniglot import chardata
from hvi_tf.errors import UserError, first_line

_PACKAGED_FILES = pathlib.Path(__file__).parent
_READ_BATCH = 1_000


class Dataset(NamedTuple):
    """All images of a data set in memory, flattened; uint8 0 to 255 or float32 0 to 1."""

    train: np.ndarray  # [N, D]
    validation: np.ndarray  # [N, D]
    test: np.ndarray  # [N, D]
    image_shape: tuple[int, ...]  # of one image, with prod = D
    digest: str = ""  # md5 of the file it came from, where more than one file will do

    def digests(self) -> dict[str, str]:
        """The SHA-256 of the pixels of each split, whatever files they came from."""
        return {name: _sha256(getattr(self, name)) for name in ("train", "validation", "test")}


def _sha256(images: np.ndarray) -> str:
    found = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    found.update(np.ascontiguousarray(images).data)
    return found.hexdigest()


def _open_registered(
    config: DataConfig,
    name: str,
    packaged: pathlib.Path | None = None,
    needs: preparation.Needs = preparation.SMALL,
) -> tuple[Any, str]:
    """The prepared builder of one of TFDS's own data sets, whose files TFDS knows."""
    import tensorflow_datasets as tfds

    def make(data_dir: str) -> Any:
        return tfds.builder(name, data_dir=data_dir or None)

    builder = preparation.construct(make, config)
    if not builder.is_prepared():
        infos = builder.url_infos
        manual_dir = pathlib.Path(config.manual_dir).expanduser() if config.manual_dir else packaged
        if manual_dir is not None:
            preparation.verify_files(manual_dir, infos)
        else:
            files = ", ".join(f"{u} (SHA-256 {i.checksum})" for u, i in infos.items())
            preparation.require_network(next(iter(infos)), files, config)
        builder = preparation.prepare(make, config, manual_dir, needs)
    return builder, ""


def _open_omniglot(config: DataConfig) -> tuple[Any, str]:
    from hvi_tf.data.omniglot import omniglot28

    builder = omniglot28.open_prepared(config)
    return builder, builder.digest


class Source(NamedTuple):
    """How a data set is opened and read, and its named splits."""

    builder: Callable[[DataConfig], tuple[Any, str]]  # -> prepared TFDS builder, digest
    splits: dict[str, splits.Split]
    train: str = "train"  # the training images, as TFDS names its splits
    gray: bool = False  # whether colours become gray while they are read


_SHU = splits.hold_out_drawn(2_000)
# TFDS shuffles once when it prepares these, so the last 5,000 are a fixed pseudo-random
# subset.
_MNIST_SPLITS = {"sobolev": splits.hold_out_last(5_000), "shu": _SHU}

SOURCES: dict[str, Source] = {
    "mnist": Source(
        functools.partial(_open_registered, name="mnist:3.0.1", packaged=_PACKAGED_FILES / "mnist"),
        _MNIST_SPLITS,
    ),
    "fashion_mnist": Source(
        functools.partial(_open_registered, name="fashion_mnist:3.0.1"), _MNIST_SPLITS
    ),
    "omniglot": Source(
        _open_omniglot,
        {
            "sobolev": splits.hold_out_first(5_000),
            "burda": splits.hold_out_drawn(1_345),
            "shu": _SHU,
        },
    ),
    # Shu et al. (2019, appendix D) merge "train" and "extra" and gray-scale all images.
    "svhn": Source(
        functools.partial(
            _open_registered,
            name="svhn_cropped:3.1.0",
            needs=preparation.Needs("5 minutes", "3 GB", "4 GB of memory"),
        ),
        {"shu": _SHU},
        train="train+extra",
        gray=True,
    ),
}


def check_name(name: str) -> None:
    """Raises `UserError` unless `name` is a known data set."""
    if name not in SOURCES:
        raise UserError(f"--dataset={name}: unknown; choose one of {', '.join(SOURCES)}")


_FOLDERS = ("data_dir", "manual_dir")


def check(config: DataConfig) -> None:
    """Raises `UserError` unless the data set is known and has that split, and folders can be."""
    check_name(config.dataset)
    for name in _FOLDERS:
        validation.local_path(f"--{name}", getattr(config, name))
    source = SOURCES[config.dataset]
    if config.split not in source.splits:
        raise UserError(
            f"--split={config.split}: --dataset={config.dataset} has {', '.join(source.splits)}; "
            f"give --split={next(iter(source.splits))}"
        )
    if config.split_seed != DataConfig.split_seed and not source.splits[config.split].drawn:
        raise UserError(
            f"--split_seed={config.split_seed}: --split={config.split} of "
            f"--dataset={config.dataset} is not drawn; leave it out"
        )
    if not re.fullmatch("([0-9a-f]{32})?", config.data_digest):  # it becomes part of a path
        raise UserError(f"data_digest={config.data_digest!r}: must be an md5 digest, or empty")


@preparation.quiet()
def load(config: DataConfig) -> Dataset:
    """Loads a data set, preparing it first where it is not prepared yet.

    Raises:
        UserError: for an unknown name or split, missing or damaged files, or no network
            when a download is needed.
    """
    check(config)
    source = SOURCES[config.dataset]
    import tensorflow as tf

    try:
        builder, digest = source.builder(config)
    except OSError as error:  # a closed folder, or a name that is too long
        named = [f"--{n}={getattr(config, n)}" for n in _FOLDERS if getattr(config, n)]
        raise UserError(
            f"{' or '.join(named) or 'the default --data_dir'}: cannot be looked into "
            f"({first_line(error)}); name another"
        ) from error
    try:
        num_images = builder.info.splits[source.train].num_examples
        held_out = source.splits[config.split].held_out(num_images, config.split_seed)
        train, validation = _read(builder, source.train, source.gray, held_out)
        test, _ = _read(builder, "test", source.gray)
    except (tf.errors.OpError, ValueError, AssertionError) as error:
        raise UserError(
            f"{builder.data_dir}: the prepared data set is damaged "
            f"({first_line(error)}); delete that folder and it will be prepared anew"
        ) from error
    return Dataset(_flat(train), _flat(validation), _flat(test), train.shape[1:], digest)


def describe(dataset_name: str, digest: str) -> str:
    """The name of a data set in a report: says so where its file is not the original."""
    if digest in ("", chardata.ORIGINAL_MD5):
        return dataset_name
    return f"{dataset_name} (rebuilt, not the original file: md5 {digest[:8]}...)"


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def _read(
    builder: Any, name: str, gray: bool = False, held_out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The images of a TFDS split that are kept, and those held out, in the order stored.

    Reads by batches into one array made in advance, so that at no time there is more than
    the result and a few batches.

    Args:
        builder: a prepared TFDS builder.
        name: of the split, such as "train+extra".
        gray: whether colours become gray, by `tf.image.rgb_to_grayscale`: the luma 0.2989 R
            + 0.5870 G + 0.1140 B. Shu et al. (2019) do not say which weights they took.
        held_out: bool `[N]`, which of the images are held out; None for none.

    Returns:
        Two views of one array, `[kept, H, W, C]` and `[held out, H, W, C]`.
    """
    import tensorflow as tf

    batches = _batches(builder, name)
    if gray:
        batches = batches.map(tf.image.rgb_to_grayscale)
    num_images = builder.info.splits[name].num_examples
    if held_out is None:
        held_out = np.zeros(num_images, bool)
    place = np.empty(num_images, np.int64)  # of each image in the result: first those kept
    place[np.argsort(held_out, kind="stable")] = np.arange(num_images)
    spec = batches.element_spec
    images = np.empty((num_images, *spec.shape[1:]), spec.dtype.as_numpy_dtype)
    done = 0
    for batch in batches.as_numpy_iterator():
        images[place[done : done + len(batch)]] = batch
        done += len(batch)
    if done != num_images:
        raise ValueError(f"{name} has {done} images, its metadata say {num_images}")
    kept = num_images - np.count_nonzero(held_out)
    return images[:kept], images[kept:]


def _batches(builder: Any, name: str) -> Any:
    """A `tf.data.Dataset` of the images of a TFDS split, in the order stored.

    Parsed and decoded by batches: TFDS's own pipeline goes example by example, which takes
    three times as long.
    """
    import tensorflow as tf

    image = builder.info.features["image"]

    def decode(records: tf.Tensor) -> tf.Tensor:
        parsed = tf.io.parse_example(records, {"image": tf.io.FixedLenFeature([], tf.string)})
        return image.decode_batch_example(parsed["image"])

    shards = [
        tf.data.TFRecordDataset(shard.filename).skip(shard.skip).take(shard.take)
        for shard in builder.info.splits[name].file_instructions
    ]
    records = functools.reduce(lambda a, b: a.concatenate(b), shards)
    return records.batch(_READ_BATCH).map(decode, num_parallel_calls=2, deterministic=True)
