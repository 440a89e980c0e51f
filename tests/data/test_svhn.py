"""Gray SVHN: train and extra merged, every image upright, once, and with its own luma."""

import numpy as np
import pytest

from hvi_tf.config.settings import DataConfig
from hvi_tf.data import datasets, originals, splits
from hvi_tf.errors import UserError
from tests.oracles.downloads import SVHN_URL, svhn_infos, write_svhn

HELD_OUT = 5
LUMA = (0.2989, 0.5870, 0.1140)


def hold_out_few(patch):
    source = datasets.SOURCES["svhn"]
    rule = {"shu": splits.hold_out_drawn(HELD_OUT)}
    patch.setitem(datasets.SOURCES, "svhn", source._replace(splits=rule))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Returns the data set of small files, their color images and the configuration.

    The batch size of reading does not divide the number of images.
    """
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("svhn")
    images = write_svhn(folder / "files")
    config = DataConfig(
        dataset="svhn",
        split="shu",
        data_dir=str(folder / "tfds"),
        manual_dir=str(folder / "files"),
    )
    with pytest.MonkeyPatch.context() as patch:
        builder = tfds.builder_cls("svhn_cropped")
        patch.setattr(builder, "url_infos", svhn_infos(folder / "files"))
        patch.setattr(datasets, "_READ_BATCH", 6)
        hold_out_few(patch)
        data = datasets.load(config)
    return data, images, config


def luma(images):
    return (images @ np.array(LUMA)).reshape(len(images), -1)


def matches(gray, color):
    """Returns pairs of indices (gray image `[N, D]`, color image) of equal images."""
    distance = np.abs(gray[:, None].astype(float) - luma(color)[None]).max(axis=2)
    return np.argwhere(distance < 1.5)  # the weights sum to 0.9999, and the luma is rounded


def test_images_are_gray_and_flat(small):
    data = small[0]
    assert data.image_shape == (32, 32, 1)
    assert all(images.dtype == np.uint8 for images in data[:3])
    assert [images.shape for images in data[:3]] == [(16 - HELD_OUT, 1024), (5, 1024), (4, 1024)]


def test_train_and_extra_are_merged_and_every_image_appears_once(small):
    data, images, _ = small
    pairs = matches(
        np.concatenate([data.train, data.validation]),
        np.concatenate([images["train"], images["extra"]]),
    )
    assert sorted(pairs[:, 0]) == sorted(pairs[:, 1]) == list(range(16))
    pairs = matches(data.test, images["test"])
    assert sorted(pairs[:, 0]) == sorted(pairs[:, 1]) == list(range(4))


def test_an_image_without_color_keeps_its_levels(small):
    data, images, _ = small
    level = images["test"][0, :, :, 0].reshape(1024)
    assert level.tolist() in data.test.tolist()
    everything = np.concatenate([data.train, data.validation]).tolist()
    for part in ("train", "extra"):
        assert images[part][0, :, :, 0].reshape(1024).tolist() in everything


def test_every_level_survives_the_gray_scaling():
    import tensorflow as tf

    levels = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(tf.image.rgb_to_grayscale(levels), levels[:, :1])


def test_the_split_seed_determines_the_draw(small, monkeypatch):
    data, _, config = small
    hold_out_few(monkeypatch)
    whole = {image.tobytes() for images in data[:2] for image in images}
    held_out = {}
    for seed in (1, 2):
        other = datasets.load(DataConfig(**{**vars(config), "split_seed": seed, "manual_dir": ""}))
        held_out[seed] = {image.tobytes() for image in other.validation}
        assert len(held_out[seed]) == HELD_OUT
        assert held_out[seed] | {image.tobytes() for image in other.train} == whole
    assert held_out[1] != held_out[2]


def load_error(tmp_path, **values):
    with pytest.raises(UserError) as error:
        datasets.load(
            DataConfig(dataset="svhn", split="shu", data_dir=str(tmp_path / "tfds"), **values)
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tfds").exists()  # nothing written
    return str(error.value)


def test_the_error_names_a_missing_file_and_its_registered_digest(tmp_path):
    message = load_error(tmp_path, manual_dir=str(tmp_path))
    assert f"--manual_dir={tmp_path}: {tmp_path}/" in message
    assert "_32x32.mat is missing (expected SHA-256 " in message


def test_files_of_another_data_set_are_refused(tmp_path):
    write_svhn(tmp_path / "files")
    message = load_error(tmp_path, manual_dir=str(tmp_path / "files"))
    assert "_32x32.mat is damaged or another file: expected SHA-256" in message


def test_without_network_the_error_names_all_three_files(tmp_path, monkeypatch):
    monkeypatch.setattr(originals, "_reachable", lambda url: False)
    message = load_error(tmp_path)
    for part, digest in (("train", "435e94d6"), ("test", "cdce80df"), ("extra", "a133a4be")):
        assert f"{SVHN_URL}{part}_32x32.mat (SHA-256 {digest}" in message


def test_the_error_of_a_full_disk_names_the_space_for_svhn(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def full(*arguments, **keywords):
        raise OSError("No space left on device")

    builder = tfds.builder_cls("svhn_cropped")
    write_svhn(tmp_path / "files")
    monkeypatch.setattr(builder, "url_infos", svhn_infos(tmp_path / "files"))
    monkeypatch.setattr(builder, "download_and_prepare", full)
    with pytest.raises(UserError, match=r"No space left .*; give a writable folder with 3 GB"):
        datasets.load(
            DataConfig(
                dataset="svhn",
                split="shu",
                data_dir=str(tmp_path / "tfds"),
                manual_dir=str(tmp_path / "files"),
            )
        )
