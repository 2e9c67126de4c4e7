from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers import draw_weights, images, small_vgg

import vgg_normalize as vn
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain, vgg_layers

APPLICATIONS = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}


def weighted(model):
    return [layer for layer in chain.layers(model) if layer.weights]


def shapes_by_name(model):
    return {layer.name: [tuple(w.shape) for w in layer.weights] for layer in weighted(model)}


def test_preprocessing_is_that_of_keras_applications():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.float32)
    expected = keras.applications.vgg19.preprocess_input(pixels.copy())
    assert np.abs(vn.Preprocessing()(pixels / 255) - expected).max() < 1e-4


def test_preprocessing_of_one_pixel():
    image = np.float32([10, 20, 200]).reshape(1, 1, 1, 3) / 255
    expected = [200 - 103.939, 20 - 116.779, 10 - 123.68]
    assert np.allclose(vn.Preprocessing("caffe")(image).numpy().ravel(), expected, atol=1e-4)
    assert np.allclose(expected, [96.06, -96.78, -113.68], atol=0.005)


def test_preprocessing_unit_and_none():
    image = images(1, 3, 3)
    assert (vn.Preprocessing("unit")(image).numpy() == image).all()
    assert np.allclose(vn.Preprocessing("none")(image), image * 255, rtol=1e-6)


@pytest.mark.parametrize("mode", ["caffe", "unit", "none"])
def test_preprocessing_survives_its_configuration(mode):
    layer = vn.Preprocessing(mode, name="convert")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.name == "convert"
    assert (again(images(1, 4, 4)).numpy() == layer(images(1, 4, 4)).numpy()).all()


def test_preprocessing_leaves_the_image_as_it_was():
    image = images(1, 3, 3)
    kept = image.copy()
    vn.Preprocessing()(image)
    assert (image == kept).all()


def test_unknown_preprocessing_is_refused():
    with pytest.raises(NetworkError, match="Expected preprocessing.*Received: 'tf'"):
        vn.Preprocessing("tf")


@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_layers_and_shapes_are_those_of_keras_applications(architecture):
    theirs = APPLICATIONS[architecture](weights=None, include_top=False)
    ours = vgg_layers.build_architecture(vgg_layers.VggOptions(architecture))
    assert shapes_by_name(ours) == shapes_by_name(theirs)
    # All layers, pools included, in order, but for the input and the conversion of pixels.
    assert [x.name for x in chain.layers(ours)][1:] == [x.name for x in theirs.layers][1:]


@pytest.mark.parametrize(
    ("architecture", "parameters"), [("vgg16", 138357544), ("vgg19", 143667240)]
)
def test_classifier_has_the_published_number_of_parameters(architecture, parameters):
    shapes = vgg_layers.weight_shapes(architecture, include_top=True)
    assert sum(int(np.prod(shape)) + shape[-1] for shape in shapes.values()) == parameters


@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_output_is_that_of_keras_applications(architecture):
    theirs = draw_weights(APPLICATIONS[architecture](weights=None, include_top=False))
    ours = vgg_layers.build_architecture(vgg_layers.VggOptions(architecture))
    ours.set_weights(theirs.get_weights())
    image = images(1, 32, 64)
    expected = theirs(keras.applications.vgg19.preprocess_input(image * 255)).numpy()
    assert np.abs(ours(image) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softmax", None])
def test_classifier_is_that_of_keras_applications(monkeypatch, activation):
    monkeypatch.setattr(vgg_layers, "CLASSIFIER_SIZE", 64)
    monkeypatch.setattr(vgg_layers, "CLASSIFIER", {"fc1": 4096, "fc2": 4096, "predictions": 10})
    theirs = keras.applications.VGG16(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=activation
    )
    draw_weights(theirs)
    ours = vgg_layers.build_architecture(
        vgg_layers.VggOptions(
            "vgg16", include_top=True, classifier_activation=activation or "linear"
        )
    )
    assert [x.name for x in chain.layers(ours)][1:] == [x.name for x in theirs.layers][1:]
    ours.set_weights(theirs.get_weights())
    image = images(2, 64, 64)
    expected = theirs(keras.applications.vgg19.preprocess_input(image * 255)).numpy()
    assert np.allclose(ours(image), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("last", ["block1_conv1", "block2_conv2", "block4_conv3", "block5_conv4"])
def test_network_ends_at_the_last_layer(monkeypatch, last):
    small_vgg(monkeypatch)
    whole = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
    cut = vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", last_layer=last))
    assert chain.layers(cut)[-1].name == last
    for layer in weighted(cut):
        layer.set_weights(whole.get_layer(layer.name).get_weights())
    expected = vn.features(whole, [last])(images())[last].numpy()
    assert np.allclose(cut(images()), expected, rtol=1e-5, atol=1e-5)


def test_average_pooling_averages(monkeypatch):
    small_vgg(monkeypatch)
    model = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", pooling="avg"))
    )
    names = ["block1_conv2", "block1_pool"]
    found = vn.features(model, names)(images())
    before, after = (found[name].numpy() for name in names)
    expected = before.reshape(4, 16, 2, 16, 2, -1).mean((2, 4))
    assert np.allclose(after, expected, rtol=1e-5, atol=1e-4)
    pools = [layer for layer in model.layers if layer.name.endswith("_pool")]
    assert [type(pool) for pool in pools] == [keras.layers.AveragePooling2D] * 5


def test_random_weights_follow_the_seed(monkeypatch):
    small_vgg(monkeypatch)
    first, same, other = (
        np.concatenate([w.ravel() for w in vn.build(weights="random", seed=seed).get_weights()])
        for seed in (1, 1, 2)
    )
    assert (first == same).all()
    assert (first != other).any()


def test_random_weights_are_he_normal():
    kernel, bias = (
        vn.build("vgg19", weights="random", last_layer="block3_conv1")
        .get_layer("block3_conv1")
        .get_weights()
    )
    fan_in = 3 * 3 * 128
    # A standard deviation from n draws has a relative standard error of 1 / sqrt(2 n).
    assert abs(kernel.std() / np.sqrt(2 / fan_in) - 1) < 5 / np.sqrt(2 * kernel.size)
    assert abs(kernel.mean()) < 5 * kernel.std() / np.sqrt(kernel.size)
    assert not bias.any()


def test_network_takes_any_size_without_classifier(monkeypatch):
    small_vgg(monkeypatch)
    model = vn.build("vgg16", weights="random")
    assert model.input_shape == (None, None, None, 3)
    assert model(images(1, 37, 50)).shape == (1, 1, 1, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "resnet50"}, "vgg16 or vgg19.*Received: 'resnet50'"),
        ({"pooling": "min"}, "max or avg.*Received: 'min'"),
        ({"last_layer": "block9_conv1"}, "Received: 'block9_conv1'.*block5_conv4"),
        ({"architecture": "vgg16", "last_layer": "block3_conv4"}, "Received: 'block3_conv4'"),
        ({"include_top": True, "last_layer": "block1_conv1"}, "include_top or last_layer"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(NetworkError, match=message):
        vn.build(**{"architecture": "vgg19", "weights": "random", **options})


def test_channels_first_as_keras_default_changes_nothing(monkeypatch):
    small_vgg(monkeypatch)
    expected = vn.build("vgg19", weights="random")(images()).numpy()
    keras.config.set_image_data_format("channels_first")
    try:
        found = vn.build("vgg19", weights="random")(images()).numpy()
    finally:
        keras.config.set_image_data_format("channels_last")
    assert (found == expected).all()
