"""Feed-forward stylisers: their shape, what a code does, and what is learnt."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import pytest
from helpers import draw_weights, images, tiny_chain

import vgg_normalize as vn
from style.feedforward import blocks, networks
from style.feedforward.blocks import ReflectionPadding2D
from style.feedforward.layers import ConditionalInstanceNormalization
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks.vgg_layers import FILTERS

pytestmark = pytest.mark.slow

MAKERS = {
    "adain": lambda seed=0: networks.adain(tiny_chain(), seed=seed),
    "encoder": lambda seed=0: networks.style_encoder(tiny_chain(), seed=seed),
    "cin": lambda seed=0: networks.cin(3, seed=seed),
}
each_method = pytest.mark.parametrize("method", MAKERS)


@cache
def network(method: str) -> networks.Network:
    return MAKERS[method]()


@cache
def vgg(last_layer: str) -> keras.Model:
    return vn.build("vgg19", weights="random", last_layer=last_layer)


def codes(method: str, seed: int = 5) -> np.ndarray:
    """The codes of two styles."""
    if method == "cin":
        return np.eye(3, dtype=np.float32)[:2]
    return np.asarray(network(method).code(images(2, 20, 28, seed=seed)))


def made(method: str, content: np.ndarray, code: np.ndarray) -> dict[str, np.ndarray]:
    found = network(method).transform({"content": content, "code": code})
    return {name: np.asarray(value) for name, value in found.items()}


# The mirrored decoder.


@pytest.mark.parametrize("size", [1, 2, 4])
def test_padding_by_reflection_is_numpys(size):
    x = images(2, 7, 5)
    expected = np.pad(x, [(0, 0), (size, size), (size, size), (0, 0)], mode="reflect")
    layer = ReflectionPadding2D(size)
    np.testing.assert_array_equal(layer(x), expected)
    assert layer.compute_output_shape((None, 7, None, 3)) == (None, 7 + 2 * size, None, 3)
    assert ReflectionPadding2D.from_config(layer.get_config()).size == size


@pytest.mark.parametrize(
    ("layer", "stride", "channels"),
    [
        ("block1_conv2", 1, [64, 3]),
        ("block2_conv1", 2, [64, "up", 64, 3]),
        ("block3_conv2", 4, [256, 128, "up", 128, 64, "up", 64, 3]),
        # Huang and Belongie's decoder.
        ("block4_conv1", 8, [256, "up", 256, 256, 256, 128, "up", 128, 64, "up", 64, 3]),
    ],
)
def test_the_decoder_mirrors_vgg(layer, stride, channels):
    decoder, found = networks.mirrored_decoder(vgg(layer), layer)
    kinds = (keras.layers.Conv2D, keras.layers.UpSampling2D)
    kept = [one for one in decoder.layers if isinstance(one, kinds)]
    assert [one.filters if isinstance(one, kinds[0]) else "up" for one in kept] == channels
    assert found == stride
    convolutions = [one for one in kept if isinstance(one, keras.layers.Conv2D)]
    names = [one.activation.__name__ for one in convolutions]
    assert names == ["relu"] * (len(names) - 1) + ["linear"]
    assert all(one.padding == "valid" and one.kernel_size == (3, 3) for one in convolutions)
    ups = [one for one in kept if isinstance(one, keras.layers.UpSampling2D)]
    assert all(one.size == (2, 2) and one.interpolation == "nearest" for one in ups)
    assert sum(isinstance(one, ReflectionPadding2D) for one in decoder.layers) == len(names)
    assert decoder.input_shape[-1] == FILTERS[int(layer[5]) - 1]


def test_adain_normalises_at_block4_conv1_or_the_deepest_layer():
    assert networks.adain(vgg("block4_conv2")).target_layer == "block4_conv1"
    assert networks.adain(vgg("block2_conv1")).target_layer == "block2_conv1"
    assert network("adain").target_layer == "second"
    assert networks.adain(tiny_chain(), layer="first").target_layer == "first"


def test_a_decoder_of_dense_layers_is_refused():
    model = keras.Sequential(
        [
            *(keras.Input((4, 4, 3)), keras.layers.Conv2D(4, 3, padding="same", name="a")),
            *(keras.layers.Flatten(), keras.layers.Dense(5, name="b")),
        ]
    )
    with pytest.raises(NetworkError, match="'b'"):
        networks.mirrored_decoder(model, "b")


def test_styles_are_looked_at_in_the_first_layer_of_each_block():
    assert networks.style_layers(vgg("block3_conv2")) == tuple(
        f"block{k}_conv1" for k in range(1, 4)
    )
    assert networks.style_layers(tiny_chain()) == ("second",)


def test_the_network_of_fixed_styles_is_dumoulins():
    """Three convolutions down, five residual blocks of two, three up; each is normalised."""
    layers = network("cin").transform.layers
    kernels = [one for one in layers if isinstance(one, keras.layers.Conv2D)]
    found = [(one.filters, one.kernel_size[0], one.strides[0]) for one in kernels]
    residual = [(128, 3, 1)] * 10
    down, up = [(32, 9, 1), (64, 3, 2), (128, 3, 2)], [(64, 3, 1), (32, 3, 1), (3, 9, 1)]
    assert found == [*down, *residual, *up]
    normalised = [one for one in layers if isinstance(one, ConditionalInstanceNormalization)]
    assert len(normalised) == len(kernels)
    assert sum(isinstance(one, keras.layers.Add) for one in layers) == blocks.BLOCKS == 5


def test_with_a_skip_the_content_is_there_from_the_beginning():
    code = np.array([[1.0, 0.0]], np.float32)
    content = images(1, 32, 24)
    likeness = []
    for skip in (False, True):
        own = networks.cin(2, skip=skip)
        made = np.asarray(own.transform({"content": content, "code": code})["image"])
        likeness.append(abs(np.corrcoef(made.ravel(), content.ravel())[0, 1]))
    assert likeness[0] < 0.3 and likeness[1] > 0.5


# What a code does.


@each_method
@pytest.mark.parametrize("side", [(16, 24), (20, 12)])
def test_pictures_of_any_multiple_of_the_stride_keep_their_size(method, side):
    assert network(method).stride == {"adain": 2}.get(method, 4)
    image = made(method, images(2, *side), codes(method))["image"]
    assert image.shape == (2, *side, 3) and np.isfinite(image).all()
    if method != "adain":
        assert 0 <= image.min() < image.max() <= 1


def test_a_contents_own_code_leaves_its_features_alone():
    content = images(2, 16, 24)
    code = np.asarray(network("adain").code(content))
    goal = made("adain", content, code)["target"]
    features = np.asarray(vn.features(tiny_chain(), ["second"])(content)["second"])
    np.testing.assert_allclose(goal, features, rtol=1e-4, atol=1e-5)
    assert code.shape == (2, 14)
    np.testing.assert_allclose(code[:, :7], features.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        code[:, 7:], np.sqrt(features.var((1, 2), dtype=float) + 1e-5), rtol=1e-4
    )


def test_the_goal_has_the_styles_moments():
    code = codes("adain")
    goal = made("adain", images(2, 16, 24), code)["target"]
    np.testing.assert_allclose(goal.mean((1, 2)), code[:, :7], rtol=1e-4, atol=1e-5)
    content = np.asarray(vn.features(tiny_chain(), ["second"])(images(2, 16, 24))["second"])
    spread = content.std((1, 2)) / np.sqrt(content.var((1, 2)) + 1e-5)
    np.testing.assert_allclose(goal.std((1, 2)), spread * code[:, 7:], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_a_blend_of_codes_is_the_blend_of_features(alpha):
    """With the content's own code it is the paper's alpha."""
    content = images(2, 16, 24)
    for other in (codes("adain", seed=6), np.asarray(network("adain").code(content))):
        parts = [made("adain", content, code)["target"] for code in (codes("adain"), other)]
        blended = made("adain", content, alpha * codes("adain") + (1 - alpha) * other)["target"]
        expected = alpha * parts[0] + (1 - alpha) * parts[1]
        np.testing.assert_allclose(blended, expected, rtol=1e-4, atol=1e-4)


def test_a_style_of_cin_depends_on_its_own_row_alone():
    content = images(1, 16, 16)
    network = networks.cin(3)
    tables = [v for v in network.variables if tuple(v.shape)[:1] == (3,) and len(v.shape) == 2]
    random = np.random.default_rng(0)
    for table in tables:
        table.assign(random.normal(1, 0.3, table.shape))
    one_hot = np.eye(3, dtype=np.float32)

    def picture(row):
        return np.asarray(network.transform({"content": content, "code": row[None]})["image"])

    before = [picture(row) for row in one_hot]
    assert all(np.abs(before[i] - before[i - 1]).max() > 1e-3 for i in range(3))
    for table in tables:
        table.assign(table.numpy() + np.array([[1.0], [0.0], [1.0]]))
    after = [picture(row) for row in one_hot]
    np.testing.assert_array_equal(before[1], after[1])
    assert np.abs(before[0] - after[0]).max() > 1e-3
    single = networks.cin(1)
    for ours, theirs in zip(single.variables, network.variables, strict=True):
        ours.assign(theirs[1:2] if any(theirs is table for table in tables) else theirs)
    alone = single.transform({"content": content, "code": np.ones((1, 1), np.float32)})["image"]
    np.testing.assert_allclose(alone, after[1], atol=1e-5)


def test_the_encoder_tells_styles_apart_and_knows_nothing_of_the_rest_of_a_batch():
    content = images(2, 16, 16)
    both = made("encoder", content, codes("encoder"))["image"]
    alone = made("encoder", content[1:], codes("encoder")[1:])["image"]
    np.testing.assert_allclose(both[1:], alone, atol=1e-5)
    swapped = made("encoder", content, codes("encoder")[::-1])["image"]
    assert np.abs(both - swapped).max() > 1e-4
    assert codes("encoder").shape == (2, blocks.CODE_SIZE)


# What is learnt.


@each_method
def test_the_vgg_is_never_learnt(method):
    model = draw_weights(tiny_chain())
    network = {
        "adain": lambda: networks.adain(model),
        "encoder": lambda: networks.style_encoder(model),
        "cin": lambda: networks.cin(2),
    }[method]()
    frozen = {id(variable) for variable in model.variables}
    assert network.variables and not frozen & {id(v) for v in network.variables}
    # Everything that the picture depends on is learnt or the VGG's.
    models = [network.transform, *([network.code] if network.code else [])]
    used = {id(v) for one in models for v in one.trainable_variables}
    assert {id(v) for v in network.variables} >= used - frozen


@each_method
def test_the_seed_decides_the_first_weights(method):
    first, again, other = (MAKERS[method](seed) for seed in (3, 3, 4))
    arrays = [[v.numpy() for v in one.variables] for one in (first, again, other)]
    for a, b in zip(arrays[0], arrays[1], strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [i for i, a in enumerate(arrays[0]) if a.ndim == 4]
    assert all((arrays[0][i] != arrays[2][i]).any() for i in kernels)
    drawn = {arrays[0][i].ravel()[0].item() for i in kernels}
    assert len(drawn) == len(kernels)  # each of its own
