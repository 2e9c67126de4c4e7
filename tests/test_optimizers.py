"""L-BFGS and Adam against NumPy and SciPy, and what a long run may meet."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from helpers import double

from style import fourier, line_search, optimizers, synthesis
from style.pairs import Kept, in_memory

# Evaluations until the objective is below 1e-10: known runs, so that a change is seen.
# Rounding differs between machines, which long runs feel: 5 % are allowed.
EVALUATIONS = {
    "quadratic": 264,
    "rosenbrock_2": 46,
    "rosenbrock_20": 142,
    "himmelblau": 18,
}


def quadratic(x):
    """Condition number 1e4, minimum 0 at 1."""
    curvatures = tf.cast(np.geomspace(1, 1e4, 20), x.dtype)
    return tf.reduce_sum(curvatures * tf.square(x - 1)) / 2


def rosenbrock(x):
    return tf.reduce_sum(100 * tf.square(x[1:] - x[:-1] ** 2) + tf.square(1 - x[:-1]))


def himmelblau(x):
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


PROBLEMS = {
    "quadratic": (quadratic, np.random.default_rng(0).normal(size=20)),
    "rosenbrock_2": (rosenbrock, np.array([-1.2, 1.0])),
    "rosenbrock_20": (rosenbrock, np.tile([-1.2, 1.0], 10)),
    "himmelblau": (himmelblau, np.array([0.0, 0.0])),
}
each_problem = pytest.mark.parametrize("name", PROBLEMS)


def objective_of(function):
    """x -> value, gradient, terms."""

    def objective(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return value, tape.gradient(value, x), {"value": value}

    return objective


def run(method, x, evaluations=300, goal=-np.inf):
    """States until the goal is reached, the evaluations are used up, or no step is possible."""
    step = tf.function(method.step)
    states = [method.init(x)]
    while (
        float(states[-1].value) > goal
        and int(states[-1].evaluations) < evaluations
        and not bool(states[-1].stalled)
    ):
        states.append(step(states[-1]))
    return states


def minimise(function, x, memory=5, **options):
    return run(optimizers.lbfgs(objective_of(function), memory=memory), x, **options)


def constant(apply):
    """A preconditioner that does not learn."""
    return optimizers.Preconditioner(
        lambda x: (),
        lambda known, s, y: (known, optimizers.dot(s, y) / optimizers.dot(y, apply(y))),
        lambda _, g: apply(g),
    )


def power(exponent):
    """Multiplies the spectrum of a picture [1, H, W, 1] by |f|^exponent, at least one cycle."""

    def apply(x):
        spectrum = tf.signal.rfft2d(x[0, :, :, 0])
        spectrum *= tf.cast(fourier.frequencies(*x.shape[1:3]) ** exponent, spectrum.dtype)
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
            float(optimizers.dot(change, one.gradient * one.scale)) for one in (before, after)
        )
        assert slope < 0
        assert float(after.value) <= float(before.value) + 1e-4 * slope + 1e-15
        assert abs(new_slope) <= 0.9 * abs(slope) * (1 + 1e-9)


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

    method = optimizers.lbfgs(counted, memory=5)
    state = method.init(double([-1.2, 1.0]))
    for i in range(8):
        state = method.step(state)
        assert int(state.evaluations) == len(seen) and int(state.steps) == i + 1
    assert any(np.array_equal(x, state.x) for x in seen)


def bowl(x):
    """A narrow valley, so far away that the first search takes several trials."""
    return tf.reduce_sum(double([1, 1e4]) * x**4)


@pytest.mark.parametrize("make", [optimizers.lbfgs, optimizers.adam])
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 6, 9, 13])
def test_evaluations_are_kept_to_within_a_search_too(make, budget):
    method = make(objective_of(bowl))
    states = list(synthesis.minimize(method, double([30.0, 30.0]), budget))
    values = [float(state.value) for state in states]
    assert [int(state.evaluations) for state in states][-1] <= budget
    assert not any(bool(state.cut) for state in states[:-1])
    if make is optimizers.lbfgs:
        assert (np.diff(values) <= 0).all()
        assert not bool(states[-1].stalled) and bool(states[-1].finite)


def test_a_search_that_was_cut_is_done_anew_with_more_evaluations():
    method = optimizers.lbfgs(objective_of(bowl))
    start, cuts = double([30.0, 30.0]), 0
    whole = list(synthesis.minimize(method, start, 30))
    for budget in range(2, 12):
        *_, last = states = list(synthesis.minimize(method, start, budget))
        for state, theirs in zip(states[:-1] if bool(last.cut) else states, whole, strict=False):
            for one, other in zip(*map(tf.nest.flatten, (state, theirs)), strict=True):
                assert one.numpy().tobytes() == other.numpy().tobytes()
        if bool(last.cut):
            cuts += 1
            *_, after = synthesis.minimize(method, start, 30, state=states[-2])
            np.testing.assert_array_equal(after.x, whole[-1].x)
    assert cuts


@pytest.mark.parametrize("change", [0.03, 0.2])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_first_trial_changes_x_by_the_wanted_root_mean_square(change, preconditioned):
    seen = []

    def counted(x):
        seen.append(x.numpy())
        return objective_of(lambda x: 1e7 * tf.reduce_sum((x - 0.5) ** 2))(x)

    apply = fourier.preconditioner(6, 5, exponent=0.7) if preconditioned else None
    method = optimizers.lbfgs(counted, memory=2, first_change=change, precondition=apply)
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
    kept = Kept(none + tuple(map(double, s)), none + tuple(map(double, y)))
    found = optimizers.inverse_hessian_product(
        double(g),
        in_memory(empty + pairs),
        kept,
        double(np.concatenate([np.zeros(empty), 1 / np.sum(s * y, 1)])),
        double(gamma),
        lambda q: tf.linalg.matvec(double(matrix), q),
        0.03,
    )
    expected = dense(s, y, gamma, matrix) @ g
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


def test_the_newest_pair_satisfies_the_secant_equation():
    state = minimise(rosenbrock, double(np.tile([-1.2, 1.0], 10)), evaluations=20)[-1]
    found = optimizers.inverse_hessian_product(
        state.pairs.y[-1], in_memory(5), state.pairs, state.rho, state.gamma, lambda q: q, 0.03
    )
    np.testing.assert_allclose(found, state.pairs.s[-1], rtol=1e-8, atol=1e-12)


def test_without_a_pair_the_product_is_the_gradient_at_the_wanted_size():
    g = np.random.default_rng(4).normal(size=(7, 2))
    memory, zero = in_memory(3), double(np.zeros((7, 2)))
    rest = (memory, memory.init(zero), double(np.zeros(3)), double(0), lambda q: q, 0.03)
    found = optimizers.inverse_hessian_product(double(g), *rest)
    np.testing.assert_allclose(found, 0.03 * g / np.sqrt(np.mean(g**2)), rtol=1e-12)
    still = optimizers.inverse_hessian_product(zero, *rest)
    np.testing.assert_array_equal(still, 0)


def test_the_memory_is_the_last_differences_oldest_first():
    apply = power(-1.0)
    curvatures = double(np.random.default_rng(5).uniform(1, 9, (1, 4, 5, 1)))

    def function(x):
        return tf.reduce_sum(curvatures * (x - 0.3) ** 4 + x**2)

    method = optimizers.lbfgs(objective_of(function), memory=3, precondition=constant(apply))
    start = double(np.random.default_rng(6).random((1, 4, 5, 1)))
    states = run(method, start, evaluations=12)[:8]
    last = states[-1]
    assert len(states) == 8 and len(last.pairs.s) == len(last.pairs.y) == 3
    for i, (before, after) in enumerate(zip(states[-4:], states[-3:], strict=False)):
        s, y = after.x - before.x, after.gradient - before.gradient
        np.testing.assert_array_equal(last.pairs.s[i], s)
        np.testing.assert_array_equal(last.pairs.y[i], y)
        assert float(last.rho[i]) == pytest.approx(1 / np.sum(s * y), rel=1e-12)
    expected = np.sum(s * y) / np.sum(y * apply(y))
    assert float(last.gamma) == pytest.approx(expected, rel=1e-12)


def spectral(x):
    """A quadratic whose Hessian is twice the squared frequency."""
    goal = double(np.random.default_rng(7).random((1, 16, 16, 1)))
    return tf.reduce_sum((x - goal) * power(2.0)(x - goal))


def test_a_preconditioner_that_knows_the_hessian_makes_it_easy():
    def evaluations(precondition):
        method = optimizers.lbfgs(objective_of(spectral), memory=5, precondition=precondition)
        last = run(method, double(np.zeros((1, 16, 16, 1))), goal=1e-8)[-1]
        assert float(last.value) <= 1e-8
        return int(last.evaluations)

    known, none = evaluations(constant(power(-2.0))), evaluations(None)
    assert known <= 10 and none > 3 * known
    # One that has to learn it is in between.
    assert evaluations(fourier.preconditioner(16, 16, exponent=0)) < none


def few(method, x, count):
    step, states = tf.function(method.step), [method.init(x)]
    for _ in range(count):
        states.append(step(states[-1]))
    return states


@pytest.fixture(scope="module")
def times():
    """The state in float32 after ten steps, of the objective times a factor."""
    factor = tf.Variable(1.0)
    matrix = tf.constant(np.random.default_rng(1).normal(size=(60, 10)), tf.float32)
    start = tf.constant(np.random.default_rng(8).normal(size=10), tf.float32)

    def function(x):
        curved = tf.reduce_sum(tf.nn.softplus(tf.linalg.matvec(matrix, x)))
        return (curved + tf.reduce_sum(x**2)) * factor

    method = optimizers.lbfgs(objective_of(function), memory=20)
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


def saved(state, path):
    """The state after a round trip through a file of plain arrays."""
    np.savez(path, *[leaf.numpy() for leaf in tf.nest.flatten(state)])
    with np.load(path) as file:
        leaves = [tf.constant(file[f"arr_{i}"]) for i in range(len(file.files))]
    return tf.nest.pack_sequence_as(state, leaves)


@pytest.mark.parametrize("make", [optimizers.lbfgs, optimizers.adam])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_saved_state_goes_on_with_the_same_bits(make, dtype, tmp_path):
    start = tf.constant(np.tile([-1.2, 1.0], 10), dtype)
    options = {"memory": 5} if make is optimizers.lbfgs else {}
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


def test_what_a_preconditioner_learnt_is_saved_too(tmp_path):
    goal = np.random.default_rng(12).random((1, 8, 8, 3))
    weight = double(np.random.default_rng(13).uniform(1, 20, (1, 8, 8, 3)))

    def objective():
        return objective_of(lambda x: tf.reduce_sum(weight * (x - double(goal)) ** 2))

    def method():
        learner = fourier.preconditioner(8, 8)
        return optimizers.lbfgs(objective(), memory=4, precondition=learner)

    straight = few(method(), double(np.zeros((1, 8, 8, 3))), 12)
    step, state = tf.function(method().step), saved(straight[7], tmp_path / "state.npz")
    for _ in range(5):
        state = step(state)
    assert int(state.known.pairs) == 12
    for ours, theirs in zip(tf.nest.flatten(state), tf.nest.flatten(straight[-1]), strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()


@pytest.mark.parametrize("make", [optimizers.lbfgs, optimizers.adam])
def test_a_step_is_traced_once(make):
    method = make(objective_of(rosenbrock))
    step, state = tf.function(method.step), method.init(double([-1.2, 1.0]))
    for _ in range(6):
        state = step(state)
    assert step.experimental_get_tracing_count() == 1


def test_the_graph_takes_the_same_steps_as_eager_code():
    method = optimizers.lbfgs(objective_of(rosenbrock), memory=4)
    eager = graph = method.init(double([-1.2, 1.0]))
    step = tf.function(method.step)
    for _ in range(6):
        eager, graph = method.step(eager), step(graph)
    np.testing.assert_allclose(eager.x, graph.x, rtol=1e-9)
    assert int(eager.evaluations) == int(graph.evaluations)


def walled(x):
    """NaN beyond 0.5, and falling up to there."""
    inside = tf.reduce_all(x < 0.5)
    return tf.where(inside, tf.reduce_sum((x - 1) ** 2), tf.constant(np.nan, x.dtype))


def walled_objective(x):
    value = walled(x)
    gradient = tf.where(tf.math.is_finite(value), 2 * (x - 1), tf.fill(x.shape, value))
    return value, gradient, {"value": value}


def test_a_trial_that_is_not_finite_shrinks_the_step():
    states = run(
        optimizers.lbfgs(walled_objective, memory=5), double([0.0, 0.1, 0.2]), evaluations=60
    )
    for before, after in zip(states, states[1:], strict=False):
        assert np.isfinite(after.value) and np.isfinite(after.x).all()
        assert float(after.value) <= float(before.value)
        for pair in (*after.pairs.s, *after.pairs.y, after.rho, after.gamma):
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


@pytest.mark.parametrize("make", [optimizers.lbfgs, optimizers.adam])
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


@pytest.mark.parametrize("make", [optimizers.lbfgs, optimizers.adam])
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


def test_a_run_that_finds_no_descent_stalls_and_keeps_x():
    def lying(x):
        value, gradient, terms = objective_of(rosenbrock)(x)
        return value, -gradient, terms

    states = run(optimizers.lbfgs(lying, memory=5), double([-1.2, 1.0]), evaluations=60)
    last = states[-1]
    assert bool(last.stalled) and bool(last.finite) and int(last.steps) == 0
    np.testing.assert_array_equal(last.x, [-1.2, 1.0])


def test_a_search_that_fails_with_a_memory_tries_the_gradient_before_it_stalls():
    broken = tf.Variable(0.0, dtype=tf.float64)

    def objective(x):
        value, gradient, terms = objective_of(rosenbrock)(x)
        return value + broken, gradient, terms

    method = optimizers.lbfgs(objective, memory=3)
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
    state = few(optimizers.lbfgs(objective_of(function), memory=2), double([1.0, -2.0, 3.0]), 1)[-1]
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
            s, y = state.pairs.s[i].numpy(), state.pairs.y[i].numpy()
            assert s @ y > 1e-6 * np.linalg.norm(s) * np.linalg.norm(y)
        assert (state.rho.numpy() >= 0).all()
    assert np.abs(states[-1].gradient).max() < 1e-4


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
        found = line_search._interpolate(*map(double, (a, *cubic(a), b, *cubic(b))))
        assert float(found) == pytest.approx(minimum, rel=1e-9)


def test_adam_is_algorithm_1_of_kingma_and_ba():
    start = np.tile([-1.2, 1.0], 4)
    options = {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}
    states = few(optimizers.adam(objective_of(rosenbrock), **options), double(start), 25)
    x, m, v = start.copy(), np.zeros(8), np.zeros(8)
    for t in range(1, 26):
        g = objective_of(rosenbrock)(double(x))[1].numpy()
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        x = x - 0.05 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-3)
        np.testing.assert_allclose(states[t].x, x, rtol=1e-10, atol=1e-10)
        assert (int(states[t].steps), int(states[t].evaluations)) == (t, t + 1)


def test_adam_stops_before_what_is_not_finite():
    states = run(optimizers.adam(walled_objective), double([0.0, 0.1, 0.2]), evaluations=60)
    last, before = states[-1], states[-2]
    assert bool(last.stalled) and not bool(last.finite)
    assert 0.45 < np.max(last.x) < 0.5
    for ours, theirs in zip(last[:4], before[:4], strict=True):
        for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("kind", ["lbfgs", "adam"])
def test_any_optimiser_fits_a_picture(kind, preconditioned):
    goal = tf.constant(np.random.default_rng(11).random((1, 8, 8, 3)), tf.float32)
    objective = objective_of(lambda x: tf.reduce_mean((x - goal) ** 2))
    if kind == "adam":
        method = optimizers.adam(objective)
    else:
        apply = fourier.preconditioner(8, 8) if preconditioned else None
        method = optimizers.lbfgs(objective, memory=10, precondition=apply)
    start = tf.fill([1, 8, 8, 3], 0.5)
    last = run(method, start, evaluations=40 if kind == "lbfgs" else 200, goal=1e-7)[-1]
    assert float(last.value) <= 1e-6
    np.testing.assert_allclose(last.x, goal, atol=1e-2)
