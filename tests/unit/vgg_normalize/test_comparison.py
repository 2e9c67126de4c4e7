"""The comparison: networks made of each other by hand, and the published network."""

from __future__ import annotations

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers import DATA, draw_weights, images, small_vgg, tiny_chain
from html_reader import Reader
from keras import layers

import vgg_normalize as vn
from vgg_normalize import comparison, rescaling
from vgg_normalize.comparison import as_json, compare, compare_means
from vgg_normalize.errors import NetworkError
from vgg_normalize.means import Means
from vgg_normalize.networks import chain, vgg_layers
from vgg_normalize.report import comparison_html

PUBLISHED = DATA / "weights" / "vgg19_normalised_to_block3_conv1.npz"
TRAINED = DATA / "weights" / "vgg19_imagenet_8bit.npz"
MEASURED = DATA / "means" / "vgg19_imagenet_means.npz"
CONVOLUTIONS = ["block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2", "block3_conv1"]


def deep(seed=0, widths=(5, 6, 7), last="softmax") -> keras.Model:
    """Three convolutions, a dense layer after Flatten, and a read-out without ReLU."""
    stack = [keras.Input((8, 8, 3))]
    for i, width in enumerate(widths):
        stack.append(layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{i}"))
        stack.append(layers.MaxPooling2D() if i < 2 else layers.Identity())
    stack += [layers.Flatten(), layers.Dense(9, activation="relu", name="hidden")]
    return draw_weights(keras.Sequential([*stack, layers.Dense(4, last, name="out")]), seed)


def change(model, name, kernel=None, bias=None) -> None:
    """Replace a layer's kernel and bias by what functions make of copies of them."""
    layer = model.get_layer(name)
    arrays = [array.copy() for array in layer.get_weights()]
    for array, function in zip(arrays, (kernel, bias), strict=True):
        if function is not None:
            function(array)
    layer.set_weights(arrays)


def permute(order):
    def function(array):
        array[...] = array[..., order]

    return function


def put(index, value):
    def function(array):
        array[..., index] = value

    return function


def multiply(index, factor):
    def function(array):
        array[..., index] *= factor

    return function


def rescaled(model, seed=1, low=1e-3, high=1e3):
    """The model with each filter divided by a random positive factor, and the factors."""
    random = np.random.default_rng(seed)
    scales = {
        stage.layer.name: np.exp(
            random.uniform(np.log(low), np.log(high), stage.layer.kernel.shape[-1])
        )
        for stage in chain.stages(model)
        if stage.rectified
    }
    zeros = {name: np.zeros_like(scale) for name, scale in scales.items()}
    means = Means(scales, zeros, dict.fromkeys(scales, 1), 1)
    return rescaling.normalize(model, means), scales


def test_the_scales_of_a_normalised_network_are_the_means(monkeypatch):
    small_vgg(monkeypatch)
    model = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
    means = vn.channel_means(model, [images(6)])
    found = compare(vn.normalize(model, means), model)
    assert found.same and found.sentence.startswith("The same network up to scales: 16 layers, ")
    assert [layer.name for layer in found.layers] == list(means.mean)
    for layer in found.layers:
        assert np.allclose(layer.scale, means.scales(layer.name), rtol=1e-5, atol=0)
        assert layer.scale.dtype == np.float64
        assert max(layer.residual, layer.bias_residual) < 1e-5
        assert (layer.differing, layer.hint) == ((), "")


@pytest.mark.parametrize("last", ["softmax", None, "relu"])
def test_random_factors_are_found_through_flatten_and_a_read_out(last):
    model = deep(last=last)
    other, scales = rescaled(model)
    found = compare(other, model, tolerance=1e-4)
    assert found.same, found.sentence
    for layer in found.layers:
        expected = scales.get(layer.name, np.ones(4))
        assert np.allclose(layer.scale, expected, rtol=1e-5, atol=0)
    assert (found.layers[-1].scale == 1).all() == (last != "relu")
    # The other way round the factors are the reciprocals.
    for layer in compare(model, other, tolerance=1e-4).layers:
        assert np.allclose(layer.scale * scales.get(layer.name, 1.0), 1, rtol=1e-5)


def test_the_factor_and_the_residual_are_least_squares_in_units_of_the_input():
    model = tiny_chain()
    other, _ = rescaled(model)
    random = np.random.default_rng(3)
    other.set_weights([w * random.uniform(0.99, 1.01, w.shape) for w in other.get_weights()])
    inputs = np.ones(3)
    for layer in compare(other, model).layers:
        (kernel, bias), (its, its_bias) = (
            [np.float64(array) for array in net.get_layer(layer.name).get_weights()]
            for net in (other, model)
        )
        its = its * inputs[:, None]
        scale = (kernel * its).sum((0, 1, 2)) / np.square(kernel).sum((0, 1, 2))
        residual = np.linalg.norm(scale * kernel - its) / np.linalg.norm(its)
        assert layer.residual == pytest.approx(residual, rel=1e-6) and residual > 1e-3
        bias_residual = np.linalg.norm(scale * bias - its_bias) / np.linalg.norm(its_bias)
        assert layer.bias_residual == pytest.approx(bias_residual, rel=1e-6)
        assert np.allclose(layer.scale, scale, rtol=1e-12)
        inputs = scale


def test_identical_networks_have_factors_of_exactly_one():
    found = compare(deep(), deep())
    assert found.same
    assert all((layer.scale == 1).all() and layer.residual == 0 for layer in found.layers)


def test_another_network_is_not_the_same():
    found = compare(deep(1), deep())
    assert not found.same
    first, *after = found.layers
    assert len(first.differing) == 5 and first.hint == "other kernels"
    assert found.sentence.startswith("Not the same network: conv0 differs in 5 of 5 filters (0, ")
    # Nothing of what follows can be told, and NaN says so.
    assert all("every filter of" in layer.hint and np.isnan(layer.residual) for layer in after)
    assert [len(layer.differing) for layer in after] == [6, 7, 9, 4]


FAULTS = {
    "negated": (multiply([1, 3], -1), None, (1, 3), "negated"),
    "pruned": (put(2, 0), None, (2,), "zero in weights"),
    "permuted": (
        permute([0, 4, 2, 1, 3, 5]),
        permute([0, 4, 2, 1, 3, 5]),
        (1, 3, 4),
        "permuted: filter 1 is the reference's 4",
    ),
    "bias": (None, put(5, 0.5), (5,), "another bias"),
    "drawn": (put(0, 0.1), None, (0,), "other kernels"),
    "mixed": (multiply(3, -1), put(1, 0.5), (1, 3), "1 another bias, 1 negated"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_filters_that_differ_are_told_and_no_others(fault):
    kernel, bias, differing, hint = FAULTS[fault]
    reference = deep()
    other, scales = rescaled(reference, low=0.1, high=10)
    undone = scales["conv1"]
    # Permuted as a network would have them: before the factors are divided out.
    change(other, "conv1", multiply(range(6), undone), multiply(range(6), undone))
    change(other, "conv1", kernel, bias)
    change(other, "conv1", multiply(range(6), 1 / undone), multiply(range(6), 1 / undone))
    found = compare(other, reference)
    assert not found.same
    first, layer, *after = found.layers
    assert (layer.differing, layer.hint) == (differing, hint)
    assert f"conv1 differs in {len(differing)} of 6 filters" in found.sentence
    assert found.sentence.endswith(f"): {hint}.")
    # Upstream and downstream nothing differs, and all other factors are found.
    assert first.differing == () and all(one.differing == () for one in after)
    assert all(one.residual < 1e-5 for one in after)
    kept = np.setdiff1d(range(6), differing)
    assert np.allclose(layer.scale[kept], undone[kept], rtol=1e-5)
    assert (layer.scale[list(differing)] == 1).all()
    for one in after[:-1]:
        assert np.allclose(one.scale, scales[one.name], rtol=1e-5)


def test_a_kernel_that_is_zero_in_the_reference_differs():
    reference = deep()
    change(reference, "conv1", put(4, 0))
    found = compare(deep(), reference)
    assert not found.same
    assert (found.layers[1].differing, found.layers[1].hint) == ((4,), "zero in the reference")


def test_filters_that_are_zero_in_both_are_not_told_apart():
    reference, other = deep(), deep()
    for model, factor in ((reference, 1.0), (other, 0.25)):
        change(model, "conv0", put([0, 2], 0), put([0, 2], np.array([0.4, -0.4]) * factor))
    # What reads the dead filter 2 reads zero: its kernel says nothing.

    def adapt(kernel):
        kernel[..., 0, :] *= 4
        kernel[..., 2, :] = 7.0

    change(other, "conv1", adapt)
    found = compare(other, reference, tolerance=1e-4)
    assert found.same, found.sentence
    # The factor of a constant is that of its bias; of a dead filter there is none.
    assert found.layers[0].scale[0] == pytest.approx(4)
    assert found.layers[0].scale[2] == 1 and found.layers[0].unknown == (2,)
    assert list(found.layers[0].known) == [True, True, False, True, True]


def test_a_constant_and_a_dead_filter_are_not_the_same():
    reference, other = deep(), deep()
    change(reference, "conv0", put(0, 0), put(0, 0.4))
    change(other, "conv0", put(0, 0), put(0, -0.4))
    found = compare(other, reference)
    assert (found.layers[0].differing, found.layers[0].hint) == ((0,), "another bias")


def test_networks_of_dead_filters_are_compared_by_their_biases():
    reference = deep()
    change(reference, "conv0", put(range(5), 0), put(range(5), -1))
    found = compare(reference, reference)
    assert found.same and found.layers[0].unknown == (0, 1, 2, 3, 4)
    json.dumps(as_json(found), allow_nan=False)
    other = deep()
    change(other, "conv0", put(range(5), 0), put(range(5), -1))
    change(other, "out", None, put(0, 9))
    assert compare(other, reference).layers[-1].differing == (0,)


def test_rounding_of_small_biases_is_no_difference():
    reference, other = deep(), deep()
    for model, size in ((reference, 0.0), (other, 1e-6)):
        change(model, "conv0", None, put(range(5), size))
        change(model, "conv1", None, put(0, 10 * size))
    assert compare(other, reference).same
    change(other, "conv1", None, put(0, 0.2))
    assert compare(other, reference).layers[1].differing == (0,)


def test_a_layer_without_relu_has_factor_one():
    reference, other = deep(), deep()
    change(other, "out", multiply(range(4), 0.5), multiply(range(4), 0.5))
    found = compare(other, reference)
    assert not found.same
    last = found.layers[-1]
    assert (last.scale == 1).all() and last.residual == pytest.approx(0.5)
    assert (last.differing, last.hint) == ((0, 1, 2, 3), "rescaled without a ReLU")


def noisy(share):
    """A chain whose every filter is off by this share of its norm, orthogonally to it."""
    other = tiny_chain()
    random = np.random.default_rng(99)
    for stage in chain.stages(other):
        kernel, bias = stage.layer.get_weights()
        noise = random.normal(size=kernel.shape)
        noise -= kernel * (noise * kernel).sum((0, 1, 2)) / np.square(kernel).sum((0, 1, 2))
        noise *= np.sqrt(np.square(kernel).sum((0, 1, 2)) / np.square(noise).sum((0, 1, 2)))
        stage.layer.set_weights([kernel + share * noise, bias])
    return other


@pytest.mark.parametrize(
    "share, tolerance, same", [(0.03, 0.02, False), (0.03, 0.05, True), (0.01, 0.02, True)]
)
def test_the_tolerance_is_that_of_a_layers_residual(share, tolerance, same):
    found = compare(noisy(share), tiny_chain(), tolerance=tolerance)
    assert found.same == same
    assert found.layers[0].residual == pytest.approx(share / np.sqrt(1 + share**2), rel=1e-4)
    # Not even three times the tolerance: no filter differs by itself.
    assert found.layers[0].differing == ()
    if not same:
        assert "first is off by 0.03" in found.sentence and "at most 0.02" in found.sentence


def test_a_filter_may_be_off_by_three_tolerances():
    first, second = compare(noisy(0.1), tiny_chain()).layers
    assert (first.differing, first.hint) == ((0, 1, 2, 3, 4), "nearly the reference's")
    assert second.hint.startswith("not comparable, because every filter of first differs")
    assert compare(noisy(0.05), tiny_chain()).layers[0].differing == ()


def test_networks_of_other_depth_are_compared_as_far_as_they_go():
    whole = deep()
    short = keras.Model(whole.inputs[0], whole.get_layer("conv1").output)
    for pair, where in (((short, deep()), "the reference"), ((deep(), short), "weights")):
        found = compare(*pair)
        assert not found.same and len(found.layers) == 2
        counts = [len(chain.stages(model)) for model in pair]
        assert f"weights have {counts[0]} layers and the reference {counts[1]}" in found.sentence
        assert f"conv2 in {where} only; the layers before it are the same" in found.sentence
    assert "before it are not the same" in compare(short, deep(1)).sentence


def test_layers_of_other_shapes_end_the_comparison():
    found = compare(deep(widths=(5, 4, 7)), deep())
    assert not found.same and [layer.name for layer in found.layers] == ["conv0"]
    assert "conv1 has a kernel of 3x3x5x4, and of 3x3x5x6 in the reference" in found.sentence
    found = compare(deep(widths=(2, 6, 7)), deep())
    assert found.layers == () and "layers before" not in found.sentence
    assert json.dumps(as_json(found), allow_nan=False)
    assert compare_means(means_of({"other": [1.0]}), found) == []


def test_a_relu_in_one_network_only_ends_the_comparison():
    found = compare(deep(last="relu"), deep())
    assert not found.same and "out has a ReLU in weights only" in found.sentence


def test_what_is_not_a_chain_or_not_finite_is_refused():
    image = keras.Input((8, 8, 3))
    tensor = layers.Conv2D(3, 3, padding="same", activation="relu")(image)
    branched = keras.Model(image, layers.Add()([tensor, image]))
    broken = deep()
    change(broken, "conv1", put(0, np.nan))
    for pair in ((branched, deep()), (deep(), branched), (broken, deep()), (deep(), broken)):
        with pytest.raises(NetworkError, match="Expected .*Received: "):
            compare(*pair)


def test_the_scales_are_saved(tmp_path):
    found = compare(*reversed((deep(), rescaled(deep())[0])))
    found.save_scales(tmp_path / "scales.npz")
    with np.load(tmp_path / "scales.npz") as file:
        assert file.files == [f"{layer.name}/scale" for layer in found.layers]
        assert all((file[f"{one.name}/scale"] == one.scale).all() for one in found.layers)


def test_json_holds_numbers_or_null():
    content = as_json(compare(deep(1), deep()), [])
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert (content["same"], content["tolerance"], content["means"]) == (False, 0.02, [])
    assert content["layers"][1]["residual"] is None
    assert content["layers"][1]["factor"] == {"min": None, "median": None, "max": None}
    other, scales = rescaled(deep())
    entry = as_json(compare(other, deep()))["layers"][0]
    values = [np.min(scales["conv0"]), np.median(scales["conv0"]), np.max(scales["conv0"])]
    assert list(entry["factor"].values()) == pytest.approx(values, rel=1e-5)
    assert entry["differing"] == [] and entry["residual"] < 1e-6


def means_of(mean, error=None) -> Means:
    mean = {name: np.array(values) for name, values in mean.items()}
    error = {name: np.array((error or {}).get(name, values * 0.1)) for name, values in mean.items()}
    return Means(mean, error, dict.fromkeys(mean, 1), 10)


def made(scale, differing=(), unknown=()) -> comparison.Comparison:
    layer = comparison.LayerComparison("first", 0.0, 0.0, np.array(scale), differing, "", unknown)
    return comparison.Comparison(True, "", (layer,))


def test_means_are_compared_by_closed_forms():
    means = means_of({"first": [2.0, 8.0, 12.0]}, {"first": [1.0, 2.0, 4.0]})
    (row,) = compare_means(means, made([1.0, 4.0, 4.0]))
    # Ratios 2, 2, 3; differences 1, 4, 8 are 1, 2, 2 standard errors.
    assert row["name"] == "first"
    assert row["ratio"]["mean"] == pytest.approx(7 / 3)
    assert row["ratio"]["deviation"] == pytest.approx(np.sqrt(2) / 3)
    assert row["rms_standard_errors"] == pytest.approx(np.sqrt(3))
    assert row["rms_about_average"] == pytest.approx(np.sqrt(2) / 3)
    # log 2 (1, 3, log2 12) against log 2 (0, 2, 2).
    x = np.array([1, 3, np.log2(12)])
    expected = 2 * (x[1] + x[2] - 2 * x.mean()) / np.sqrt(8 / 3 * np.square(x - x.mean()).sum())
    assert row["log_correlation"] == pytest.approx(expected)


def test_filters_that_say_nothing_are_left_out():
    mean = {"first": [2.0, 0.0, 5.0, 5.0, 5.0, 5.0, 6.0]}
    error = {"first": [0.5, 0.0, 0.0, np.inf, 1.0, 1.0, 1.0]}
    found = made([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0], differing=(4,), unknown=(5,))
    (row,) = compare_means(means_of(mean, error), found)
    assert row["ratio"] == {"mean": 2, "deviation": 0}
    assert row["log_correlation"] == pytest.approx(1)
    assert row["rms_standard_errors"] == pytest.approx(np.sqrt((2**2 + 3**2) / 2))


def test_what_cannot_be_had_of_means_is_none():
    (row,) = compare_means(means_of({"first": [0.0, 0.0]}), made([1.0, 1.0]))
    assert row.pop("name") == "first" and set(row.values()) == {None} and len(row) == 4
    (row,) = compare_means(means_of({"first": [2.0, 3.0]}), made([1.0, 1.0]))
    assert row["log_correlation"] is None and row["ratio"]["mean"] == 2.5


@pytest.mark.parametrize("mean", [{"first": [1.0, 2.0]}, {"other": [1.0]}, {}])
def test_means_of_something_else_are_refused(mean):
    with pytest.raises(NetworkError, match="^Expected means.*Received: .*Use means") as caught:
        compare_means(means_of(mean), made([1.0, 1.0, 1.0]))
    assert "\n" not in str(caught.value)


def test_means_of_more_layers_are_compared_where_both_are():
    rows = compare_means(means_of({"first": [1.0], "later": [1.0, 2.0]}), made([1.0]))
    assert [row["name"] for row in rows] == ["first"]


def page(found, **content) -> tuple[Reader, str]:
    facts = {"settings": {"weights": "<w>"}, "versions": {"tensorflow": "2"}, **content}
    text = comparison_html.render(facts, found)
    return Reader(text), text


def test_the_page_stands_alone_and_tells_all():
    other, scales = rescaled(tiny_chain())
    found = compare(other, tiny_chain())
    means = means_of(scales)
    reader, text = page(
        found,
        weights={"source": "<a>.npz", "description": "normalised & cut"},
        reference={"source": "imagenet", "description": None},
        compare=as_json(found, compare_means(means, found)),
    )
    assert reader.open == []
    told = "".join(reader.text)
    for part in (found.sentence, "<a>.npz", "normalised & cut", "imagenet", "1.0000", "<w>"):
        assert part in told, part
    assert "<a>" not in text and '<p class="verdict">' in text
    (source,) = [attributes["src"] for _, attributes in reader.found if "src" in attributes]
    assert source.startswith("data:image/png;base64,")


def test_the_page_of_another_network_is_red_whatever_the_sentence():
    found = compare(deep(1), deep())
    reader, text = page(replace(found, sentence="The same network."))
    assert '<p class="verdict failed">' in text and reader.open == []
    assert "other kernels" in text and "nan" not in "".join(reader.text)
    assert '<p class="verdict">' in page(replace(found, same=True))[1]


def test_the_page_without_layers_has_no_figure():
    reader, text = page(compare(deep(widths=(2, 6, 7)), deep()))
    assert "<img" not in text and reader.open == []


@pytest.fixture(scope="module")
def real():
    """The published network, the trained one, and what was measured of it."""
    if not all(path.exists() for path in (PUBLISHED, TRAINED, MEASURED)):
        pytest.skip(f"no real weights and means in {DATA}")
    networks = [
        vn.build("vgg19", weights=path, last_layer="block3_conv1") for path in (PUBLISHED, TRAINED)
    ]
    return *networks, Means.load(MEASURED)


def test_the_published_network_is_the_trained_one_up_to_scales(real):
    published, trained, _ = real
    found = compare(published, trained)
    assert found.same, found.sentence
    assert [layer.name for layer in found.layers] == CONVOLUTIONS
    residuals = [round(layer.residual, 4) for layer in found.layers]
    assert residuals == [0.0040, 0.0065, 0.0084, 0.0079, 0.0090]
    medians = [round(float(np.median(layer.scale)), 1) for layer in found.layers]
    assert medians == [18.2, 60.9, 123.9, 95.0, 122.0]
    for layer in found.layers:
        # Biases are exact in both, so that they tell the factors.
        its, bias = (net.get_layer(layer.name).get_weights()[1] for net in (trained, published))
        assert layer.differing == () and np.abs(layer.scale * bias / its - 1).max() < 0.005
    assert compare(trained, published).same


def test_the_factors_of_the_published_network_are_the_means(real):
    published, trained, means = real
    rows = compare_means(means, compare(published, trained))
    ratios = [(round(r["ratio"]["mean"], 3), round(r["ratio"]["deviation"], 3)) for r in rows]
    assert ratios == [(0.976, 0.031), (0.977, 0.021), (0.976, 0.033), (0.978, 0.023), (0.978, 0.04)]
    correlations = [row["log_correlation"] for row in rows]
    # Found with the factors of the biases, which differ in the fifth digit.
    assert correlations == pytest.approx([0.9978, 0.9995, 0.9980, 0.9974, 0.9955], abs=1e-4)
