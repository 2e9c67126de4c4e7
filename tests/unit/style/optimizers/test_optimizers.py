"""What L-BFGS and Adam have in common: budgets, saved states, and what is not finite."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import double
from optimization_problems import bowl, few, objective_of, rosenbrock, run

from style.optimizers import adam, lbfgs, spectral_preconditioner
from style.optimizers.history import InMemoryHistory
from style.synthesis import descent


@pytest.mark.slow
@pytest.mark.parametrize("make", [lbfgs.lbfgs, adam.adam])
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 6, 9, 13])
def test_evaluations_are_kept_to_within_a_search_too(make, budget):
    method = make(objective_of(bowl))
    states = list(descent.minimize(method, double([30.0, 30.0]), budget))
    values = [float(state.value) for state in states]
    assert [int(state.evaluations) for state in states][-1] <= budget
    assert not any(bool(state.cut) for state in states[:-1])
    if make is lbfgs.lbfgs:
        assert (np.diff(values) <= 0).all()
        assert not bool(states[-1].stalled) and bool(states[-1].finite)


def saved(state, path):
    """The state after a round trip through a file of plain arrays."""
    np.savez(path, *[leaf.numpy() for leaf in tf.nest.flatten(state)])
    with np.load(path) as file:
        leaves = [tf.constant(file[f"arr_{i}"]) for i in range(len(file.files))]
    return tf.nest.pack_sequence_as(state, leaves)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lbfgs.lbfgs, adam.adam])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_saved_state_goes_on_with_the_same_bits(make, dtype, tmp_path):
    start = tf.constant(np.tile([-1.2, 1.0], 10), dtype)
    options = {"history": InMemoryHistory(5)} if make is lbfgs.lbfgs else {}
    method = make(objective_of(rosenbrock), **options)
    straight = few(method, start, 30)
    middle = saved(straight[17], tmp_path / "state.npz")
    other, state = tf.function(make(objective_of(rosenbrock), **options).step), middle
    for _ in range(13):
        state = other(state)
    assert int(state.steps) == int(straight[-1].steps) > 17
    for ours, theirs in zip(tf.nest.flatten(state), tf.nest.flatten(straight[-1]), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()


@pytest.mark.slow
def test_what_a_preconditioner_learnt_is_saved_too(tmp_path):
    goal = np.random.default_rng(12).random((1, 8, 8, 3))
    weight = double(np.random.default_rng(13).uniform(1, 20, (1, 8, 8, 3)))

    def objective():
        return objective_of(lambda x: tf.reduce_sum(weight * (x - double(goal)) ** 2))

    def method():
        learner = spectral_preconditioner.preconditioner(8, 8)
        return lbfgs.lbfgs(objective(), history=InMemoryHistory(4), precondition=learner)

    straight = few(method(), double(np.zeros((1, 8, 8, 3))), 12)
    step, state = tf.function(method().step), saved(straight[7], tmp_path / "state.npz")
    for _ in range(5):
        state = step(state)
    assert int(state.preconditioner_state.pair_count) == 12
    for ours, theirs in zip(tf.nest.flatten(state), tf.nest.flatten(straight[-1]), strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()


@pytest.mark.parametrize("make", [lbfgs.lbfgs, adam.adam])
def test_a_step_is_traced_once(make):
    method = make(objective_of(rosenbrock))
    step, state = tf.function(method.step), method.init(double([-1.2, 1.0]))
    for _ in range(6):
        state = step(state)
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("make", [lbfgs.lbfgs, adam.adam])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_start_that_is_not_finite_is_stalled_and_stays_where_it_is(make, bad):
    def nothing(x):
        return tf.constant(bad, x.dtype), x * bad, {}

    method = make(nothing)
    state = method.init(double([1.0, 2.0]))
    for _ in range(2):
        assert bool(state.stalled) and not bool(state.finite)
        np.testing.assert_array_equal(state.x, [1, 2])
        state = method.step(state)
    assert int(state.steps) == 0


@pytest.mark.parametrize("make", [lbfgs.lbfgs, adam.adam])
def test_an_objective_that_breaks_on_the_way_keeps_the_last_good_picture(make):
    seen = tf.Variable(0)

    def breaking(x):
        value, gradient, terms = objective_of(rosenbrock)(x)
        factor = tf.cast(tf.where(seen.assign_add(1) > 12, np.nan, 1.0), x.dtype)
        return tf.nest.map_structure(lambda part: part * factor, (value, gradient, terms))

    states = run(make(breaking), double(np.tile([-1.2, 1.0], 10)), evaluations=60)
    last = states[-1]
    assert bool(last.stalled) and not bool(last.finite)
    assert int(last.steps) >= 5
    for part in (last.x, last.value, last.gradient, last.terms["value"]):
        assert np.isfinite(part).all()
    value = objective_of(rosenbrock)(last.x)[0]
    assert float(value) == pytest.approx(float(last.value), rel=1e-12)
    good = [state for state in states if int(state.steps) == int(last.steps)][0]
    np.testing.assert_array_equal(last.x, good.x)


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("kind", ["lbfgs", "adam"])
def test_any_optimiser_fits_a_picture(kind, preconditioned):
    goal = tf.constant(np.random.default_rng(11).random((1, 8, 8, 3)), tf.float32)
    objective = objective_of(lambda x: tf.reduce_mean((x - goal) ** 2))
    if kind == "adam":
        method = adam.adam(objective)
    else:
        apply = spectral_preconditioner.preconditioner(8, 8) if preconditioned else None
        method = lbfgs.lbfgs(objective, history=InMemoryHistory(10), precondition=apply)
    start = tf.fill([1, 8, 8, 3], 0.5)
    last = run(method, start, evaluations=40 if kind == "lbfgs" else 200, goal=1e-7)[-1]
    assert float(last.value) <= 1e-6
    np.testing.assert_allclose(last.x, goal, atol=1e-2)


@pytest.fixture(scope="module")
def times():
    """The state in float32 after ten steps, of the objective times a factor."""
    factor = tf.Variable(1.0)
    matrix = tf.constant(np.random.default_rng(1).normal(size=(60, 10)), tf.float32)
    start = tf.constant(np.random.default_rng(8).normal(size=10), tf.float32)

    def function(x):
        curved = tf.reduce_sum(tf.nn.softplus(tf.linalg.matvec(matrix, x)))
        return (curved + tf.reduce_sum(x**2)) * factor

    method = lbfgs.lbfgs(objective_of(function), history=InMemoryHistory(20))
    step = tf.function(method.step)

    def found(number, steps=10):
        factor.assign(number)
        state = method.init(start)
        for _ in range(steps):
            state = step(state)
        return state

    return found


@pytest.mark.parametrize("factor", [2.0**-27, 2.0**-9, 2.0**14, 2.0**33])
def test_a_power_of_two_times_the_objective_changes_no_bit(times, factor):
    plain, other = times(1), times(factor)
    assert int(plain.steps) == 10 and int(plain.evaluations) == int(other.evaluations)
    np.testing.assert_array_equal(plain.x, other.x)
    np.testing.assert_array_equal(plain.gradient, other.gradient)
    assert float(other.value) == factor * float(plain.value)


@pytest.mark.parametrize("factor", [1e-8, 1e-4, 1e5, 1e10])
def test_any_factor_of_the_objective_gives_the_same_iterates(times, factor):
    # Where the minimum is near, rounding decides how long a line search looks.
    plain, other = times(1, 6), times(factor, 6)
    assert (int(plain.evaluations), int(plain.steps)) == (int(other.evaluations), int(other.steps))
    np.testing.assert_allclose(other.x, plain.x, atol=1e-4)
