"""Scores by a SavedModel: the one place where code out of a file can run.

Configurations, checkpoints and scores are text and numbers: to read a stranger's runs nothing.
A SavedModel is a graph of TensorFlow's operations, some of which read and write files, and
loading it runs a part of them: it is a program. So one is loaded only where the command line
names it; from outside the run's folder, or through a link that leads there, only with
`--trust_saved_model`; and nowhere else in this package.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from hvi_tf.config.settings import SavedModelConfig
from hvi_tf.errors import UserError
from hvi_tf.storage import files

if TYPE_CHECKING:  # TensorFlow, because flags are checked before it is imported
    import tensorflow as tf

    from hvi_tf.inference.plans import Plan

LogWeights = Callable[["tf.Tensor", int, int, "tf.Tensor"], "tf.Tensor"]


class Loaded(NamedTuple):
    """The parts of a SavedModel that scoring uses.

    Attributes:
        log_weights: (x `[B, Dx]`, M, K, seed int32 `[2]`) -> `[M, B]`, nats.
        draws_psi: whether K changes them; None where an earlier version has exported it.
    """

    log_weights: LogWeights
    draws_psi: bool | None


# As of `log_likelihood.ImageScores`.
SCORES = ("log_likelihood", "bound", "ess_outer")


def find(asked: SavedModelConfig, workdir: pathlib.Path) -> pathlib.Path:
    """The folder of the SavedModel that the flags name, with all links resolved.

    Args:
        asked: the flags; a relative path begins at the workdir.
        workdir: of the run.

    Raises:
        UserError: if there is none, or it lies outside the workdir and is not trusted.
    """
    flag = f"--saved_model={asked.saved_model}"
    try:
        root = workdir.resolve()
        path = (root / pathlib.Path(asked.saved_model).expanduser()).resolve()
        if not (path / "saved_model.pb").is_file():
            raise UserError(f"{flag}: no saved_model.pb in {path}; name a SavedModel's folder")
        for file in (path, *_content(path)):
            real = file.resolve()
            if not (asked.trust_saved_model or real.is_relative_to(root)):
                raise UserError(
                    f"{flag}: {real} lies outside --workdir; a SavedModel is a program, which may "
                    "read and write files: if you trust its origin, add --trust_saved_model"
                )
            if not file.is_file() and (file.is_symlink() or not file.is_dir()):
                raise UserError(f"{flag}: {file} is no file or folder; copy it without links")
    except (OSError, RuntimeError) as error:  # the latter of a link to itself
        raise UserError(f"{flag}: cannot be read ({error})") from error
    return path


def _content(path: pathlib.Path) -> Iterator[pathlib.Path]:
    def refuse(error: OSError) -> None:  # what cannot be listed may still be opened
        raise error

    for folder, folders, names in os.walk(path, onerror=refuse):
        yield from (pathlib.Path(folder, name) for name in (*folders, *names))


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of the names and the content of a SavedModel's files, in hexadecimal."""
    found = {p.relative_to(path).as_posix(): p for p in _content(path) if p.is_file()}
    lines = [f"{files.digest(found[name])} {name!r}\n" for name in sorted(found)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load(path: pathlib.Path, x_dim: int) -> Loaded:
    """Loads a SavedModel, which runs what is in it: only what `find` has found.

    Args:
        path: of its folder.
        x_dim: pixels of the images that it is to score.

    Raises:
        UserError: if it cannot be loaded, or has no such log-weights.
    """
    import tensorflow as tf

    try:
        model = tf.saved_model.load(str(path))
        signature = model.signatures["log_weights"]
        inputs = dict(signature.structured_input_signature[1])
        outputs = set(signature.structured_outputs)
    except KeyError:
        raise UserError(
            f"{path}: a SavedModel without the signature log_weights; export one by --mode=export"
        ) from None
    except Exception as error:  # whatever its parser makes of damaged bytes
        raise UserError(f"{path}: cannot be loaded as a SavedModel ({_reason(error)})") from error
    wanted = {
        "x": tf.TensorSpec([None, x_dim], tf.float32),
        "M": tf.TensorSpec([], tf.int32),
        "K": tf.TensorSpec([], tf.int32),
        "seed": tf.TensorSpec([2], tf.int32),
    }
    as_exported = inputs.keys() == wanted.keys() and "log_weights" in outputs
    pixels = inputs["x"].shape[1] if as_exported and inputs["x"].shape.rank == 2 else None
    if pixels not in (None, x_dim):
        raise UserError(f"{path}: scores images of {pixels} pixels, and the run's have {x_dim}")
    if not as_exported or any(
        inputs[name].dtype != spec.dtype or not inputs[name].shape.is_compatible_with(spec.shape)
        for name, spec in wanted.items()
    ):
        raise UserError(f"{path}: its log_weights are no function of x, M, K and seed as exported")

    def log_weights(x: tf.Tensor, M: int, K: int, seed: tf.Tensor) -> tf.Tensor:
        try:
            function = model.signatures["log_weights"]  # the model, or its variables would go
            weights = function(x=x, M=tf.constant(M), K=tf.constant(K), seed=seed)["log_weights"]
        except Exception as error:  # whatever the program in it does
            raise UserError(f"{path}: its log_weights fail ({_reason(error)})") from error
        if weights.dtype != tf.float32 or weights.shape != (M, len(x)):
            found = f"{weights.dtype.name} of shape {weights.shape}"
            raise UserError(f"{path}: its log_weights are {found}; wanted float32 [{M}, {len(x)}]")
        return weights

    return Loaded(log_weights, _draws_psi(model))


def _draws_psi(model: Any) -> bool | None:
    """Returns what a SavedModel says under this name, if it is as exported."""
    import tensorflow as tf

    try:
        told = model.draws_psi()
    except Exception:  # whatever the program in it does
        return None
    if isinstance(told, tf.Tensor) and told.dtype == tf.bool and told.shape == ():
        return bool(told.numpy())
    return None


def make_scorer(
    log_weights: LogWeights, plan: "Plan", K: int
) -> Callable[["tf.Tensor", "tf.Tensor"], tuple["tf.Tensor", ...]]:
    """A function (x, seed) -> the `SCORES` of each image, in memory that M adds nothing to.

    Where z share their psi, those of a chunk do.

    Args:
        log_weights: of `load`.
        plan: the chunks over m; seeds are folded as `log_likelihood.score_images` does.
        K: number of psi for each z, besides the one that made it.
    """
    import tensorflow as tf

    from hvi_tf.bounds.streaming import Streamed

    def score(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        total = tf.zeros([len(x)])
        outer = Streamed.empty(total)
        for i in range(plan.m_chunks):
            alpha = log_weights(x, plan.chunk_m, K, tf.random.fold_in(seed, i))
            alpha = alpha[: plan.M - i * plan.chunk_m]
            outer, total = outer.add(alpha), total + tf.reduce_sum(alpha, axis=0)
        return outer.log_mean(plan.M), total / plan.M, outer.effective_sample_size()

    return score


def _reason(error: BaseException) -> str:
    """On one line; TensorFlow's first one may be "Graph execution error:"."""
    return " ".join(str(error).split())[:300] or type(error).__name__
