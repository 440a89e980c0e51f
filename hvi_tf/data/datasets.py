"""The table of data sets: how each is opened, and its named splits.

TensorFlow and TFDS are imported inside functions, because --help must not wait for them.
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
from hvi_tf.data import originals, preparation, splits
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
    digest: str = ""  # MD5 of the original file, if several files are accepted

    def digests(self) -> dict[str, str]:
        """Returns the SHA-256 digest of the pixels of each split, by its name."""
        return {name: _sha256(getattr(self, name)) for name in ("train", "validation", "test")}


def _sha256(images: np.ndarray) -> str:
    digest = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def _open_registered(
    config: DataConfig,
    name: str,
    packaged: pathlib.Path | None = None,
    needs: preparation.Needs = preparation.SMALL,
) -> tuple[Any, str]:
    """Returns the prepared builder of one of TFDS's own data sets, and no digest."""
    import tensorflow_datasets as tfds

    def make(data_dir: str) -> Any:
        return tfds.builder(name, data_dir=data_dir or None)

    builder = preparation.construct(make, config)
    if not builder.is_prepared():
        infos = builder.url_infos
        manual_dir = pathlib.Path(config.manual_dir).expanduser() if config.manual_dir else packaged
        if manual_dir is not None:
            originals.verify_files(manual_dir, infos)
        else:
            files = ", ".join(f"{u} (SHA-256 {i.checksum})" for u, i in infos.items())
            originals.require_network(next(iter(infos)), files, config)
        builder = preparation.prepare(make, config, manual_dir, needs)
    return builder, ""


def _open_omniglot(config: DataConfig) -> tuple[Any, str]:
    from hvi_tf.data.omniglot import omniglot28

    builder = omniglot28.open_prepared(config)
    return builder, builder.digest


class Source(NamedTuple):
    """The way a data set is opened and read, and its named splits."""

    builder: Callable[[DataConfig], tuple[Any, str]]  # -> prepared TFDS builder, digest
    splits: dict[str, splits.Split]
    train: str = "train"  # the training images, as TFDS names its splits
    gray: bool = False  # whether color images are converted to gray while they are read


_SHU = splits.hold_out_drawn(2_000)
# TFDS shuffles these once, at their preparation, so the last 5,000 are a fixed random subset.
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
    # Shu et al. (2019, appendix D) merge "train" and "extra" and convert all images to gray.
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
    """Checks that `name` is a known data set, else raises `UserError`."""
    if name not in SOURCES:
        raise UserError(f"--dataset={name}: unknown; choose one of {', '.join(SOURCES)}")


_FOLDERS = ("data_dir", "manual_dir")


def check(config: DataConfig) -> None:
    """Checks the settings that choose and locate a data set.

    Raises:
        UserError: if the data set is unknown or has no such split, if a folder is not a local
            path, or if a seed or digest does not apply.
    """
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
    if not re.fullmatch("([0-9a-f]{32})?", config.data_digest):  # becomes part of a path
        raise UserError(f"data_digest={config.data_digest!r}: must be an MD5 digest, or empty")


@preparation.quiet()
def load(config: DataConfig) -> Dataset:
    """Loads a data set; prepares it first if that has not been done.

    Raises:
        UserError: if the name or split is unknown, if files are missing or damaged, or if a
            download is needed and there is no network.
    """
    check(config)
    source = SOURCES[config.dataset]
    import tensorflow as tf

    try:
        builder, digest = source.builder(config)
    except OSError as error:  # no permission, or a name that is too long
        flags = [f"--{n}={getattr(config, n)}" for n in _FOLDERS if getattr(config, n)]
        raise UserError(
            f"{' or '.join(flags) or 'the default --data_dir'}: cannot read this folder "
            f"({first_line(error)}); give another one"
        ) from error
    try:
        num_images = builder.info.splits[source.train].num_examples
        held_out = source.splits[config.split].held_out(num_images, config.split_seed)
        train, validation = _read(builder, source.train, source.gray, held_out)
        test, _ = _read(builder, "test", source.gray)
    except (tf.errors.OpError, ValueError, AssertionError) as error:
        raise UserError(
            f"{builder.data_dir}: the prepared data set is damaged "
            f"({first_line(error)}); delete that folder to prepare it again"
        ) from error
    return Dataset(_flat(train), _flat(validation), _flat(test), train.shape[1:], digest)


def describe(dataset_name: str, digest: str) -> str:
    """Returns the name of a data set for a report, with a note if its file is not the original."""
    if digest in ("", chardata.ORIGINAL_MD5):
        return dataset_name
    return f"{dataset_name} (rebuilt, not the original file: md5 {digest[:8]}...)"


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def _read(
    builder: Any, name: str, gray: bool = False, held_out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images of a TFDS split, in stored order, and separates those held out.

    Reads batches into one array allocated in advance, so memory holds only the result and a few
    batches.

    Args:
        builder: a prepared TFDS builder.
        name: the split, such as "train+extra".
        gray: whether to convert colors by `tf.image.rgb_to_grayscale`: the luma 0.2989 R
            + 0.5870 G + 0.1140 B. Shu et al. (2019) do not give their weights.
        held_out: bool `[N]`, true for each image to hold out; None holds out none.

    Returns:
        Two views of one array, `[kept, H, W, C]` and `[held out, H, W, C]`.

    Raises:
        ValueError: if the split does not have as many images as its metadata say.
    """
    import tensorflow as tf

    batches = _batches(builder, name)
    if gray:
        batches = batches.map(tf.image.rgb_to_grayscale)
    num_images = builder.info.splits[name].num_examples
    if held_out is None:
        held_out = np.zeros(num_images, bool)
    place = np.empty(num_images, np.int64)  # index of each image in the result; kept ones first
    place[np.argsort(held_out, kind="stable")] = np.arange(num_images)
    spec = batches.element_spec
    images = np.empty((num_images, *spec.shape[1:]), spec.dtype.as_numpy_dtype)
    done = 0
    for batch in batches.as_numpy_iterator():
        images[place[done : done + len(batch)]] = batch
        done += len(batch)
    if done != num_images:
        raise ValueError(f"{name} has {done} images, but its metadata give {num_images}")
    kept = num_images - np.count_nonzero(held_out)
    return images[:kept], images[kept:]


def _batches(builder: Any, name: str) -> Any:
    """Returns a `tf.data.Dataset` of batches of a TFDS split's images, in stored order.

    It parses and decodes whole batches. TFDS's own pipeline decodes single examples, which takes
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
