"""Steps of the optimisers under XLA, and what their graphs hold."""

from __future__ import annotations

from functools import cache

import pytest
import tensorflow as tf
from graphs import assert_same_compiled, assert_stays_on_device
from helpers import images, tiny_chain

from style.objective import value_and_gradient
from style.optimizers import spectral_preconditioner
from style.optimizers.adam import adam
from style.optimizers.history import DiskHistory, InMemoryHistory
from style.optimizers.lbfgs import lbfgs
from style.synthesis import picture_terms
from style.synthesis.picture_terms import Style

pytestmark = pytest.mark.slow

SHAPE = (37, 45)
LEFT = tf.constant(12)
# The blocks [bands, C, C] of the preconditioner, which are solved exactly.
LARGEST_SUM = spectral_preconditioner.BANDS * 3 * 3


def picture(seed: int) -> tf.Tensor:
    return tf.constant(images(1, *SHAPE, seed=seed))


@cache
def objective():
    terms = picture_terms.content_terms(tiny_chain(), [("second", 1.0)], 1.0, shape=SHAPE)
    terms += picture_terms.style_terms(
        tiny_chain(), [Style(images(1, 40, 33)[0])], [("first", 1.0)], 3.0, shape=SHAPE
    )
    return value_and_gradient.make_value_and_gradient(
        tiny_chain(), terms, SHAPE, content=picture(1)
    )


def make_lbfgs(history=None):
    precondition = spectral_preconditioner.preconditioner(*SHAPE)
    history = history or InMemoryHistory(4)
    return lbfgs(objective(), history=history, precondition=precondition)


def make_adam():
    return adam(objective())


def later(method):
    """The state after enough steps for what the preconditioner learnt to be used."""
    step = tf.function(method.step, autograph=False)
    state = method.init(picture(2))
    for _ in range(spectral_preconditioner.WARM_UP + 2):
        state = step(state, LEFT)
    return state


@pytest.mark.parametrize("make", [make_lbfgs, make_adam])
def test_a_step_compiles_to_the_same(make):
    """The first, a later one, and one whose search may be cut."""
    method = make()
    first, last = method.init(picture(2)), later(method)
    # Differences of gradients keep fewer digits than the gradients.
    cases = ((first, LEFT), (last, LEFT), (last, tf.constant(1)))
    assert_same_compiled(method.step, *cases, close=1e-3)


def test_the_preconditioner_compiles_to_the_same():
    p = spectral_preconditioner.preconditioner(*SHAPE)
    state = p.init(picture(1))
    assert_same_compiled(p.apply, (state, picture(2)))
    s = picture(2) - 0.5
    assert_same_compiled(p.update, (state, s, 2 * s + 0.1 * picture(3)))


@pytest.mark.parametrize("make", [make_lbfgs, make_adam])
def test_a_step_stays_on_the_device(make):
    method = make()
    state = method.init(picture(2))
    assert_stays_on_device(method.step, state, LEFT, doubles=LARGEST_SUM)


def test_pairs_in_files_are_the_hosts(tmp_path):
    method = make_lbfgs(DiskHistory(tmp_path, 4))
    with pytest.raises(AssertionError, match="PyFunc"):
        assert_stays_on_device(method.step, method.init(picture(2)), LEFT, doubles=LARGEST_SUM)
