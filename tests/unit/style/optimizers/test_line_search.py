"""The line search: the Wolfe conditions, few evaluations, and objectives that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import double
from optimization_problems import (
    PROBLEMS,
    bowl,
    each_problem,
    few,
    minimise,
    objective_of,
    quadratic,
    rosenbrock,
    run,
    walled_objective,
)

from style.optimizers import lbfgs, line_search
from style.optimizers.history import InMemoryHistory
from style.synthesis import descent

pytestmark = pytest.mark.slow


def softly(x):
    """Smooth and strictly convex, of varying curvature."""
    matrix = double(np.random.default_rng(1).normal(size=(60, 30)))
    return tf.reduce_sum(tf.nn.softplus(3 * tf.linalg.matvec(matrix, x))) + tf.reduce_sum(x**2)


@pytest.mark.parametrize("function", [quadratic, softly])
def test_a_smooth_problem_takes_little_more_than_one_evaluation_a_step(function):
    size = 20 if function is quadratic else 30
    start = double(np.random.default_rng(2).normal(size=size))
    last = minimise(function, start, memory=20, evaluations=40)[-1]
    assert int(last.steps) > 20
    assert int(last.evaluations) <= 1.2 * int(last.steps) + 3


@each_problem
def test_every_step_satisfies_the_wolfe_conditions(name):
    function, start = PROBLEMS[name]
    states = minimise(function, double(start), goal=1e-10, evaluations=100)
    for before, after in zip(states, states[1:], strict=False):
        change = after.x - before.x
        slope, new_slope = (
            float(lbfgs.dot(change, one.gradient * one.scale)) for one in (before, after)
        )
        assert slope < 0
        assert float(after.value) <= float(before.value) + 1e-4 * slope + 1e-15
        assert abs(new_slope) <= 0.9 * abs(slope) * (1 + 1e-9)


def test_a_search_that_was_cut_is_done_anew_with_more_evaluations():
    method = lbfgs.lbfgs(objective_of(bowl))
    method = method._replace(step=tf.function(method.step, autograph=False))  # traced once
    start, cuts = double([30.0, 30.0]), 0
    whole = list(descent.minimize(method, start, 30))
    for budget in range(2, 8):
        *_, last = states = list(descent.minimize(method, start, budget))
        for state, theirs in zip(states[:-1] if bool(last.cut) else states, whole, strict=False):
            for one, other in zip(*map(tf.nest.flatten, (state, theirs)), strict=True):
                assert one.numpy().tobytes() == other.numpy().tobytes()
        if bool(last.cut):
            cuts += 1
            *_, after = descent.minimize(method, start, 30, state=states[-2])
            np.testing.assert_array_equal(after.x, whole[-1].x)
    assert cuts


def test_a_trial_that_is_not_finite_shrinks_the_step():
    states = run(
        lbfgs.lbfgs(walled_objective, history=InMemoryHistory(5)),
        double([0.0, 0.1, 0.2]),
        evaluations=60,
    )
    for before, after in zip(states, states[1:], strict=False):
        assert np.isfinite(after.value) and np.isfinite(after.x).all()
        assert float(after.value) <= float(before.value)
        for pair in (*after.history.s, *after.history.y, after.rho, after.gamma):
            assert np.isfinite(pair).all()
    assert np.max(states[-1].x) < 0.5
    # It comes close to the wall, which keeps it from the minimum.
    assert np.max(states[-1].x) > 0.49


def test_a_barrier_does_not_keep_it_from_the_minimum():
    def barrier(x):  # NaN outside of (0, 1); minimum at 0.75
        return -tf.reduce_sum(tf.math.log(1 - x) + 3 * tf.math.log(x))

    start = double(np.random.default_rng(9).uniform(0.01, 0.99, 12))
    last = minimise(barrier, start, evaluations=60)[-1]
    np.testing.assert_allclose(last.x, 0.75, atol=1e-6)


def test_a_run_that_finds_no_descent_stalls_and_keeps_x():
    def lying(x):
        value, gradient, terms = objective_of(rosenbrock)(x)
        return value, -gradient, terms

    states = run(
        lbfgs.lbfgs(lying, history=InMemoryHistory(5)), double([-1.2, 1.0]), evaluations=60
    )
    last = states[-1]
    assert bool(last.stalled) and bool(last.finite) and int(last.steps) == 0
    np.testing.assert_array_equal(last.x, [-1.2, 1.0])


def test_a_search_that_fails_with_a_memory_tries_the_gradient_before_it_stalls():
    broken = tf.Variable(0.0, dtype=tf.float64)

    def objective(x):
        value, gradient, terms = objective_of(rosenbrock)(x)
        return value + broken, gradient, terms

    method = lbfgs.lbfgs(objective, history=InMemoryHistory(3))
    state = few(method, double([-1.2, 1.0]), 5)[-1]
    broken.assign(np.nan)
    failed = method.step(state)
    assert not bool(failed.finite) and not bool(failed.stalled)
    assert int(failed.steps) == 5 and not np.any(failed.rho) and float(failed.gamma) == 0
    np.testing.assert_array_equal(failed.x, state.x)
    assert bool(method.step(failed).stalled)
    broken.assign(0)
    again = method.step(failed)
    assert int(again.steps) == 6 and float(again.value) < float(state.value)


def test_float32_gets_as_far_as_its_rounding():
    last = minimise(rosenbrock, tf.constant([-1.2, 1.0], tf.float32), evaluations=80)[-1]
    np.testing.assert_allclose(last.x, 1, atol=5e-3)
    raised = minimise(lambda x: rosenbrock(x) + 50, tf.constant([-1.2, 1.0]), evaluations=80)[-1]
    assert float(raised.value) == pytest.approx(50, rel=1e-6)


def test_the_cubic_through_a_cubic_has_its_minimum():
    def cubic(t):
        return t**3 - 2 * t**2 + 0.3 * t, 3 * t**2 - 4 * t + 0.3

    minimum = (4 + np.sqrt(16 - 3.6)) / 6
    for a, b in ((0.5, 2.0), (2.0, 0.5), (1.0, 1.5)):
        found = line_search.cubic_minimum(
            *(line_search.Sample(*map(double, (t, *cubic(t)))) for t in (a, b))
        )
        assert float(found) == pytest.approx(minimum, rel=1e-9)
