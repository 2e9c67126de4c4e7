"""Batch normalisation folded away: the same function, or a refusal that names the layer."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import TINY, command, draw_weights, images, pictures, refused, small_vgg
from keras import layers

import vgg_normalize as vn
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import batch_norm, chain, preprocessing, vgg_layers

pytestmark = pytest.mark.slow

SIDE = 16
BATCH = images(4, SIDE, SIDE)
TOLERANCE = 1e-5
# Of 16 or 19 layers in float32: rounding of both networks.  In float64 there is next to none.
DEEP_TOLERANCE = 5e-5
EXACT = 1e-11


def norm(name="norm", **options):
    return layers.BatchNormalization(name=name, **options)


def conv(name="first", filters=5, size=3, **options):
    return layers.Conv2D(filters, size, name=name, **{"padding": "same", **options})


def after(name="second", **options):
    """A convolution that reads what went before inside the image only."""
    return conv(name, 4, **{"padding": "valid", **options})


def network(*stack, signs=(-1, 1), shifts=True, seed=0):
    """A chain with random numbers, those of batch normalisation far from one and zero."""
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *stack])
    draw_weights(model, seed)
    random = np.random.default_rng(seed)
    for layer in filter(batch_norm.is_batch_norm, chain.layers(model)):
        shape = layer.moving_variance.shape
        layer.moving_variance.assign(random.uniform(0.002, 2, shape))
        layer.moving_mean.assign(random.normal(0, 1, shape) * shifts)
        if layer.scale:
            # Each sign at least once, whatever is drawn.
            sign = np.resize(signs, shape)
            layer.gamma.assign(random.uniform(0.5, 2, shape) * sign)
        if layer.center:
            layer.beta.assign(random.normal(0, 1, shape) * shifts)
    return model


def deviation(one, other, batch=BATCH):
    """The largest difference at inference, relative to the largest output."""
    found, expected = (np.asarray(net(batch, training=False), np.float64) for net in (one, other))
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3, "an output that shows nothing"
    return np.abs(found - expected).max() / np.abs(expected).max()


def assert_folds(model):
    folded = vn.fold_batch_norm(model)
    kept = [x.name for x in chain.layers(model) if not batch_norm.is_batch_norm(x)]
    assert [layer.name for layer in chain.layers(folded)] == kept
    assert chain.stages(folded)
    assert deviation(folded, model) <= TOLERANCE
    return folded


def test_the_numbers_are_the_formula_in_float64_cast_once():
    model = network(conv(), norm(epsilon=0.01), layers.ReLU())
    kernel, bias = (x.astype(np.float64) for x in model.get_layer("first").get_weights())
    gamma, beta, mean, variance = (
        x.astype(np.float64) for x in model.get_layer("norm").get_weights()
    )
    gain = gamma / np.sqrt(variance + 0.01)
    expected = kernel * gain, bias * gain + beta - mean * gain
    for found, right in zip(vn.fold_batch_norm(model).get_weights(), expected, strict=True):
        assert found.dtype == np.float32
        assert np.abs(found / right - 1).max() < 1e-6


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
@pytest.mark.parametrize("behind", ["convolution", "relu", "dense"])
def test_every_option(center, scale, use_bias, epsilon, behind):
    bn = norm(center=center, scale=scale, epsilon=epsilon)
    model = {
        "convolution": lambda: network(
            conv(use_bias=use_bias), bn, layers.ReLU(), conv("second", use_bias=use_bias)
        ),
        "relu": lambda: network(
            conv(use_bias=use_bias), layers.ReLU(), bn, after(use_bias=use_bias)
        ),
        "dense": lambda: network(
            layers.Flatten(), layers.Dense(6, use_bias=use_bias, name="first"), bn, layers.ReLU()
        ),
    }[behind]()
    folded = assert_folds(model)
    changed = "second" if behind == "relu" else "first"
    assert folded.get_layer(changed).use_bias
    if behind == "convolution":
        assert folded.get_layer("second").use_bias == use_bias


BEFORE_RELU = {
    "relu": lambda: [layers.ReLU()],
    "activation": lambda: [layers.Activation("relu"), after()],
    "dropout": lambda: [layers.ReLU(), layers.Dropout(0.5), layers.SpatialDropout2D(0.5)],
    "max": lambda: [layers.ReLU(), layers.MaxPooling2D(), conv("second")],
    "pool before relu": lambda: [layers.MaxPooling2D(), layers.ReLU(), conv("second")],
    "average": lambda: [layers.ReLU(), layers.AveragePooling2D(2), conv("second")],
    "padding": lambda: [layers.ReLU(), layers.ZeroPadding2D(2), after()],
    "flatten": lambda: [layers.ReLU(), layers.Flatten(), layers.Dense(3)],
    "global": lambda: [layers.ReLU(), layers.GlobalMaxPooling2D(), layers.Dense(3)],
    "no relu": lambda: [conv("second")],
    "read-out": lambda: [],
}


@pytest.mark.parametrize("rest", BEFORE_RELU)
def test_before_the_relu_anything_may_follow(rest):
    assert_folds(network(conv(), norm(), *BEFORE_RELU[rest]()))


BETWEEN = {
    "nothing": lambda: [],
    "dropout": lambda: [layers.Dropout(0.5)],
    "identity": lambda: [layers.Identity(), layers.Activation("linear")],
    "average": lambda: [layers.AveragePooling2D(2)],
    "average same": lambda: [layers.AveragePooling2D(3, strides=2, padding="same")],
    "crop": lambda: [layers.Cropping2D(2)],
}
ONLY_POSITIVE = {
    "max": lambda: [layers.MaxPooling2D()],
    "max same": lambda: [layers.MaxPooling2D(3, strides=2, padding="same")],
}
ENDS = {
    "convolution": lambda: [after()],
    "one by one": lambda: [conv("second", 4, 1, strides=2)],
    "flatten": lambda: [layers.Flatten(), layers.Dense(6), layers.Softmax()],
    "global average": lambda: [layers.GlobalAveragePooling2D(), layers.Dense(6)],
    "dense on positions": lambda: [layers.Dense(6)],
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("between", BETWEEN)
def test_after_the_relu(fused, end, between):
    relu = [] if fused else [layers.ReLU()]
    first = conv(activation="relu" if fused else None)
    assert_folds(network(first, *relu, norm(), *BETWEEN[between](), *ENDS[end]()))


@pytest.mark.parametrize("end", [*ENDS, "global max"])
@pytest.mark.parametrize("between", ONLY_POSITIVE)
def test_after_the_relu_maxima_pass_gains_that_are_not_negative(end, between):
    ends = {**ENDS, "global max": lambda: [layers.GlobalMaxPooling2D(), layers.Dense(6)]}
    for signs in ((1, 1), (0, 1)):
        stack = (conv(activation="relu"), norm(), *ONLY_POSITIVE[between](), *ends[end]())
        assert_folds(network(*stack, signs=signs))


def test_after_pooling_the_sign_does_not_matter():
    assert_folds(network(conv(activation="relu"), layers.MaxPooling2D(), norm(), after()))
    assert_folds(
        network(conv(activation="relu"), layers.Flatten(), norm(), layers.Dense(6, name="second"))
    )


@pytest.mark.parametrize(
    "padded", [lambda: [conv("second")], lambda: [layers.ZeroPadding2D(1), after()]]
)
def test_zero_padding_passes_a_shift_of_zero(padded):
    assert_folds(network(conv(activation="relu"), norm(), *padded(), shifts=False))


@pytest.mark.parametrize("pool", [layers.MaxPooling2D, layers.AveragePooling2D])
def test_pooling_before_batch_normalisation_before_the_relu(pool):
    model = network(conv(), pool(2), norm(), layers.ReLU(), conv("second"), signs=(1, 1))
    assert_folds(model)


def test_negative_gains_behind_a_linear_convolution_and_maxima_go_forward():
    folded = assert_folds(network(conv(), layers.MaxPooling2D(), norm(), after()))
    assert folded.get_layer("first").kernel.shape[-1] == 5


def test_several_in_a_row_and_everywhere():
    assert_folds(network(conv(), norm("a"), layers.Dropout(0.1), norm("b"), layers.ReLU(), after()))
    assert_folds(network(conv(activation="relu"), norm("a"), norm("b", scale=False), after()))
    # Two negative gains are a positive one.
    twice = [norm("a"), norm("b"), layers.MaxPooling2D(), after()]
    assert_folds(network(conv(activation="relu"), *twice))
    every = [conv(), norm("a"), layers.ReLU(), norm("b"), after(), norm("c"), layers.ReLU()]
    dense = [layers.Dense(6), norm("e"), layers.ReLU(), norm("f"), layers.Dense(3)]
    assert_folds(network(norm("image"), after("zero"), *every, norm("d"), layers.Flatten(), *dense))


def test_on_the_image_itself():
    assert_folds(network(layers.Rescaling(2.0, -1.0), norm(), after(activation="relu")))
    assert_folds(network(norm(), layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(4)))


def test_nested_models_are_opened():
    inner = keras.Sequential([keras.Input((SIDE, SIDE, 3)), conv(), norm()], name="inner")
    assert_folds(network(inner, layers.ReLU(), conv("second")))


def test_a_network_without_batch_normalisation_is_copied():
    model = network(conv(activation="relu"), layers.MaxPooling2D(), conv("second", use_bias=False))
    folded = assert_folds(model)
    assert deviation(folded, model) == 0
    assert not batch_norm.has_batch_norm(model)


def test_other_axes_are_those_of_channels():
    assert_folds(network(conv(), norm(axis=3), layers.ReLU()))
    assert_folds(network(layers.Flatten(), layers.Dense(6), norm(axis=1), layers.ReLU()))


def test_the_argument_is_left_as_it_was():
    model = network(conv(), norm(), layers.ReLU(), norm("other"), after())
    before, config = model.get_weights(), model.get_config()
    expected = model(BATCH, training=False).numpy()
    folded = vn.fold_batch_norm(model)
    draw_weights(folded, seed=1)
    assert model.get_config() == config
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert (model(BATCH, training=False).numpy() == expected).all()


def relu_norm(*rest, **options):
    return network(conv(activation="relu"), norm(), *rest, **options)


REFUSED = {
    "zeros around what is shifted": (lambda: relu_norm(conv("bad")), "'bad' pads with zeros"),
    "zero padding": (
        lambda: relu_norm(layers.ZeroPadding2D(name="bad"), after()),
        r"'bad' \(ZeroPadding2D\) pads with zeros",
    ),
    "maxima": (
        lambda: relu_norm(layers.MaxPooling2D(name="bad"), after()),
        r"'bad' \(MaxPooling2D\) takes maxima, and 3 gains are negative",
    ),
    "global maxima": (
        lambda: relu_norm(layers.GlobalMaxPooling2D(name="bad"), layers.Dense(3)),
        r"'bad' \(GlobalMaxPooling2D\) takes maxima",
    ),
    "nothing after": (lambda: relu_norm(), "no layer with weights"),
    "only pooling after": (lambda: relu_norm(layers.AveragePooling2D(2)), "no layer with weights"),
    "between two relu": (
        lambda: relu_norm(layers.ReLU(name="bad"), after()),
        r"'bad' \(ReLU\) stands in between",
    ),
    "neither way": (
        lambda: network(conv(), layers.MaxPooling2D(name="max"), norm(), layers.ReLU(name="bad")),
        r"'bad' \(ReLU\) stands in between; nor by what comes before: 'max'",
    ),
    "flattened": (
        lambda: network(conv(), layers.Flatten(name="flat"), norm()),
        r"before: 'flat' \(Flatten\) gave each position",
    ),
    "padded image": (lambda: network(norm(), conv("bad")), "'bad' pads with zeros"),
    "image before rescaling": (
        lambda: network(norm(), layers.Rescaling(2.0, name="bad"), after()),
        r"'bad' \(Rescaling\) stands in between",
    ),
    "rows": (lambda: network(conv(), norm(axis=1), layers.ReLU()), "axis=1 of 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_is_refused_by_name(case):
    make, reason = REFUSED[case]
    with pytest.raises(NetworkError, match=f"^Expected .*Received: layer 'norm'.*{reason}") as one:
        vn.fold_batch_norm(make())
    assert "\n" not in str(one.value)


def test_several_in_a_row_are_all_named():
    with pytest.raises(NetworkError, match="layer 'a', 'b'"):
        vn.fold_batch_norm(network(conv(activation="relu"), norm("a"), norm("b")))


@pytest.mark.parametrize(
    ("which", "value"),
    [
        ("moving_variance", -0.001),
        ("moving_variance", np.nan),
        ("moving_variance", np.inf),
        ("moving_mean", np.nan),
        ("gamma", np.inf),
        ("beta", np.nan),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_name(which, value):
    model = network(conv(), norm(), layers.ReLU())
    weight = getattr(model.get_layer("norm"), which)
    weight.assign(np.where(np.arange(5) == 3, value, weight.numpy()))
    with pytest.raises(NetworkError, match=f"layer 'norm' with {value} ?.* in {which}"):
        vn.fold_batch_norm(model)


def test_a_division_by_zero_is_refused():
    model = network(conv(), norm(epsilon=0), layers.ReLU())
    model.get_layer("norm").moving_variance.assign(np.float32([1, 1, 0, 1, 1]))
    with pytest.raises(NetworkError, match=r"'norm' with 0\.0 in moving_variance, epsilon 0"):
        vn.fold_batch_norm(model)


def test_other_layers_that_pass_no_scales_are_refused_as_ever():
    with pytest.raises(NetworkError, match="'bad'.*not rescalable"):
        vn.fold_batch_norm(network(conv(), norm(), layers.ELU(name="bad"), after()))
    groups = conv("bad", 6, groups=3, padding="valid")
    with pytest.raises(NetworkError, match="'bad'.*groups=3"):
        vn.fold_batch_norm(network(conv(filters=6, activation="relu"), norm(), groups))


def test_stages_say_what_to_do():
    with pytest.raises(NetworkError, match="'norm'.*not rescalable.*fold_batch_norm"):
        vn.channel_means(network(conv(), norm(), layers.ReLU()), [BATCH])


# Faults: the comparison above notices them.


def wrong_epsilon(monkeypatch, model):
    model.get_layer("norm").epsilon = 1.1e-3


def no_shift(monkeypatch, model):
    read = batch_norm._read
    monkeypatch.setattr(batch_norm, "_read", lambda x: (y := read(x))._replace(shift=0 * y.shift))


def no_sign(monkeypatch, model):
    read = batch_norm._read
    monkeypatch.setattr(batch_norm, "_read", lambda x: (y := read(x))._replace(gain=np.abs(y.gain)))


def padded(monkeypatch, model):
    monkeypatch.setattr(batch_norm, "_require_unpadded", lambda *_: None)
    monkeypatch.setattr(batch_norm, "_obstacle", lambda *_: None)


@pytest.mark.parametrize("fault", [wrong_epsilon, no_shift, no_sign])
@pytest.mark.parametrize("relu_first", [False, True])
def test_a_wrong_fold_is_noticed(monkeypatch, fault, relu_first):
    activation = "relu" if relu_first else None
    model = network(conv(activation=activation), norm(), after(activation="relu"))
    expected = keras.models.clone_model(model)
    expected.set_weights(model.get_weights())
    assert deviation(vn.fold_batch_norm(model), expected) <= TOLERANCE
    fault(monkeypatch, model)
    assert deviation(vn.fold_batch_norm(model), expected) > 2 * TOLERANCE


@pytest.mark.parametrize("case", ["zeros around what is shifted", "zero padding", "maxima"])
def test_what_is_refused_would_be_wrong(monkeypatch, case):
    model = REFUSED[case][0]()
    padded(monkeypatch, model)
    assert deviation(vn.fold_batch_norm(model), model) > 100 * TOLERANCE


# The main job on a VGG with batch normalisation.


def vgg_bn(architecture="vgg16", last_layer=None, rename=str, seed=0, dtype="float32", **options):
    """VGG with batch normalisation between each convolution and its ReLU, on preprocessed pixels."""
    stack: list[keras.Layer] = []
    for layer in vgg_layers.build_architecture(
        vgg_layers.VggOptions(architecture, last_layer=last_layer, **options)
    ).layers[2:]:
        if not chain.is_weighted(layer) or layer.name == "predictions":
            stack.append(chain.copy_layer(layer, name=rename(layer.name), dtype=dtype))
            continue
        changes = {"activation": None, "use_bias": False, "dtype": dtype}
        stack.append(chain.copy_layer(layer, name=rename(layer.name), **changes))
        stack.append(norm(rename(layer.name + "_norm"), epsilon=1e-5, dtype=dtype))
        stack.append(layers.ReLU(name=rename(layer.name + "_relu"), dtype=dtype))
    side = vgg_layers.CLASSIFIER_SIZE if options.get("include_top") else None
    model = draw_weights(chain.assemble(stack, (side, side, 3), "vgg_bn"), seed)
    # What training would leave behind: numbers near those of its own activations.
    random = np.random.default_rng(seed)
    x = preprocessing.Preprocessing()(images(4, 64, 64)).numpy()
    for layer in model.layers[1:]:
        if batch_norm.is_batch_norm(layer):
            axes = tuple(range(x.ndim - 1))
            layer.moving_mean.assign(x.mean(axes) + 0.1 * x.std(axes))
            layer.moving_variance.assign(x.var(axes) * 1.1)
            layer.gamma.assign(random.uniform(0.5, 2, x.shape[-1]) * random.choice([-1, 1]))
            layer.beta.assign(random.normal(0.2, 0.5, x.shape[-1]))
        x = layer(x, training=False).numpy()
    return model


def of_images(model):
    """The same network for images in [0, 1]."""
    shape = chain.image_shape(model)
    originals = chain.layers(model)
    fresh = [chain.copy_layer(layer) for layer in originals]
    copied = chain.assemble([preprocessing.Preprocessing(name="pre"), *fresh], shape, "of_images")
    for new, old in zip(fresh, originals, strict=True):
        new.set_weights(old.get_weights())
    return copied


@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_a_deep_network_is_the_same_but_for_rounding(monkeypatch, architecture):
    small_vgg(monkeypatch)
    pixels = preprocessing.Preprocessing()(images(4, 64, 64)).numpy()
    double = vgg_bn(architecture, include_top=True, dtype="float64")
    assert deviation(vn.fold_batch_norm(double), double, pixels) <= EXACT
    single = vgg_bn(architecture, include_top=True)
    double.set_weights(single.get_weights())
    folded = vn.fold_batch_norm(single)
    # Against the truth the folded network is about as good as the network itself.
    assert deviation(single, double, pixels) <= DEEP_TOLERANCE
    assert deviation(folded, double, pixels) <= DEEP_TOLERANCE


def test_a_folded_vgg_is_normalised_and_proved(monkeypatch):
    small_vgg(monkeypatch)
    original = of_images(vgg_bn(include_top=True))
    folded = vn.fold_batch_norm(original)
    batch = images(6, 64, 64)
    assert deviation(folded, original, batch) <= DEEP_TOLERANCE
    means = vn.channel_means(folded, [batch])
    assert len(means.mean) == 15
    result = vn.check(folded, vn.normalize(folded, means), means, [batch])
    assert result.passed
    assert deviation(vn.normalize(folded, means), original, batch) <= DEEP_TOLERANCE


@pytest.mark.parametrize(
    ("architecture", "rename"), [("vgg16", str), ("vgg19", lambda name: "my_" + name)]
)
def test_a_keras_file_is_folded_by_name_and_by_order(monkeypatch, tmp_path, architecture, rename):
    small_vgg(monkeypatch)
    original = vgg_bn(architecture, include_top=True, rename=rename)
    original.save(tmp_path / "bn.keras")
    built = vn.build(architecture, weights=tmp_path / "bn.keras", include_top=True)
    assert deviation(built, of_images(original), images(4, 64, 64)) <= DEEP_TOLERANCE
    with pytest.raises(NetworkError, match="Expected 1[69] layers"):
        other = {"vgg16": "vgg19", "vgg19": "vgg16"}[architecture]
        vn.build(other, weights=tmp_path / "bn.keras", include_top=True)


def to_legacy(model, path):
    model.save(path)


def to_weights(model, path):
    model.save_weights(path)


def to_npz(model, path):
    named = {"/".join(w.path.split("/")[-2:]): w.numpy() for w in model.weights}
    np.savez(path, **named)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(
    ("name", "write"),
    [("bn.h5", to_legacy), ("bn.weights.h5", to_weights), ("bn.npz", to_npz)],
)
@pytest.mark.filterwarnings("ignore")
def test_files_of_arrays_are_refused(monkeypatch, tmp_path, name, write, center):
    small_vgg(monkeypatch)
    first = conv("block1_conv1", 4)
    model = network(first, norm("my_norm", center=center, scale=center), layers.ReLU())
    write(model, tmp_path / name)
    message = rf"^Expected .*Received: .*{name} with batch norm.*'my_norm'.*Give the \.keras file"
    with pytest.raises(NetworkError, match=message) as caught:
        vn.build("vgg16", weights=tmp_path / name, last_layer="block1_conv1")
    assert "\n" not in str(caught.value)
    # Without it the same file is read.
    write(network(conv("block1_conv1", 4), layers.ReLU()), tmp_path / name)
    vn.build("vgg16", weights=tmp_path / name, last_layer="block1_conv1")


def test_the_command_normalises_a_vgg_with_batch_normalisation(monkeypatch, tmp_path, capsys):
    small_vgg(monkeypatch)
    original = vgg_bn("vgg16", last_layer="block2_conv1")
    original.save(tmp_path / "bn.keras")
    where = (f"--images={pictures(tmp_path / 'pictures', 6)}", f"--output={tmp_path / 'out'}")
    flags = (*TINY, f"--weights={tmp_path / 'bn.keras'}", "--last_layer=block2_conv1")
    assert command("--architecture=vgg16", *flags, *where) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["check"]["passed"] is True
    means = np.load(tmp_path / "out" / "means.npz")
    saved = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))(tf.constant(BATCH))
    names = ["block1_conv1", "block1_conv2", "block2_conv1"]
    assert sorted(saved) == names
    relus = [f"{name}_relu" for name in names]
    whole = of_images(original)
    expected = keras.Model(whole.input, [whole.get_layer(relu).output for relu in relus])
    outputs = expected(BATCH, training=False)
    for name, output in zip(names, outputs, strict=True):
        mean = means[f"{name}/mean"]
        found = saved[name].numpy() * np.where(mean > 0, mean, 1)
        assert np.abs(found - output).max() <= TOLERANCE * np.abs(output).max(), name


def test_the_command_refuses_in_one_line(monkeypatch, tmp_path, capsys):
    small_vgg(monkeypatch)
    stack = [conv("block1_conv1", 4, activation="relu"), norm("mine"), conv("block1_conv2", 4)]
    network(*stack).save(tmp_path / "bn.keras")
    where = (f"--weights={tmp_path / 'bn.keras'}", "--images=sample", f"--output={tmp_path / 'o'}")
    line = refused(capsys, 3, *TINY, *where)
    assert "'mine' (BatchNormalization)" in line
    assert "'block1_conv2' pads with zeros" in line
    assert not (tmp_path / "o").exists()
