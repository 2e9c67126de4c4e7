"""Optimisers as pairs of pure functions: `init(x, ...)` and `step(state)`.

A state is a NamedTuple of tensors: it goes through graphs, can be saved as it is, and going on
from it gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from style import line_search
from style.line_search import Objective, dot
from style.pairs import Pairs, in_memory

# A pair counts when s.y exceeds this share of |s||y|.
RELATIVE_CURVATURE = 1e-6
# Pairs that are kept.
MEMORY = 30
# Root mean square change of the first step, in the unit of x.
FIRST_CHANGE = 0.03


class Optimizer(NamedTuple):
    """Pure functions: `init(x)` -> state, `step(state)` -> state, one accepted step further.

    `step(state, left)` makes do with so many evaluations, at least 1.
    """

    init: Callable[[tf.Tensor], Any]
    step: Callable[..., Any]


class Preconditioner(NamedTuple):
    """An initial inverse Hessian P that may learn, as pure functions.

    Attributes:
        init: x -> what is known at first.
        update: (known, s, y) -> (known, gamma), after a pair of positive curvature: P is what it is
            then, and gamma the factor by which it is to be taken.
        apply: (known, gradient) -> P gradient; symmetric and positive definite.
    """

    init: Callable[[tf.Tensor], Any]
    update: Callable[[Any, tf.Tensor, tf.Tensor], tuple[Any, tf.Tensor]]
    apply: Callable[[Any, tf.Tensor], tf.Tensor]


def identity() -> Preconditioner:
    """P = 1, and gamma = s.y / y.y (Nocedal and Wright, equation 7.20)."""
    return Preconditioner(
        lambda x: (),
        lambda known, s, y: (known, dot(s, y) / dot(y, y)),
        lambda known, gradient: gradient,
    )


class State(NamedTuple):
    """Where an L-BFGS run is.

    Attributes:
        x: The picture.
        value: The objective there.
        gradient: Its gradient there, divided by `scale`.
        terms: What the objective said besides.
        scale: The largest gradient at the start: objectives of any magnitude behave alike.
        steps: Accepted steps.
        evaluations: Of the objective and its gradient.
        stalled: No further descent was found.
        finite: Whether the last search met anything finite.
        cut: The last search had too few evaluations left; its best point is here, and nothing was
            learnt from it.  Who goes on with more does so from the state before.
        pairs: The last differences of x and of the scaled gradients.
        rho: 1 / (s.y), [m]; 0 where there is no pair.
        gamma: Factor of the initial inverse Hessian.
        known: What the preconditioner knows.
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
    pairs: Any
    rho: tf.Tensor
    gamma: tf.Tensor
    known: Any


def lbfgs(
    objective: Objective,
    *,
    memory: int = MEMORY,
    pairs: Pairs | None = None,
    precondition: Preconditioner | None = None,
    first_change: float = FIRST_CHANGE,
) -> Optimizer:
    """L-BFGS: the two-loop recursion on an initial inverse Hessian gamma P.

    The preconditioner says both after each pair.  A step is tried at length 1, and evaluated again
    only where the Wolfe conditions fail: close to one evaluation a step.

    Args:
        objective: x -> (value, gradient, terms).
        memory: Pairs that are kept, m.
        pairs: What keeps them; default: memory.
        precondition: P; default: the identity.
        first_change: Root mean square change of the first step that is tried.

    Reference: Nocedal and Wright, "Numerical Optimization", 2nd edition, 2006, algorithms 7.4, 7.5
    and 3.5.  The first step's length is ours.
    """
    preconditioner = precondition or identity()
    kept = pairs or in_memory(memory)

    def init(x: tf.Tensor) -> State:
        value, gradient, terms = objective(x)
        largest = tf.reduce_max(tf.abs(gradient))
        usable = tf.math.is_finite(largest) & (largest > 0)
        scale = tf.where(usable, largest, tf.ones_like(largest))
        return State(
            x=x,
            value=value,
            gradient=gradient / scale,
            terms=terms,
            scale=scale,
            steps=tf.constant(0),
            evaluations=tf.constant(1),
            stalled=tf.logical_not(usable & tf.math.is_finite(value)),
            finite=tf.math.is_finite(largest) & tf.math.is_finite(value),
            cut=tf.constant(False),
            pairs=kept.init(x),
            rho=tf.zeros([memory], x.dtype),
            gamma=tf.constant(0, x.dtype),
            known=preconditioner.init(x),
        )

    def step(state: State, left: tf.Tensor | None = None) -> State:
        def apply(gradient: tf.Tensor) -> tf.Tensor:
            return preconditioner.apply(state.known, gradient)

        direction = -inverse_hessian_product(
            state.gradient, kept, state.pairs, state.rho, state.gamma, apply, first_change
        )
        slope = dot(direction, state.gradient)
        most = line_search.TRIALS if left is None else tf.minimum(left, line_search.TRIALS)
        found = line_search.search(objective, state, direction, slope, most)
        if left is None:
            return learn(state, found)
        ended = found.done | (found.evaluations >= line_search.TRIALS)
        # A branch, because pairs in files are written and deleted by what learns.
        return tf.cond(ended, lambda: learn(state, found), lambda: _cut(state, found))

    def learn(state: State, found: line_search.Trial) -> State:
        s, y = found.x - state.x, found.gradient - state.gradient
        curvature = dot(s, y)
        enough = curvature > RELATIVE_CURVATURE * tf.sqrt(dot(s, s) * dot(y, y))
        keep = found.moved & enough

        # A pair that does not count takes a place all the same, with rho 0: a branch in the graph
        # would cost more than the place.
        learnt, factor = preconditioner.update(state.known, s, y)
        known = tf.nest.map_structure(partial(tf.where, keep), learnt, state.known)
        rho = tf.concat([state.rho[1:], [tf.where(keep, 1 / curvature, 0)]], 0)
        gamma = tf.where(keep, factor, state.gamma)
        # A search that failed along a direction from memory may succeed along the gradient.
        fresh = tf.logical_not(found.moved) & (tf.reduce_max(tf.abs(state.rho)) > 0)
        return State(
            x=found.x,
            value=found.value,
            gradient=found.gradient,
            terms=found.terms,
            scale=state.scale,
            steps=state.steps + tf.cast(found.moved, tf.int32),
            evaluations=state.evaluations + found.evaluations,
            stalled=tf.logical_not(found.moved) & tf.logical_not(fresh),
            finite=found.finite,
            cut=tf.constant(False),
            pairs=kept.add(state.pairs, s, y),
            rho=tf.where(fresh, tf.zeros_like(rho), rho),
            gamma=tf.where(fresh, tf.zeros_like(gamma), gamma),
            known=known,
        )

    return Optimizer(init, step)


def _cut(state: State, found: line_search.Trial) -> State:
    """The best point of a search that had to end: no sign that there is no further descent."""
    return state._replace(
        x=found.x,
        value=found.value,
        gradient=found.gradient,
        terms=found.terms,
        steps=state.steps + tf.cast(found.moved, tf.int32),
        evaluations=state.evaluations + found.evaluations,
        cut=tf.constant(True),
    )


def inverse_hessian_product(
    gradient: tf.Tensor,
    pairs: Pairs,
    kept: Any,
    rho: tf.Tensor,
    gamma: tf.Tensor,
    apply: Callable[[tf.Tensor], tf.Tensor],
    first_change: float,
) -> tf.Tensor:
    """H g by the two-loop recursion (Nocedal and Wright, algorithm 7.4).

    Pairs with rho 0 change nothing.  Without any pair (gamma 0) the product is scaled to a root
    mean square of `first_change`.
    """
    q, alpha = pairs.first_loop(kept, rho, gradient)
    q = apply(q)
    size = tf.sqrt(tf.reduce_mean(tf.square(q)))
    first = first_change / tf.where(size > 0, size, tf.ones_like(size))
    return pairs.second_loop(kept, rho, alpha, q * tf.where(gamma > 0, gamma, first))


class AdamState(NamedTuple):
    """Where an Adam run is; the fields that `State` has too mean the same."""

    x: tf.Tensor
    value: tf.Tensor
    gradient: tf.Tensor
    terms: Any
    steps: tf.Tensor
    evaluations: tf.Tensor
    stalled: tf.Tensor
    finite: tf.Tensor
    cut: tf.Tensor
    first: tf.Tensor
    second: tf.Tensor


def adam(
    objective: Objective,
    *,
    learning_rate: float = 0.02,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
) -> Optimizer:
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1), with the last finite point kept.

    Args:
        objective: x -> (value, gradient, terms).
        learning_rate: In the unit of x.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second.
        epsilon: Relative to the largest gradient at the start would change the algorithm; as in
            the paper it is absolute, in the gradient's unit.
    """

    def init(x: tf.Tensor) -> AdamState:
        value, gradient, terms = objective(x)
        zero = tf.zeros_like(x)
        finite = _all_finite(value, gradient)
        return AdamState(
            x=x,
            value=value,
            gradient=gradient,
            terms=terms,
            steps=tf.constant(0),
            evaluations=tf.constant(1),
            stalled=tf.logical_not(finite),
            finite=finite,
            cut=tf.constant(False),
            first=zero,
            second=zero,
        )

    def step(state: AdamState, left: tf.Tensor | None = None) -> AdamState:
        # Takes one evaluation, so any number left will do.
        time = tf.cast(state.steps + 1, state.x.dtype)
        first = beta_1 * state.first + (1 - beta_1) * state.gradient
        second = beta_2 * state.second + (1 - beta_2) * tf.square(state.gradient)
        rate = learning_rate * tf.sqrt(1 - beta_2**time) / (1 - beta_1**time)
        # The paper's epsilon-hat form would move epsilon: this is algorithm 1 to the letter.
        x = state.x - rate * first / (tf.sqrt(second) + epsilon * tf.sqrt(1 - beta_2**time))
        value, gradient, terms = objective(x)
        good = _all_finite(value, gradient)

        def choose(new: Any, old: Any) -> Any:
            return tf.where(good, new, old)

        return AdamState(
            x=choose(x, state.x),
            value=choose(value, state.value),
            gradient=choose(gradient, state.gradient),
            terms=tf.nest.map_structure(choose, terms, state.terms),
            steps=state.steps + tf.cast(good, tf.int32),
            evaluations=state.evaluations + 1,
            stalled=tf.logical_not(good),
            finite=good,
            cut=tf.constant(False),
            first=choose(first, state.first),
            second=choose(second, state.second),
        )

    return Optimizer(init, step)


def _all_finite(value: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    return tf.math.is_finite(value) & tf.reduce_all(tf.math.is_finite(gradient))
