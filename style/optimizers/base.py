"""What an optimiser and a preconditioner are: named tuples of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

# x -> (objective, gradient, terms); terms are passed through.
Objective = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, Any]]


class Optimizer(NamedTuple):
    """Pure functions: `init(x)` -> state, `step(state)` -> state, one accepted step further.

    `objective(x)` -> (value, gradient, terms) is what they minimise.
    `step(state, left)` makes do with `left` evaluations of the objective, at least 1.
    `restart(state)` -> state is for an objective that has changed: it is evaluated at the same point,
    and what was learnt of the old one's curvature pair by pair is forgotten.
    """

    objective: Objective
    init: Callable[[tf.Tensor], Any]
    step: Callable[..., Any]
    restart: Callable[[Any], Any]


def evaluated_anew(objective: Objective, state: Any, **changes: tf.Tensor) -> Any:
    """The state at the same point under an objective that has changed.

    Args:
        objective: x -> (value, gradient, terms), as it is now.
        state: Of an optimiser.
        **changes: Other fields of it.
    """
    value, gradient, terms = objective(state.x)
    finite = tf.math.is_finite(value) & tf.reduce_all(tf.math.is_finite(gradient))
    return state._replace(
        value=value,
        gradient=gradient / state.scale,
        terms=terms,
        evaluations=state.evaluations + 1,
        stalled=tf.logical_not(finite),
        finite=finite,
        cut=tf.constant(False),
        **changes,
    )


class Preconditioner(NamedTuple):
    """A positive definite matrix P that approximates the inverse Hessian, as pure functions.

    Attributes:
        init: x -> preconditioner_state, before any pair (s, y) was seen.
        update: (preconditioner_state, s, y) -> (preconditioner_state, gamma), after a pair with
            s.y > 0; the initial inverse Hessian of L-BFGS is then gamma P.
        apply: (preconditioner_state, gradient) -> P gradient; symmetric and positive definite.
    """

    init: Callable[[tf.Tensor], Any]
    update: Callable[[Any, tf.Tensor, tf.Tensor], tuple[Any, tf.Tensor]]
    apply: Callable[[Any, tf.Tensor], tf.Tensor]


def identity() -> Preconditioner:
    """P = I and gamma = s.y / y.y (Nocedal and Wright, equation 7.20)."""
    return Preconditioner(
        lambda x: (),
        lambda preconditioner_state, s, y: (preconditioner_state, dot(s, y) / dot(y, y)),
        lambda preconditioner_state, gradient: gradient,
    )


def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """a.b over all entries."""
    return tf.reduce_sum(a * b)


def is_usable_scale(largest: tf.Tensor) -> tf.Tensor:
    """Whether a largest absolute gradient can be divided by: it is positive and finite."""
    return tf.math.is_finite(largest) & (largest > 0)


def gradient_scale(gradient: tf.Tensor) -> tf.Tensor:
    """max |g_i|, or 1 where that is 0 or not finite.

    Gradients divided by their scale at the start make the steps independent of a constant factor
    of the objective.
    """
    largest = tf.reduce_max(tf.abs(gradient))
    return tf.where(is_usable_scale(largest), largest, tf.ones_like(largest))
