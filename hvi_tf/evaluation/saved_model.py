"""Log-weights from a SavedModel: the only module that can run code from a file.

Configurations, checkpoints and scores are text and numbers, so reading a stranger's files runs no
code. A SavedModel is a graph of TensorFlow operations. Some operations read and write files, and
loading runs a part of them, so a SavedModel is a program. This package loads a SavedModel only if
the command line names it. A SavedModel outside the run's folder, or a link that leads out of it,
also needs `--trust_saved_model`.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from hvi_tf.config.settings import SavedModelConfig
from hvi_tf.errors import UserError
from hvi_tf.storage import files

if TYPE_CHECKING:  # because the flags are checked before TensorFlow is imported
    import tensorflow as tf

    from hvi_tf.inference.plans import Plan

LogWeights = Callable[["tf.Tensor", int, int, "tf.Tensor"], "tf.Tensor"]


class Loaded(NamedTuple):
    """The parts of a SavedModel that scoring uses.

    Attributes:
        log_weights: maps (x `[B, Dx]`, M, K, seed int32 `[2]`) to `[M, B]`, nats.
        draws_psi: whether they depend on K; None for a foreign SavedModel without this function.
    """

    log_weights: LogWeights
    draws_psi: bool | None


# A subset of the fields of `image_scores.ImageScores`.
SCORES = ("log_likelihood", "bound", "ess_outer")


def find(given: SavedModelConfig, workdir: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the SavedModel that the flags name, with all links resolved.

    Args:
        given: the flags; a relative path starts at the workdir.
        workdir: the run's workdir.

    Raises:
        UserError: if there is no SavedModel, or it is outside the workdir and not trusted.
    """
    flag = f"--saved_model={given.saved_model}"
    try:
        root = workdir.resolve()
        path = (root / pathlib.Path(given.saved_model).expanduser()).resolve()
        if not (path / "saved_model.pb").is_file():
            raise UserError(f"{flag}: no saved_model.pb in {path}; name a SavedModel's folder")
        for file in (path, *_content(path)):
            real = file.resolve()
            if not (given.trust_saved_model or real.is_relative_to(root)):
                raise UserError(
                    f"{flag}: {real} is outside --workdir; a SavedModel is a program, which may "
                    "read and write files: if you trust its origin, add --trust_saved_model"
                )
            if not file.is_file() and (file.is_symlink() or not file.is_dir()):
                raise UserError(
                    f"{flag}: {file} is neither a file nor a folder; copy it without links"
                )
    except (OSError, RuntimeError) as error:  # RuntimeError for a link to itself
        raise UserError(f"{flag}: cannot be read ({error})") from error
    return path


def _content(path: pathlib.Path) -> Iterator[pathlib.Path]:
    def refuse(error: OSError) -> None:  # a folder that cannot be listed may still be opened
        raise error

    for folder, folders, names in os.walk(path, onerror=refuse):
        yield from (pathlib.Path(folder, name) for name in (*folders, *names))


def digest(path: pathlib.Path) -> str:
    """Returns the SHA-256 of the names and contents of a SavedModel's files, in hexadecimal."""
    paths = {p.relative_to(path).as_posix(): p for p in _content(path) if p.is_file()}
    lines = [f"{files.digest(paths[name])} {name!r}\n" for name in sorted(paths)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load(path: pathlib.Path, x_dim: int) -> Loaded:
    """Loads a SavedModel, which runs code in it; only for a path that `find` returned.

    Args:
        path: path of its folder.
        x_dim: pixels of the images to score.

    Raises:
        UserError: if it cannot be loaded, or its log-weights have another signature.
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
    except Exception as error:  # damaged bytes raise many types of error
        raise UserError(f"{path}: cannot be loaded as a SavedModel ({_reason(error)})") from error
    _check_signature(path, inputs, outputs, x_dim)

    def log_weights(x: tf.Tensor, M: int, K: int, seed: tf.Tensor) -> tf.Tensor:
        try:
            function = model.signatures["log_weights"]  # keeps the model and its variables alive
            weights = function(x=x, M=tf.constant(M), K=tf.constant(K), seed=seed)["log_weights"]
        except Exception as error:  # its program may raise any error
            raise UserError(f"{path}: its log_weights fail ({_reason(error)})") from error
        if weights.dtype != tf.float32 or weights.shape != (M, len(x)):
            actual = f"{weights.dtype.name} of shape {weights.shape}"
            raise UserError(f"{path}: its log_weights are {actual}; wanted float32 [{M}, {len(x)}]")
        return weights

    return Loaded(log_weights, _draws_psi(model))


def _check_signature(
    path: pathlib.Path, inputs: dict[str, "tf.TensorSpec"], outputs: set[str], x_dim: int
) -> None:
    """Raises `UserError` if the log-weights take other arguments than those of an export."""
    import tensorflow as tf

    wanted = {
        "x": tf.TensorSpec([None, x_dim], tf.float32),
        "M": tf.TensorSpec([], tf.int32),
        "K": tf.TensorSpec([], tf.int32),
        "seed": tf.TensorSpec([2], tf.int32),
    }
    as_exported = inputs.keys() == wanted.keys() and "log_weights" in outputs
    pixels = inputs["x"].shape[1] if as_exported and inputs["x"].shape.rank == 2 else None
    if pixels not in (None, x_dim):
        raise UserError(f"{path}: scores images of {pixels} pixels, but the run's have {x_dim}")
    if not as_exported or any(
        inputs[name].dtype != spec.dtype or not inputs[name].shape.is_compatible_with(spec.shape)
        for name, spec in wanted.items()
    ):
        raise UserError(f"{path}: the signature of its log_weights is not that of an export")


def _draws_psi(model: Any) -> bool | None:
    """Returns the result of a SavedModel's function of this name, or None without a valid one."""
    import tensorflow as tf

    try:
        result = model.draws_psi()
    except Exception:  # its program may raise any error
        return None
    if isinstance(result, tf.Tensor) and result.dtype == tf.bool and result.shape == ():
        return bool(result.numpy())
    return None


def make_scorer(
    log_weights: LogWeights, plan: "Plan", K: int
) -> Callable[["tf.Tensor", "tf.Tensor"], tuple["tf.Tensor", ...]]:
    """Returns a function that maps (x, seed) to the `SCORES`; its memory does not depend on M.

    If the method shares psi among z, those of one chunk share them.

    Args:
        log_weights: the function that `load` returned.
        plan: the chunks over m; seeds are folded as in `image_scores.score_images`.
        K: number of psi for each z, without psi_0.
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
    """Returns the message on one line; TensorFlow's first line has no information."""
    return " ".join(str(error).split())[:300] or type(error).__name__
