"""The loop over steps and sizes: an objective and an optimiser make a sequence of pictures."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from style.images import resizing
from style.objective.evaluation import Objective, ValueAndGradient, traced_once
from style.optimizers.adam import adam
from style.optimizers.base import Optimizer
from style.optimizers.history import History, InMemoryHistory
from style.optimizers.lbfgs import HISTORY_SIZE, lbfgs
from style.optimizers.spectral_preconditioner import preconditioner
from style.synthesis.options import Options
from style.synthesis.picture_terms import as_batch
from style.synthesis.problem import Problem
from vgg_normalize.errors import UsageError


class Status(enum.Enum):
    """How a run stands or why it ended; the value says it, and what to try, in a sentence."""

    RUNNING = "the run is in progress"
    STEPS_DONE = "all requested steps are done; more may lower the loss further"
    CONVERGED = (
        "no further descent was found, so more steps change nothing; for another picture change "
        "the weights, the first picture or the seed"
    )
    NOT_FINITE = (
        "the objective became NaN or infinite; the last good picture is kept: lower the weights "
        "or, with Adam, the learning rate"
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


class Draw(NamedTuple):
    """What random directions and nearest neighbours are of.

    Attributes:
        number: How often they were chosen at this scale, from 0.
        picture: The picture at which they were chosen, [1, H, W, 3].
    """

    number: int
    picture: tf.Tensor


class Step(NamedTuple):
    """One step of a run.

    Attributes:
        scale: The number of its size, from 0, the coarsest.
        shape: Height and width of the picture at this scale.
        state: Of the optimiser.
        draw: The last draw, of an objective with something to draw.
        objective: What is minimised; the next step may change it.
    """

    scale: int
    shape: tuple[int, int]
    state: Any
    draw: Draw | None
    objective: ValueAndGradient

    def loss_at(self, picture: tf.Tensor) -> float:
        """The objective at a picture [1, H, W, 3]; takes an evaluation."""
        value, _, _ = self.objective(picture)
        return float(value)


class Renewal:
    """What of an objective is chosen anew from time to time.

    Args:
        renew: (number of the draw, picture) -> None, in place.
        every: Evaluations between two draws; 0: there is only the first.
        draw: The first, or the last of a run that goes on.
    """

    def __init__(self, renew: Callable[[int, tf.Tensor], None], every: int, draw: Draw) -> None:
        self._renew, self._every = renew, every
        self.draw = draw
        renew(*draw)

    def is_due(self, state: Any) -> bool:
        """Whether a draw is due, or the objective as it stands has no further descent."""
        if not self._every or not bool(state.finite):
            return False
        due = int(state.evaluations) >= (self.draw.number + 1) * self._every
        return due or bool(state.stalled)

    def choose_anew(self, picture: tf.Tensor) -> None:
        """The next draw."""
        self.draw = Draw(self.draw.number + 1, picture)
        self._renew(*self.draw)


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
    evaluate = traced_once(evaluate)
    if name == "adam":
        return _with_traced_step(adam(evaluate, learning_rate=learning_rate))
    if name != "lbfgs":
        raise UsageError(f"Expected optimizer lbfgs or adam. Received: {name!r}. Choose one.")
    precondition = preconditioner(*shape, exponent=preconditioner_exponent, learn=learn)
    return _with_traced_step(
        lbfgs(evaluate, history=history or InMemoryHistory(HISTORY_SIZE), precondition=precondition)
    )


class _TracedStep:
    """A step as one graph, made at the first call."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step = step
        self._graph: Any = None

    def __call__(self, state: Any, left: tf.Tensor) -> Any:
        if self._graph is None:
            traced = tf.function(self._step, autograph=False)
            self._graph = traced.get_concrete_function(state, left)
        return self._graph(state, left)


def _with_traced_step(method: Optimizer) -> Optimizer:
    if isinstance(method.step, _TracedStep):
        return method
    return method._replace(step=_TracedStep(method.step))


def descend(
    problem: Problem,
    *,
    first_scale: int = 0,
    history: Callable[[int], History | None] = lambda scale: None,
    restore: Callable[[Optimizer, tf.Tensor], tuple[Any, Draw | None]] | None = None,
) -> Iterator[Step]:
    """Yields the first state and the state after each step of every size, coarse to fine.

    Each size begins with the last picture of the one before, resized.

    Args:
        problem: The objective at each size.
        first_scale: The size to begin at.
        history: Scale -> the memory of L-BFGS's pairs; None: in memory.
        restore: (optimiser, picture [1, H, W, 3]) -> the state to begin with at the first size, and
            the last draw, where a run goes on from a checkpoint.
    """
    options = problem.options
    pixels = None
    for scale in range(first_scale, len(problem.sizes)):
        shape = problem.sizes[scale]
        if pixels is None:
            pixels = problem.inputs.initial_image(shape)
        start = as_batch(resizing.resize(pixels, *shape))
        pairs = history(scale) or InMemoryHistory(options.history_size)
        method = problem.optimizer(shape, partial(_optimizer, options, shape, pairs))
        saved, draw = (None, None) if restore is None else restore(method, start)
        restore = None
        renewal = None
        if renew := problem.renew(shape):
            renewal = Renewal(renew, options.renew_every or 0, draw or Draw(0, start))
        steps = problem.steps[scale]
        for state in minimize(method, start, steps, state=saved, renewal=renewal):
            last_draw = None if renewal is None else renewal.draw
            yield Step(scale, shape, state, last_draw, method.objective)
        pixels = np.asarray(state.x[0])


def _optimizer(
    options: Options, shape: tuple[int, int], history: History, objective: Objective
) -> Optimizer:
    return make_optimizer(
        options.optimizer,
        objective,
        shape,
        history=history,
        preconditioner_exponent=options.preconditioner_exponent,
        learning_rate=options.learning_rate,
    )


def minimize(
    method: Optimizer,
    x: tf.Tensor,
    evaluations: int,
    *,
    state: Any = None,
    renewal: Renewal | None = None,
) -> Iterator[Any]:
    """Yields the first state, one after each accepted step, and the last.

    Ends after so many evaluations, and never more, or when no further step can be made.  The last
    state may be `cut`: one goes on with more evaluations from the state before it.

    Args:
        method: An optimiser.
        x: Where to begin, [1, H, W, 3].
        evaluations: How many evaluations of the objective in all.
        state: Where to go on instead of at `x`.
        renewal: What of the objective is chosen anew from time to time.
    """
    if state is None:
        state = method.init(x)
    yield state
    last = state
    method = _with_traced_step(method)
    while int(state.evaluations) < evaluations:
        if renewal is not None and renewal.is_due(state):
            renewal.choose_anew(state.x)
            state = method.restart(state)
            if int(state.evaluations) >= evaluations:
                break
        if bool(state.stalled):
            break
        state = method.step(state, tf.constant(evaluations - int(state.evaluations)))
        if int(state.steps) > int(last.steps):
            last = state
            yield state
    if state is not last:  # evaluations that found nothing better; the state says why it ends
        yield state
