"""Hostile configurations, checkpoints, archives and downloads are refused, and no code runs."""

import contextlib
import functools
import io
import itertools
import json
import shlex
import tarfile
import zipfile

import pytest
import tensorflow as tf

from hvi_tf.config import config as config_lib
from hvi_tf.config import identity
from hvi_tf.config.config import Config
from hvi_tf.config.settings import DataConfig
from hvi_tf.data import datasets, originals, splits
from hvi_tf.data.omniglot import chardata
from hvi_tf.errors import UserError
from hvi_tf.evaluation import table
from hvi_tf.models.vae import make_vae
from hvi_tf.storage import files
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training.checkpoints import Checkpoints
from tests.oracles import downloads

SETTINGS = dict(hidden=(8, 8), latent_dim=3, aux_dim=2, jit_compile="off")


def open_with(folder, text):
    """Opens a workdir whose config.json has this text."""
    folder.mkdir()
    (folder / "config.json").write_text(text)
    return workdirs.open_existing(folder, writes=False)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", "null", '"data"', '{"data": 3}', '{"data": null}', '{"data": ["ab"]}'),
        *('{"data": {"__class__": 1}}', '{"evil": {}}', '{"data": {"workdir": "/"}}'),
        *('{"evaluation": {"trust_saved_model": true}}', '{"evaluation": {"saved_model": "/x"}}'),
        *('{"training": {"devices": "cpu"}}', '{"method": {"mode": "export"}}', "{"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"data": ' * 100_000, id="deep in a section"),
        pytest.param('{"method": {"K": ' + "9" * 5_000 + "}}", id="a number of 5,000 digits"),
    ],
)
def test_an_invalid_configuration_is_refused_by_one_line(text, tmp_path):
    with pytest.raises(UserError, match="cannot read") as error:
        open_with(tmp_path / "run", text)
    assert "\n" not in str(error.value)


STRANGE = [[], {}, "x", "../../x", "", True, None, -1, 1.5, 10**30, ["x"], [[1]], [None], {"a": 1}]


@pytest.mark.parametrize("name", [field.name for field in config_lib.fields()])
def test_a_setting_of_another_type_is_refused(name):
    """Every setting that is accepted has the type of its field."""
    (field,) = (f for f in config_lib.fields() if f.name == name)
    kind = config_lib.kind(field)
    wanted = (float, int) if kind is float else (kind,)
    for value in STRANGE:
        config = json.loads(config_lib.make(**SETTINGS).to_json())
        (section,) = (s for s in config.values() if name in s)
        section[name] = value
        try:
            accepted = config_lib.flatten(Config.from_json(json.dumps(config)))[name]
        except UserError:
            continue
        assert type(accepted) in wanted or (accepted is None and field.default is None), value
        if kind is tuple:
            assert all(type(number) is int for number in accepted)


def test_a_configuration_contains_only_settings(tmp_path):
    """The folder, the mode and files to load come from the command; reading writes nothing."""
    of_command = {"workdir", "mode", "saved_model", "trust_saved_model", "devices", "strategy"}
    assert not of_command & {field.name for field in config_lib.fields()}
    outside = tmp_path / "outside"
    config = config_lib.make(data_dir=str(outside), manual_dir=str(outside), **SETTINGS)
    assert open_with(tmp_path / "run", config.to_json()).config == config
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json"]


def test_printed_commands_can_be_pasted_into_a_shell(tmp_path):
    workdir = workdirs.create_or_open(tmp_path / "a; $(touch x) 'b'", config_lib.make(**SETTINGS))
    score = {"mean": -1.0, "standard_error": 0.1}
    scores = dict(estimator="saved_model", saved_model="m", sha256="0", M=1, K=0, split="test")
    scores |= dict(log_likelihood=score, bound=score, ess_outer=score, images=1, dataset="mnist")
    scores |= dict(seconds=1.0, scores="s", step=None)
    printed = table.render(workdir.config, workdir, scores, None, 1.0)
    workdir.close()
    commands = [shlex.split(line) for line in printed.partition("Next commands:")[2].splitlines()]
    flags = {word for words in commands for word in words if "touch" in word}
    assert flags == {f"--workdir={workdir.path}", f"--logdir={workdir.tensorboard}"}


def variants(value):
    return tf.raw_ops.EmptyTensorList(
        element_shape=tf.constant(-1), max_num_elements=3, element_dtype=tf.float32
    )


CODE = b"cos\nsystem\n(S'touch canary'\ntR."  # a pickle that runs a command


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Yields the workdir of a run with one checkpoint."""
    with contextlib.closing(
        workdirs.create_or_open(tmp_path / "run", config_lib.make(**SETTINGS))
    ) as workdir:
        Checkpoints(make_vae(workdir.config, 12), workdir).save()
        monkeypatch.chdir(workdir.path)
        yield workdir


@pytest.mark.parametrize(
    "replaced",
    [
        lambda value: tf.fill(value.shape, CODE),
        lambda value: tf.constant(CODE),
        lambda value: tf.zeros(value.shape, tf.complex64),
        lambda value: tf.zeros(value.shape, tf.int8),
        lambda value: tf.zeros([*value.shape, 2]),
        lambda value: tf.zeros([0]),
        variants,
    ],
    ids=["strings", "a string", "complex", "int8", "another shape", "empty", "variant"],
)
def test_a_checkpoint_with_other_tensors_counts_as_damaged(replaced, saved):
    rewrite(saved, lambda name, value: value if "OBJECT_GRAPH" in name else replaced(value))
    assert_damaged(saved)


@pytest.mark.parametrize("graph", [b"", CODE, b"\xff" * 1000, b"\x0a\x04\x0a\x02\x10\x00" * 1000])
def test_a_checkpoint_with_another_object_graph_counts_as_damaged(graph, saved):
    rewrite(saved, lambda name, value: tf.constant(graph) if "OBJECT_GRAPH" in name else value)
    assert_damaged(saved)


@pytest.mark.parametrize(
    "state",
    [
        *("", "null", "[]", "{}", '{"best_step": 1}', CODE.decode()),
        '{"best_step": 1e999, "not_finite": 0, "sums": {}, "steps": 0}',
        '{"best_step": 1, "not_finite": 0, "sums": [], "steps": 0}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_checkpoint_with_another_state_counts_as_damaged(state, saved):
    rewrite(saved, lambda name, value: tf.constant(state) if "py_state" in name else value)
    assert_damaged(saved)


@pytest.mark.parametrize(
    "manifest",
    [
        *("", "null", "[]", "{}", '{"step": 0}', '{"step": 0, "run": "RUN"}', CODE.decode()),
        *('{"step": 0, "run": "RUN", "sha256": 3}', '{"step": 0, "run": "RUN", "sha256": {}}'),
        '{"step": 0, "run": "RUN", "sha256": {"ckpt-0.index": 3}}',
        '{"step": 0, "run": "RUN", "sha256": {"../../../../etc/passwd": "0"}}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_checkpoint_with_invalid_digests_counts_as_damaged(manifest, saved):
    run = identity.identity_digest(saved.config)
    (saved.checkpoints / "ckpt-0.json").write_text(manifest.replace("RUN", run))
    assert_damaged(saved)


def rewrite(workdir, replace):
    """Replaces tensors of the checkpoint and its digests, as an attacker would."""
    prefix = str(workdir.checkpoints / "ckpt-0")
    reader = tf.train.load_checkpoint(prefix)
    names = sorted(reader.get_variable_to_shape_map())
    tensors = [replace(name, tf.constant(reader.get_tensor(name))) for name in names]
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors
    )
    manifest = workdir.checkpoints / "ckpt-0.json"
    metadata = files.read_json(manifest)
    for name in metadata["sha256"]:
        metadata["sha256"][name] = files.digest(workdir.checkpoints / name)
    files.write_json(manifest, metadata)


def assert_damaged(workdir):
    warnings = []
    with pytest.raises(UserError, match="every checkpoint there is damaged") as error:
        Checkpoints(make_vae(workdir.config, 12), workdir, warn=warnings.append).restore_latest()
    (warning,) = warnings
    assert "is damaged (" in warning
    assert "\n" not in warning + str(error.value)
    assert not list(workdir.path.rglob("canary"))


def members(outside):
    """Yields members of an archive that would write outside of its folder."""
    up = "../" * 20 + str(outside).lstrip("/")
    yield from (
        (f"{p}/evil", b"!") for p in (str(outside), f"/{outside}", up, f"a/{up}", f"./{up}")
    )
    yield from (("../evil", b"!"), ("a/../../evil", b"!"), ("..", b"!"), ("good", b"good"))


def write_tar(path, outside, mode):
    with tarfile.open(path, mode) as archive:
        for name, kind in itertools.product(("link", "peek"), (tarfile.SYMTYPE, tarfile.LNKTYPE)):
            link = tarfile.TarInfo(f"{name}{kind[0]}")
            link.type = kind
            link.linkname = str(outside if name == "link" else outside / "secret")
            archive.addfile(link)
            archive.addfile(tarfile.TarInfo(f"{link.name}/evil"))
        pipe = tarfile.TarInfo("pipe")
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(pipe)
        for name, content in members(outside):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_zip(path, outside):
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16  # a symbolic link
        archive.writestr(link, str(outside))
        archive.writestr("link/evil", b"!")
        for name, content in members(outside):
            archive.writestr(name, content)


@pytest.mark.parametrize("method", ["TAR", "TAR_GZ", "TAR_STREAM", "TAR_GZ_STREAM", "ZIP"])
def test_the_extractor_writes_nothing_outside_and_follows_no_link(method, tmp_path):
    """TFDS has this extractor; no data set here uses an archive that contains file names."""
    from tensorflow_datasets.core.download import extractor, resource

    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    path = tmp_path / "archive"
    if method == "ZIP":
        write_zip(path, outside)
    else:
        write_tar(path, outside, "w:gz" if "GZ" in method else "w")
    tool = extractor.get_extractor()
    with contextlib.suppress(extractor.ExtractError), tool.tqdm():
        kind = resource.ExtractMethod[method]
        tool.extract(path, kind, inside / "extracted").get()
    assert [p.name for p in outside.iterdir()] == ["secret"]
    assert {p.name for p in tmp_path.iterdir()} == {"archive", "inside", "outside"}
    paths = list(inside.rglob("*"))
    assert paths
    assert not [p for p in paths if p.is_symlink()]
    assert not [p for p in paths if p.is_file() and p.read_bytes() == b"secret"]


class Download:
    """A data set of small random files that are downloaded, and a record of their use."""

    def __init__(self, name, tmp_path, patch):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download import checksums, downloader, extractor
        from tensorflow_datasets.image_classification import mnist

        self.name, self.folder, self.files = name, tmp_path / "originals", {}
        self.spoiled = lambda name, content: content
        self.extracted, self.generated = [], []
        source = datasets.SOURCES[name]
        rule = next(iter(source.splits))
        source = source._replace(splits={rule: splits.hold_out_first(2)})
        if name == "omniglot":
            from hvi_tf.data.omniglot import omniglot28

            builder = omniglot28.Omniglot28
            patch.setattr(chardata, "COUNTS", {"train": 7, "test": 3})
            _, _, digest = downloads.write_omniglot(self.folder / "chardata.mat")
            patch.setattr(chardata, "ORIGINAL_MD5", digest)
            self.infos = None
        elif name == "svhn":
            builder = tfds.builder_cls("svhn_cropped")
            downloads.write_svhn(self.folder)
            self.infos = downloads.svhn_infos(self.folder)
        else:
            builder = mnist.MNIST if name == "mnist" else mnist.FashionMNIST
            patch.setattr(mnist, "_TRAIN_EXAMPLES", 6)
            patch.setattr(mnist, "_TEST_EXAMPLES", 2)
            self.infos = {
                builder.URL + file: checksums.UrlInfo(size, digest, file)
                for file, (digest, size) in downloads.write_mnist(self.folder, 5).items()
            }
            # MNIST is in the package, but this tests its download.
            source = source._replace(
                builder=functools.partial(
                    source.builder.func, **source.builder.keywords | {"packaged": None}
                )
            )
        patch.setitem(datasets.SOURCES, name, source)
        if self.infos:
            patch.setattr(builder, "url_infos", self.infos)
        for file in self.folder.iterdir():
            self.files[file.name] = file.read_bytes()
        self.config = DataConfig(dataset=name, split=rule, data_dir=str(tmp_path / "tfds"))
        patch.setattr(originals, "_reachable", lambda url: True)
        patch.setattr(downloader, "_open_url", self._open_url)
        extract, generate = extractor.iter_archive, builder._generate_examples

        def recorded_extract(path, method):
            self.extracted.append((method.name, tf.io.read_file(str(path)).numpy()))
            return extract(path, method)

        def recorded_generate(*arguments, **keywords):
            self.generated.append(arguments)
            return generate(*arguments, **keywords)

        patch.setattr(extractor, "iter_archive", recorded_extract)
        patch.setattr(builder, "_generate_examples", recorded_generate)

    @contextlib.contextmanager
    def _open_url(self, url, **keywords):
        name = url.rsplit("/", 1)[1]
        response = type("Response", (), {"url": url, "headers": {}})
        yield response, [self.spoiled(name, self.files[name])]

    def load(self):
        return datasets.load(self.config)


@pytest.fixture(params=datasets.SOURCES)
def download(request, tmp_path, monkeypatch):
    return Download(request.param, tmp_path, monkeypatch)


def test_a_download_is_prepared_from_verified_files(download):
    """No archive with file names is extracted: a .gz contains one file and no path."""
    data = download.load()
    assert len(data.validation) == 2
    assert download.generated
    methods = {method for method, _ in download.extracted}
    assert methods == ({"GZIP"} if "mnist" in download.name else set())


def test_a_download_with_one_changed_bit_is_refused_before_its_use(download):
    for file, content in download.files.items():
        for position in (0, len(content) // 2, len(content) - 1):
            other = bytearray(content)
            other[position] ^= 1
            download.spoiled = lambda n, c, f=file, o=bytes(other): o if n == f else c
            with pytest.raises(UserError, match=r"download failed|expected MD5") as error:
                download.load()
            assert "\n" not in str(error.value)
            assert bytes(other) not in [given for _, given in download.extracted]
    assert not download.generated
    assert not list((download.folder.parent / "tfds").rglob("*.tfrecord*"))
    assert not list((download.folder.parent / "tfds").rglob("dataset_info.json"))


def test_every_source_has_registered_digests():
    """SHA-256 for TFDS's own data sets, MD5 for the file of OMNIGLOT."""
    import tensorflow_datasets as tfds

    for name, source in datasets.SOURCES.items():
        if name == "omniglot":
            assert len(chardata.ORIGINAL_MD5) == 32
            continue
        builder = tfds.builder_cls(source.builder.keywords["name"].partition(":")[0])
        assert builder.url_infos, name
        assert all(len(info.checksum) == 64 for info in builder.url_infos.values())


def test_the_packaged_files_are_verified(tmp_path, monkeypatch):
    file = downloads.copy_packaged_mnist(tmp_path / "files")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    source = datasets.SOURCES["mnist"]
    changed = functools.partial(
        source.builder.func, name="mnist:3.0.1", packaged=tmp_path / "files"
    )
    monkeypatch.setitem(datasets.SOURCES, "mnist", source._replace(builder=changed))
    with pytest.raises(UserError, match="damaged or another file"):
        datasets.load(DataConfig(data_dir=str(tmp_path / "tfds")))
    assert not (tmp_path / "tfds").exists()
