"""Settings of the data."""

import dataclasses
import functools

from hvi_tf.config.settings.fields import Identity, setting

_setting = functools.partial(
    setting, section="Data", modes=("train", "fit_tau", "evaluate", "export", "sample")
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set, its split and its place."""

    dataset: str = _setting(
        "mnist",
        "Data set: mnist (in the package), fashion_mnist, omniglot (28x28, Burda et al.) or "
        "svhn (32x32, gray).",
        main=True,
    )
    split: str = _setting(
        "sobolev",
        "Training images that are held out for validation: sobolev (5,000; not for svhn), "
        "shu (2,000 at random), and for omniglot also burda (1,345 at random).",
    )
    split_seed: int = _setting(
        2015,
        "Seed of the images that --split=shu or burda draws. It differs from --seed because runs "
        "with several seeds share a split.",
        0,
        2**31 - 1,
    )
    data_dir: str = _setting(
        "",
        "Folder of prepared TFDS data sets. Default: the folder of TFDS (~/tensorflow_datasets).",
        identity=Identity.NONE,
        main=True,
    )
    manual_dir: str = _setting(
        "",
        "Folder with the original files of the data set, if you already have them; for omniglot "
        "also the path of its chardata.mat.",
        identity=Identity.NONE,
    )
    data_digest: str = _setting("", None)  # MD5 of omniglot's file, once it is known
