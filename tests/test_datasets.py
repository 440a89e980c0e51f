"""MNIST from the packaged files, and specific errors for files that are not right."""

import shutil
import socket
import time

import numpy as np
import pytest

from hvi_tf.config import DataConfig
from hvi_tf.data import datasets
from hvi_tf.errors import UserError

PACKAGED = datasets._PACKAGED_FILES / "mnist"


def test_mnist_has_its_own_pixels(mnist_dir):
    data = datasets.load(DataConfig(data_dir=str(mnist_dir)))
    assert data.train.shape == (55_000, 784)
    assert data.validation.shape == (5_000, 784)
    assert data.test.shape == (10_000, 784)
    assert data.image_shape == (28, 28, 1)
    assert data.train.dtype == np.uint8
    # Mean intensities of the published training and test images; Fashion-MNIST, which
    # uses the same file names, has 72.94 and 73.15.
    whole = np.concatenate([data.train, data.validation])
    assert whole.mean() == pytest.approx(33.318, abs=1e-3)
    assert data.test.mean() == pytest.approx(33.791, abs=1e-3)


def test_preparing_leaves_no_extracted_files_behind(mnist_dir):
    assert not list(mnist_dir.glob("extract-*"))


def copy_packaged(folder):
    shutil.copytree(PACKAGED, folder)
    return folder / "train-images-idx3-ubyte.gz"


def load_error(tmp_path, **values):
    with pytest.raises(UserError) as error:
        datasets.load(DataConfig(data_dir=str(tmp_path / "tfds"), **values))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tfds").exists()  # nothing written
    return str(error.value)


def test_a_truncated_file_is_named_with_both_digests(tmp_path):
    file = copy_packaged(tmp_path / "files")
    file.write_bytes(file.read_bytes()[:1000])
    message = load_error(tmp_path, manual_dir=str(tmp_path / "files"))
    assert str(file) in message
    assert (
        "expected SHA-256 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        in message
    )
    assert "(1000 bytes)" in message


def test_a_changed_byte_is_noticed(tmp_path):
    file = copy_packaged(tmp_path / "files")
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    assert "damaged or another file" in load_error(tmp_path, manual_dir=str(tmp_path / "files"))


def test_a_missing_file_is_named(tmp_path):
    copy_packaged(tmp_path / "files").unlink()
    message = load_error(tmp_path, manual_dir=str(tmp_path / "files"))
    assert "train-images-idx3-ubyte.gz is missing" in message


def test_fashion_mnist_is_not_made_of_mnist_files(tmp_path):
    """The files have the same names; only their digests tell them apart."""
    message = load_error(tmp_path, dataset="fashion_mnist", manual_dir=str(PACKAGED))
    assert "damaged or another file" in message


def test_without_network_the_files_are_named_within_a_second(tmp_path, monkeypatch):
    def no_network(*arguments, **keywords):
        time.sleep(10)  # a look-up that hangs, the worst case

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(datasets, "_reachable", timed(datasets._reachable))
    message = load_error(tmp_path, dataset="fashion_mnist")
    assert timed.seconds < 1.0
    assert "--manual_dir" in message
    assert "t10k-images-idx3-ubyte.gz (SHA-256 346e55b948d973a97e58d2351dde16a4" in message


def timed(function):
    def wrapper(*arguments):
        start = time.monotonic()
        result = function(*arguments)
        timed.seconds = time.monotonic() - start
        return result

    return wrapper


def test_an_unknown_data_set_lists_the_known_ones():
    with pytest.raises(UserError, match="--dataset=imagenet: unknown; choose one of mnist"):
        datasets.check_name("imagenet")


@pytest.mark.parametrize("file", ["mnist-test.tfrecord*", "dataset_info.json"])
def test_a_damaged_prepared_set_is_named(file, mnist_dir, tmp_path):
    shutil.copytree(mnist_dir, tmp_path / "tfds")
    (path,) = (tmp_path / "tfds").glob(f"mnist/*/{file}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"prepared .* damaged|cannot read the prepared mnist"):
        datasets.load(DataConfig(data_dir=str(tmp_path / "tfds")))
