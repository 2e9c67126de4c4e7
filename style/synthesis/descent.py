"""The loop over steps and sizes: an objective and an optimiser make a sequence of pictures."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from style.images import resizing
from style.objective.value_and_gradient import ValueAndGradient
from style.optimizers.adam import adam
from style.optimizers.base import Optimizer
from style.optimizers.history import History, InMemoryHistory
from style.optimizers.lbfgs import HISTORY_SIZE, lbfgs
from style.optimizers.spectral_preconditioner import preconditioner
from style.synthesis.picture_terms import as_batch
from style.synthesis.problem import Problem
from vgg_normalize.errors import UsageError


class Status(enum.Enum):
    """How a run stands or why it ended; the value says it, and what to try, in a sentence."""

    RUNNING = "it goes on"
    STEPS_DONE = "all steps that were asked for are done; more of them may lower the loss"
    CONVERGED = (
        "no further descent was found, so more steps change nothing; for another picture change "
        "the weights, the first picture or the seed"
    )
    NOT_FINITE = (
        "the objective became NaN or infinite; the last good picture is kept: lower the weights or "
        "the learning rate"
    )


def status_of(state: Any, steps: int) -> Status:
    """How a run stands.

    Args:
        state: Of an optimiser.
        steps: Evaluations of the objective that were asked for.
    """
    if not bool(state.finite):
        return Status.NOT_FINITE
    if int(state.evaluations) >= steps:
        return Status.STEPS_DONE
    return Status.CONVERGED if bool(state.stalled) else Status.RUNNING


class Step(NamedTuple):
    """One step of a run.

    Attributes:
        scale: The number of its size, from 0, the coarsest.
        shape: Height and width of the picture at this scale.
        state: Of the optimiser.
    """

    scale: int
    shape: tuple[int, int]
    state: Any


def make_optimizer(
    name: str,
    evaluate: ValueAndGradient,
    shape: tuple[int, int],
    *,
    history: History | None = None,
    preconditioner_exponent: float = 0.25,
    learn: bool = True,
    learning_rate: float = 0.02,
) -> Optimizer:
    """An optimiser of a picture.

    Args:
        name: "lbfgs" or "adam".
        evaluate: The objective: picture -> (value, gradient, terms).
        shape: Height and width of the picture.
        history: The memory of L-BFGS's pairs; default: the last 30, in memory.
        preconditioner_exponent: a of L-BFGS's first preconditioner, see `spectral_preconditioner`.
        learn: Whether the preconditioner learns.
        learning_rate: Of Adam, in the unit of pixels, whose range is 1.

    Raises:
        UsageError: No such optimiser.
    """
    evaluate = _traced_once(evaluate)
    if name == "adam":
        return adam(evaluate, learning_rate=learning_rate)
    if name != "lbfgs":
        raise UsageError(f"Expected optimizer lbfgs or adam. Received: {name!r}. Choose one.")
    precondition = preconditioner(*shape, exponent=preconditioner_exponent, learn=learn)
    return lbfgs(
        evaluate, history=history or InMemoryHistory(HISTORY_SIZE), precondition=precondition
    )


def _traced_once(evaluate: ValueAndGradient) -> ValueAndGradient:
    """The objective as one graph, for the first picture and for the steps.

    Not a tf.function: TensorFlow counts tracings by the place in the code, and would warn of many
    where a sheet has many pictures.  Nothing here needs AutoGraph, whose conversion would take longer
    than the tracing.
    """
    graphs: list[ValueAndGradient] = []

    def call(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        if not graphs:
            spec = tf.TensorSpec(x.shape, x.dtype)
            graphs.append(tf.function(evaluate, autograph=False).get_concrete_function(spec))
        return graphs[0](x)

    return call


def descend(
    problem: Problem,
    *,
    first_scale: int = 0,
    history: Callable[[int], History | None] = lambda scale: None,
    restore: Callable[[Optimizer, tf.Tensor], Any] | None = None,
) -> Iterator[Step]:
    """Yields the first state and the state after each step of every size, coarse to fine.

    Each size begins with the last picture of the one before, resized.

    Args:
        problem: The objective at each size.
        first_scale: The size to begin at.
        history: Scale -> the memory of L-BFGS's pairs; None: in memory.
        restore: (optimiser, picture [1, H, W, 3]) -> the state to begin with at the first size,
            where a run goes on from a checkpoint.
    """
    options = problem.options
    pixels = None
    for scale in range(first_scale, len(problem.sizes)):
        shape = problem.sizes[scale]
        if pixels is None:
            pixels = problem.inputs.initial_image(shape)
        start = as_batch(resizing.resize(pixels, *shape))
        method = make_optimizer(
            options.optimizer,
            problem.evaluate(shape),
            shape,
            history=history(scale) or InMemoryHistory(options.history_size),
            preconditioner_exponent=options.preconditioner_exponent,
            learning_rate=options.learning_rate,
        )
        saved = None if restore is None else restore(method, start)
        restore = None
        for state in minimize(method, start, options.steps, state=saved):
            yield Step(scale, shape, state)
        pixels = np.asarray(state.x[0])


def minimize(
    method: Optimizer, x: tf.Tensor, evaluations: int, *, state: Any = None
) -> Iterator[Any]:
    """Yields the first state, one after each accepted step, and the last.

    Ends after so many evaluations, and never more, or when no further step can be made.  The last
    state may be `cut`: one goes on with more evaluations from the state before it.

    Args:
        method: An optimiser.
        x: Where to begin, [1, H, W, 3].
        evaluations: How many evaluations of the objective in all.
        state: Where to go on instead of at `x`.
    """
    if state is None:
        state = method.init(x)
    yield state
    last = state
    left = tf.constant(evaluations - int(state.evaluations))
    step = tf.function(method.step, autograph=False).get_concrete_function(state, left)
    while int(state.evaluations) < evaluations and not bool(state.stalled):
        state = step(state, tf.constant(evaluations - int(state.evaluations)))
        if int(state.steps) > int(last.steps):
            last = state
            yield state
    if state is not last:  # evaluations that found nothing better; the state says why it ends
        yield state
