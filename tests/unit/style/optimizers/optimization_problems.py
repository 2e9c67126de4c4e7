"""Known minima for the tests of optimizers, and runs towards them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import double

from style.optimizers import lbfgs
from style.optimizers.history import InMemoryHistory


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
    return run(lbfgs.lbfgs(objective_of(function), history=InMemoryHistory(memory)), x, **options)


def bowl(x):
    """A narrow valley, so far away that the first search takes several trials."""
    return tf.reduce_sum(double([1, 1e4]) * x**4)


def few(method, x, count):
    step, states = tf.function(method.step), [method.init(x)]
    for _ in range(count):
        states.append(step(states[-1]))
    return states


def walled(x):
    """NaN beyond 0.5, and falling up to there."""
    inside = tf.reduce_all(x < 0.5)
    return tf.where(inside, tf.reduce_sum((x - 1) ** 2), tf.constant(np.nan, x.dtype))


def walled_objective(x):
    value = walled(x)
    gradient = tf.where(tf.math.is_finite(value), 2 * (x - 1), tf.fill(x.shape, value))
    return value, gradient, {"value": value}
