"""The line search of L-BFGS: a step that satisfies the strong Wolfe conditions, at little cost.

Along a direction d let phi(t) = f(x + t d) / scale, phi'(t) = grad f(x + t d) . d / scale, with
phi'(0) < 0.  A step t is accepted when

    phi(t) <= phi(0) + c1 t phi'(0)      (sufficient decrease),
    |phi'(t)| <= c2 |phi'(0)|            (curvature, the strong form),

c1 = 1e-4, c2 = 0.9.  The weak form asks only for phi'(t) >= c2 phi'(0), which follows from the
strong one; either gives s.y = t (phi'(t) - phi'(0)) > 0, a pair that L-BFGS can use.

Reference: Nocedal and Wright, "Numerical Optimization", 2nd edition, 2006, section 3.5 and
equations 3.7.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from style.optimizers.base import Objective, dot

# c1 and c2 of the Wolfe conditions.
DECREASE = 1e-4
CURVATURE = 0.9
# Trials in one line search, after which the best point so far is taken.
TRIALS = 12


class LineSearchState(NamedTuple):
    """A line search under way, and its result: `x` and what the objective is there.

    Lengths t are in units of the direction.
    """

    length: tf.Tensor  # the next to try
    low: tf.Tensor  # the best length that decreases enough, 0 at first
    low_value: tf.Tensor  # phi(low)
    low_slope: tf.Tensor  # phi'(low)
    high: tf.Tensor  # a length known to be too long; 0 while there is none
    x: tf.Tensor  # at `low`
    value: tf.Tensor
    gradient: tf.Tensor
    terms: Any
    evaluations: tf.Tensor
    moved: tf.Tensor
    finite: tf.Tensor
    done: tf.Tensor


class Sample(NamedTuple):
    """phi at one length."""

    length: tf.Tensor  # t
    value: tf.Tensor  # phi(t)
    slope: tf.Tensor  # phi'(t)


class _Point(NamedTuple):
    """What the objective is at x + t d; the gradient is divided by the scale."""

    x: tf.Tensor
    value: tf.Tensor
    gradient: tf.Tensor
    terms: Any


class _Line(NamedTuple):
    """phi, and what is the same in all trials.

    Attributes:
        objective: x -> (value, gradient, terms).
        state: The state of the optimiser at t = 0.
        direction: d.
        slope: phi'(0).
    """

    objective: Objective
    state: Any
    direction: tf.Tensor
    slope: tf.Tensor

    @property
    def start_value(self) -> tf.Tensor:
        """phi(0)."""
        return self.state.value / self.state.scale

    @property
    def noise(self) -> tf.Tensor:
        """How far values are rounded: near a minimum the decrease drowns in it."""
        if self.state.x.dtype == tf.float32:
            return 1e-7 * tf.abs(self.start_value)
        return tf.zeros_like(self.slope)

    def evaluate(self, length: tf.Tensor) -> tuple[_Point, Sample]:
        """The objective at x + t d."""
        x = self.state.x + length * self.direction
        value, gradient, terms = self.objective(x)
        gradient = gradient / self.state.scale
        sample = Sample(length, value / self.state.scale, dot(gradient, self.direction))
        return _Point(x, value, gradient, terms), sample

    def begin(self) -> LineSearchState:
        """Before the first trial, which is at t = 1."""
        zero = tf.zeros_like(self.slope)
        return LineSearchState(
            length=tf.ones_like(self.slope),
            low=zero,
            low_value=self.start_value,
            low_slope=self.slope,
            high=zero,
            x=self.state.x,
            value=self.state.value,
            gradient=self.state.gradient,
            terms=self.state.terms,
            evaluations=tf.constant(0),
            moved=tf.constant(False),
            finite=self.slope >= 0,
            done=tf.logical_not(self.slope < 0),
        )

    def advance(self, search: LineSearchState, point: _Point, sample: Sample) -> LineSearchState:
        """After a trial: whether it is the best so far, and where the next one is."""
        finite = tf.math.is_finite(point.value) & tf.math.is_finite(sample.slope)
        limit = self.start_value + DECREASE * sample.length * self.slope + self.noise
        enough = finite & (sample.value <= limit)
        better = enough & (sample.value <= search.value / self.state.scale + self.noise)
        flat = tf.abs(sample.slope) <= -CURVATURE * self.slope
        # Past a minimum along the line: the slope points back.
        past = better & (sample.slope > 0)
        too_long = tf.logical_not(better) | past
        low = tf.where(better & tf.logical_not(past), sample.length, search.low)
        high = tf.where(too_long, sample.length, search.high)

        def choose(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
            return tf.where(better, new, old)

        return LineSearchState(
            length=tf.where(
                too_long, _shorter(search, sample, finite), _longer(sample.length, low, high)
            ),
            low=low,
            low_value=tf.where(low > search.low, sample.value, search.low_value),
            low_slope=tf.where(low > search.low, sample.slope, search.low_slope),
            high=high,
            x=choose(point.x, search.x),
            value=choose(point.value, search.value),
            gradient=choose(point.gradient, search.gradient),
            terms=tf.nest.map_structure(choose, point.terms, search.terms),
            evaluations=search.evaluations + 1,
            moved=search.moved | better,
            finite=search.finite | finite,
            done=better & flat,
        )


def search(
    objective: Objective,
    state: Any,
    direction: tf.Tensor,
    slope: tf.Tensor,
    max_trials: int | tf.Tensor = TRIALS,
) -> LineSearchState:
    """A point that satisfies the Wolfe conditions, or the best of `max_trials`.

    Too long (no sufficient decrease, or not finite): interpolate between `low` and there.  Too
    short (the slope is still steep): go further.

    Args:
        objective: x -> (value, gradient, terms).
        state: The state of the optimiser: x, value, gradient, terms and scale.
        direction: d, of the shape of x.
        slope: phi'(0), a scalar; without descent (0 or more) nothing is tried.
        max_trials: The most evaluations of the objective.
    """
    line = _Line(objective, state, direction, slope)

    def cond(search: LineSearchState) -> tf.Tensor:
        return tf.logical_not(search.done) & (search.evaluations < max_trials)

    def body(search: LineSearchState) -> tuple[LineSearchState]:
        return (line.advance(search, *line.evaluate(search.length)),)

    return tf.while_loop(cond, body, (line.begin(),), parallel_iterations=1)[0]


def _shorter(search: LineSearchState, sample: Sample, finite: tf.Tensor) -> tf.Tensor:
    """A length between `low` and a trial that was too long."""
    low = Sample(search.low, search.low_value, search.low_slope)
    near_low = search.low + 0.1 * (sample.length - search.low)
    return tf.where(finite, cubic_minimum(low, sample), near_low)


def _longer(length: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """A length beyond a trial that was too short."""
    return tf.where(high > 0, (low + high) / 2, length * 4)


def cubic_minimum(a: Sample, b: Sample) -> tf.Tensor:
    """The minimum of the cubic through two samples with their slopes, kept off both ends:

        d1 = phi'(a) + phi'(b) - 3 (phi(b) - phi(a)) / (b - a),
        d2 = sign(b - a) sqrt(d1^2 - phi'(a) phi'(b)),
        t  = b - (b - a) (phi'(b) + d2 - d1) / (phi'(b) - phi'(a) + 2 d2).

    Reference: Nocedal and Wright, equation 3.59.
    """
    width = tf.where(a.length == b.length, tf.ones_like(b.length), b.length - a.length)
    d1 = a.slope + b.slope - 3 * (b.value - a.value) / width
    d2 = tf.sqrt(tf.nn.relu(d1 * d1 - a.slope * b.slope)) * tf.sign(width)
    from_b = (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
    from_a = tf.where(tf.math.is_finite(from_b), 1 - from_b, tf.constant(0.5, from_b.dtype))
    return a.length + tf.clip_by_value(from_a, 0.1, 0.9) * width
