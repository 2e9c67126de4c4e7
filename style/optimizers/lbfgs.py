"""L-BFGS as a pair of pure functions: `init(x)` and `step(state)`.

A state is a NamedTuple of tensors: it goes through graphs, can be saved as it is, and going on
from it gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from style.optimizers import line_search
from style.optimizers.base import (
    Objective,
    Optimizer,
    Preconditioner,
    dot,
    evaluated_anew,
    gradient_scale,
    identity,
    is_usable_scale,
)
from style.optimizers.history import History, InMemoryHistory

# A pair counts when s.y exceeds this share of |s||y|.
RELATIVE_CURVATURE = 1e-6
# m, the pairs that are kept.
HISTORY_SIZE = 30
# Root mean square change of the first step, in the unit of x.
FIRST_CHANGE = 0.03


class LBFGSState(NamedTuple):
    """The state of an L-BFGS run.

    Attributes:
        x: The picture.
        value: The objective there.
        gradient: Its gradient there, divided by `scale`.
        terms: What the objective returned besides.
        scale: The largest absolute gradient at the start: objectives of any magnitude behave alike.
        steps: Accepted steps.
        evaluations: Evaluations of the objective and its gradient.
        stalled: No further descent was found.
        finite: Whether the last search met anything finite.
        cut: The last search had too few evaluations left; its best point is here, and nothing was
            learnt from it.  Who goes on with more does so from the state before.
        history: The pairs (s_i, y_i), as `History` keeps them.
        rho: rho_i = 1 / (s_i.y_i), [m]; 0 where a pair does not count.
        gamma: Factor of the initial inverse Hessian; 0 before any pair.
        preconditioner_state: P, as `Preconditioner` keeps it.
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
    history: Any
    rho: tf.Tensor
    gamma: tf.Tensor
    preconditioner_state: Any


class _Memory(NamedTuple):
    """What H_k is made of besides the state: the functions that read it."""

    history: History
    preconditioner: Preconditioner
    first_change: float


def lbfgs(
    objective: Objective,
    *,
    history: History | None = None,
    precondition: Preconditioner | None = None,
    first_change: float = FIRST_CHANGE,
) -> Optimizer:
    """L-BFGS: a quasi-Newton method that knows the Hessian by the last m steps.

    With g_k the gradient at x_k, divided by the largest absolute gradient at the start,

        x_k+1 = x_k + t_k d_k,        d_k = -H_k g_k.

    H_k stands for the inverse Hessian.  BFGS updates it by the pairs

        s_k = x_k+1 - x_k,    y_k = g_k+1 - g_k,    rho_k = 1 / (s_k.y_k),

        H_k+1 = (I - rho_k s_k y_k^T) H_k (I - rho_k y_k s_k^T) + rho_k s_k s_k^T,

    so that H_k+1 y_k = s_k.  Begun at H_k^0 = gamma_k P_k with the last m pairs, the product
    H_k g_k takes two loops over them and no matrix:

        q <- g_k
        for i = k - 1, ..., k - m:    alpha_i = rho_i s_i.q,    q <- q - alpha_i y_i
        q <- gamma_k P_k q
        for i = k - m, ..., k - 1:    beta_i = rho_i y_i.q,     q <- q + (alpha_i - beta_i) s_i
        H_k g_k = q

    P_k is the preconditioner's, and so is gamma_k; for P = I, gamma_k is s.y / y.y of the last
    pair.  H_k stays positive definite, because only pairs that satisfy the curvature condition

        s_k.y_k > 1e-6 |s_k| |y_k|

    count; others have rho_k = 0 and change neither P nor gamma.

    t_k satisfies the strong Wolfe conditions (see `line_search`).  t = 1 is tried first and nearly
    always accepted: close to one evaluation a step.  Before any pair counts, gamma_k makes the
    root mean square of d_k equal to `first_change`.  Where no step along d_k is found, all pairs
    are forgotten; where none is found along -P_k g_k either, the run has stalled.

    Args:
        objective: x -> (value, gradient, terms).
        history: The memory of the last m pairs; default: 30, in memory.
        precondition: P; default: the identity.
        first_change: Root mean square change of the first step that is tried, in the unit of x.

    Reference: Nocedal and Wright, "Numerical Optimization", 2nd edition, 2006, algorithms 7.4, 7.5
    and 3.5, equations 7.16 and 7.20.  The first step's length is ours.
    """
    memory = _Memory(
        history or InMemoryHistory(HISTORY_SIZE), precondition or identity(), first_change
    )

    def init(x: tf.Tensor) -> LBFGSState:
        return _initial_state(objective, memory, x)

    def step(state: LBFGSState, left: tf.Tensor | None = None) -> LBFGSState:
        direction = -_inverse_hessian_product(memory, state)
        slope = dot(direction, state.gradient)
        trials = line_search.TRIALS if left is None else tf.minimum(left, line_search.TRIALS)
        search = line_search.search(objective, state, direction, slope, trials)
        if left is None:
            return _update(memory, state, search)
        ended = search.done | (search.evaluations >= line_search.TRIALS)
        # A branch, because pairs in files are written and deleted by what learns.
        return tf.cond(ended, lambda: _update(memory, state, search), lambda: _cut(state, search))

    def restart(state: LBFGSState) -> LBFGSState:
        return evaluated_anew(objective, state, rho=tf.zeros_like(state.rho))

    return Optimizer(objective, init, step, restart)


def _initial_state(objective: Objective, memory: _Memory, x: tf.Tensor) -> LBFGSState:
    value, gradient, terms = objective(x)
    largest, scale = tf.reduce_max(tf.abs(gradient)), gradient_scale(gradient)
    return LBFGSState(
        x=x,
        value=value,
        gradient=gradient / scale,
        terms=terms,
        scale=scale,
        steps=tf.constant(0),
        evaluations=tf.constant(1),
        stalled=tf.logical_not(is_usable_scale(largest) & tf.math.is_finite(value)),
        finite=tf.math.is_finite(largest) & tf.math.is_finite(value),
        cut=tf.constant(False),
        history=memory.history.init(x),
        rho=tf.zeros([memory.history.size], x.dtype),
        gamma=tf.constant(0, x.dtype),
        preconditioner_state=memory.preconditioner.init(x),
    )


def _inverse_hessian_product(memory: _Memory, state: LBFGSState) -> tf.Tensor:
    """H_k g_k."""

    def initial(q: tf.Tensor) -> tf.Tensor:
        q = memory.preconditioner.apply(state.preconditioner_state, q)
        return scale_initial(q, state.gamma, memory.first_change)

    return two_loop_recursion(state.gradient, memory.history, state.history, state.rho, initial)


def two_loop_recursion(
    gradient: tf.Tensor,
    history: History,
    pairs: Any,
    rho: tf.Tensor,
    initial: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """H_k g (Nocedal and Wright, algorithm 7.4), written out at `lbfgs`.

    Args:
        gradient: g, of the shape of x.
        history: What reads the pairs.
        pairs: The last m pairs, as `history` keeps them.
        rho: rho_i, [m], oldest first; pairs with 0 change nothing.
        initial: q -> H_k^0 q.
    """
    q, alpha = history.first_loop(pairs, rho, gradient)
    return history.second_loop(pairs, rho, alpha, initial(q))


def scale_initial(q: tf.Tensor, gamma: tf.Tensor, first_change: float) -> tf.Tensor:
    """gamma q; before any pair (gamma 0) q scaled to a root mean square of `first_change`."""
    size = tf.sqrt(tf.reduce_mean(tf.square(q)))
    first = first_change / tf.where(size > 0, size, tf.ones_like(size))
    return q * tf.where(gamma > 0, gamma, first)


def _update(memory: _Memory, state: LBFGSState, search: line_search.LineSearchState) -> LBFGSState:
    """The state at the point that was found, with what its pair (s, y) tells of the Hessian."""
    s, y = search.x - state.x, search.gradient - state.gradient
    curvature = dot(s, y)
    enough = curvature > RELATIVE_CURVATURE * tf.sqrt(dot(s, s) * dot(y, y))
    counts = search.moved & enough
    # A pair that does not count takes a place all the same, with rho 0: a branch in the graph
    # would cost more than the place.
    learnt, factor = memory.preconditioner.update(state.preconditioner_state, s, y)
    rho = tf.concat([state.rho[1:], [tf.where(counts, 1 / curvature, 0)]], 0)
    gamma = tf.where(counts, factor, state.gamma)
    # A search that failed along a direction from memory may succeed along the gradient.
    fresh = tf.logical_not(search.moved) & (tf.reduce_max(tf.abs(state.rho)) > 0)
    return _move(state, search)._replace(
        stalled=tf.logical_not(search.moved) & tf.logical_not(fresh),
        finite=search.finite,
        cut=tf.constant(False),
        history=memory.history.add(state.history, s, y),
        rho=tf.where(fresh, tf.zeros_like(rho), rho),
        gamma=tf.where(fresh, tf.zeros_like(gamma), gamma),
        preconditioner_state=tf.nest.map_structure(
            partial(tf.where, counts), learnt, state.preconditioner_state
        ),
    )


def _cut(state: LBFGSState, search: line_search.LineSearchState) -> LBFGSState:
    """The best point of a search that had to end: no sign that there is no further descent.

    Where no step was ever accepted and the search met nothing finite, the objective is to blame;
    later on shorter steps would have been tried.
    """
    finite = search.finite | (state.steps > 0)
    return _move(state, search)._replace(cut=tf.constant(True), finite=finite)


def _move(state: LBFGSState, search: line_search.LineSearchState) -> LBFGSState:
    """The state at the point that was found."""
    return state._replace(
        x=search.x,
        value=search.value,
        gradient=search.gradient,
        terms=search.terms,
        steps=state.steps + tf.cast(search.moved, tf.int32),
        evaluations=state.evaluations + search.evaluations,
    )
