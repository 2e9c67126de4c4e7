"""What several test files need."""

from __future__ import annotations

import atexit
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

# Real material, for development only: tests that use it are skipped where it is not.
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
# As in VGG only the last two are equal, so that VGG16 and VGG19 differ in shape too.
SMALL_FILTERS = (4, 6, 7, 8, 8)
# A network of two layers on small images: a run takes about a second.
TINY = ("--weights=random", "--last_layer=block1_conv2", "--image_size=32", "--batch_size=2")


def images(count: int = 4, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """Random images, each of its own brightness, so that their means differ."""
    random = np.random.default_rng(seed)
    brightness = random.uniform(0.3, 1, (count, 1, 1, 1))
    return (random.random((count, height, width, 3)) * brightness).astype(np.float32)


def draw_weights(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random kernels (He) and biases, in place: Keras' own biases are zero, which hides faults."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        deviation = 0.1 if len(weight.shape) == 1 else np.sqrt(2 / np.prod(weight.shape[:-1]))
        weight.assign(random.normal(0, deviation, weight.shape))
    return model


def small_vgg(
    monkeypatch: pytest.MonkeyPatch, filters: tuple[int, ...] = SMALL_FILTERS, side: int = 64
) -> None:
    """All layers of VGG, but few filters: `build` takes milliseconds."""
    from vgg_normalize.networks import vgg_layers

    monkeypatch.setattr(vgg_layers, "FILTERS", filters)
    monkeypatch.setattr(vgg_layers, "CLASSIFIER", {"fc1": 10, "fc2": 9, "predictions": 7})
    monkeypatch.setattr(vgg_layers, "CLASSIFIER_SIZE", side)


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with no GPU."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **environment,
        },
    )


def command(*arguments: str) -> int:
    """The exit code of the command, run in this process, whose signal handlers stay."""
    from vgg_normalize.__main__ import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return main(["vgg_normalize", *arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def refused(capsys, code: int, *arguments: str) -> str:
    """The one line with which the command refuses: what was expected, what came, what to do."""
    capsys.readouterr()
    found = command(*arguments)
    text = capsys.readouterr().err
    return _refusal(text, found == code, "vgg-normalize: ")


# What commands say of themselves before anything can be wrong.
SIGNS_OF_LIFE = (
    *("starting TensorFlow", "TensorFlow 2.", "network: ", "weights: ", "going on after"),
    *("the network was made for", ": left out '", "--strength="),
)


def _refusal(text: str, expected: bool, begins: str) -> str:
    """The last line, which is the only one besides signs of life."""
    *before, last = text.splitlines()
    assert expected, text
    assert all(any(sign in line for sign in SIGNS_OF_LIFE) for line in before), text
    assert last.startswith(begins), text
    return last


def pictures(folder: Path, count: int, side: int = 32) -> Path:
    """A folder with so many small pictures, always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    for i in range(count):
        pixels = random.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04}.png")
    return folder


def arrays(path: Path) -> dict[str, bytes]:
    """The arrays of an .npz, as bytes: for comparing to the last bit."""
    with np.load(path) as file:
        return {key: file[key].tobytes() for key in file.files}


def picture(height: int = 61, width: int = 97, seed: int = 0) -> np.ndarray:
    """Smooth colours, as in a photograph, uint8 [height, width, 3]: a JPEG keeps what they are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def content_and_style(folder: Path) -> Path:
    """The folder, with content.png of 60 x 40 and style.png of 44 x 50 pixels."""
    Image.fromarray(picture(40, 60, 1)).save(folder / "content.png")
    Image.fromarray(picture(50, 44, 2)).save(folder / "style.png")
    return folder


def encode(pixels: np.ndarray | Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The bytes of an image file, by Pillow."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiny_chain(seed: int = 0) -> keras.Model:
    """Two convolutions with a pooling between them, for images of any size."""
    return draw_weights(
        keras.Sequential(
            [
                keras.Input((None, None, 3)),
                keras.layers.Conv2D(5, 3, padding="same", activation="relu", name="first"),
                keras.layers.MaxPooling2D(),
                keras.layers.Conv2D(7, 3, padding="same", activation="relu", name="second"),
            ]
        ),
        seed,
    )


def identity_chain() -> keras.Model:
    """One layer whose activations are the image itself, exactly, whatever the batch."""
    layer = keras.layers.Conv2D(3, 1, activation="relu", name="same")
    model = keras.Sequential([keras.Input((None, None, 3)), layer])
    layer.set_weights([np.eye(3, dtype=np.float32)[None, None], np.zeros(3, np.float32)])
    return model


def trap(path: Path) -> keras.layers.Lambda:
    """A layer with code of its own, which leaves a file when it runs."""
    trace = str(path)
    return keras.layers.Lambda(lambda x: (open(trace, "w").close(), x)[1])


def double(array) -> tf.Tensor:
    """The same numbers as a float64 tensor."""
    return tf.constant(np.asarray(array), tf.float64)


def activations(positions: int, channels: int = 4, seed: int = 0) -> np.ndarray:
    """Random features F [M, C] as after a ReLU, float64: some are 0, channels differ in mean."""
    random = np.random.default_rng(seed)
    mixed = random.normal(0.3, 1, (positions, channels)) @ random.normal(0, 1, (channels, channels))
    return np.maximum(mixed + random.uniform(0, 1, channels), 0)


def gradient_of(function, x) -> np.ndarray:
    """The gradient of a scalar function, in float64."""
    x = double(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x).numpy()


def peak_memory(function, image: tf.Tensor) -> int:
    """The most bytes that tensors take in a call of a traced function, besides those before it."""
    try:
        tf.config.experimental.get_memory_info("CPU:0")
    except ValueError:
        pytest.skip("this build of TensorFlow does not count memory")
    traced = tf.function(function, autograph=False).get_concrete_function(image)
    traced(image)
    before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    tf.config.experimental.reset_memory_stats("CPU:0")
    traced(image)
    return tf.config.experimental.get_memory_info("CPU:0")["peak"] - before


def assert_gradient(function, x, relative: float = 1e-6, seed: int = 0) -> None:
    """The gradient along a random direction is the central difference, in float64.

    The direction's largest entry is 1; the step is small enough for the smooth functions here.
    """
    direction = np.random.default_rng(seed).uniform(-1, 1, np.shape(x))
    step = 1e-5
    ahead, behind = (float(function(double(x + h * direction))) for h in (step, -step))
    expected = (ahead - behind) / (2 * step)
    assert abs(expected) > 1e-6, "a direction that shows nothing"
    assert np.sum(gradient_of(function, x) * direction) == pytest.approx(expected, rel=relative)


def save_model(folder: Path) -> Path:
    """A normalised network of three convolutions in `folder`, as the command saves it."""
    shutil.copytree(_saved_model(), folder, dirs_exist_ok=True)
    return folder


@functools.cache
def _saved_model() -> Path:
    """Where this process keeps it, until it ends."""
    import vgg_normalize as vn
    from vgg_normalize.data import synthetic

    model = vn.build("vgg19", weights="random", last_layer="block2_conv1")
    batches = [synthetic.picture(i)[None, :96, :96].astype(np.float32) / 255 for i in range(2)]
    means = vn.channel_means(model, batches)
    place = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    vn.save(vn.normalize(model, means), means, Path(place, "model"), formats=("saved_model",))
    return Path(place, "model")


def stylise(*arguments: object) -> int:
    """The exit code of `python -m style`, run in this process, whose signal handlers stay."""
    from style.__main__ import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return main(["style", *map(str, arguments)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def whole(features, reference=None):
    """All positions of a layer [1, h, w, C] as one tile."""
    from style.objective.tiling import TileFeatures

    size = tf.constant(features.shape[1:3], tf.int32)
    return TileFeatures(features, reference, tf.constant([0, 0]), size, features)


def refused_style(capsys, place: Path, code: int, run, *arguments: object, **options) -> str:
    """The one line with which `run`, a `stylise`, refuses; nothing below `place` changes."""
    before = sorted(place.rglob("*"))
    capsys.readouterr()
    found = run(*arguments, **options)
    line = _refusal(capsys.readouterr().err, found == code, "style: Expected ")
    assert "Received: " in line, line
    assert sorted(place.rglob("*")) == before
    return line


def feed_forward(module: str, *arguments: object) -> int:
    """The exit code of `python -m style.train` or `.apply`, run in this process likewise."""
    from importlib import import_module

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return import_module(f"style.{module}").main([f"style.{module}", *map(str, arguments)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
