"""`--strength`: what it comes to, from the losses' own definitions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from helpers import content_and_style, picture, save_model, stylise
from PIL import Image

import vgg_normalize as vn
from style.cli.settings import TRAINING_LOSSES
from style.images import reading, resizing
from style.objective import losses, value_and_gradient, winograd
from style.objective import terms as objective
from style.synthesis import picture_terms, strength

pytestmark = pytest.mark.slow

LAYERS = ["block1_conv1", "block2_conv1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = content_and_style(tmp_path_factory.mktemp("pictures"))
    Image.fromarray(picture(30, 44, 3)).save(folder / "other.png")
    return folder


def log_of(model, folder, tmp_path, *arguments):
    """The log of a short run."""
    log = tmp_path / "log.jsonl"
    assert stylise(
        *(f"--model={model}", f"--content={folder / 'content.png'}", f"--log={log}"),
        *(f"--style={folder / 'style.png'}", f"--output={tmp_path / 'out.png'}"),
        *("--size=32", "--steps=2", "--optimizer=adam", *arguments),
    ) == 0  # fmt: skip
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_there_is_a_factor_for_each_loss():
    assert strength.FACTORS.keys() == losses.STYLE_LOSSES.keys()
    assert set(TRAINING_LOSSES) == losses.STYLE_LOSSES.keys() - {"sliced_wasserstein"}


def test_the_losses_of_a_sum_share_the_strength_by_their_weights():
    worths = {"gram": 2.0, "moments": 0.5}
    weights = strength.style_weights(0.5, {"gram": 3.0, "moments": 1.0}, 4.0, worths)
    assert weights["gram"] == pytest.approx(0.75 * strength.FACTORS["gram"] * 4.0 / 2.0)
    assert weights["moments"] == pytest.approx(0.25 * strength.FACTORS["moments"] * 4.0 / 0.5)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 2.0])
def test_strengths_outside_are_refused(value, tmp_path, capsys):
    assert stylise(f"--strength={value}", f"--output={tmp_path / 'out.png'}") == 1
    assert "--strength between 0 and 1" in capsys.readouterr().err


def test_a_strength_of_a_half_is_the_ratio_of_the_worths():
    factor = strength.FACTORS["gram"]

    def style_weight(value, content, style):
        return strength.style_weights(value, {"gram": 5.0}, content, {"gram": style})["gram"]

    assert style_weight(0.5, 3.0, 2.0) == pytest.approx(factor * 1.5)
    assert style_weight(0.8, 3.0, 2.0) == pytest.approx(factor * 4 * 1.5)
    assert style_weight(0.5, 0.0, 2.0) == 1.0
    assert style_weight(0.5, 3.0, 0.0) == 1.0


@pytest.mark.parametrize("loss", ["gram", "moments"])
def test_the_log_says_the_weight_that_it_came_to(model, folder, tmp_path, loss):
    """Computed here once more, in NumPy, from the definitions."""
    found = log_of(
        *(model, folder, tmp_path, "--strength=0.8", f"--style_loss={loss}"),
        *("--content_layers=block2_conv1:2", "--style_layers=block1_conv1:1,block2_conv1:3"),
    )
    extract = vn.features(vn.load(model), LAYERS)
    content = resizing.fit(reading.load(folder / "content.png").pixels, 32)
    style = resizing.fit(reading.load(folder / "style.png").pixels, 32)
    resized = np.clip(resizing.resize(style, *content.shape[:2]), 0, 1)
    c, s, r = ({k: np.asarray(v[0], float) for k, v in extract(p[None]).items()} for p in (
        content, style, resized))  # fmt: skip

    def distance(a, b):
        a, b = (f.reshape(-1, f.shape[-1]) for f in (a, b))
        if loss == "gram":
            return np.mean((a.T @ a / len(a) - b.T @ b / len(b)) ** 2)
        apart = (a.mean(0) - b.mean(0)) ** 2
        return np.mean(apart + (np.sqrt(a.var(0) + 1e-8) - np.sqrt(b.var(0) + 1e-8)) ** 2)

    worth_of_content = 2 * np.mean((r["block2_conv1"] - c["block2_conv1"]) ** 2)
    worth_of_style = distance(c["block1_conv1"], s["block1_conv1"])
    worth_of_style += 3 * distance(c["block2_conv1"], s["block2_conv1"])
    expected = strength.FACTORS[loss] * 4 * worth_of_content / worth_of_style
    assert found[0]["style_weight"] == pytest.approx(expected, rel=1e-3)
    assert found[0]["loss"] == pytest.approx(expected * worth_of_style, rel=1e-3)
    assert not any("style_weight" in line for line in found[1:])


def test_the_last_line_says_the_weight_too(model, folder, tmp_path, capsys):
    weight = log_of(model, folder, tmp_path)[0]["style_weight"]
    assert f"style weight {weight:.4g}" in capsys.readouterr().err.splitlines()[-1]


def test_a_style_weight_that_is_given_wins(model, folder, tmp_path):
    assert log_of(model, folder, tmp_path, "--style_weight=7")[0]["style_weight"] == 7


def test_the_weight_does_not_depend_on_the_units_of_the_layers(model, folder, tmp_path):
    """Ten times the weights of all style layers are the same objective."""
    one, ten = (
        log_of(model, folder, tmp_path, f"--style_layers=block1_conv1:{w},block2_conv1:{w}")
        for w in (1, 10)
    )
    assert ten[0]["style_weight"] == pytest.approx(one[0]["style_weight"] / 10, rel=1e-5)
    assert ten[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-5)


@pytest.mark.parametrize(("by_winograd", "close"), [(False, 1e-5), (True, 2e-4)])
def test_tiles_come_to_the_same_weight(model, folder, tmp_path, monkeypatch, by_winograd, close):
    """With Winograd's convolution of windows, for which the whole is too small, up to its rounding.

    That is 1e-5 of features, and the weight is made of their differences.
    """
    if not by_winograd:
        monkeypatch.setattr(winograd, "is_supported", lambda layer, shape: False)
    whole, tiled = (log_of(model, folder, tmp_path, f"--tile={n}")[0] for n in (0, 16))
    assert tiled["style_weight"] == pytest.approx(whole["style_weight"], rel=close)


def test_several_styles_count_by_their_blend(model, folder, tmp_path):
    both = f"--style={folder / 'style.png'},{folder / 'other.png'}"
    only = log_of(model, folder, tmp_path, both, "--style_blend=1,0")[0]["style_weight"]
    alone = log_of(model, folder, tmp_path)[0]["style_weight"]
    assert only == pytest.approx(alone, rel=1e-5)
    mixed = log_of(model, folder, tmp_path, both, "--style_blend=1,1")[0]["style_weight"]
    assert mixed != pytest.approx(alone, rel=1e-3)


def test_each_size_has_its_own_weight(model, folder, tmp_path):
    found = log_of(model, folder, tmp_path, "--scales=2")
    weights = [line["style_weight"] for line in found if "style_weight" in line]
    assert len(weights) == 2 and weights[0] != weights[1]
    assert all("style_weight" in line for line in found if line["step"] == 0)


@pytest.mark.parametrize("task", ["texture", "inversion"])
def test_tasks_without_content_or_style_have_none(model, folder, tmp_path, task):
    first = log_of(model, folder, tmp_path, f"--task={task}")[0]
    assert first.get("style_weight") == (1.0 if task == "texture" else None)


def test_total_values_are_those_of_the_evaluation(model):
    network = vn.load(model)
    x, y = (picture(24, 36, seed)[None].astype(np.float32) / 255 for seed in (4, 5))
    terms = picture_terms.content_terms(network, [("block2_conv1", 2.0)], 3.0, shape=(24, 36))
    terms.append(objective.tv_term(5.0, (24, 36, 3)))
    expected = value_and_gradient.make_value_and_gradient(
        network, terms, (24, 36), content=tf.constant(x)
    )(tf.constant(y))[0]
    alone = value_and_gradient.make_value_and_gradient(network, terms[1:], (24, 36))(
        tf.constant(x)
    )[0]
    for tile in (0, 8):
        total_values = value_and_gradient.make_total_values(
            network, [terms, terms], (24, 36), tile=tile
        )
        (at_content, value), references = total_values(tf.constant(x), [tf.constant(y)])
        assert at_content[0] == 0 and sum(at_content) == pytest.approx(float(alone), rel=1e-5)
        assert sum(value) == pytest.approx(float(expected), rel=1e-5)
        assert list(references) == ([] if tile else ["block2_conv1"])
        handed_over = value_and_gradient.make_value_and_gradient(
            network, terms, (24, 36), content=tf.constant(x), references=references, tile=tile
        )(tf.constant(y))[0]
        assert float(handed_over) == pytest.approx(float(expected), rel=0 if not tile else 1e-5)
