"""The training step: gradients for every variable, Keras's fit, and refusing to diverge."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import config as config_lib
from hvi_tf.data import pipeline
from hvi_tf.methods import METHODS
from hvi_tf.models.vae import make_vae
from hvi_tf.training.loop import StepRunner

X = tf.cast(tf.random.stateless_uniform([6, 12], [3, 4]) < 0.4, tf.float32)


def small_vae(bound="iwhvi", **values):
    values = dict(hidden=(8, 8), latent_dim=3, aux_dim=2, batch_size=6, jit_compile="off") | values
    return make_vae(config_lib.make(bound=bound, **values), x_dim=12)


@pytest.mark.parametrize(
    ("bound", "gradient"), [(row.name, g) for row in METHODS.values() for g in row.gradients]
)
def test_every_variable_gets_a_finite_nonzero_gradient(bound, gradient):
    model = small_vae(bound, gradient=gradient)
    one = tf.constant(1.0)
    _, ascent = model._ascend(X, tf.constant([0, 1]), one, one, model.training_K)
    for variables, grads in zip(model.parameter_groups, ascent, strict=True):
        for variable, gradient in zip(variables, grads, strict=True):
            assert np.all(np.isfinite(gradient)), variable.path
            assert np.any(gradient != 0), variable.path
    covered = sum(len(group) for group in model.parameter_groups)
    assert covered == len(model.trainable_variables)


@pytest.mark.parametrize("bound", METHODS)
def test_a_step_ascends_the_bound(bound):
    model = small_vae(bound, learning_rate=0.01)
    seed = tf.constant([1, 1])
    before = tf.reduce_mean(model.validation_bound(X, seed))
    step = tf.function(lambda: model.train_step(X))
    for _ in range(30):
        step()
    assert tf.reduce_mean(model.validation_bound(X, seed)) > before + 0.5


def test_metrics_agree_with_each_other():
    model = small_vae(K=4)
    metrics = {k: float(v) for k, v in model.train_step(X).items()}
    assert metrics["objective"] == pytest.approx(metrics["bound"], rel=1e-5)
    assert metrics["bound"] == pytest.approx(metrics["log_likelihood"] - metrics["kl_z"], rel=1e-5)
    assert 1 <= metrics["ess_inner"] <= 5
    assert metrics["ess_outer"] == pytest.approx(1)


def test_warmups_change_the_objective_but_not_the_reported_bound():
    model = small_vae(K=4)
    model.set_schedule(K=4, inner=0.0, outer=0.0, learning_rate=0.0)
    metrics = model.train_step(X)
    assert float(metrics["objective"]) == pytest.approx(float(metrics["log_likelihood"]), rel=1e-5)
    assert float(metrics["bound"]) < float(metrics["objective"])


def test_a_step_that_is_not_finite_changes_nothing():
    model = small_vae()
    before = [v.numpy().copy() for v in model.trainable_variables]
    model.train_step(tf.fill([6, 12], float("nan")))
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(model.optimizer.iterations) == 0


def test_xla_reaches_the_same_bound():
    """On and off draw other numbers, so the means are compared."""
    on, off = small_vae(K=3, jit_compile="on"), small_vae(K=3, jit_compile="off")
    seeds = [tf.constant([5, i]) for i in range(500)]
    difference = np.mean([on.validation_bound(X, s) - off.validation_bound(X, s) for s in seeds], 1)
    assert difference.std() > 0
    assert abs(difference.mean()) < 4.5 * difference.std() / np.sqrt(len(difference))


class ScheduleOfK(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.set_schedule(K=epoch, inner=1.0, outer=1.0, learning_rate=0.01)


def test_keras_fit_runs_the_same_step():
    """`fit` for library users does what the command line's loop does, K changing between epochs."""
    images = np.random.default_rng(0).integers(0, 256, (30, 12)).astype(np.uint8)
    batches = pipeline.training_batches(images, 6, 0, 0, 15)

    fitted = small_vae(K=2)
    history = fitted.fit(
        batches,
        epochs=3,
        steps_per_epoch=5,
        callbacks=[ScheduleOfK()],
        verbose=0,
        validation_data=tf.data.Dataset.from_tensors(X),
    )
    assert len(history.history["bound"]) == 3
    assert len(history.history["val_bound"]) == 3

    stepped = small_vae(K=2)
    run_steps, batches = StepRunner(stepped), iter(batches)
    for K in range(3):
        stepped.set_schedule(K=K, inner=1.0, outer=1.0, learning_rate=0.01)
        run_steps(batches, 5)
    for a, b in zip(fitted.trainable_variables, stepped.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_k_0_needs_no_special_case():
    model = small_vae("iwhvi", K=5)
    model.set_schedule(K=0, inner=1.0, outer=1.0, learning_rate=1e-3)
    assert np.isfinite(float(model.train_step(X)["bound"]))
