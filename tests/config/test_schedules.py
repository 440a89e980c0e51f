"""Schedules as pure functions of the epoch."""

import pytest

from hvi_tf.config import config as config_lib
from hvi_tf.config import schedules

pytestmark = pytest.mark.quick


def test_the_published_k_schedule_is_a_step_function():
    steps = schedules.parse_steps("0:0,250:5,500:25,1000:50", 2_000)
    epochs = [0, 249, 250, 499, 500, 999, 1000, 9999]
    assert [schedules.step_function(steps, e) for e in epochs] == [0, 0, 5, 5, 25, 25, 50, 50]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(20, [1] * 10 + [5] * 8 + [20] * 2), (3, [1, 1, 5]), (1, [1])],
)
def test_percents_count_the_epochs_of_the_run(epochs, expected):
    steps = schedules.parse_steps("0%:1,50%:5,90%:20", epochs)
    assert [schedules.step_function(steps, e) for e in range(epochs)] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0%:1,5:5", "both epochs and percents"),
        ("0%:1,101%:5", "101% is more than 100%"),
        ("5%:1", "begins at epoch 5"),
        ("0%:1,50%:5,50%:6", "do not increase"),
        ("0%:1,%:6", "not a list"),
    ],
)
def test_invalid_percents_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        schedules.parse_steps(text, 20)


def test_the_linear_warmup_rises_from_0_to_1():
    assert [schedules.linear_warmup(e, 300) for e in (0, 150, 300, 999)] == [0.0, 0.5, 1.0, 1.0]
    assert schedules.linear_warmup(0, 0) == 1.0


def test_the_exponential_decay_multiplies_by_its_factor():
    assert schedules.exponential_decay(0, 1e-3, 0.95, 100) == 1e-3
    assert schedules.exponential_decay(200, 1e-3, 0.95, 100) == pytest.approx(1e-3 * 0.95**2)


def test_the_configuration_returns_all_schedules_of_an_epoch():
    config = config_lib.make(
        **dict(K=50, K_schedule="0:0,2:5", outer_warmup_epochs=4.0, learning_rate=1e-3),
        lr_schedule="exponential",
    )
    values = config.schedule(3)
    assert (values.K, values.inner, values.outer) == (5, 1.0, 0.75)
    assert values.learning_rate == pytest.approx(1e-3 * 0.95**0.03)
    # The default schedule decays by step, not by epoch.
    assert config_lib.make(learning_rate=1e-3).schedule(3).learning_rate == 1e-3
    assert config_lib.make(K=50, K_schedule="").schedule(0).K == 50


@pytest.mark.parametrize(
    ("values", "K"),
    [
        (dict(bound="iwhvi", K=50), 1),
        (dict(bound="diwhvi", K=50), 1),
        (dict(bound="iwhvi", K=0), 0),
        (dict(bound="iwhvi", K=50, K_schedule="0:5"), 5),
        (dict(bound="iwhvi", K=50, backward_samples=8), 50),
        (dict(bound="sivi", K=50), 50),
        (dict(bound="bsvi", K=50, posterior="hierarchical"), 50),
    ],
)
def test_methods_with_their_own_tau_train_at_k_1(values, K):
    assert config_lib.make(**values).schedule(0).K == K
