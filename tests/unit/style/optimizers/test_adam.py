"""Adam against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import double
from optimization_problems import few, objective_of, rosenbrock, run, walled_objective

from style.optimizers import adam


def test_adam_is_algorithm_1_of_kingma_and_ba():
    start = np.tile([-1.2, 1.0], 4)
    options = {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}
    states = few(adam.adam(objective_of(rosenbrock), **options), double(start), 25)
    scale = np.abs(objective_of(rosenbrock)(double(start))[1]).max()
    x, m, v = start.copy(), np.zeros(8), np.zeros(8)
    for t in range(1, 26):
        g = objective_of(rosenbrock)(double(x))[1].numpy() / scale
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        x = x - 0.05 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-3)
        np.testing.assert_allclose(states[t].x, x, rtol=1e-10, atol=1e-10)
        assert (int(states[t].steps), int(states[t].evaluations)) == (t, t + 1)


def test_adam_stops_before_what_is_not_finite():
    states = run(adam.adam(walled_objective), double([0.0, 0.1, 0.2]), evaluations=60)
    last, before = states[-1], states[-2]
    assert bool(last.stalled) and not bool(last.finite)
    assert 0.45 < np.max(last.x) < 0.5
    for ours, theirs in zip(last[:4], before[:4], strict=True):
        for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**-20, 2.0**30])
def test_a_factor_of_the_objective_changes_no_bit_of_adams_picture(factor):
    start = tf.constant(np.tile([-1.2, 1.0], 4), tf.float32)
    plain, other = (
        few(adam.adam(objective_of(lambda x: f * rosenbrock(x))), start, 10)[-1]  # noqa: B023
        for f in (1.0, factor)
    )
    np.testing.assert_array_equal(other.x, plain.x)
    assert float(other.value) == factor * float(plain.value)


@pytest.mark.parametrize("side", [64, 1024])
def test_adams_steps_for_a_mean_loss_do_not_shrink_with_the_size_of_the_picture(side):
    """A pixel's gradient of a mean falls as 1 / (H W), which the paper's epsilon would feel."""
    corner = np.random.default_rng(3).random((1, 4, 4, 1))

    def fitted(side):
        goal = tf.constant(np.tile(corner, (1, side // 4, side // 4, 1)), tf.float32)
        objective = objective_of(lambda x: 0.01 * tf.reduce_mean((x - goal) ** 2))
        return few(adam.adam(objective), tf.fill([1, side, side, 1], 0.5), 3)[-1].x[:, :4, :4]

    np.testing.assert_allclose(fitted(side), fitted(4), rtol=1e-5)
