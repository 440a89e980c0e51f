"""28x28 OMNIGLOT: images are upright, exact and in the order of their own file."""

import functools
import http.server
import itertools
import re
import socket
import threading
import time

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from hvi_tf.config.settings import DataConfig
from hvi_tf.data import datasets, originals, preparation, splits
from hvi_tf.data.omniglot import chardata
from hvi_tf.errors import UserError
from hvi_tf.storage.locks import Lock
from tests.oracles.downloads import md5, write_omniglot

HELD_OUT = 2


@pytest.fixture
def small(monkeypatch):
    """Makes 7 + 3 images the whole data set, with 2 held out."""
    monkeypatch.setattr(chardata, "COUNTS", {"train": 7, "test": 3})
    source = datasets.SOURCES["omniglot"]
    monkeypatch.setitem(
        datasets.SOURCES,
        "omniglot",
        source._replace(splits={"sobolev": splits.hold_out_first(HELD_OUT)}),
    )


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(originals, "_reachable", lambda url: False)


def load(tmp_path, **values):
    return datasets.load(DataConfig(dataset="omniglot", data_dir=str(tmp_path / "tfds"), **values))


def load_error(tmp_path, **values):
    with pytest.raises(UserError) as error:
        load(tmp_path, **values)
    assert "\n" not in str(error.value)
    return str(error.value)


def whole_train(data):
    return np.concatenate([data.validation, data.train])  # undoes `hold_out_first`


def test_images_are_upright_exact_and_in_the_order_of_the_file(tmp_path, small):
    train, test, digest = write_omniglot(tmp_path / "chardata.mat")
    data = load(tmp_path, manual_dir=str(tmp_path / "chardata.mat"))
    assert data.train.dtype == np.float32
    assert data.image_shape == (28, 28, 1)
    assert (len(data.train), len(data.validation)) == (7 - HELD_OUT, HELD_OUT)
    np.testing.assert_array_equal(whole_train(data), train.reshape(7, 784))
    np.testing.assert_array_equal(data.test, test.reshape(3, 784))
    assert data.digest == digest
    assert (tmp_path / "tfds" / "omniglot28" / f"md5_{digest}").is_dir()
    assert not list((tmp_path / "tfds").glob("preparing-*"))


def test_a_column_of_the_file_goes_down_the_image(tmp_path, small):
    array = np.zeros((784, 7))
    array[3] = 1.0  # row 3 of column 0
    write_omniglot(tmp_path / "chardata.mat", data=array)
    image = chardata.read(tmp_path / "chardata.mat")["train"][0, :, :, 0]
    assert np.argwhere(image).tolist() == [[3, 0]]


def test_a_second_process_waits_and_uses_what_the_first_prepared(
    tmp_path, small, monkeypatch, capsys
):
    write_omniglot(tmp_path / "chardata.mat")
    manual_dir = str(tmp_path / "chardata.mat")
    datasets.load(
        DataConfig(dataset="omniglot", data_dir=str(tmp_path / "first"), manual_dir=manual_dir)
    )
    place = tmp_path / "tfds" / "omniglot28"
    unfinished = tmp_path / "tfds" / "preparing-omniglot"
    for folder in (place, unfinished):
        folder.mkdir(parents=True)
    lock = Lock(place)
    capsys.readouterr()

    attempts = itertools.count(1)

    def finish(seconds):  # replaces the wait
        assert unfinished.is_dir()  # it belongs to a live process
        if next(attempts) < 50:
            return
        (prepared,) = (tmp_path / "first" / "omniglot28").glob("md5_*")
        prepared.rename(place / prepared.name)
        lock.close()

    monkeypatch.setattr(time, "sleep", finish)
    assert len(load(tmp_path, manual_dir=manual_dir).train) == 7 - HELD_OUT
    output = capsys.readouterr().out
    place = re.escape(str(tmp_path / "tfds"))
    assert len(re.findall(rf"^Waiting .* omniglot in {place};.*\.\.\.$", output, re.MULTILINE)) == 2
    assert "Preparing" not in output


def test_only_the_folder_of_a_killed_preparation_is_removed(tmp_path, small):
    write_omniglot(tmp_path / "chardata.mat")
    tfds = tmp_path / "tfds"
    own = tfds / "preparing-omniglot" / "omniglot28" / "md5_x" / "incomplete.ABC_1.0.0"
    others = [
        *(tfds / name for name in ("preparing-mnist", "preparing-omniglot-mine", "incomplete.x")),
        tfds / "omniglot28" / "incomplete.XYZ_1.0.0",
    ]
    for folder in (own, *others):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    load(tmp_path, manual_dir=str(tmp_path))
    assert not (tfds / "preparing-omniglot").exists()
    assert all((folder / "file").exists() for folder in others)


def test_a_link_named_as_the_temporary_folder_is_not_followed(tmp_path, small):
    write_omniglot(tmp_path / "chardata.mat")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / "tfds").mkdir()
    (tmp_path / "tfds" / "preparing-omniglot").symlink_to(tmp_path / "mine")
    load(tmp_path, manual_dir=str(tmp_path))
    assert (tmp_path / "mine" / "file").exists()


def test_an_incomplete_data_set_is_kept_and_the_error_names_it(tmp_path, small):
    _, _, digest = write_omniglot(tmp_path / "chardata.mat")
    final = tmp_path / "tfds" / "omniglot28" / f"md5_{digest}" / "1.0.0"
    final.mkdir(parents=True)
    (final / "file").touch()
    message = load_error(tmp_path, manual_dir=str(tmp_path))
    assert str(final) in message
    assert (final / "file").exists()


def test_a_long_preparation_prints_progress_lines(monkeypatch, capsys):
    monkeypatch.setattr(preparation, "_REPORT_SECONDS", 0.01)
    output, deadline = "", time.monotonic() + 30
    with preparation._progress_lines("omniglot"):
        while "so far" not in output and time.monotonic() < deadline:
            output += capsys.readouterr().out
            time.sleep(0.01)
    assert "Preparing omniglot" in output
    assert "so far" in output


def test_two_files_give_two_data_sets(tmp_path, small, no_network):
    written = {}
    for name, seed in (("a", 1), ("b", 2)):
        train, _, digest = write_omniglot(tmp_path / name / "chardata.mat", seed)
        written[digest] = train.reshape(7, 784)
        data = load(tmp_path, manual_dir=str(tmp_path / name))
        np.testing.assert_array_equal(whole_train(data), written[digest])
    for digest, train in written.items():  # prepared, so the files are not needed
        data = load(tmp_path, data_digest=digest)
        assert data.digest == digest
        np.testing.assert_array_equal(whole_train(data), train)
    message = load_error(tmp_path)  # ambiguous
    assert all(digest in message for digest in written)


def test_the_only_prepared_file_is_the_default_until_the_original_is_prepared(
    tmp_path, small, monkeypatch
):
    _, _, rebuilt = write_omniglot(tmp_path / "a" / "chardata.mat", 1)
    _, _, original = write_omniglot(tmp_path / "b" / "chardata.mat", 2)
    monkeypatch.setattr(chardata, "ORIGINAL_MD5", original)
    load(tmp_path, manual_dir=str(tmp_path / "a"))
    assert load(tmp_path).digest == rebuilt
    load(tmp_path, manual_dir=str(tmp_path / "b"))
    assert load(tmp_path).digest == original
    assert load(tmp_path, data_digest=rebuilt).digest == rebuilt


def test_a_file_with_another_digest_is_refused(tmp_path, small):
    _, _, digest = write_omniglot(tmp_path / "chardata.mat", 1)
    message = load_error(tmp_path, manual_dir=str(tmp_path), data_digest="0" * 32)
    assert f"has MD5 {digest}" in message
    assert f"began with the file with MD5 {'0' * 32}" in message
    assert not (tmp_path / "tfds").exists()


def test_a_prepared_file_may_be_deleted_if_its_digest_is_given(tmp_path, small):
    _, _, digest = write_omniglot(tmp_path / "files" / "chardata.mat")
    manual_dir = str(tmp_path / "files")
    load(tmp_path, manual_dir=manual_dir)
    (tmp_path / "files" / "chardata.mat").unlink()
    (tmp_path / "files").rmdir()
    assert load(tmp_path, manual_dir=manual_dir, data_digest=digest).digest == digest
    assert "no chardata.mat there" in load_error(tmp_path, manual_dir=manual_dir)


def test_the_error_about_an_unprepared_digest_asks_for_its_file(tmp_path, small):
    message = load_error(tmp_path, data_digest="0" * 32)
    assert f"the file with MD5 {'0' * 32}" in message
    assert "pass that file as --manual_dir" in message


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["chardata.mat", "chardata_rebuilt.mat"], "chardata.mat"),
        (["chardata_rebuilt.mat", "other.mat"], "chardata_rebuilt.mat"),
    ],
)
def test_the_file_of_a_folder_is_found(files, expected, tmp_path):
    for file in files:
        (tmp_path / file).touch()
    assert chardata.find(str(tmp_path)) == tmp_path / expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["chardata_1.mat", "chardata_2.mat"], "contains chardata_1.mat, chardata_2.mat; give"),
        (["other.mat"], f"no chardata.mat there .*MD5 {chardata.ORIGINAL_MD5}"),
    ],
)
def test_a_folder_without_a_unique_file_is_refused(files, message, tmp_path):
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(UserError, match=f"--manual_dir={tmp_path}: {message}"):
        chardata.find(str(tmp_path))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (dict(testdata=None), r"no array 'testdata'; wanted one of shape \(784, 3\)"),
        (dict(data=np.zeros((784, 8))), r"'data' has shape \(784, 8\); wanted \(784, 7\)"),
        (dict(data=np.zeros((7, 784))), r"'data' has shape \(7, 784\); wanted \(784, 7\)"),
        (dict(data=np.zeros((784, 7), np.uint8)), "'data' holds uint8; wanted intensities from 0"),
        (dict(data=np.full((784, 7), 255.0)), "'data' has values from 255.0 to 255.0; wanted 0"),
        (dict(testdata=np.full((784, 3), -0.5)), "'testdata' has values from -0.5 to -0.5"),
        (dict(data=np.full((784, 7), np.nan)), "'data' has values from nan to nan; wanted 0"),
        (dict(data=np.full((784, 7), 0.5 + 0.5j)), "'data' holds complex128 numbers; wanted real"),
        (dict(testdata=np.full((784, 3), 1j, np.complex64)), "'testdata' holds complex64 numbers"),
        (dict(data=np.full((784, 7), np.inf)), "'data' has values from inf to inf; wanted 0"),
        (dict(data=np.zeros((784, 7), bool)), "'data' holds logical; wanted intensities"),
        (dict(data=scipy.sparse.csc_matrix((784, 7))), "'data' holds sparse; wanted intensities"),
        (dict(data=np.zeros((784, 7, 1, 2))), r"'data' has shape \(784, 7, 1, 2\); wanted"),
        (dict(data=np.zeros((784, 7), object)), "'data' holds cell; wanted intensities"),
        (dict(data="text"), "'data' has shape"),
    ],
)
def test_a_file_of_another_layout_is_refused(replaced, message, tmp_path, small):
    path = tmp_path / "chardata.mat"
    write_omniglot(path, **replaced)
    with pytest.raises(UserError, match=f"{path}: {message}"):
        load(tmp_path, manual_dir=str(path))
    assert not (tmp_path / "tfds").exists()  # nothing written


@pytest.mark.parametrize("kept", [0, 10, 100, 128, 140, 3_000, -1])
def test_the_error_names_a_truncated_file(kept, tmp_path, small):
    path = tmp_path / "chardata.mat"
    write_omniglot(path)
    path.write_bytes(path.read_bytes()[:kept])
    message = load_error(tmp_path, manual_dir=str(path))
    assert message.startswith(f"{path}: ")
    assert not (tmp_path / "tfds").exists()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder at the URL of the original file."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{httpd.server_port}/chardata.mat"
        monkeypatch.setattr(chardata, "URL", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield folder
        httpd.shutdown()


def test_the_original_is_downloaded_and_verified(tmp_path, small, server, monkeypatch):
    train, _, digest = write_omniglot(server / "chardata.mat")
    monkeypatch.setattr(chardata, "ORIGINAL_MD5", digest)
    data = load(tmp_path)
    assert data.digest == digest
    np.testing.assert_array_equal(whole_train(data), train.reshape(7, 784))
    assert [p.name for p in (tmp_path / "tfds").iterdir()] == ["omniglot28"]  # no download kept


def test_a_damaged_download_is_refused(tmp_path, small, server):
    _, _, digest = write_omniglot(server / "chardata.mat")
    message = load_error(tmp_path)
    assert f"expected MD5 {chardata.ORIGINAL_MD5}, found {digest}" in message
    assert "--manual_dir" in message
    write_omniglot(server / "chardata.mat", seed=5)  # the first download is not kept
    assert digest not in load_error(tmp_path)


def test_the_error_names_a_failed_download(tmp_path, small, server):
    message = load_error(tmp_path)  # no file there: status 404
    assert message.startswith("--dataset=omniglot: the download failed")
    assert "404" in message


def test_without_network_the_error_names_the_file(tmp_path, monkeypatch):
    def no_network(*arguments, **keywords):
        raise OSError("unreachable")

    monkeypatch.setattr(socket, "create_connection", no_network)
    message = load_error(tmp_path)
    assert f"{chardata.URL} (MD5 {chardata.ORIGINAL_MD5})" in message
    assert "--manual_dir" in message


def test_the_error_names_a_damaged_prepared_set(tmp_path, small):
    _, _, digest = write_omniglot(tmp_path / "chardata.mat")
    load(tmp_path, manual_dir=str(tmp_path))
    (path,) = (tmp_path / "tfds").glob(f"omniglot28/md5_{digest}/*/omniglot28-train.tfrecord*")
    path.write_bytes(path.read_bytes()[:-10])
    assert "the prepared data set is damaged" in load_error(tmp_path)


def test_a_report_marks_a_file_that_is_not_the_original():
    assert datasets.describe("mnist", "") == "mnist"
    assert datasets.describe("omniglot", chardata.ORIGINAL_MD5) == "omniglot"
    assert datasets.describe("omniglot", "c1cdd296" + "0" * 24) == (
        "omniglot (rebuilt, not the original file: md5 c1cdd296...)"
    )


@pytest.fixture(scope="module")
def real(data_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    manual_dir = str(data_files / "omniglot")

    @functools.cache
    def load_split(split):
        return datasets.load(
            DataConfig(dataset="omniglot", data_dir=str(folder), manual_dir=manual_dir, split=split)
        )

    return load_split


def test_real_pixels_are_those_of_the_file(real, data_files):
    data = real("sobolev")
    path = chardata.find(str(data_files / "omniglot"))
    assert data.digest == md5(path)
    assert [len(s) for s in data[:3]] == [19_345, 5_000, 8_070]
    if path.name == "chardata_rebuilt.mat":  # the means of this file
        assert whole_train(data).mean(dtype=np.float64) == pytest.approx(0.08302, abs=1e-5)
        assert data.test.mean(dtype=np.float64) == pytest.approx(0.08200, abs=1e-5)
    stored = scipy.io.loadmat(path)["data"].astype(np.float32)
    for index in (0, 4_999, 5_000, 24_344):
        image = whole_train(data)[index].reshape(28, 28)
        np.testing.assert_array_equal(image.flatten(order="F"), stored[:, index])


@pytest.mark.parametrize(("split", "held_out"), [("burda", 1_345), ("shu", 2_000)])
def test_real_splits_hold_out_a_draw(split, held_out, real):
    whole, data = whole_train(real("sobolev")), real(split)
    assert [len(s) for s in data[:3]] == [24_345 - held_out, held_out, 8_070]
    both = np.concatenate([data.train, data.validation])
    assert both.sum(dtype=np.float64) == pytest.approx(whole.sum(dtype=np.float64), rel=1e-9)
    assert not np.array_equal(data.validation, whole[:held_out])


def test_real_images_have_the_orientation_of_the_original_drawings(real, data_files):
    """Columns 100 to 229 are drawings 1 to 5 of the 26 characters of Arcadian."""
    drawings = np.load(data_files / "omniglot" / "images_background.npz", allow_pickle=False)[
        "images"
    ][:26, :5]
    ink = 1.0 - drawings.reshape(130, 105, 105)
    fine = ink.repeat(4, axis=1).repeat(4, axis=2)  # 420 = 15 * 28 = 4 * 105
    coarse = fine.reshape(130, 28, 15, 28, 15).mean(axis=(2, 4))
    images = whole_train(real("sobolev"))[100:230].reshape(130, 28, 28)

    def correlation(other):
        a, b = (v.reshape(130, -1) - v.mean(axis=(1, 2))[:, None] for v in (images, other))
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))

    assert correlation(coarse).min() > 0.9
    assert correlation(coarse.transpose(0, 2, 1)).mean() < 0.5
