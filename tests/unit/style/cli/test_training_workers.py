"""Training on several devices: the weights of one, one process that writes, and lost workers."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from clusters import Worker, start_workers
from forks import forked
from stylizers import flags_of

pytestmark = pytest.mark.slow
STEPS = ("--batch_size=2", "--steps=20", "--learning_rate=1e-4")


def train(world: Path, place: Path, *arguments: object) -> dict[str, np.ndarray]:
    """The variables after a training in a fork of its own."""
    place.mkdir()
    flags = (*flags_of(world, place / "out"), *STEPS, f"--checkpoint={place / 'state'}", *arguments)
    code, told = forked(*map(str, flags), package="style.train")
    assert code == 0, told
    return variables(place)


def variables(place: Path) -> dict[str, np.ndarray]:
    with np.load(place / "state" / "training.npz") as arrays:
        return {name: arrays[name] for name in arrays if name.startswith("variable")}


def assert_close(found, expected) -> None:
    assert found.keys() == expected.keys()
    # The weights; then come Adam's count, its rate, and two moments of each weight.
    weights = (len(expected) - 2) // 3
    for name in (f"variable{i}" for i in range(weights)):
        array = expected[name]
        scale = max(1.0, np.abs(array).max())
        np.testing.assert_allclose(found[name], array, atol=1e-5 * scale, err_msg=name)


def start(world: Path, place: Path, *more: object, forks: bool = True) -> Sequence[Worker]:
    """Two workers that train alike, the first of which writes."""
    place.mkdir(exist_ok=True)
    flags = (*flags_of(world, place / "out"), *STEPS)
    state = (f"--checkpoint={place / 'state'}", "--checkpoint_every=2")
    return start_workers("style.train", *flags, *state, *more, forks=forks)


def finish(workers: Sequence[Worker]) -> list[str]:
    """What they say, once both are done."""
    errors = [worker.communicate(timeout=180)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    return errors


def test_several_devices_and_processes_learn_the_weights_of_one_and_a_lost_one_ends_all(
    world, tmp_path
):
    one = train(world, tmp_path / "one")
    assert_close(train(world, tmp_path / "two", "--strategy=mirrored", "--logical_cpus=2"), one)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    errors = finish(start(world, whole, f"--log={tmp_path / 'log.jsonl'}", forks=False))
    assert_close(variables(whole), one)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 20  # of the chief alone
    assert "saved in" in errors[0] and "saved in" not in errors[1]

    chief, other = start(world, cut)
    deadline = time.monotonic() + 120
    while not (cut / "state" / "training.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    other.send_signal(signal.SIGKILL)
    lost = time.monotonic()
    error = chief.communicate(timeout=90)[1]
    other.communicate()
    assert time.monotonic() - lost < 30
    assert chief.returncode == 5, error
    assert "--resume" in error.splitlines()[-1]
    assert "going on after" in finish(start(world, cut, "--resume"))[0]
    expected = variables(whole)
    for name, array in variables(cut).items():
        np.testing.assert_array_equal(array, expected[name])
