"""Adam, as `Optimizer`."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from style.optimizers.base import Objective, Optimizer, evaluated_anew, gradient_scale


class AdamState(NamedTuple):
    """The state of an Adam run; fields that `LBFGSState` has too mean the same.

    Attributes:
        x: The picture.
        value: The objective there.
        gradient: Its gradient there, divided by `scale`.
        terms: What the objective returned besides.
        scale: The largest absolute gradient at the start.
        steps: Accepted steps.
        evaluations: Evaluations of the objective and its gradient.
        stalled: The last evaluation was not finite, so no step can be made.
        finite: Whether the last evaluation was finite.
        cut: Always False, because a step takes one evaluation.
        first_moment: m, the decaying mean of the scaled gradients.
        second_moment: v, the decaying mean of their squares.
    """

    x: tf.Tensor
    value: tf.Tensor
    gradient: tf.Tensor
    terms: Any
    scale: tf.Tensor
    steps: tf.Tensor
    evaluations: tf.Tensor
    stalled: tf.Tensor
    finite: tf.Tensor
    cut: tf.Tensor
    first_moment: tf.Tensor
    second_moment: tf.Tensor


class _Decay(NamedTuple):
    """beta_1, beta_2 and epsilon of the paper, and the step size alpha."""

    learning_rate: float
    beta_1: float
    beta_2: float
    epsilon: float

    def change(self, m: tf.Tensor, v: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """-alpha m_hat / (sqrt(v_hat) + epsilon).

        Both fractions are multiplied by sqrt(1 - beta_2^t), epsilon too: the paper's shorter form
        leaves it out there, which changes what epsilon is.
        """
        correction = tf.sqrt(1 - self.beta_2**t)
        rate = self.learning_rate * correction / (1 - self.beta_1**t)
        return -rate * m / (tf.sqrt(v) + self.epsilon * correction)


def adam(
    objective: Objective,
    *,
    learning_rate: float = 0.02,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
) -> Optimizer:
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1), which keeps the last finite point.

    With g_t the gradient divided by the largest absolute gradient at the start,

        m_t = beta_1 m_t-1 + (1 - beta_1) g_t,        m_hat = m_t / (1 - beta_1^t),
        v_t = beta_2 v_t-1 + (1 - beta_2) g_t^2,      v_hat = v_t / (1 - beta_2^t),
        x_t+1 = x_t - learning_rate m_hat / (sqrt(v_hat) + epsilon).

    Args:
        objective: x -> (value, gradient, terms).
        learning_rate: Step size, in the unit of x.
        beta_1: Decay of the first moment m.
        beta_2: Decay of the second moment v.
        epsilon: Added to the root of v_hat; relative to the largest gradient at the start.
    """
    decay = _Decay(learning_rate, beta_1, beta_2, epsilon)

    def init(x: tf.Tensor) -> AdamState:
        return _initial_state(objective, x)

    def step(state: AdamState, left: tf.Tensor | None = None) -> AdamState:
        # One evaluation, so any number left will do.
        m = beta_1 * state.first_moment + (1 - beta_1) * state.gradient
        v = beta_2 * state.second_moment + (1 - beta_2) * tf.square(state.gradient)
        x = state.x + decay.change(m, v, tf.cast(state.steps + 1, state.x.dtype))
        value, gradient, terms = objective(x)
        finite = _all_finite(value, gradient)
        new = {"x": x, "value": value, "gradient": gradient / state.scale, "terms": terms}
        return _accept_if(finite, state, {**new, "first_moment": m, "second_moment": v})

    def restart(state: AdamState) -> AdamState:
        return evaluated_anew(objective, state)

    return Optimizer(objective, init, step, restart)


def _initial_state(objective: Objective, x: tf.Tensor) -> AdamState:
    value, gradient, terms = objective(x)
    # Departure: the paper's epsilon is absolute.  The gradient of a mean over pixels falls as
    # 1 / (H W): at 2048 x 2048 pixels 1e-8 shortened half of the first steps by a sixth or more,
    # and one in a hundred by two thirds.  Divided by a scale that is fixed at the start, gradients
    # are of order 1 at any size.
    scale = gradient_scale(gradient)
    finite = _all_finite(value, gradient)
    return AdamState(
        x=x,
        value=value,
        gradient=gradient / scale,
        terms=terms,
        scale=scale,
        steps=tf.constant(0),
        evaluations=tf.constant(1),
        stalled=tf.logical_not(finite),
        finite=finite,
        cut=tf.constant(False),
        first_moment=tf.zeros_like(x),
        second_moment=tf.zeros_like(x),
    )


def _accept_if(finite: tf.Tensor, state: AdamState, new: dict[str, Any]) -> AdamState:
    """The state with new fields where they are finite, otherwise stalled where it was."""

    def choose(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
        return tf.where(finite, new, old)

    chosen = {
        name: tf.nest.map_structure(choose, field, getattr(state, name))
        for name, field in new.items()
    }
    return state._replace(
        **chosen,
        steps=state.steps + tf.cast(finite, tf.int32),
        evaluations=state.evaluations + 1,
        stalled=tf.logical_not(finite),
        finite=finite,
        cut=tf.constant(False),
    )


def _all_finite(value: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    return tf.math.is_finite(value) & tf.reduce_all(tf.math.is_finite(gradient))
