"""ONNX files of networks: every layer's features at any size, with the weights' own bits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import TINY, command, draw_weights, images, refused, small_vgg, tiny_chain

import vgg_normalize as vn
from vgg_normalize import onnx_files, saved_network
from vgg_normalize.errors import UsageError
from vgg_normalize.networks import borders, chain
from vgg_normalize.runtime import extras

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in extras.MODULES["onnx"]),
    reason="the extra [onnx] is not installed",
)


def written(model: keras.Model, folder: Path) -> Path:
    onnx_files.write_features(model, folder / "network.onnx")
    return folder / "network.onnx"


@pytest.mark.parametrize("padding", borders.PADDINGS)
def test_a_file_gives_every_layer_at_any_size(tmp_path, padding):
    model = borders.with_padding(tiny_chain(), padding)
    path = written(model, tmp_path)
    for shape in ((1, 16, 24), (3, 19, 9)):
        batch = images(*shape)
        found = onnx_files.run(path, {"image": batch})
        expected = chain.features(model, ["first", "second"])(batch)
        assert list(found) == ["first", "second"]
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=1e-5)
        assert onnx_files.worst_difference(path, model, batch) < 1e-5
    assert onnx_files.missing_weights(path, model) == []


def test_the_classifier_goes_with_it(tmp_path, monkeypatch):
    small_vgg(monkeypatch)
    model = draw_weights(vn.build("vgg16", weights="random", include_top=True))
    path = written(model, tmp_path)
    assert onnx_files.worst_difference(path, model, images(2, 64, 64)) < onnx_files.TOLERANCE
    assert onnx_files.missing_weights(path, model) == []
    assert list(onnx_files.run(path, {"image": images(1, 64, 64)}))[-1] == "predictions"


def test_layers_in_another_order_or_under_other_names_are_found(tmp_path):
    import onnx

    model = tiny_chain()
    path = written(model, tmp_path)
    proto = onnx.load(path)
    first, second = list(proto.graph.output)
    del proto.graph.output[:]
    proto.graph.output.extend([second, first])
    onnx.save(proto, path)
    assert onnx_files.worst_difference(path, model, images()) == np.inf


def test_features_of_other_weights_are_found(tmp_path):
    path = written(tiny_chain(), tmp_path)
    other = tiny_chain()
    kernel, bias = other.get_layer("first").get_weights()
    other.get_layer("first").set_weights([kernel[..., ::-1], bias[::-1]])
    assert onnx_files.worst_difference(path, other, images()) > onnx_files.TOLERANCE


def test_a_weight_that_no_image_shows_is_found(tmp_path):
    """A filter that never fires gives the same features whatever its kernel."""
    model = tiny_chain()
    kernel, bias = model.get_layer("second").get_weights()
    bias[3] = -1e6
    model.get_layer("second").set_weights([kernel, bias])
    path = written(model, tmp_path)
    kernel[..., 3] *= 2
    model.get_layer("second").set_weights([kernel, bias])
    assert onnx_files.worst_difference(path, model, images()) < onnx_files.TOLERANCE
    assert onnx_files.missing_weights(path, model) == ["second/kernel"]


def test_biases_of_zero_need_not_be_in_the_file(tmp_path):
    model = tiny_chain()
    for name in ("first", "second"):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel, 0 * bias])
    assert onnx_files.missing_weights(written(model, tmp_path), model) == []


def test_save_writes_it_too(tmp_path):
    model = tiny_chain()
    means = vn.channel_means(model, [images()])
    normal = vn.normalize(model, means)
    vn.save(normal, means, tmp_path / "out", formats=("onnx",))
    path = tmp_path / "out" / saved_network.file_name(normal, "onnx")
    assert onnx_files.worst_difference(path, normal, images()) < 1e-5


def test_missing_packages_are_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "tf2onnx" else found(n))
    with pytest.raises(UsageError, match=r"Received: no tf2onnx. .*vgg-normalize\[onnx\]"):
        written(tiny_chain(), tmp_path)


# The command.

RUN = (*TINY, "--images=sample", "--max_images=3")


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["onnx", "saved_model,onnx"])
def test_the_command_writes_proves_and_reports_it(tmp_path, formats):
    output = tmp_path / "out"
    assert command(*RUN, f"--formats={formats}", f"--output={output}") == 0
    report = json.loads((output / "report.json").read_text())
    assert [entry["name"] for entry in report["formats"]] == formats.split(",")
    entry = report["formats"][-1]
    assert entry["file"] == "vgg19_normalized.onnx"
    assert entry["bytes"] == (output / entry["file"]).stat().st_size
    assert 0 < entry["worst_difference"] <= onnx_files.TOLERANCE
    assert "onnxruntime.InferenceSession" in (output / "README.md").read_text()
    assert "onnxruntime.InferenceSession" in (output / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "result", "said"),
    [
        ("worst_difference", 0.5, "within 0.0001 of the largest. Received: 0.5"),
        ("missing_weights", ["block1_conv1/kernel"], "without those of block1_conv1/kernel"),
    ],
)
def test_a_file_that_is_not_the_network_saves_nothing(
    tmp_path, monkeypatch, capsys, name, result, said
):
    monkeypatch.setattr(onnx_files, name, lambda *arguments: result)
    assert command(*RUN, "--formats=onnx", f"--output={tmp_path / 'out'}") == 6
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_without_its_packages_refuses_before_any_work(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "onnx" else found(n))
    line = refused(capsys, 1, *RUN, "--formats=onnx", f"--output={tmp_path / 'out'}")
    assert "Received: no onnx. Run pip install 'vgg-normalize[onnx]'" in line
