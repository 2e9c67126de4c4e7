"""Fixtures of the tests of `style.train` and `style.apply`."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from helpers import SIGNS_OF_LIFE, feed_forward
from stylizers import flags_of, shared_world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A model, folders of pictures, and one trained network of each method; read only."""
    return shared_world(tmp_path_factory)


@pytest.fixture(scope="module")
def networks_loaded_once() -> Iterator[None]:
    """A directory is read by the first run that names it: reading is most of what a run costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.saved_model, "load", functools.cache(tf.saved_model.load))
        yield


@pytest.fixture
def run(world, tmp_path):
    """Train; later flags win."""
    return lambda *more: feed_forward("train", *flags_of(world, tmp_path / "out"), *more)


@pytest.fixture
def refused(capsys, tmp_path):
    """The one line with which a command refuses, leaving nothing behind."""

    def refused(code: int, module: str, *arguments: object) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        capsys.readouterr()
        found = feed_forward(module, *arguments)
        *signs, last = capsys.readouterr().err.splitlines()
        assert (found, [one for one in signs if not of_life(one)]) == (code, []), (signs, last)
        assert last.startswith(f"style.{module}: "), last
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return last

    return refused


@pytest.fixture
def no_training(refused, world, tmp_path):
    """The line with which training is refused."""
    return lambda code, *more: refused(code, "train", *flags_of(world, tmp_path / "out"), *more)


def of_life(line: str) -> bool:
    return any(sign in line for sign in SIGNS_OF_LIFE)
