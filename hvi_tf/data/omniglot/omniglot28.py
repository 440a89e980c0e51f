"""The TFDS builder of 28x28 OMNIGLOT. Import this module late, because it imports TFDS."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from hvi_tf.config.settings import DataConfig
from hvi_tf.data import originals, preparation
from hvi_tf.data.omniglot import chardata
from hvi_tf.errors import UserError

_CONFIG_PREFIX = "md5_"


class Omniglot28(tfds.core.GeneratorBasedBuilder):
    """OMNIGLOT of Burda et al. (2015): float32 intensities, in the order of the file.

    A configuration is named after the MD5 digest of the file, so that data prepared from
    different files are never mixed up. The default configuration downloads the original.

    Args:
        file: replaces the download; its digest must be that of the configuration.
        **keywords: of the base class.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012, TFDS's own interface
        tfds.core.BuilderConfig(name=_CONFIG_PREFIX + chardata.ORIGINAL_MD5)
    ]

    def __init__(self, *, file: pathlib.Path | None = None, **keywords: Any) -> None:
        self._file = file
        super().__init__(**keywords)

    @classmethod
    def get_builder_config(cls, name: str, version: Any = None) -> Any:
        """Returns the configuration of this name; every digest has one."""
        return super().get_builder_config(name, version) or tfds.core.BuilderConfig(name=name)

    @property
    def digest(self) -> str:
        """The MD5 digest of the file, known before the preparation, too."""
        return self.builder_config.name.removeprefix(_CONFIG_PREFIX)

    def _info(self) -> Any:
        image = tfds.features.Tensor(
            shape=(chardata.SIDE, chardata.SIDE, 1),
            dtype=np.float32,
            encoding=tfds.features.Encoding.ZLIB,
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="OMNIGLOT at 28x28, of Burda, Grosse & Salakhutdinov (2015).",
            features=tfds.features.FeaturesDict({"image": image}),
            homepage="https://github.com/yburda/iwae",
            disable_shuffling=True,  # so that "the first 5,000" means those of the file
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        path = self._file or pathlib.Path(dl_manager.download(chardata.URL))
        digest = chardata.md5(path)
        if digest != self.digest:
            source = self._file or chardata.URL
            raise UserError(
                f"{source}: expected MD5 {self.digest}, found {digest}; download the file by other "
                "means and pass it as --manual_dir"
            )
        images = chardata.read(path)
        return {split: self._generate_examples(images[split]) for split in images}

    def _generate_examples(self, images: np.ndarray) -> Iterator[tuple[int, dict]]:
        for index, image in enumerate(images):
            yield index, {"image": image}


def open_prepared(config: DataConfig) -> Omniglot28:
    """Returns the prepared builder of the file that the configuration chooses.

    The file is the first of these that applies: the file of `manual_dir`; the file of
    `data_digest`; the original, if it is prepared; the only file that is prepared; the original,
    downloaded.

    Raises:
        UserError: if the file is missing, damaged or not that of `data_digest`, or if a download
            is needed and there is no network.
    """
    prepared = _prepared_digests(config)
    file = _file(config, prepared)
    digest = _digest(config, file, prepared)

    def make(data_dir: str) -> Omniglot28:
        return Omniglot28(file=file, config=_CONFIG_PREFIX + digest, data_dir=data_dir or None)

    builder = preparation.construct(make, config)
    if builder.is_prepared():
        return builder
    if file:
        chardata.read(file)  # reports a wrong file before anything is written
    elif digest != chardata.ORIGINAL_MD5:
        raise UserError(
            f"--data_dir={builder.data_dir_root}: this run began with {config.dataset} of the file "
            f"with MD5 {digest}, which is not prepared there; pass that file as --manual_dir"
        )
    else:
        others = f"; prepared files have MD5 {', '.join(prepared)}" if prepared else ""
        files = f"{chardata.URL} (MD5 {chardata.ORIGINAL_MD5}){others}"
        originals.require_network(chardata.URL, files, config)
    return preparation.prepare(make, config)


def _prepared_digests(config: DataConfig) -> list[str]:
    root = pathlib.Path(config.data_dir or tfds.core.constants.DATA_DIR).expanduser()
    infos = (root / Omniglot28.name).glob(
        f"{_CONFIG_PREFIX}*/{Omniglot28.VERSION}/dataset_info.json"
    )
    return sorted(i.parent.parent.name.removeprefix(_CONFIG_PREFIX) for i in infos)


def _file(config: DataConfig, prepared: list[str]) -> pathlib.Path | None:
    """Returns the file of `manual_dir`; None if only its prepared images are left."""
    place = pathlib.Path(config.manual_dir).expanduser()
    if not config.manual_dir or (config.data_digest in prepared and not place.exists()):
        return None
    return chardata.find(config.manual_dir)


def _digest(config: DataConfig, file: pathlib.Path | None, prepared: list[str]) -> str:
    wanted = config.data_digest
    if file:
        digest = chardata.md5(file)
        if wanted not in ("", digest):
            raise UserError(
                f"--manual_dir={config.manual_dir}: {file} has MD5 {digest}, but this run began "
                f"with the file with MD5 {wanted}; give that file, or another --workdir"
            )
        return digest
    if not wanted and chardata.ORIGINAL_MD5 not in prepared and len(prepared) == 1:
        return prepared[0]
    return wanted or chardata.ORIGINAL_MD5
