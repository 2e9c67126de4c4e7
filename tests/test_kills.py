"""Every command, killed at random moments, ends with the bits of a run that nothing disturbed.

Kills at given changes of the disk are in `test_staging.py` and `test_interruption.py`; here they come
at any time: while TensorFlow traces, computes or saves.
"""

from __future__ import annotations

import functools
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from forks import forked
from helpers import arrays, content_and_style, draw_weights, pictures

import vgg_normalize as vn

pytestmark = pytest.mark.slow

COMMANDS = ("vgg_normalize", "style", "style.train", "style.apply")
KILLS = 5
LAYER = "block1_conv1"
# Kills that may come too late, because the machine has become quicker meanwhile.
LATE = 5


def moments(command: str) -> list[float]:
    """When a run is killed, in shares of its time: once in each fifth, anywhere within it."""
    within = np.random.default_rng(COMMANDS.index(command)).uniform(size=KILLS)
    return [round(float(share), 3) for share in (np.arange(KILLS) + within) / KILLS]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of one layer and pictures; what undisturbed runs make is put beside them."""
    world = content_and_style(tmp_path_factory.mktemp("world"))
    model = draw_weights(vn.build("vgg19", weights="random", last_layer=LAYER))
    pictures(world / "images", 20)
    batch = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    means = vn.channel_means(model, [batch])
    vn.save(vn.normalize(model, means), means, world / "model", formats=("saved_model",))
    # So that no run waits for the server, or for what it gets ready after a first one.
    (world / "first").mkdir()
    assert forked(*flags(world, "vgg_normalize", world / "first"))[0] == 0
    return world


def flags(world: Path, command: str, place: Path) -> tuple[str, ...]:
    """Of a run whose outputs are `out` and the like in its place, and its checkpoints `state`."""
    images, style = world / "images", world / "style.png"
    going_on = (f"--checkpoint={place / 'state'}", f"--log={place / 'out.jsonl'}")
    layers = (f"--content_layers={LAYER}", f"--style_layers={LAYER}")
    model = f"--model={world / 'model'}"
    return {
        "vgg_normalize": (
            *("--weights=random", f"--last_layer={LAYER}", "--image_size=32", "--batch_size=1"),
            *(f"--images={images}", f"--output={place / 'out'}", "--checkpoint_every=1"),
            *("--formats=saved_model", "--check_images=2"),
        ),
        "style": (
            *(model, f"--content={world / 'content.png'}", f"--style={style}", *layers),
            *(f"--output={place / 'out.png'}", *going_on, "--checkpoint_every=2"),
            *("--optimizer=adam", "--size=32", "--steps=40", "--preview_every=9", "--bits=16"),
        ),
        "style.train": (
            *(model, f"--content={images}", f"--style={images}", *layers, "--size=16"),
            *(f"--output={place / 'out'}", *going_on, "--checkpoint_every=1"),
            *("--steps=12", "--batch_size=1"),
        ),
        "style.apply": (
            *(f"--network={world / 'style.train' / 'out'}", f"--content={images}"),
            *(f"--style={style}", f"--output={place / 'out'}"),
        ),
    }[command]


@functools.cache
def undisturbed(world: Path, command: str) -> tuple[Path, float]:
    """What a run makes that nothing disturbs, and how long it takes."""
    if command == "style.apply":
        undisturbed(world, "style.train")
    place = world / command
    place.mkdir()
    began = time.monotonic()
    code, told = forked(*flags(world, command, place), package=command)
    seconds = time.monotonic() - began
    assert code == 0, told
    return place, seconds


def bits(place: Path) -> dict[str, bytes]:
    """All that the outputs hold of pictures, means and weights."""
    found = {}
    for path in [one for output in place.glob("out*") for one in (output, *output.rglob("*"))]:
        name = str(path.relative_to(place))
        if path.suffix == ".png":
            found[name] = path.read_bytes()
        elif path.suffix == ".npz":
            found |= {f"{name}/{key}": value for key, value in arrays(path).items()}
        elif path.name == "variables.index":
            reader = tf.train.load_checkpoint(str(path.with_suffix("")))
            for key in reader.get_variable_to_shape_map():
                if "OBJECT_GRAPH" not in key:
                    found[f"{name}/{key}"] = np.asarray(reader.get_tensor(key)).tobytes()
    return found


def names(place: Path) -> list[str]:
    """Everything that lies there, hidden or not."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.mark.parametrize(
    ("command", "moment"),
    [(command, moment) for command in COMMANDS for moment in moments(command)],
)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(
    world: Path, tmp_path: Path, command: str, moment: float
) -> None:
    whole, seconds = undisturbed(world, command)
    for late in range(LATE):
        place = tmp_path / str(late)
        place.mkdir()
        run = functools.partial(forked, *flags(world, command, place), package=command)
        code, told = run(send=signal.SIGKILL, when=place, delay=moment * seconds * 0.8**late)
        if code != 0:
            break
    assert code == -signal.SIGKILL, told
    # What is done is skipped by `style.apply` without being asked.
    code, told = run(*(() if command == "style.apply" else ("--resume",)))
    assert code == 0, told
    found = bits(place)
    assert found and found == bits(whole)
    assert names(place) == names(whole)
