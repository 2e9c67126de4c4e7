"""What the tests of `style.train` and `style.apply` share: pictures, trained networks, readers."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import encode, feed_forward, picture, save_model
from PIL import Image

from style.feedforward import blocks, saved_network
from style.images import reading, resizing

METHODS = ("adain", "encoder", "cin")
STEPS = 4
STYLES = ("a.png", "b.png", "c.png")
# The long side of style pictures, where the 512 of the commands is not what is tested.
STYLE_SIZE = 64


def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make_world`, once for all processes of a test run."""
    own = tmp_path_factory.getbasetemp()
    world = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "world"
    with one_at_a_time(world.with_suffix(".lock")):
        if not world.exists():
            make_world(world)
    return world


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Only one of the processes that name this file is in here."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_world(world: Path) -> Path:
    """A model, folders of pictures, and one trained network of each method; read only."""
    world.mkdir(exist_ok=True)
    save_model(world / "model")
    for folder, shapes in {
        "contents": [(40, 60), (50, 45), (36, 36), (64, 48)],
        "mixed": [(40, 60), (20, 80)],  # the last is too small
        "styles": [(60, 44), (40, 40), (45, 70)],
    }.items():
        (world / folder).mkdir()
        for i, shape in enumerate(shapes):
            pixels = picture(*shape, seed=10 * len(folder) + i)
            (world / folder / f"{'abcde'[i]}.png").write_bytes(encode(pixels, "PNG"))
    halves = np.repeat([[255, 0]], 32, axis=1).repeat(40, axis=0).astype(np.uint8)
    for name, pixels in {
        "photo": picture(37, 51, seed=5),
        "left": halves,
        "right": 255 - halves,
        "small": picture(6, 40),
        "thin": picture(1, 90),
    }.items():
        (world / f"{name}.png").write_bytes(encode(pixels, "PNG"))
    (world / "empty").mkdir()
    (world / "no_pictures").mkdir()
    (world / "no_pictures" / "notes.txt").write_text("none")
    (world / "broken").mkdir()
    whole = (world / "contents" / "a.png").read_bytes()
    (world / "broken" / "good.png").write_bytes(whole)
    (world / "broken" / "half.png").write_bytes(whole[: len(whole) // 2])
    return world


def flags_of(world: Path, output: Path) -> tuple[str, ...]:
    return (
        *(f"--model={world / 'model'}", f"--content={world / 'contents'}"),
        *(f"--style={world / 'styles'}", f"--output={output}"),
        *("--recipe=paper", "--size=32", "--batch_size=2", f"--steps={STEPS}"),
    )


@functools.cache
def trained(world: Path, method: str) -> Path:
    """A network with its log and its preview beside it, of the first process that asks for it."""
    folder = world / method
    with one_at_a_time(world / f"{method}.lock"):
        if not folder.exists():
            _train(folder, world, method)
    return folder


def _train(folder: Path, world: Path, method: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCKS", 1)
        code = feed_forward(
            *("train", *flags_of(world, folder), f"--method={method}"),
            *(f"--log={folder}.jsonl", f"--preview={folder}.png", "--preview_every=3"),
        )
    assert code == 0


@functools.cache
def loaded(world: Path, method: str) -> saved_network.SavedNetwork:
    return saved_network.SavedNetwork(str(trained(world, method)))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file) / 255


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(path: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(path)]


def arrays(folder: Path) -> dict[str, bytes]:
    """What a network has learnt, and the VGG that goes with it, as bytes."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    found = {name: reader.get_tensor(name) for name in shapes if "OBJECT_GRAPH" not in name}
    return {name: np.asarray(value).tobytes() for name, value in found.items()}


def photo(world: Path) -> np.ndarray:
    return reading.load(world / "photo.png").pixels


def style_picture(world: Path, name: str = "a", side: int = STYLE_SIZE) -> np.ndarray:
    """As it is looked at with `--style_size`."""
    return resizing.fit(reading.load(world / "styles" / f"{name}.png").pixels, side)
