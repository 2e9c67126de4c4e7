from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers import draw_weights, images, small_vgg
from keras import layers

import vgg_normalize as vn
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain, vgg_layers


def sequential(*stack, side=12):
    return draw_weights(keras.Sequential([keras.Input((side, side, 3)), *stack]))


def conv(name, filters=3, activation="relu", **options):
    options.setdefault("padding", "same")
    return layers.Conv2D(filters, 3, activation=activation, name=name, **options)


@pytest.mark.parametrize(
    "names",
    [["block1_conv1"], ["block3_conv2", "block1_conv2"], ["block2_conv1", "block5_conv4"]],
)
def test_features_are_computed_no_deeper_than_needed(monkeypatch, names):
    small_vgg(monkeypatch)
    model = vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19"))
    extract = vn.features(model, names)
    every = [layer.name for layer in chain.layers(model)]
    deepest = max(every.index(name) for name in names)
    assert [layer.name for layer in extract.layers][1:] == every[: deepest + 1]
    assert list(extract.output) == names


def test_features_are_by_default_all_that_a_relu_follows(monkeypatch):
    small_vgg(monkeypatch)
    model = vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", include_top=True))
    expected = [*vgg_layers.convolutions("vgg19"), "fc1", "fc2"]
    assert sorted(vn.features(model).output) == sorted(expected)


def test_features_share_the_weights_of_the_network(monkeypatch):
    small_vgg(monkeypatch)
    model = vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", last_layer="block1_conv2"))
    extract = vn.features(model, ["block1_conv1"])
    kernel, bias = model.get_layer("block1_conv1").get_weights()
    model.get_layer("block1_conv1").set_weights([0 * kernel, 0 * bias + 3])
    assert (extract(images())["block1_conv1"].numpy() == 3).all()


@pytest.mark.parametrize(
    "relu", [layers.ReLU(name="r"), layers.Activation("relu", name="r"), layers.ReLU(0.0 or None)]
)
def test_a_relu_that_is_a_layer_of_its_own_counts(relu):
    model = sequential(conv("a", activation=None), type(relu).from_config(relu.get_config()))
    kernel, bias = model.get_layer("a").get_weights()
    before = keras.ops.conv(images(4, 12, 12), kernel, padding="same") + bias
    found = vn.features(model, ["a"])(images(4, 12, 12))["a"].numpy()
    assert (np.asarray(before) < 0).any()
    assert np.allclose(found, np.maximum(before, 0), atol=1e-5)


def nested(side=12):
    inner = keras.Sequential([conv("b"), layers.MaxPooling2D(name="p")], name="inner")
    functional_input = keras.Input((side // 2, side // 2, 3))
    functional = keras.Model(functional_input, conv("c")(functional_input), name="functional")
    return sequential(conv("a"), inner, functional, conv("d", activation=None), side=side)


def flat(model):
    return chain.assemble(
        [chain.copy_layer(layer) for layer in chain.layers(model)], (12, 12, 3), "flat"
    )


def test_nested_models_are_opened():
    model = nested()
    plain = flat(model)
    plain.set_weights(model.get_weights())
    assert [layer.name for layer in chain.layers(model)] == ["a", "b", "p", "c", "d"]
    names = ["a", "b", "p", "c", "d"]
    found, expected = (vn.features(net, names)(images(4, 12, 12)) for net in (model, plain))
    for name in names:
        assert np.allclose(found[name], expected[name], atol=1e-6), name


def test_a_nested_network_is_normalised_and_proved():
    model = nested()
    batch = images(6, 12, 12)
    means = vn.channel_means(model, [batch])
    result = vn.check(model, vn.normalize(model, means), means, [batch])
    assert result.passed
    assert result.worst_output_error < 1e-5


def test_features_of_features_are_features(monkeypatch):
    small_vgg(monkeypatch)
    model = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
    once = vn.features(model, ["block1_conv1", "block2_conv1"])
    again = vn.features(once, ["block1_conv1"])
    expected = once(images())["block1_conv1"].numpy()
    assert (again(images())["block1_conv1"].numpy() == expected).all()


def test_unknown_layers_are_refused_with_those_there_are(monkeypatch):
    small_vgg(monkeypatch)
    model = vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", last_layer="block1_conv2"))
    with pytest.raises(NetworkError, match="Received: relu1_1.*block1_conv1, block1_conv2"):
        vn.features(model, ["relu1_1"])
    with pytest.raises(NetworkError, match="Received: none"):
        vn.features(model, [])


def residual():
    image = keras.Input((12, 12, 3))
    first = conv("a")(image)
    return keras.Model(image, layers.Add(name="bad")([first, conv("b")(first)]))


def two_inputs():
    left, right = keras.Input((12, 12, 3), name="left"), keras.Input((12, 12, 3), name="bad")
    return keras.Model([left, right], conv("a")(layers.Add()([left, right])))


def forked():
    image = keras.Input((12, 12, 3))
    first = conv("a")(image)
    return keras.Model(image, [conv("b")(first), conv("bad")(first)])


def called_twice():
    image = keras.Input((12, 12, 3))
    layer = conv("bad")
    return keras.Model(image, layer(layer(image)))


IN_THE_MIDDLE = {
    "sigmoid": layers.Activation("sigmoid", name="bad"),
    "tanh": layers.Activation("tanh", name="bad"),
    "softmax": layers.Softmax(name="bad"),
    "relu6": layers.ReLU(max_value=6, name="bad"),
    "relu with threshold": layers.ReLU(threshold=0.1, name="bad"),
    "relu with slope": layers.ReLU(negative_slope=0.1, name="bad"),
    "relu6 by name": layers.Activation("relu6", name="bad"),
    "leaky": layers.LeakyReLU(name="bad"),
    "elu": layers.ELU(name="bad"),
    "batch normalisation": layers.BatchNormalization(name="bad"),
    "depthwise": layers.DepthwiseConv2D(3, name="bad"),
    "separable": layers.SeparableConv2D(3, 3, name="bad"),
    "transposed": layers.Conv2DTranspose(3, 3, name="bad"),
    "fused sigmoid": layers.Conv2D(3, 3, activation="sigmoid", name="bad"),
    "fused relu6": layers.Conv2D(3, 3, activation="relu6", name="bad"),
    "groups": layers.Conv2D(3, 3, groups=3, activation="relu", name="bad"),
    "rescaling after a convolution": layers.Rescaling(2.0, offset=1.0, name="bad"),
    "reshape": layers.Reshape((6, 24, 3), name="bad"),
}


@pytest.mark.parametrize("case", IN_THE_MIDDLE)
def test_what_does_not_pass_scales_is_refused_by_name(case):
    layer = IN_THE_MIDDLE[case]
    layer = type(layer).from_config(layer.get_config())
    model = sequential(conv("a", activation=None), layer, conv("b"))
    with pytest.raises(NetworkError, match=r"'bad'.*not rescalable"):
        chain.stages(model)


@pytest.mark.parametrize("make", [residual, two_inputs, forked, called_twice])
def test_networks_that_are_no_chain_are_refused_by_name(make):
    with pytest.raises(NetworkError, match="Expected .*'bad'"):
        vn.channel_means(make(), [images(1, 12, 12)])


def test_a_relu_after_flatten_is_refused():
    model = sequential(conv("a", activation=None), layers.Flatten(), layers.ReLU(name="bad"))
    with pytest.raises(NetworkError, match="'bad'"):
        chain.stages(model)


def test_an_activation_after_the_last_relu_is_refused():
    # softmax(relu(x) / s) is not softmax(relu(x)): nothing is left to undo the last scales.
    model = sequential(conv("a"), layers.Flatten(), layers.Softmax(name="bad"))
    with pytest.raises(NetworkError, match="'bad'"):
        chain.stages(model)


def test_channels_first_is_refused():
    model = sequential(conv("a"), conv("bad", data_format="channels_first"))
    with pytest.raises(NetworkError, match="'bad'.*channels_first"):
        chain.stages(model)


def test_a_sequential_model_without_a_shape_is_refused():
    with pytest.raises(NetworkError, match="Expected"):
        vn.features(keras.Sequential([conv("a")]))


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, image):
            return image

    with pytest.raises(NetworkError, match="functional or sequential"):
        chain.layers(Own(name="own"))


def test_a_network_without_weights_is_refused():
    with pytest.raises(NetworkError, match="at least one Conv2D or Dense"):
        chain.stages(sequential(layers.MaxPooling2D()))


@pytest.mark.parametrize("make", [nested, lambda: sequential(conv("a"), layers.ReLU(), conv("b"))])
def test_arguments_are_left_as_they_were(make):
    model = make()
    before, config = model.get_weights(), model.get_config()
    expected = model(images(4, 12, 12)).numpy()
    means = vn.channel_means(model, [images(4, 12, 12)])
    vn.check(model, vn.normalize(model, means), means, [images(4, 12, 12)])
    vn.features(model, ["a"])
    assert model.get_config() == config
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert (model(images(4, 12, 12)).numpy() == expected).all()


def test_a_copy_has_weights_of_its_own(monkeypatch):
    small_vgg(monkeypatch)
    model = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg16")))
    copied = chain.copy(model)
    assert (copied(images()).numpy() == model(images()).numpy()).all()
    draw_weights(copied, seed=1)
    assert (copied(images()).numpy() != model(images()).numpy()).any()


@pytest.mark.parametrize(("last", "side"), [("block1_conv2", 1), ("block2_conv1", 2), (None, 16)])
def test_least_side_is_the_smallest_that_runs(monkeypatch, last, side):
    small_vgg(monkeypatch)
    model = vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", last_layer=last))
    assert chain.min_image_size(model) == side
    last_convolution = vgg_layers.convolutions("vgg19", last)[-1]
    found = vn.features(model, [last_convolution])(images(1, side, side))[last_convolution]
    assert found.shape[1:3] == (1, 1)


def test_layers_taken_from_another_network_keep_working(monkeypatch):
    small_vgg(monkeypatch)
    vgg19 = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
    first = [vgg19.get_layer(name) for name in ("block1_conv1", "block1_conv2")]
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(2.0), *first])
    found = vn.features(model, ["block1_conv2"])(images(2, 16, 16))["block1_conv2"].numpy()
    assert np.allclose(found, model(images(2, 16, 16)), atol=1e-6)
