"""ONNX and LiteRT files of stylisers: their own runtimes must give the SavedModel's images."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_weights, images

import vgg_normalize as vn
from style.feedforward import blocks, exporting, networks, saved_network, signatures
from vgg_normalize import onnx_files
from vgg_normalize.errors import NetworkError, UsageError, VerificationError
from vgg_normalize.runtime import extras

pytestmark = pytest.mark.slow

METHODS = ("adain", "encoder", "cin")
STYLES = ["a.png", "b.png", "c.png"]
SIZE = 32
# Untrained encoders give scales of dozens, which enlarge what float32 rounds.
CLOSE = exporting.TOLERANCE


def needs(form: str) -> pytest.MarkDecorator:
    """Skip where the packages of a format are missing."""
    missing = [n for n in extras.MODULES[form] if importlib.util.find_spec(n) is None]
    return pytest.mark.skipif(bool(missing), reason=f"the extra [{form}] lacks {missing}")


onnx, litert = needs("onnx"), needs("litert")
FORMS = [pytest.param("onnx", marks=onnx), pytest.param("litert", marks=litert)]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, tuple[Path, networks.Network]]:
    """Directory and network of each method, with one residual block and weights that show faults."""
    folder = tmp_path_factory.mktemp("exports")
    vgg = draw_weights(vn.build("vgg19", weights="random", last_layer="block2_conv1"))
    vgg = vn.normalize(vgg, vn.channel_means(vgg, [images()]))
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCKS", 1)
        builders = (networks.adain, networks.style_encoder, lambda _: networks.cin(len(STYLES)))
        for method, build in zip(METHODS, builders, strict=True):
            network = build(vgg)
            for i, model in enumerate(network.trainable_models):
                draw_gently(model, i)
            styles = STYLES if method == "cin" else []
            saved_network.save(network, vgg, folder / method, styles=styles, settings={})
            made[method] = (folder / method, network)
    return made


def draw_gently(model: keras.Model, seed: int) -> None:
    """Weights near the initial ones, so that images are within their range, but no two alike."""
    random = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        noise = random.normal(0, 1, weight.shape)
        bias = len(weight.shape) == 1
        weight.assign(weight + 0.05 * noise if bias else weight * (1 + 0.2 * noise))


@pytest.fixture(scope="module")
def exported(world):
    """The directory of a method, with a file of this form."""
    done = set()

    def exported(method: str, form: str) -> Path:
        folder = world[method][0]
        if (method, form) not in done:
            exporting.export(folder, form, SIZE if form == "litert" else None)
            done.add((method, form))
        return folder

    return exported


def inputs_of(method: str, batch: int, content: tuple[int, int], style: tuple[int, int]) -> dict:
    other = images(batch, *style, seed=4)
    rows = np.array([[0.1, 0.2, 0.7], [1, 0, 0]], np.float32)[:batch]
    own = {"weights": rows} if method == "cin" else {"style": other}
    return {"content": images(batch, *content, seed=3), **own}


def expected_of(network: networks.Network, inputs: dict) -> np.ndarray:
    """By the Keras models, for contents of whole strides."""
    code = inputs["weights"] if network.code is None else network.code(inputs["style"]).numpy()
    return np.clip(network.transform({"content": inputs["content"], "code": code})["image"], 0, 1)


@onnx
@pytest.mark.parametrize("method", METHODS)
def test_an_onnx_file_gives_the_networks_images_at_any_size(world, exported, method):
    path = exported(method, "onnx") / "network.onnx"
    for content, style in (((40, 24), (36, 52)), ((16, 64), (33, 31))):
        inputs = inputs_of(method, 2, content, style)
        image = onnx_files.run(path, inputs)["image"]
        np.testing.assert_allclose(image, expected_of(world[method][1], inputs), atol=CLOSE)
        assert image.std() > 0.01


@litert
@pytest.mark.parametrize("method", METHODS)
def test_a_litert_file_gives_the_networks_images_at_its_size(world, exported, method):
    path = exported(method, "litert") / "network.tflite"
    inputs = inputs_of(method, 1, (SIZE, SIZE), (SIZE, SIZE))
    image = exporting._run_litert(path, inputs)["image"]
    np.testing.assert_allclose(image, expected_of(world[method][1], inputs), atol=CLOSE)


@pytest.mark.parametrize("form", FORMS)
def test_the_proof_sees_a_sound_file_pass(exported, form):
    folder = exported("adain", form)
    worst = exporting.worst_difference(folder, form, SIZE if form == "litert" else None)
    assert 0 < worst < exporting.TOLERANCE
    exporting.require_close(form, worst)


@onnx
def test_an_onnx_file_may_have_one_size_and_its_free_axes_have_names(world, exported, tmp_path):
    import onnx as library

    proto = library.load(exported("adain", "onnx") / "network.onnx")
    axes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in proto.graph.input
    ]
    assert axes[0] == ["content_batch", "content_height", "content_width", 3]
    assert axes[1] == ["style_batch", "style_height", "style_width", 3]
    folder = copy(world["adain"][0], tmp_path)
    path = exporting.export(folder, "onnx", SIZE)
    assert exporting.worst_difference(folder, "onnx", SIZE) < exporting.TOLERANCE
    with pytest.raises(Exception, match="(?i)dimension"):
        onnx_files.run(path, inputs_of("adain", 1, (64, 64), (SIZE, SIZE)))


def copy(source: Path, folder: Path) -> Path:
    """A network without its exports."""
    shutil.copytree(source, folder / "copy")
    for name in exporting.FILES.values():
        (folder / "copy" / name).unlink(missing_ok=True)
    return folder / "copy"


def swapped(run, content, style):
    return run(content=style, style=content)


def clipped(run, content, style):
    return np.minimum(run(content=content, style=style), 0.6)


def turned(run, content, style):
    return run(content=content, style=style)[:, ::-1]


def shifted(run, content, style):
    return run(content=content, style=style) + 2e-3


def styles_in_another_order(run, content, weights):
    return run(content=content, weights=weights[:, ::-1])


@onnx
@pytest.mark.parametrize(
    "fault", [swapped, clipped, turned, shifted, styles_in_another_order], ids=lambda f: f.__name__
)
def test_the_proof_finds_a_file_of_another_function(exported, monkeypatch, fault):
    folder = exported("cin" if fault is styles_in_another_order else "adain", "onnx")

    def faulty(path, inputs):
        return {"image": fault(lambda **own: onnx_files.run(path, own)["image"], **inputs)}

    monkeypatch.setitem(exporting._RUNNERS, "onnx", faulty)
    worst = exporting.worst_difference(folder, "onnx", SIZE)
    with pytest.raises(VerificationError, match=r"network\.onnx to give the SavedModel's images"):
        exporting.require_close("onnx", worst)


@onnx
def test_an_image_of_another_size_is_an_error(exported, monkeypatch):
    """What tf2onnx makes of symmetric padding, for contents of no whole strides."""

    def cropped(path, inputs):
        return {"image": onnx_files.run(path, inputs)["image"][:, :-1]}

    monkeypatch.setitem(exporting._RUNNERS, "onnx", cropped)
    with pytest.raises(
        VerificationError, match=r"image \[2, 67, 83, 3\]. Received: \[2, 66, 83, 3\]"
    ):
        exporting.worst_difference(exported("adain", "onnx"), "onnx", None)


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_file_does_not_run(exported, tmp_path, form):
    folder = copy(exported("adain", form), tmp_path)
    (folder / exporting.FILES[form]).write_bytes(b"half a file")
    with pytest.raises(VerificationError, match=f"{exporting.FILES[form]} to run"):
        exporting.worst_difference(folder, form, SIZE)


@litert
def test_what_a_converter_cannot_do_is_one_line(world, tmp_path):
    folder = copy(world["adain"][0], tmp_path)
    with pytest.raises(NetworkError, match="Leave litert out of `formats`") as found:
        exporting.export(folder, "litert", None)
    assert "\n" not in str(found.value)
    assert not (folder / "network.tflite").exists()


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_missing_packages_are_named(world, monkeypatch, form):
    found = importlib.util.find_spec
    first = extras.MODULES[form][0]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == first else found(name)
    )
    with pytest.raises(UsageError, match=rf"vgg-normalize\[{form}\]"):
        exporting.export(world["adain"][0], form, SIZE)


def test_the_size_must_be_whole_strides_and_hold_a_style(world):
    folder = world["cin"][0]
    exporting.require_size(folder, SIZE)
    with pytest.raises(UsageError, match="multiple of 4, .* Received: 30"):
        exporting.require_size(folder, 30)
    description = json.loads((folder / "assets" / "network.json").read_text())
    assert description["stride"] == 4


def test_examples_are_within_range_and_all_different():
    image = tf.TensorSpec([None, None, None, 3])
    for other in (image, tf.TensorSpec([None, 3])):
        specs = {"content": image, "other": other}
        made = exporting._examples(specs, None, batch=2)
        arrays = [one for example in made for array in example.values() for one in array]
        assert all(0 <= array.min() <= array.max() <= 1 for array in arrays)
        pictures = [array.tobytes() for array in arrays if array.ndim == 3]
        assert len(set(pictures)) == len(pictures)
        assert made[0]["content"].shape == (2, 67, 83, 3)


@pytest.mark.parametrize("side", [4, 5, 7, 8, 9])
def test_contents_are_mirrored_as_symmetric_padding_does(side):
    positions = signatures._mirrored(tf.constant(side), 4).numpy()
    expected = np.pad(np.arange(side), (0, -side % 4), "symmetric")
    np.testing.assert_array_equal(positions, expected)
