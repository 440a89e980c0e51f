"""Each data set has its own pixels and splits, and wrong files are reported."""

import hashlib
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from hvi_tf.config.settings import DataConfig
from hvi_tf.data import datasets, originals, splits
from hvi_tf.errors import UserError
from tests.oracles import downloads


@pytest.fixture(scope="module")
def mnist_data(mnist_dir):
    return datasets.load(DataConfig(data_dir=str(mnist_dir), split="sobolev"))


def test_mnist_has_its_own_pixels(mnist_data):
    data = mnist_data
    assert data.train.shape == (55_000, 784)
    assert data.validation.shape == (5_000, 784)
    assert data.test.shape == (10_000, 784)
    assert data.image_shape == (28, 28, 1)
    assert data.train.dtype == np.uint8
    # Mean intensities of the published training and test images. Fashion-MNIST has the same file
    # names, and means of 72.94 and 73.15.
    whole = np.concatenate([data.train, data.validation])
    assert whole.mean() == pytest.approx(33.318, abs=1e-3)
    assert data.test.mean() == pytest.approx(33.791, abs=1e-3)


@pytest.mark.long
def test_fashion_mnist_has_its_own_pixels(data_files, mnist_dir):
    """It is prepared in the folder of MNIST, from files of the same names."""
    data = datasets.load(
        DataConfig(
            dataset="fashion_mnist",
            data_dir=str(mnist_dir),
            manual_dir=str(data_files / "fashion_mnist"),
        )
    )
    whole = np.concatenate([data.train, data.validation])
    assert whole.mean() == pytest.approx(72.940, abs=1e-3)
    assert data.test.mean() == pytest.approx(73.147, abs=1e-3)


def test_the_mnist_split_is_the_slice_of_tfds(mnist_data, mnist_dir):
    import tensorflow_datasets as tfds

    builder = tfds.builder("mnist:3.0.1", data_dir=str(mnist_dir))
    images = [e["image"] for e in tfds.as_numpy(builder.as_dataset(split="train[55000:]"))]
    np.testing.assert_array_equal(mnist_data.validation, np.reshape(images, (5_000, 784)))
    part, _ = datasets._read(builder, "train[59990:]+test[:5]")
    expected = [*mnist_data.validation[-10:], *mnist_data.test[:5]]
    np.testing.assert_array_equal(part.reshape(15, 784), expected)


def test_preparing_leaves_only_the_prepared_set(mnist_dir):
    assert not list(mnist_dir.glob("preparing-*"))
    assert not list(mnist_dir.glob("downloads*"))


def test_files_of_equal_names_become_two_data_sets(tmp_path, monkeypatch):
    """TFDS reuses extracted files by their name and does not check their origin."""
    from tensorflow_datasets.core.download import checksums
    from tensorflow_datasets.image_classification import mnist

    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 6)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 2)
    for name, builder in (("mnist", mnist.MNIST), ("fashion_mnist", mnist.FashionMNIST)):
        files = downloads.write_mnist(tmp_path / name, pixel=len(name))
        infos = {
            builder.URL + file: checksums.UrlInfo(size, digest, file)
            for file, (digest, size) in files.items()
        }
        monkeypatch.setattr(builder, "url_infos", infos)
        source = datasets.SOURCES[name]._replace(splits={"sobolev": splits.hold_out_last(2)})
        monkeypatch.setitem(datasets.SOURCES, name, source)
    for name in ("mnist", "fashion_mnist"):
        data = datasets.load(
            DataConfig(
                dataset=name, data_dir=str(tmp_path / "tfds"), manual_dir=str(tmp_path / name)
            )
        )
        for images, count in zip(data[:3], (4, 2, 2), strict=True):
            np.testing.assert_array_equal(images, np.full((count, 784), len(name)))


def load_error(tmp_path, **values):
    with pytest.raises(UserError) as error:
        datasets.load(DataConfig(data_dir=str(tmp_path / "tfds"), **values))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tfds").exists()  # nothing written
    return str(error.value)


@pytest.mark.parametrize("dataset", ["mnist", "omniglot"])
@pytest.mark.parametrize("folder", ["~nobody-of-this-name/x", "x" * 300])
def test_the_error_names_an_unreadable_folder(dataset, folder, tmp_path):
    message = load_error(tmp_path, dataset=dataset, manual_dir=folder)
    assert f"--manual_dir={folder}" in message


def test_the_error_names_a_truncated_file_and_the_expected_digest(tmp_path):
    file = downloads.copy_packaged_mnist(tmp_path / "files")
    file.write_bytes(file.read_bytes()[:1000])
    message = load_error(tmp_path, manual_dir=str(tmp_path / "files"))
    assert str(file) in message
    assert (
        "expected SHA-256 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        in message
    )
    assert "(1000 bytes)" in message


def test_a_file_with_a_changed_byte_is_refused(tmp_path):
    file = downloads.copy_packaged_mnist(tmp_path / "files")
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    assert "damaged or another file" in load_error(tmp_path, manual_dir=str(tmp_path / "files"))


def test_the_error_names_a_missing_file(tmp_path):
    downloads.copy_packaged_mnist(tmp_path / "files").unlink()
    message = load_error(tmp_path, manual_dir=str(tmp_path / "files"))
    assert "train-images-idx3-ubyte.gz is missing" in message


def test_fashion_mnist_is_not_prepared_from_mnist_files(tmp_path):
    """The files have the same names and differ only in their digests."""
    message = load_error(
        tmp_path, dataset="fashion_mnist", manual_dir=str(downloads.PACKAGED_MNIST)
    )
    assert "damaged or another file" in message


def test_without_network_the_error_names_the_files_within_a_second(tmp_path, monkeypatch):
    def no_network(*arguments, **keywords):
        time.sleep(10)  # the worst case: a look-up that hangs
        raise OSError

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(originals, "_reachable", timed(originals._reachable))
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(dataset="imagenet"), "--dataset=imagenet: unknown; choose one of mnist, fash"),
        (dict(split="burda"), "--split=burda: --dataset=mnist has sobolev, shu"),
        (dict(dataset="svhn"), "--split=sobolev: --dataset=svhn has shu"),
        (dict(split_seed=1), "--split_seed=1: --split=sobolev of --dataset=mnist is not drawn"),
        (dict(dataset="omniglot", split="x"), "--dataset=omniglot has sobolev, burda, shu"),
        (dict(dataset="omniglot", data_digest="../x"), "data_digest='../x': must be an MD5"),
    ],
)
def test_an_unknown_name_or_split_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        datasets.check(DataConfig(**values))


def test_checking_and_describing_import_nothing_heavy():
    code = (
        "import sys; from hvi_tf.config.settings import DataConfig; "
        "from hvi_tf.data import datasets; "
        "datasets.check(DataConfig(dataset='omniglot')); datasets.describe('omniglot', ''); "
        "assert not {'tensorflow', 'tensorflow_datasets', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SEED = DataConfig().split_seed


def held_out(split, num_images=5_000, seed=SEED):
    mask = split.held_out(num_images, seed)
    assert (mask.shape, mask.dtype) == ((num_images,), bool)
    return np.flatnonzero(mask).tolist()


def test_the_first_or_the_last_images_are_held_out():
    assert held_out(splits.hold_out_first(2)) == [0, 1]
    assert held_out(splits.hold_out_last(2)) == [4_998, 4_999]


def test_the_drawn_images_never_change():
    validation = held_out(splits.hold_out_drawn(1_345))
    assert len(validation) == 1_345
    assert set(validation) < set(held_out(splits.hold_out_drawn(2_000)))
    # Another version of NumPy must draw the same, or scores could not be compared.
    assert validation[:4] == [2, 5, 7, 12]


@pytest.mark.parametrize(
    ("split", "digest"),
    [
        ("burda", "dfed18bcb8c52bc0890c8296b171381e"),
        ("shu", "ef8edf6206cc1403bd41d7cf7942e032"),
    ],
)
def test_the_default_seed_draws_fixed_omniglot_images(split, digest):
    rule = datasets.SOURCES["omniglot"].splits[split]
    numbers = np.array(held_out(rule, 24_345), "<i4")
    assert hashlib.md5(numbers.tobytes()).hexdigest() == digest


def test_a_draw_depends_on_the_seed_alone():
    shu = splits.hold_out_drawn(2_000)
    assert held_out(shu, seed=3) == held_out(splits.hold_out_drawn(2_000), seed=3)
    assert held_out(shu, seed=3) != held_out(shu, seed=4)
    assert len(held_out(shu, seed=2**31 - 1)) == 2_000


def test_shu_splits_every_data_set_alike():
    for name, source in datasets.SOURCES.items():
        datasets.check(DataConfig(dataset=name, split="shu", split_seed=7))
        assert held_out(source.splits["shu"]) == held_out(splits.hold_out_drawn(2_000))


def test_the_images_of_a_split_are_those_of_its_mask(mnist_data, mnist_dir):
    """Batches are read, and each image is put into its place."""
    data = datasets.load(DataConfig(data_dir=str(mnist_dir), split="shu", split_seed=7))
    whole = np.concatenate([mnist_data.train, mnist_data.validation])
    mask = splits.hold_out_drawn(2_000).held_out(60_000, 7)
    np.testing.assert_array_equal(data.validation, whole[mask])
    np.testing.assert_array_equal(data.train, whole[~mask])
    np.testing.assert_array_equal(data.test, mnist_data.test)


@pytest.mark.parametrize("file", ["mnist-test.tfrecord*", "dataset_info.json"])
def test_the_error_names_a_damaged_prepared_set(file, mnist_dir, tmp_path):
    shutil.copytree(mnist_dir, tmp_path / "tfds")
    (path,) = (tmp_path / "tfds").glob(f"mnist/*/{file}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"prepared .* damaged|cannot read the prepared mnist"):
        datasets.load(DataConfig(data_dir=str(tmp_path / "tfds")))


def test_a_prepared_set_that_lacks_an_image_is_refused(mnist_dir, tmp_path):
    """Every record is intact, so only their number is wrong."""
    import tensorflow as tf

    shutil.copytree(mnist_dir, tmp_path / "tfds")
    (path,) = map(str, (tmp_path / "tfds").glob("mnist/*/mnist-test.tfrecord*"))
    records = [record.numpy() for record in tf.data.TFRecordDataset(path).take(9_999)]
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    with pytest.raises(UserError, match=r"damaged \(test has 9999 images, .* give 10000"):
        datasets.load(DataConfig(data_dir=str(tmp_path / "tfds")))
