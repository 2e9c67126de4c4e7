"""Means that come with the package or from a file: whose they are, and what is made with them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from importlib import resources

import keras
import numpy as np
import pytest
from helpers import (
    DATA,
    TINY,
    arrays,
    command,
    draw_weights,
    images,
    pictures,
    refused,
    small_vgg,
)
from torch_writer import save as save_torch

import vgg_normalize as vn
from vgg_normalize import comparison, saved_network, shipped_means
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain, vgg_layers
from vgg_normalize.weights import loading

pytestmark = pytest.mark.slow

CUT = "block2_conv1"
CHANNELS = (64, 64, 128, 128, 256, 256, 256, 256, *(512,) * 8)


@pytest.fixture(scope="module")
def means():
    return shipped_means.imagenet_means("vgg19")


# The means of the package.


@pytest.mark.parametrize("name", ["imagenet_means", "normalized", "compare"])
def test_the_package_has_them_under_the_names_of_the_contract(name):
    assert callable(getattr(vn, name))


def test_the_shipped_means_are_those_of_all_layers(means):
    assert list(means.mean) == vgg_layers.convolutions("vgg19")
    assert tuple(len(mean) for mean in means.mean.values()) == CHANNELS
    assert tuple(len(error) for error in means.standard_error.values()) == CHANNELS
    assert list(means.positions) == list(means.standard_error) == list(means.mean)


def test_the_shipped_means_were_measured_on_1000_squashed_images(means):
    assert means.images == 1000
    sides = {"block1": 224, "block2": 112, "block3": 56, "block4": 28, "block5": 14}
    for name, positions in means.positions.items():
        assert positions == 1000 * sides[name.split("_")[0]] ** 2
    assert means.positions["block1_conv1"] == 50176000


def test_no_shipped_mean_is_of_a_dead_filter(means):
    for name, mean in means.mean.items():
        assert mean.dtype == np.float64 and np.isfinite(mean).all() and (mean > 0).all()
        relative = means.standard_error[name] / mean
        assert (relative > 0).all() and relative.max() < 0.2
        told = means.settings["relative_standard_errors"][name]
        assert told["median"] == pytest.approx(np.median(relative), abs=6e-5)
        assert told["max"] == pytest.approx(relative.max(), abs=6e-5)


def test_the_shipped_means_say_how_they_were_measured(means):
    conditions = {"pooling": "max", "preprocessing": "caffe", "resize": "squash", "image_size": 224}
    said = {name: means.settings.get(name) for name in shipped_means.CONDITIONS}
    assert said == {**conditions, "padding": None}  # measured before there was a choice: zero
    assert means.settings["architecture"] == "vgg19"
    assert list(means.settings["biases"]) == vgg_layers.convolutions("vgg19")
    assert all(re.fullmatch("[0-9a-f]{16}", d) for d in means.settings["biases"].values())
    assert shipped_means.differences(means, {**conditions, "padding": "zero"}) == []
    (difference,) = shipped_means.differences(means, {**conditions, "padding": "reflect"})
    assert difference == "padding zero, not reflect"


def test_the_shipped_means_are_the_measurement_of_the_project(means):
    path = DATA / "means" / "vgg19_imagenet_means.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    measured = vn.Means.load(path)
    for name, mean in measured.mean.items():
        assert np.array_equal(means.mean[name], mean), name
        assert np.array_equal(means.standard_error[name], measured.standard_error[name]), name


def test_there_are_no_means_of_vgg16():
    with pytest.raises(NetworkError, match="Expected vgg19, whose.*Received: 'vgg16'. Measure"):
        shipped_means.imagenet_means("vgg16")
    with pytest.raises(NetworkError, match="'vgg16'"):
        shipped_means.normalized("vgg16", weights="random")


def test_the_digest_is_that_of_the_file_that_comes_with_the_package(means):
    found, digest = shipped_means.load_means("shipped", "vgg19")
    content = resources.files("vgg_normalize") / "resources" / "vgg19_imagenet_means.npz"
    assert digest == hashlib.sha256(content.read_bytes()).hexdigest()
    assert all(np.array_equal(found.mean[name], means.mean[name]) for name in means.mean)


# Whose means they are.


@pytest.fixture
def weights_file(tmp_path):
    """Weights of the first three layers in their real size."""
    model = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", last_layer=CUT))
    )
    path = tmp_path / "drawn.npz"
    np.savez(path, **saved_network.named_weights(model))
    return path


def claimed(means, model):
    """The same means, as if measured on this network."""
    return replace(means, settings={**means.settings, "biases": loading.bias_digests(model)})


def test_weights_of_another_training_are_refused_by_the_first_layer(weights_file):
    with pytest.raises(NetworkError, match="means of these weights") as caught:
        shipped_means.normalized(weights=weights_file, last_layer=CUT)
    assert "shipped, measured on weights with other biases in block1_conv1 and 2 more layers" in (
        str(caught.value)
    )


def test_one_bias_that_differs_is_found_by_its_layer(means, weights_file):
    model = vn.build("vgg19", weights=weights_file, last_layer=CUT)
    mine = claimed(means, model)
    kernel, bias = model.get_layer("block1_conv2").get_weights()
    bias[17] = np.nextafter(bias[17], np.float32(1))
    model.get_layer("block1_conv2").set_weights([kernel, bias])
    with pytest.raises(NetworkError, match="other biases in block1_conv2. Measure anew"):
        shipped_means.require_of_network(mine, model, "these")


def test_kernels_of_another_precision_are_of_the_same_training(means, weights_file):
    model = vn.build("vgg19", weights=weights_file, last_layer=CUT)
    mine = claimed(means, model)
    for layer in (x for x in chain.layers(model) if x.weights):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel.astype(np.float16).astype(np.float32), bias])
    shipped_means.require_of_network(mine, model, "these")


def test_one_call_gives_the_features_over_the_means(monkeypatch, means, weights_file):
    model = vn.build("vgg19", weights=weights_file, last_layer=CUT)
    mine = claimed(means, model)
    monkeypatch.setattr(shipped_means, "imagenet_means", lambda architecture: mine)
    normal = shipped_means.normalized(weights=weights_file, last_layer=CUT)
    before, after = (vn.features(network)(images(2)) for network in (model, normal))
    assert list(after) == ["block1_conv1", "block1_conv2", CUT]
    for name, expected in before.items():
        expected = expected.numpy() / means.mean[name]
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_a_cut_network_takes_the_first_layers(means, weights_file):
    model = vn.build("vgg19", weights=weights_file, last_layer=CUT)
    chosen = shipped_means.require_of_network(claimed(means, model), model, "these")
    names = ["block1_conv1", "block1_conv2", CUT]
    assert list(chosen.mean) == list(chosen.standard_error) == list(chosen.positions) == names
    assert all(np.array_equal(chosen.mean[name], means.mean[name]) for name in names)
    assert chosen.images == 1000 and chosen.settings["pooling"] == "max"


def small_means(model, seed=0):
    """Means as if measured on a network."""
    random = np.random.default_rng(seed)
    found = {}
    for stage in chain.stages(model):
        found[stage.layer.name] = random.uniform(0.5, 2, stage.layer.kernel.shape[-1])
    error = {name: mean / 100 for name, mean in found.items()}
    return vn.Means(found, error, dict.fromkeys(found, 100), 10)


def test_the_layers_of_vgg16_are_refused_with_the_means_of_vgg19(monkeypatch):
    small_vgg(monkeypatch)
    mine = small_means(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
    with pytest.raises(NetworkError, match="Expected means of 13 layers"):
        shipped_means.require_of_network(
            mine, vgg_layers.build_architecture(vgg_layers.VggOptions("vgg16")), "these"
        )


def test_means_in_another_order_are_refused(monkeypatch):
    small_vgg(monkeypatch)
    model = vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19"))
    mine = small_means(model)
    names = list(mine.mean)
    shuffled = mine.of_layers([*names[:-2], names[-1], names[-2]])
    with pytest.raises(NetworkError, match="in the network's order"):
        shipped_means.require_of_network(shuffled, model, "these")
    assert list(shipped_means.require_of_network(mine, model, "these").mean) == names


def test_means_of_fewer_layers_are_refused(monkeypatch):
    small_vgg(monkeypatch)
    model = vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19"))
    mine = small_means(model)
    with pytest.raises(NetworkError, match="Expected means of 16 layers.*Received: 15"):
        shipped_means.require_of_network(mine.of_layers(list(mine.mean)[:-1]), model, "these")


def test_differences_are_told_as_far_as_they_are_known():
    settings = {"pooling": "max", "resize": "squash", "image_size": 224, "seed": 3}
    mine = vn.Means({}, {}, {}, 1, settings)
    same = {"pooling": "max", "preprocessing": "unit", "resize": "squash", "image_size": 224}
    assert shipped_means.differences(mine, same) == []
    other = {**same, "pooling": "avg", "image_size": 32}
    assert shipped_means.differences(mine, other) == [
        "pooling max, not avg",
        "image_size 224, not 32",
    ]
    assert shipped_means.differences(mine, {"resize": "crop"}) == ["resize squash, not crop"]
    assert shipped_means.differences(vn.Means({}, {}, {}, 1), other) == []


def test_settings_are_kept_with_the_means(tmp_path):
    settings = {"pooling": "avg", "image_size": 32, "biases": {"a": "0f"}, "images": None}
    mean = {"a/b": np.array([0.0, 1.5])}
    mine = vn.Means(mean, {"a/b": np.array([0, np.inf])}, {"a/b": 7}, 1, settings)
    mine.save(tmp_path / "means.npz")
    again = vn.Means.load(tmp_path / "means.npz")
    assert again.settings == settings and again.images == 1 and again.positions == {"a/b": 7}
    assert np.array_equal(again.mean["a/b"], mean["a/b"])
    assert np.array_equal(again.standard_error["a/b"], [0, np.inf])
    vn.Means(mean, mean, {"a/b": 7}, 1).save(tmp_path / "means.npz")
    assert vn.Means.load(tmp_path / "means.npz").settings == {}


def test_the_real_network_normalised_is_the_published_one():
    published = DATA / "weights" / "vgg19_normalised_to_block3_conv1.npz"
    if loading.find_clustered() is None or not published.exists():
        pytest.skip(f"{loading.HOW_TO_CLUSTERED}, or {published} is not here")
    normal = shipped_means.normalized(weights="imagenet_8bit", last_layer=CUT)
    theirs = vn.build("vgg19", weights=published, last_layer=CUT)
    found = comparison.compare(theirs, normal)
    assert found.same, found.sentence
    for layer in found.layers:  # ours over theirs is the factor of their scales over our means
        assert np.median(layer.scale) == pytest.approx(1 / 0.977, abs=0.01)


# Keras' weights, or the package's.


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Keras cannot download; the package's file is the one that is given back."""
    small_vgg(monkeypatch)
    random = np.random.default_rng(0)
    tensors = {}
    for name, (h, w, inputs, outputs) in vgg_layers.weight_shapes("vgg19").items():
        tensors[f"{name}_W_q"] = random.integers(0, 256, (outputs, inputs, h, w), np.uint8)
        tensors[f"{name}_W_table"] = random.normal(0, 0.2, 256).astype(np.float32)
        tensors[f"{name}_b"] = random.normal(0, 0.1, outputs).astype(np.float32)
    path = save_torch("legacy", tmp_path / loading.CLUSTERED_NAME, tensors)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def fail(*_, **options):
        raise Exception("URL fetch failure on https://storage.googleapis.com/x: None -- no route")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    monkeypatch.setattr(loading, "CLUSTERED_SHA256", digest)
    monkeypatch.setattr(loading, "find_clustered", lambda: path)
    return tensors


def test_without_a_download_the_weights_of_the_package_are_taken_and_a_note_says_so(offline):
    loaded = shipped_means.imagenet_weights("vgg19")
    assert loaded.source == "imagenet_8bit" and len(loaded.arrays) == 16
    assert "Keras' ImageNet weights cannot be had (URL fetch failure on" in loaded.note
    assert "256 values" in loaded.note and "\n" not in loaded.note
    for name, (kernel, bias) in loaded.arrays.items():
        values = offline[f"{name}_W_table"][offline[f"{name}_W_q"]]
        assert np.array_equal(kernel, np.einsum("oihw->hwio", values))
        assert np.array_equal(bias, offline[f"{name}_b"])


def test_without_either_one_line_says_both_ways(offline, monkeypatch):
    monkeypatch.setattr(loading, "find_clustered", lambda: None)
    with pytest.raises(NetworkError) as caught:
        shipped_means.imagenet_weights("vgg19")
    message = str(caught.value)
    assert "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5" in message
    assert loading.HOW_TO_CLUSTERED in message and "URL fetch failure" in message
    assert "\n" not in message


def test_a_damaged_file_of_the_package_is_refused(offline, monkeypatch):
    monkeypatch.setattr(loading, "CLUSTERED_SHA256", "0" * 64)
    with pytest.raises(NetworkError, match="SHA-256 0000"):
        shipped_means.imagenet_weights("vgg19")


def test_there_is_nothing_to_take_instead_of_vgg16(offline):
    with pytest.raises(NetworkError, match="ImageNet weights of vgg16"):
        shipped_means.imagenet_weights("vgg16")


def test_what_keras_has_is_taken_first(offline, monkeypatch, tmp_path):
    model = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
    path = tmp_path / "vgg19.weights.h5"
    model.save_weights(path)
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **options: str(path))
    loaded = shipped_means.imagenet_weights("vgg19")
    assert loaded.source == "imagenet" and loaded.note == ""
    for name, (kernel, bias) in loaded.arrays.items():
        assert np.array_equal(kernel, model.get_layer(name).kernel)
        assert np.array_equal(bias, model.get_layer(name).bias)


# The command.


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder with `vgg.npz`, `pictures`, `others`, and `measured`, which has the means of both."""
    folder = tmp_path_factory.mktemp("ground")
    model = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", last_layer="block1_conv2"))
    )
    np.savez(folder / "vgg.npz", **saved_network.named_weights(model))
    pictures(folder / "pictures", 6)
    pictures(folder / "others", 3, side=40)
    assert run(folder, folder / "measured", "--task=measure") == 0
    return folder


def arguments(ground, output, *more, source="pictures"):
    return (
        *TINY[1:],
        f"--weights={ground / 'vgg.npz'}",
        f"--images={ground / source}",
        "--formats=npz",
        f"--output={output}",
        *more,
    )


def run(ground, output, *more, source="pictures"):
    return command(*arguments(ground, output, *more, source=source))


def report_of(output):
    return json.loads((output / "report.json").read_text())


def test_given_means_give_the_same_network_as_measuring(ground, tmp_path):
    source = ground / "measured" / "means.npz"
    assert run(ground, tmp_path / "given", f"--means={source}") == 0
    assert run(ground, tmp_path / "afresh") == 0
    given, afresh = (arrays(tmp_path / x / "vgg19_normalized.npz") for x in ("given", "afresh"))
    assert given == afresh and len(given) == 4
    report = report_of(tmp_path / "given")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert report["means"] == {"source": str(source), "images": 6, "sha256": digest}
    assert report_of(tmp_path / "afresh")["means"]["source"] == "measured"


def test_on_the_images_of_the_means_these_are_checked_too(ground, tmp_path):
    assert run(ground, tmp_path / "out", f"--means={ground / 'measured'}") == 0
    report = report_of(tmp_path / "out")
    check = report["check"]
    assert check["passed"] and check["images"] == report["images"]["used"] == 6
    assert 0 <= check["worst_mean_deviation"] <= 1e-3
    assert check["worst_feature_error"] <= 1e-4
    for layer in report["layers"]:
        assert layer["mean_after"]["max"] == pytest.approx(1, abs=1e-3)


def test_on_other_images_the_means_are_not_checked(ground, tmp_path, capsys):
    means = f"--means={ground / 'measured'}"
    assert run(ground, tmp_path / "out", means, source="others") == 0
    report = report_of(tmp_path / "out")
    assert report["check"]["worst_mean_deviation"] is None and report["check"]["passed"]
    assert report["check"]["images"] == report["images"]["used"] == 3
    assert report["means"]["images"] == 6
    assert report["images"]["source"].endswith("others")
    before, after = (arrays(x / "means.npz") for x in (ground / "measured", tmp_path / "out"))
    assert before == after
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


def test_the_proof_is_on_the_sample_where_no_images_are_named(ground, tmp_path):
    given = [x for x in arguments(ground, tmp_path / "out") if not x.startswith("--images=")]
    code = command(*given, f"--means={ground / 'measured'}", "--check_images=2")
    assert code == 0
    report = report_of(tmp_path / "out")
    assert report["images"]["source"] == report["settings"]["images"] == "sample"
    assert report["check"]["images"] == report["images"]["used"] == 2
    assert report["check"]["worst_mean_deviation"] is None


MISMATCHES = {
    "--pooling=avg": "pooling max, not avg",
    "--resize=crop": "resize squash, not crop",
    "--image_size=24": "image_size 32, not 24",
    "--preprocessing=unit": "preprocessing caffe, not unit",
    "--preprocessing=torch": "preprocessing caffe, not torch",
}


@pytest.mark.parametrize("flag", MISMATCHES)
def test_means_that_were_measured_otherwise_are_refused(ground, tmp_path, capsys, flag):
    means = f"--means={ground / 'measured'}"
    line = refused(capsys, 1, *arguments(ground, tmp_path / "out", flag, means))
    assert MISMATCHES[flag] in line and "--allow_mismatch" in line
    assert not list(tmp_path.iterdir())


def test_all_that_differs_is_told(ground, tmp_path, capsys):
    more = ("--pooling=avg", "--image_size=24", f"--means={ground / 'measured'}")
    line = refused(capsys, 1, *arguments(ground, tmp_path / "out", *more))
    assert "pooling max, not avg; image_size 32, not 24" in line


@pytest.mark.parametrize("flag", ["--pooling=avg", "--preprocessing=unit"])
def test_means_that_were_measured_otherwise_are_taken_where_that_is_asked_for(
    ground, tmp_path, flag
):
    more = (flag, f"--means={ground / 'measured'}", "--allow_mismatch")
    assert run(ground, tmp_path / "out", *more, source="others") == 0
    report = report_of(tmp_path / "out")
    assert report["mismatches"] == [MISMATCHES[flag]]
    assert report["check"]["worst_mean_deviation"] is None


def test_a_mismatch_that_is_asked_for_passes_on_the_means_own_images(ground, tmp_path):
    more = ("--preprocessing=unit", f"--means={ground / 'measured'}", "--allow_mismatch")
    assert run(ground, tmp_path / "out", *more) == 0
    assert report_of(tmp_path / "out")["check"]["worst_mean_deviation"] is None


def test_with_images_as_they_are_the_size_does_not_count(ground, tmp_path):
    native = ("--resize=none", "--batch_size=1")
    assert run(ground, tmp_path / "measured", "--task=measure", *native) == 0
    more = (f"--means={tmp_path / 'measured'}", "--image_size=99", *native)
    assert run(ground, tmp_path / "out", *more, source="others") == 0


def test_means_of_another_network_are_refused(ground, tmp_path, capsys):
    other = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", last_layer="block1_conv2")),
        seed=1,
    )
    np.savez(tmp_path / "other.npz", **saved_network.named_weights(other))
    more = (f"--weights={tmp_path / 'other.npz'}", f"--means={ground / 'measured'}")
    line = refused(capsys, 3, *arguments(ground, tmp_path / "out", *more))
    assert "other biases in block1_conv1 and 1 more layer." in line
    more = ("--means=shipped", "--image_size=224")
    line = refused(capsys, 3, *arguments(ground, tmp_path / "out", *more))
    assert "shipped, measured on weights with other biases" in line
    assert [path.name for path in tmp_path.iterdir()] == ["other.npz"]


def test_means_of_other_random_weights_are_refused(ground, tmp_path, capsys):
    more = ("--weights=random", "--task=measure")
    assert run(ground, tmp_path / "measured", *more) == 0
    more = ("--weights=random", "--seed=1", f"--means={tmp_path / 'measured'}")
    refused(capsys, 3, *arguments(ground, tmp_path / "out", *more, source="others"))


def test_means_of_fewer_layers_than_the_network_has_are_refused(ground, tmp_path, capsys):
    more = ("--last_layer=block1_conv1", "--task=measure")
    assert run(ground, tmp_path / "less", *more) == 0
    means = f"--means={tmp_path / 'less'}"
    line = refused(capsys, 3, *arguments(ground, tmp_path / "out", means))
    assert "Expected means of 2 layers" in line
    assert [path.name for path in tmp_path.iterdir()] == ["less"]


def without(key):
    return lambda content: {name: array for name, array in content.items() if name != key}


DAMAGE = {
    "no errors": without("block1_conv2/standard_error"),
    "no number of images": without("images"),
    "settings that are no JSON": lambda content: {**content, "settings": np.array("{")},
    "negative": lambda content: {**content, "block1_conv2/mean": np.full(64, -1.0)},
    "NaN": lambda content: {**content, "block1_conv2/mean": np.full(64, np.nan)},
    "another number": lambda content: {**content, "block1_conv2/mean": np.ones(63)},
    "no layer": lambda content: {"images": content["images"]},
}
SLIPS = {
    "settings that are no dict": lambda content: {**content, "settings": np.array("[1]")},
    "errors of another number": lambda content: {
        **content,
        "block1_conv2/standard_error": np.ones(63),
    },
    "means with two axes": lambda content: {**content, "block1_conv2/mean": np.ones((64, 2))},
}


@pytest.mark.parametrize(
    "change",
    [pytest.param(change, id=name) for name, change in {**DAMAGE, **SLIPS}.items()],
)
def test_damaged_means_are_refused(ground, tmp_path, capsys, change):
    with np.load(ground / "measured" / "means.npz") as file:
        content = change({key: file[key] for key in file.files})
    np.savez(tmp_path / "means.npz", **content)
    more = f"--means={tmp_path / 'means.npz'}"
    refused(capsys, 3, *arguments(ground, tmp_path / "out", more))
    assert [path.name for path in tmp_path.iterdir()] == ["means.npz"]


@pytest.mark.parametrize("content", [None, b"", b"<!DOCTYPE html>"])
def test_what_is_no_file_of_means_is_refused(ground, tmp_path, capsys, content):
    path = tmp_path / "means.npz"
    if content is not None:
        path.write_bytes(content)
    line = refused(capsys, 3, *arguments(ground, tmp_path / "out", f"--means={path}"))
    assert "Expected a means.npz" in line and str(path) in line
    assert not (tmp_path / "out").exists()


def test_means_without_settings_are_taken_and_a_line_says_so(ground, tmp_path, capsys):
    found = vn.Means.load(ground / "measured" / "means.npz")
    replace(found, settings={}).save(tmp_path / "means.npz")
    means = f"--means={tmp_path / 'means.npz'}"
    assert run(ground, tmp_path / "out", means, source="others") == 0
    assert "does not say how it was measured" in capsys.readouterr().err


def test_neither_images_nor_means_is_a_wrong_call(tmp_path, capsys):
    line = refused(capsys, 1, *TINY, f"--output={tmp_path / 'out'}")
    assert "Expected --images, or --means" in line
    assert not list(tmp_path.iterdir())


def test_measuring_given_means_is_a_wrong_call(tmp_path, capsys):
    more = ("--task=measure", "--images=sample", "--means=shipped")
    line = refused(capsys, 1, *TINY, *more, f"--output={tmp_path / 'out'}")
    assert "Expected no --means for measure" in line and "compare" in line
    assert not list(tmp_path.iterdir())


def test_the_shipped_means_are_not_for_vgg16(tmp_path, capsys):
    more = ("--architecture=vgg16", "--means=shipped", "--check_images=1")
    line = refused(capsys, 3, *TINY, *more, f"--output={tmp_path / 'out'}")
    assert "'vgg16'" in line and "Measure them" in line
    assert not list(tmp_path.iterdir())
