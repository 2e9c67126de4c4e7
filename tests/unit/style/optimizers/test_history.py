"""Pairs in files: the same recursion as in memory, files that last as long as they are needed."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import double

from style.optimizers import lbfgs
from style.optimizers.history import DiskHistory, InMemoryHistory
from vgg_normalize.errors import OutputError

COUNT = 4


def vectors(count, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(count, 1, 5, 3, 2)).astype(dtype)


def filled(history, pairs):
    """What is kept after these pairs, and 1 / s.y of the last ones."""
    kept = history.init(tf.constant(pairs[0][0]))
    for s, y in pairs:
        kept = history.add(kept, tf.constant(s), tf.constant(y))
    return kept


@pytest.fixture
def folder(tmp_path):
    folder = DiskHistory(tmp_path / "pairs", COUNT)
    folder.hold(())
    return folder


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


@pytest.mark.parametrize("added", [1, 3, 4, 9])
@pytest.mark.parametrize("chunk", [7, 1 << 22])
def test_both_loops_are_those_in_memory(folder, monkeypatch, added, chunk):
    monkeypatch.setattr(DiskHistory, "CHUNK", chunk)
    s = vectors(added, 1)
    pairs = list(zip(s, 2 * s + 0.1 * vectors(added, 2), strict=True))
    rho = np.zeros(COUNT)
    last = pairs[-COUNT:]
    rho[COUNT - len(last) :] = [1 / np.sum(s * y) for s, y in last]
    rho[-1:] *= added != 3  # a pair that does not count
    q, found = double(vectors(1, 3)[0]), []
    for history in (InMemoryHistory(COUNT), folder):
        kept = filled(history, pairs)
        first, alpha = history.first_loop(kept, double(rho), q)
        found.append((first, alpha, history.second_loop(kept, double(rho), alpha, 3 * first)))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert not np.allclose(found[0][2], 3 * q)


@pytest.mark.slow
def test_a_run_with_files_is_the_run_in_memory(folder):
    scales = double(np.linspace(1, 50, 30).reshape(1, 5, 3, 2))

    def objective(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(scales * (x - 0.5) ** 4 + x**2)
        return value, tape.gradient(value, x), {}

    states = []
    for history in (InMemoryHistory(COUNT), folder):
        method = lbfgs.lbfgs(objective, history=history)
        step, state = tf.function(method.step), method.init(double(vectors(1)[0]))
        for _ in range(15):
            state = step(state)
        states.append(state)
    assert int(states[0].evaluations) == int(states[1].evaluations)
    np.testing.assert_allclose(states[0].x, states[1].x, rtol=1e-8)
    assert len(names(folder)) == 2 * COUNT


def test_files_are_deleted_when_forgotten_unless_they_are_held(folder):
    s = vectors(12)
    kept = filled(folder, [(one, one) for one in s[:5]])
    assert names(folder) == sorted(f"pair{n}.{kind}" for n in (2, 3, 4, 5) for kind in "sy")
    folder.hold([2, 3])
    for one in s[5:]:
        kept = folder.add(kept, tf.constant(one), tf.constant(one))
    held = sorted(f"pair{n}.{kind}" for n in (2, 3, 9, 10, 11, 12) for kind in "sy")
    assert names(folder) == held
    # What an earlier process left is held until it is said what is needed.
    again = DiskHistory(folder.path, COUNT)
    kept = again.add(kept, tf.constant(s[0]), tf.constant(s[0]))
    assert names(folder) == sorted([*held, "pair13.s", "pair13.y"])
    again.hold(())
    again.add(kept, tf.constant(s[0]), tf.constant(s[0]))
    assert names(folder) == sorted(f"pair{n}.{kind}" for n in (11, 12, 13, 14) for kind in "sy")
    again.clear()
    assert not folder.path.exists()


def test_files_of_a_checkpoint_must_be_there_and_whole(folder):
    filled(folder, [(one, one) for one in vectors(3)])
    folder.require([0, 1, 2, 3], 30, "float64")
    with pytest.raises(OutputError, match="pair4.s"):
        folder.require([4], 30, "float64")
    (folder.path / "pair2.y").write_bytes(b"half")
    with pytest.raises(OutputError, match=r"Expected the pair .*pair2\.y .* half of it"):
        folder.require([1, 2], 30, "float64")


def test_a_place_that_cannot_be_written_is_said(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="`memory_folder`"):
        DiskHistory(tmp_path / "file" / "pairs", COUNT)
    # Later, out of TensorFlow's reach, the reason is remembered.
    folder.path.rmdir()
    one = tf.constant(vectors(1)[0])
    with pytest.raises(tf.errors.OpError):
        tf.function(folder.add)(folder.init(one), one, one)
    with pytest.raises(OutputError, match="Expected a folder for pairs"):
        folder.raise_if_failed()
