"""The line search of L-BFGS: a point that satisfies the Wolfe conditions, at little cost.

Reference: Nocedal and Wright, "Numerical Optimization", 2nd edition, 2006, section 3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

# (x) -> (objective, gradient, terms); terms are passed through.
Objective = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, Any]]

# Sufficient decrease and curvature of the Wolfe conditions, Nocedal and Wright, equations 3.7.
DECREASE = 1e-4
CURVATURE = 0.9
# Trials in one line search, after which the best point so far is taken.
TRIALS = 12


def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """a.b over all entries."""
    return tf.reduce_sum(a * b)


class Trial(NamedTuple):
    """A line search under way, and its result: `x` and what the objective is there.

    Lengths are in units of the direction.
    """

    length: tf.Tensor  # the next to try
    low: tf.Tensor  # the best length that decreases enough, 0 at first
    low_value: tf.Tensor
    low_slope: tf.Tensor
    high: tf.Tensor  # a length known to be too long; 0 while there is none
    x: tf.Tensor  # at `low`
    value: tf.Tensor
    gradient: tf.Tensor
    terms: Any
    evaluations: tf.Tensor
    moved: tf.Tensor
    finite: tf.Tensor
    done: tf.Tensor


def search(
    objective: Objective,
    state: Any,
    direction: tf.Tensor,
    slope: tf.Tensor,
    most: int | tf.Tensor = TRIALS,
) -> Trial:
    """A point that satisfies the Wolfe conditions, or the best that was seen in so many trials.

    Too long (no sufficient decrease, or not finite): interpolate between `low` and there.  Too
    short (the slope is still steep): go further.  Values are compared divided by `scale`.
    """
    start_value = state.value / state.scale
    zero = tf.zeros_like(slope)
    # Values as they are rounded: near a minimum the decrease drowns in it.
    noise = 1e-7 * tf.abs(start_value) if state.x.dtype == tf.float32 else zero

    def going(trial: Trial) -> tf.Tensor:
        return tf.logical_not(trial.done) & (trial.evaluations < most)

    def attempt(trial: Trial) -> tuple[Trial]:
        x = state.x + trial.length * direction
        value, gradient, terms = objective(x)
        gradient = gradient / state.scale
        scaled = value / state.scale
        new_slope = dot(gradient, direction)
        finite = tf.math.is_finite(value) & tf.math.is_finite(new_slope)
        limit = start_value + DECREASE * trial.length * slope + noise
        enough = finite & (scaled <= limit)
        better = enough & (scaled <= trial.value / state.scale + noise)
        flat = tf.abs(new_slope) <= -CURVATURE * slope
        # Beyond a minimum along the line: the slope points back.
        beyond = better & (new_slope > 0)
        too_long = tf.logical_not(better) | beyond
        high = tf.where(too_long, trial.length, trial.high)
        low = tf.where(better & tf.logical_not(beyond), trial.length, trial.low)
        inside = _interpolate(
            trial.low, trial.low_value, trial.low_slope, trial.length, scaled, new_slope
        )
        inside = tf.where(finite, inside, trial.low + 0.1 * (trial.length - trial.low))
        longer = tf.where(high > 0, (low + high) / 2, trial.length * 4)
        following = tf.where(too_long, inside, longer)

        def choose(new: Any, old: Any) -> Any:
            return tf.where(better, new, old)

        return (
            Trial(
                length=following,
                low=low,
                low_value=tf.where(low > trial.low, scaled, trial.low_value),
                low_slope=tf.where(low > trial.low, new_slope, trial.low_slope),
                high=high,
                x=choose(x, trial.x),
                value=choose(value, trial.value),
                gradient=choose(gradient, trial.gradient),
                terms=tf.nest.map_structure(choose, terms, trial.terms),
                evaluations=trial.evaluations + 1,
                moved=trial.moved | better,
                finite=trial.finite | finite,
                done=better & flat,
            ),
        )

    first = Trial(
        length=tf.ones_like(slope),
        low=zero,
        low_value=start_value,
        low_slope=slope,
        high=zero,
        x=state.x,
        value=state.value,
        gradient=state.gradient,
        terms=state.terms,
        evaluations=tf.constant(0),
        moved=tf.constant(False),
        finite=slope >= 0,
        done=tf.logical_not(slope < 0),
    )
    return tf.while_loop(going, attempt, (first,), parallel_iterations=1)[0]


def _interpolate(
    a: tf.Tensor,
    value_a: tf.Tensor,
    slope_a: tf.Tensor,
    b: tf.Tensor,
    value_b: tf.Tensor,
    slope_b: tf.Tensor,
) -> tf.Tensor:
    """The minimum of the cubic through two points with slopes, kept off both ends.

    Reference: Nocedal and Wright, equation 3.59.
    """
    width = tf.where(a == b, tf.ones_like(b), b - a)
    d1 = slope_a + slope_b - 3 * (value_b - value_a) / width
    d2 = tf.sqrt(tf.nn.relu(d1 * d1 - slope_a * slope_b)) * tf.sign(width)
    share = (slope_b + d2 - d1) / (slope_b - slope_a + 2 * d2)
    share = tf.where(tf.math.is_finite(share), 1 - share, tf.constant(0.5, share.dtype))
    return a + tf.clip_by_value(share, 0.1, 0.9) * width
