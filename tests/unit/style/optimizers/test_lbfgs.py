"""L-BFGS against NumPy and SciPy: the recursion, the pairs, and evaluations until a minimum."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from helpers import double
from optimization_problems import (
    PROBLEMS,
    each_problem,
    few,
    minimise,
    objective_of,
    quadratic,
    rosenbrock,
    run,
)

from style.optimizers import base, lbfgs, spectral_preconditioner
from style.optimizers.history import InMemoryHistory, Pairs

# Evaluations until the objective is below 1e-10: known runs, so that a change is seen.
# Rounding differs between machines, which long runs feel: 5 % are allowed.
EVALUATIONS = {
    "quadratic": 264,
    "rosenbrock_2": 46,
    "rosenbrock_20": 142,
    "himmelblau": 18,
}


def constant(apply):
    """A preconditioner that does not learn."""
    return base.Preconditioner(
        lambda x: (),
        lambda state, s, y: (state, lbfgs.dot(s, y) / lbfgs.dot(y, apply(y))),
        lambda _, g: apply(g),
    )


def power(exponent):
    """Multiplies the spectrum of a picture [1, H, W, 1] by |f|^exponent, at least one cycle."""

    def apply(x):
        spectrum = tf.signal.rfft2d(x[0, :, :, 0])
        spectrum *= tf.cast(
            spectral_preconditioner.frequencies(*x.shape[1:3]) ** exponent, spectrum.dtype
        )
        return tf.signal.irfft2d(spectrum, x.shape[1:3])[None, :, :, None]

    return apply


@each_problem
def test_known_minima_are_found_in_the_known_number_of_evaluations(name):
    function, start = PROBLEMS[name]
    last = minimise(function, double(start), memory=20, goal=1e-10)[-1]
    assert float(last.value) <= 1e-10
    assert int(last.evaluations) == pytest.approx(EVALUATIONS[name], rel=0.05)
    if name != "himmelblau":
        np.testing.assert_allclose(last.x, 1, atol=1e-4)


@each_problem
def test_scipy_needs_not_much_fewer_evaluations(name):
    function, start = PROBLEMS[name]
    evaluate, values = tf.function(objective_of(function)), []

    def recorded(x):
        value, gradient, _ = evaluate(double(x))
        values.append(float(value))
        return values[-1], gradient.numpy()

    options = {"maxcor": 20, "ftol": 0, "gtol": 0, "maxfun": 400}
    scipy.optimize.minimize(recorded, start, jac=True, method="L-BFGS-B", options=options)
    theirs = 1 + next(i for i, value in enumerate(values) if value <= 1e-10)
    assert EVALUATIONS[name] <= 1.5 * theirs


def test_the_state_says_what_the_objective_says():
    evaluate = objective_of(rosenbrock)
    for state in minimise(rosenbrock, double([-1.2, 1.0]), evaluations=10):
        value, gradient, terms = evaluate(state.x)
        assert float(value) == pytest.approx(float(state.value), rel=1e-12)
        np.testing.assert_allclose(state.gradient * state.scale, gradient, rtol=1e-10)
        assert float(state.terms["value"]) == pytest.approx(float(terms["value"]), rel=1e-12)


def test_evaluations_and_steps_are_counted():
    seen = []

    def counted(x):
        seen.append(x.numpy())
        return objective_of(rosenbrock)(x)

    method = lbfgs.lbfgs(counted, history=InMemoryHistory(5))
    state = method.init(double([-1.2, 1.0]))
    for i in range(8):
        state = method.step(state)
        assert int(state.evaluations) == len(seen) and int(state.steps) == i + 1
    assert any(np.array_equal(x, state.x) for x in seen)


@pytest.mark.parametrize("change", [0.03, 0.2])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_first_trial_changes_x_by_the_wanted_root_mean_square(change, preconditioned):
    seen = []

    def counted(x):
        seen.append(x.numpy())
        return objective_of(lambda x: 1e7 * tf.reduce_sum((x - 0.5) ** 2))(x)

    apply = spectral_preconditioner.preconditioner(6, 5, exponent=0.7) if preconditioned else None
    method = lbfgs.lbfgs(
        counted, history=InMemoryHistory(2), first_change=change, precondition=apply
    )
    method.step(method.init(double(np.random.default_rng(0).random((1, 6, 5, 3)))))
    assert np.sqrt(np.mean((seen[1] - seen[0]) ** 2)) == pytest.approx(change, rel=1e-9)


def dense(s, y, gamma, matrix):
    """H after the updates of Nocedal and Wright, equation 7.16, oldest pair first."""
    inverse, identity = gamma * matrix, np.eye(len(matrix))
    for a, b in zip(s, y, strict=True):
        rho = 1 / (a @ b)
        left = identity - rho * np.outer(a, b)
        inverse = left @ inverse @ left.T + rho * np.outer(a, a)
    return inverse


@pytest.mark.parametrize("empty", [0, 1, 4])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_two_loops_multiply_by_the_matrix_of_bfgs_updates(empty, preconditioned):
    random = np.random.default_rng(3)
    size, pairs, gamma = 9, 5, 0.37
    root = random.normal(size=(size, size))
    hessian, matrix = root @ root.T + np.eye(size), np.eye(size)
    if preconditioned:
        other = random.normal(size=(size, size))
        matrix = other @ other.T + np.eye(size)
    s = random.normal(size=(pairs, size))
    y, g = s @ hessian, random.normal(size=size)
    none = (double(np.zeros(size)),) * empty
    product = lbfgs.two_loop_recursion(
        double(g),
        InMemoryHistory(empty + pairs),
        Pairs(none + tuple(map(double, s)), none + tuple(map(double, y))),
        double(np.concatenate([np.zeros(empty), 1 / np.sum(s * y, 1)])),
        lambda q: lbfgs.scale_initial(tf.linalg.matvec(double(matrix), q), double(gamma), 0.03),
    )
    expected = dense(s, y, gamma, matrix) @ g
    np.testing.assert_allclose(product, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


def test_the_newest_pair_satisfies_the_secant_equation():
    state = minimise(rosenbrock, double(np.tile([-1.2, 1.0], 10)), evaluations=20)[-1]
    product = lbfgs.two_loop_recursion(
        state.history.y[-1],
        InMemoryHistory(5),
        state.history,
        state.rho,
        lambda q: lbfgs.scale_initial(q, state.gamma, 0.03),
    )
    np.testing.assert_allclose(product, state.history.s[-1], rtol=1e-8, atol=1e-12)


def test_without_a_pair_the_product_is_the_gradient_at_the_wanted_size():
    g = np.random.default_rng(4).normal(size=(7, 2))
    history, zero = InMemoryHistory(3), double(np.zeros((7, 2)))
    rest = (
        history,
        history.init(zero),
        double(np.zeros(3)),
        lambda q: lbfgs.scale_initial(q, double(0), 0.03),
    )
    product = lbfgs.two_loop_recursion(double(g), *rest)
    np.testing.assert_allclose(product, 0.03 * g / np.sqrt(np.mean(g**2)), rtol=1e-12)
    still = lbfgs.two_loop_recursion(zero, *rest)
    np.testing.assert_array_equal(still, 0)


def test_the_memory_is_the_last_differences_oldest_first():
    apply = power(-1.0)
    curvatures = double(np.random.default_rng(5).uniform(1, 9, (1, 4, 5, 1)))

    def function(x):
        return tf.reduce_sum(curvatures * (x - 0.3) ** 4 + x**2)

    method = lbfgs.lbfgs(
        objective_of(function), history=InMemoryHistory(3), precondition=constant(apply)
    )
    start = double(np.random.default_rng(6).random((1, 4, 5, 1)))
    states = run(method, start, evaluations=12)[:8]
    last = states[-1]
    assert len(states) == 8 and len(last.history.s) == len(last.history.y) == 3
    for i, (before, after) in enumerate(zip(states[-4:], states[-3:], strict=False)):
        s, y = after.x - before.x, after.gradient - before.gradient
        np.testing.assert_array_equal(last.history.s[i], s)
        np.testing.assert_array_equal(last.history.y[i], y)
        assert float(last.rho[i]) == pytest.approx(1 / np.sum(s * y), rel=1e-12)
    expected = np.sum(s * y) / np.sum(y * apply(y))
    assert float(last.gamma) == pytest.approx(expected, rel=1e-12)


def spectral(x):
    """A quadratic whose Hessian is twice the squared frequency."""
    goal = double(np.random.default_rng(7).random((1, 16, 16, 1)))
    return tf.reduce_sum((x - goal) * power(2.0)(x - goal))


@pytest.mark.slow
def test_a_preconditioner_that_knows_the_hessian_makes_it_easy():
    def evaluations(precondition):
        method = lbfgs.lbfgs(
            objective_of(spectral), history=InMemoryHistory(5), precondition=precondition
        )
        last = run(method, double(np.zeros((1, 16, 16, 1))), goal=1e-8)[-1]
        assert float(last.value) <= 1e-8
        return int(last.evaluations)

    known, none = evaluations(constant(power(-2.0))), evaluations(None)
    assert known <= 10 and none > 3 * known
    # One that has to learn it is in between.
    assert evaluations(spectral_preconditioner.preconditioner(16, 16, exponent=0)) < none


def test_the_graph_takes_the_same_steps_as_eager_code():
    method = lbfgs.lbfgs(objective_of(rosenbrock), history=InMemoryHistory(4))
    eager = graph = method.init(double([-1.2, 1.0]))
    step = tf.function(method.step)
    for _ in range(6):
        eager, graph = method.step(eager), step(graph)
    np.testing.assert_allclose(eager.x, graph.x, rtol=1e-9)
    assert int(eager.evaluations) == int(graph.evaluations)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_minimum_at_the_start_is_stalled_but_finite(dtype):
    state = minimise(quadratic, tf.ones([20], dtype))[-1]
    assert bool(state.stalled) and bool(state.finite) and float(state.value) == 0


@pytest.mark.parametrize(
    "function",
    [lambda x: -tf.reduce_sum(x**2), lambda x: tf.reduce_sum(x)],
    ids=["concave", "linear"],
)
def test_pairs_without_curvature_are_not_remembered(function):
    state = few(
        lbfgs.lbfgs(objective_of(function), history=InMemoryHistory(2)), double([1.0, -2.0, 3.0]), 1
    )[-1]
    assert int(state.steps) == 1 and not bool(state.stalled)
    assert not np.any(state.rho) and float(state.gamma) == 0


def test_what_is_remembered_on_a_nonconvex_function_has_curvature():
    def waves(x):
        return tf.reduce_sum(tf.cos(3 * x)) + 0.05 * tf.reduce_sum(x**2)

    start = double(np.random.default_rng(10).uniform(-1, 1, 15))
    states = minimise(waves, start, evaluations=40)
    for state in states:
        kept = state.rho.numpy() != 0
        for i in np.flatnonzero(kept):
            s, y = state.history.s[i].numpy(), state.history.y[i].numpy()
            assert s @ y > 1e-6 * np.linalg.norm(s) * np.linalg.norm(y)
        assert (state.rho.numpy() >= 0).all()
    assert np.abs(states[-1].gradient).max() < 1e-4
