"""Schedules are pure functions of the epoch."""

import pytest

from hvi_tf import config as config_lib
from hvi_tf.training import schedules


def test_published_k_schedule():
    steps = schedules.parse_steps("0:0,250:5,500:25,1000:50", 2_000)
    epochs = [0, 249, 250, 499, 500, 999, 1000, 9999]
    assert [schedules.step_function(steps, e) for e in epochs] == [0, 0, 5, 5, 25, 25, 50, 50]


def test_linear_warmup():
    assert [schedules.linear_warmup(e, 300) for e in (0, 150, 300, 999)] == [0.0, 0.5, 1.0, 1.0]
    assert schedules.linear_warmup(0, 0) == 1.0


def test_exponential_decay():
    assert schedules.exponential_decay(0, 1e-3, 0.95, 100) == 1e-3
    assert schedules.exponential_decay(200, 1e-3, 0.95, 100) == pytest.approx(1e-3 * 0.95**2)


def test_config_gathers_them():
    config = config_lib.make(
        K=50, K_schedule="0:0,2:5", outer_warmup_epochs=4.0, learning_rate=1e-3
    )
    values = config.schedule(3)
    assert (values.K, values.inner, values.outer) == (5, 1.0, 0.75)
    assert values.learning_rate == pytest.approx(1e-3 * 0.95**0.03)
    assert config_lib.make(K=50).schedule(0).K == 50
