"""Files that are damaged or claim wrong sizes are read, or refused by one line."""

import collections
import contextlib
import gzip
import hashlib
import io
import json
import pathlib
import re
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import example, given
from hypothesis import strategies as st

from hvi_tf.data import originals
from hvi_tf.data.omniglot import chardata
from hvi_tf.errors import UserError
from hvi_tf.evaluation import jobs
from hvi_tf.storage import npz
from tests.faults import cases
from tests.faults.cases import folder, outcome, peak_memory, scoring_job

COUNTS = {"train": 7, "test": 3}


@pytest.fixture(scope="module", autouse=True)
def _few_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chardata, "COUNTS", COUNTS)  # of OMNIGLOT
        yield


def arrays_file(**arrays):
    """Returns the bytes of an npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(content, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("a.npy", content)
    return buffer.getvalue()


def npy(descr, shape, content=b""):
    """Returns an array in the npy format with any header."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode(
        "latin1", "replace"
    )
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def a_bomb(claimed=None):
    """Returns an archive of 16 kB with 16 MB of zeros; it may claim a smaller size."""
    content = npy("'<f4'", (2**22,), bytes(2**24))
    archive = zipped(content, zipfile.ZIP_DEFLATED)
    return archive.replace(
        struct.pack("<I", len(content)), struct.pack("<I", claimed or len(content))
    )


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([pathlib.Path("x")], object), allow_pickle=True)
    return zipped(buffer.getvalue())


@st.composite
def damaged(draw, content):
    """Draws a copy of these bytes with some changed, cut off, left out or set to large sizes."""
    copy = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(copy)))
        kind = draw(st.sampled_from(["byte", "cut", "much", "out"]))
        if kind == "byte":
            copy[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "cut":
            del copy[at:]
        elif kind == "much":
            copy[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, b"\0\0\0\x40", b"\0" * 4]))
        else:
            del copy[at : at + draw(st.integers(1, 40))]
    return bytes(copy)


shapes = st.one_of(
    st.lists(st.one_of(st.integers(-2, 5), st.integers()), max_size=4).map(tuple),
    st.sampled_from(
        [(2**70, 0), (2**62, 4), (10**12,), (-1,), (0,) * 65, (True,), (None,), ("a",)]
    ),
    st.text(max_size=8),
)
descriptions = st.one_of(
    st.sampled_from(
        ["'<f4'", "'<f8'", "'|O'", "'|S0'", "'<U0'", "'|V0'", "'<U3'", "[]", "{}", "''"]
    ),
    st.sampled_from(
        ["('<f4', (9999,))", "[('a', '<f4')]", "[('a',)]", "'|b1'", "'<M8[s]'", "None"]
    ),
    st.text(max_size=8),
)
SCORES = arrays_file(identity="x", log_likelihood=np.arange(50, dtype=np.float32))
array_files = st.one_of(
    damaged(SCORES),
    st.builds(npy, descriptions, shapes, st.binary(max_size=40)).map(zipped),
    st.binary(max_size=100),
)


@cases.share(0.1)
@given(array_files)
@example(a_bomb())
@example(a_bomb(claimed=100))
@example(pickled())
@example(zipped(npy("'<f4'", (2**70, 0))))
@example(zipped(npy("'<f4'", (True,), bytes(4))))
@example(zipped(npy("'<f4'", (2**40,))))
@example(zipped(npy("'|O'", (1,), b"\x80\x04\x95")))
@example(zipped(npy("(" * 500, "()")))
@example(zipped(npy("()", "(1,)")))
@example(zipped(b"\x93NUMPY\x01\x00\x15\x00if 1:\n    a\n  b\n      "))
@example(zipped(npy("-" * 9_000 + "1", "()")))
@example(zipped(b"\x93NUMPY\x03\x00"))
@example(SCORES.replace((328).to_bytes(4, "little"), (2**30).to_bytes(4, "little")))
def test_any_file_of_arrays_is_read_or_refused(content):
    """Memory stays below a few times the size of the file."""
    with folder() as here:
        (here / "a.npz").write_bytes(content)
        with peak_memory() as peak:
            arrays, line = outcome(npz.read_arrays, here / "a.npz", refusals=(OSError, ValueError))
            assert peak() < 4 * len(content) + 500_000
    if arrays is None:
        assert line.count("\n") == 0
    else:
        assert sum(array.nbytes for array in arrays.values()) <= len(content)


IDENTITY = json.dumps({"step": 1, "names": ["log_likelihood", "ess"]})
scores = st.one_of(
    st.integers(0, 20).map(lambda n: np.zeros(n, np.float32)),
    st.sampled_from([np.zeros(()), np.zeros((3, 1)), np.array(["a", "b"]), np.array([True])]),
)


@cases.share(0.04)
@given(
    st.one_of(
        damaged(arrays_file(identity=IDENTITY, seconds=1.0, log_likelihood=[1.0], ess=[2.0])),
        st.builds(
            arrays_file,
            identity=st.sampled_from([IDENTITY, "", "{}", "[" * 9_999, IDENTITY[:-1]]),
            seconds=st.one_of(st.floats(), st.text(max_size=3), st.just([1.0, 2.0])),
            log_likelihood=scores,
            ess=scores,
        ),
    )
)
@example(arrays_file(identity="[" * 99_999))
@example(arrays_file(identity="{}"))
@example(arrays_file(identity=IDENTITY, seconds=1.0, log_likelihood=np.float32(1), ess=1.0))
@example(arrays_file(identity=IDENTITY, seconds=1.0, log_likelihood=["a"], ess=["b"]))
def test_any_file_of_earlier_scores_is_used_or_dropped(content):
    """A file that is dropped has one line with the reason."""
    with folder() as here:
        (here / "scores.npz").write_bytes(content)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            found, seconds = jobs._load(scoring_job(here / "scores.npz"))
    assert out.getvalue().count("\n") <= 1
    assert isinstance(seconds, float)
    assert len({len(values) for values in found.values()}) == 1
    assert all(np.isreal(values).all() and values.ndim == 1 for values in found.values())
    if out.getvalue():
        assert re.search("is damaged|holds scores of other settings", out.getvalue())
        assert len(found["log_likelihood"]) == 0


def mat_file(compressed=True, **replaced):
    """Returns the bytes of a MATLAB file like OMNIGLOT's with few images."""
    arrays = {"data": np.full((784, 7), 0.5), "testdata": np.full((784, 3), 0.25)} | replaced
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays, do_compression=compressed)
    return buffer.getvalue()


def element(kind, content, size=None):
    """Returns an element of a MATLAB file that claims to have `size` bytes."""
    return struct.pack("<II", kind, len(content) if size is None else size) + content


def unpacking_to(content, zeros=0):
    """Returns a MATLAB file with one compressed array: `content`, then megabytes of zeros."""
    packer = zlib.compressobj()
    pieces = [packer.compress(content), *(packer.compress(bytes(2**20)) for _ in range(zeros))]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    return header + element(15, b"".join([*pieces, packer.flush()]))


def matrix(shape, size, claimed):
    """Returns the header of the array `data`, which claims `claimed` bytes of numbers."""
    parts = [
        element(6, struct.pack("<II", 6, 0)),  # of doubles
        element(5, struct.pack("<ii", *shape)),
        element(1, b"data\0\0\0\0", 4),
        element(9, b"", claimed),
    ]
    return element(14, b"".join(parts), size)


A_BOMB = unpacking_to(matrix((784, 7), 2**29, 2**29 - 100), zeros=512)
SMALL_WITH_LARGE_CLAIMS = [
    unpacking_to(matrix((784, 2**20), 2**32 - 8, 2**32 - 64)),
    unpacking_to(matrix((784, 7), 2**32 - 8, 2**32 - 64)),
    mat_file(data=np.zeros((784, 100)), compressed=False).replace(
        struct.pack("<ii", 784, 100), struct.pack("<ii", 784, 2**30)
    ),
]


@cases.share(0.04)
@given(
    st.one_of(
        damaged(mat_file()),
        damaged(mat_file(compressed=False)),
        st.builds(
            mat_file,
            data=st.sampled_from([np.ones((784, 7), np.float32), np.zeros((7, 784)), "text", {}]),
            testdata=st.sampled_from([np.full((784, 3), np.nan), np.zeros((784, 3), np.int8)]),
        ),
        st.binary(max_size=200),
    )
)
@example(SMALL_WITH_LARGE_CLAIMS[0])
@example(SMALL_WITH_LARGE_CLAIMS[1])
@example(SMALL_WITH_LARGE_CLAIMS[2])
def test_any_matlab_file_is_read_or_refused(content):
    with folder() as here:
        (here / "chardata.mat").write_bytes(content)
        found, line = outcome(chardata.read, here / "chardata.mat", refusals=UserError)
    if found is None:
        assert "\n" not in line
    else:
        for split, count in COUNTS.items():
            assert found[split].shape == (count, 28, 28, 1)
            assert (found[split] >= 0).all()
            assert (found[split] <= 1).all()


READER = """
import pathlib, resource, sys
import scipy.io
from hvi_tf.data.omniglot import chardata
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    chardata.read(pathlib.Path(sys.argv[1]))
except Exception as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def test_a_matlab_file_of_kilobytes_is_not_unpacked_to_gigabytes(tmp_path):
    """A process's peak of memory is measured, because tracemalloc does not see scipy's buffers."""
    assert len(A_BOMB) < 2**20
    (tmp_path / "chardata.mat").write_bytes(A_BOMB)
    command = [sys.executable, "-c", READER, str(tmp_path / "chardata.mat")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    grown, _, line = output.partition(" ")
    assert "an array unpacks to more than" in line
    assert int(grown) < 64 * 1024  # KiB


IDX = [gzip.compress(bytes(16) + bytes(range(256)) * 4), gzip.compress(bytes(12))]
Info = collections.namedtuple("Info", "filename checksum size")


@cases.share(0.03)
@given(damaged(IDX[0]), st.sampled_from(["file", "gone", "folder"]))
def test_only_the_original_file_of_mnist_is_accepted(content, kind):
    """Digests are checked, so a damaged file never reaches TFDS's parser."""
    infos = {name: Info(name, hashlib.sha256(IDX[0]).hexdigest(), len(IDX[0])) for name in "ab"}
    with folder() as here:
        (here / "a").write_bytes(IDX[0])
        if kind == "file":
            (here / "b").write_bytes(content)
        elif kind == "folder":
            (here / "b").mkdir()
        _, line = outcome(originals.verify_files, here, infos, refusals=UserError)
    if kind != "file":
        reason = "missing" if kind == "gone" else "not a regular file"
        assert f"b is {reason} (expected SHA-256" in line
    else:
        assert (line is None) == (content == IDX[0])
        assert line is None or "b is damaged or another file" in line
