"""Training ends after a number of steps, or when validation no longer improves."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.config import config as config_lib
from hvi_tf.data.datasets import Dataset
from hvi_tf.models import step_gradients
from hvi_tf.models.vae import make_vae
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training import loop, steps
from hvi_tf.training.checkpoints import Checkpoints

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 16)).astype(np.uint8)
DATA = Dataset(IMAGES[:40], IMAGES[40:50], IMAGES[50:], (4, 4, 1))
SIZES = dict(hidden=(8, 8), latent_dim=3, batch_size=10, jit_compile="off")  # 4 steps an epoch


@pytest.fixture
def train(tmp_path):
    def run(**values):
        config = config_lib.make(bound="vae", **SIZES, **values)
        workdir = workdirs.create_or_open(tmp_path, config)
        model = make_vae(config, 16)
        try:
            result = loop.train(config, model, DATA, workdir)
            return result, Checkpoints(model, workdir)
        finally:
            workdir.close()

    return run


def test_max_steps_ends_training_within_an_epoch(train):
    result, checkpoints = train(epochs=5, max_steps=6)
    assert result.steps == 6
    assert checkpoints.restore_latest() == 6
    again, _ = train(epochs=5, max_steps=6)
    assert again.steps_per_second is None  # it was complete
    more, _ = train(epochs=5, max_steps=7)
    assert more.steps == 7


def test_training_ends_after_patience_epochs_without_a_better_bound(train, capsys, monkeypatch):
    bounds = iter([-5.0, -4.0, -4.5, -4.1, -3.0])  # by epoch
    scores = loop.validate

    def validate(*arguments):
        return scores(*arguments)._replace(log_likelihood=next(bounds))

    monkeypatch.setattr(loop, "validate", validate)
    result, checkpoints = train(epochs=5, patience=2)
    assert result.steps == 16
    assert checkpoints.restore_latest() == 16
    assert checkpoints.state.best_step == 8
    assert checkpoints.restore_best() == 8
    assert "No better validation bound in 2 epochs" in capsys.readouterr().out
    again, _ = train(epochs=5, patience=2)
    assert again.steps_per_second is None
    longer, _ = train(epochs=5, patience=3)  # one more epoch, with a better bound
    assert longer.steps == 20


@pytest.mark.parametrize(("bound", "status"), [("vae", "DISABLED"), ("svi", "ENABLED")])
def test_only_steps_with_an_inner_loop_are_traced_with_autograph(bound, status, monkeypatch):
    """Autograph takes most of the time of a start, so other steps do without it."""
    module = step_gradients.svi_gradients if bound == "svi" else step_gradients.gradients
    compute, seen = module.value_and_gradients, []

    def recording(*arguments, **keywords):
        seen.append(tf.__internal__.autograph.control_status_ctx().status.name)
        return compute(*arguments, **keywords)

    monkeypatch.setattr(module, "value_and_gradients", recording)
    model = make_vae(config_lib.make(bound=bound, **SIZES), 16)
    batches = iter(tf.data.Dataset.from_tensors(tf.zeros([10, 16])))
    steps.StepRunner(model)(batches, 1)
    assert set(seen) == {status}
