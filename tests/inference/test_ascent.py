"""The loop of `hvi.fit`: its variables, its optimizers and its early ends."""

import _thread
import signal
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import hvi_tf as hvi
from hvi_tf.inference import ascent
from tests.oracles.analytic import LinearGaussian, normal

LG = LinearGaussian()
X = LG.observations(4)
ONES = np.ones(2)


def fit(variable, x=X, groups=None, model=LG.model, **settings):
    """Fits the mean of an explicit q(z|x)."""
    model = model._replace(conditional=lambda psi, x: normal(variable + 0.0 * x[:, :2], 1.0 * ONES))
    groups = groups or hvi.ParameterGroups(phi=[variable])
    return hvi.fit(model, x, groups, **(dict(bound="vae", steps=6) | settings))


def test_a_step_that_is_not_finite_keeps_the_variables():
    rows = tf.constant(np.where(np.arange(6) < 5, 1.0, np.nan)[:, None, None] * X)
    loc, fewer = tf.Variable(ONES), tf.Variable(ONES)
    with pytest.raises(hvi.FitDiverged, match="step 5: ") as error:
        fit(loc, lambda step: tf.gather(rows, step))
    course = fit(fewer, lambda step: tf.gather(rows, step), steps=4)
    np.testing.assert_array_equal(error.value.course[:4], course)
    assert len(error.value.course) == 5
    np.testing.assert_array_equal(loc, fewer)  # the values of step 4


@pytest.mark.parametrize("step_size", [1e29, 1e200, 1e308])
def test_an_update_to_values_that_are_not_finite_is_undone(step_size):
    """The optimizer, its learning rate and its count of steps are restored, too."""
    loc, sgd = tf.Variable(ONES), keras.optimizers.SGD(1e-3, momentum=0.9)
    fit(loc, optimizer=sgd, steps=3)
    before = [loc.numpy(), *(v.numpy() for v in sgd.variables)]
    steep = LG.model._replace(
        likelihood=lambda z: hvi.Callables(
            lambda x: -step_size * tf.reduce_sum(tf.exp(tf.square(z)), axis=-1)
        )
    )
    with pytest.raises(ValueError, match="not finite"):
        fit(loc, model=steep, optimizer=sgd)
    for was, now in zip(before, [loc, *sgd.variables], strict=True):
        np.testing.assert_array_equal(was, now.numpy())


def test_the_last_update_is_checked():
    loc = tf.Variable(ONES)
    with pytest.raises(hvi.FitDiverged, match="step 0: "):
        fit(loc, optimizer=keras.optimizers.SGD(1e308, momentum=0.5), steps=1)
    np.testing.assert_array_equal(loc, ONES)


def test_the_course_does_not_depend_on_the_size_of_the_chunks(monkeypatch):
    whole = fit(tf.Variable(ONES), steps=40)
    monkeypatch.setattr(ascent, "_MAX_CHUNK", 7)
    np.testing.assert_array_equal(whole, fit(tf.Variable(ONES), steps=40))


@pytest.fixture
def listens_to_ctrl_c():
    """Restores the handler of SIGINT, which a shell ignores in a background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listens_to_ctrl_c")
def test_ctrl_c_ends_a_fit_and_keeps_its_course():
    loc, again = tf.Variable(ONES), tf.Variable(ONES)
    pressed = []

    def press_once_it_runs():
        while np.all(loc == ONES):
            time.sleep(0.01)
        pressed.append(time.monotonic())
        _thread.interrupt_main()

    threading.Thread(target=press_once_it_runs).start()
    with pytest.raises(KeyboardInterrupt, match="of 100000000 steps") as error:
        fit(loc, steps=100_000_000)
    assert time.monotonic() - pressed[0] < 5  # about half a second on an idle machine
    course = error.value.course
    assert len(course)
    np.testing.assert_array_equal(course, fit(again, steps=len(course)))
    np.testing.assert_array_equal(loc, again)


def test_ctrl_c_while_tracing_has_an_empty_course():
    loc = tf.Variable(ONES)

    def interrupted(step):
        if not tf.executing_eagerly():
            raise KeyboardInterrupt
        return tf.constant(X)

    with pytest.raises(hvi.FitInterrupted) as error:
        fit(loc, interrupted)
    assert error.value.course.shape == (0,)
    np.testing.assert_array_equal(loc, ONES)


def test_a_variable_listed_twice_raises():
    loc = tf.Variable(ONES)
    layer = keras.layers.Dense(2)
    layer.build([2])
    for groups, message in (
        (hvi.ParameterGroups(phi=[loc, loc]), r"phi\[1\] is phi\[0\]"),
        (hvi.ParameterGroups(theta=[loc], phi=[loc]), r"phi\[0\] is theta\[0\]"),
        (hvi.ParameterGroups(phi=[layer.kernel, layer.kernel.value]), r"phi\[1\] is phi\[0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(loc, groups=groups)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (lambda: ONES, TypeError),
        (lambda: tf.constant(ONES), TypeError),
        (lambda: keras.layers.Dense(2), TypeError),
        (lambda: tf.Variable(1), ValueError),
        (lambda: tf.Variable(1.0, trainable=False), ValueError),
    ],
)
def test_errors_name_an_entry_that_is_not_a_variable(wrong, kind):
    loc = tf.Variable(ONES)
    with pytest.raises(kind, match=r"variables: phi\[1\]"):
        fit(loc, groups=hvi.ParameterGroups(phi=[loc, wrong()]))


def test_optimizers_can_be_an_instance_a_class_or_a_name():
    by_name, by_default = fit(tf.Variable(ONES), optimizer="adam"), fit(tf.Variable(ONES))
    np.testing.assert_array_equal(by_name, by_default)
    for right in ("SGD", keras.optimizers.SGD, keras.optimizers.SGD(0.01)):
        assert isinstance(ascent.as_optimizer(right), keras.optimizers.SGD)
    for wrong in (tf_keras.optimizers.Adam(1e-3), tf_keras.optimizers.Adam):
        with pytest.raises(TypeError, match=r"optimizer=.*tf_keras"):
            fit(tf.Variable(ONES), optimizer=wrong)
    for wrong in ("zz", 0.01, keras.optimizers.Optimizer):
        with pytest.raises(TypeError, match="optimizer="):
            ascent.as_optimizer(wrong)


def test_an_optimizer_of_other_variables_raises():
    adam = keras.optimizers.Adam(1e-3)
    loc = tf.Variable(ONES)
    fit(loc, optimizer=adam)
    fit(loc, optimizer=adam)  # continues
    with pytest.raises(ValueError, match="optimizer: was built on other variables"):
        fit(tf.Variable(ONES), optimizer=adam)
    with pytest.raises(ValueError, match="gradient=None"):
        fit(loc, gradient=None)
