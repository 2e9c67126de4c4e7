"""Sums of losses, neighbours, borders and scales, as flags."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import picture, refused_style, save_model, stylise
from PIL import Image

import vgg_normalize as vn
from style.synthesis import strength
from vgg_normalize.data import synthetic

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def run(model, tmp_path):
    """Run the command on a content of 32 x 24 pixels; later flags win.

    By Adam, whose graphs are quickly traced.
    """
    for name, shape in {"content": (48, 64), "style": (40, 40)}.items():
        Image.fromarray(picture(*shape, seed=len(name))).save(tmp_path / f"{name}.png")

    def run(*arguments: object) -> int:
        return stylise(
            *(f"--model={model}", f"--content={tmp_path / 'content.png'}"),
            *(f"--style={tmp_path / 'style.png'}", f"--output={tmp_path / 'out.png'}"),
            *("--size=32", "--steps=3", "--optimizer=adam", *arguments),
        )

    return run


@pytest.fixture
def refused(run, capsys, tmp_path):
    """The one line with which the command refuses, leaving nothing behind."""
    return lambda code, *arguments: refused_style(capsys, tmp_path, code, run, *arguments)


def log_of(run, tmp_path, *arguments: str) -> list[dict]:
    log = tmp_path / "log.jsonl"
    assert run(f"--log={log}", *arguments) == 0
    return [json.loads(line) for line in log.read_text().splitlines()]


def start_of(run, tmp_path, *arguments: str) -> dict:
    return log_of(run, tmp_path, "--steps=1", *arguments)[0]


# Sums of losses.


def test_a_sum_is_the_sum_of_its_losses(run, tmp_path):
    def style_of(loss: str) -> float:
        return start_of(run, tmp_path, f"--style_loss={loss}", "--style_weight=2")["terms"]["style"]

    expected = 3 * style_of("gram") + 0.5 * style_of("moments") + style_of("mmd_gaussian")
    assert style_of("gram:3,moments:0.5,mmd_gaussian") == pytest.approx(expected, rel=1e-5)


def test_a_layer_may_have_a_weight_for_each_loss(run, tmp_path):
    def style_of(loss: str, layers: str) -> float:
        flags = (f"--style_loss={loss}", f"--style_layers={layers}", "--style_weight=1")
        return start_of(run, tmp_path, *flags)["terms"]["style"]

    found = style_of("gram:2,moments", "block1_conv1:3/0,block2_conv1:1/5")
    expected = style_of("gram:2", "block1_conv1:3,block2_conv1") + style_of(
        "moments", "block2_conv1:5"
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_strength_calibrates_each_loss_of_a_sum(run, tmp_path):
    weights = start_of(run, tmp_path, "--style_loss=gram:1,moments:3")["style_weight"]
    for name, share in (("gram", 0.25), ("moments", 0.75)):
        alone = start_of(run, tmp_path, f"--style_loss={name}")["style_weight"]
        assert weights[name] == pytest.approx(share * alone, rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--style_loss=grams",), "Expected style_loss gram"),
        (("--style_loss=gram:1,gram:2",), "each once"),
        (("--style_loss=gram:-1",), "weights of 0 or more in style_loss"),
        (("--style_loss=gram:much",), "weights of 0 or more in style_loss"),
        (("--style_loss=gram:0",), "a style_loss above 0"),
        (("--style_layers=block1_conv1:1/2",), "one weight for each style layer"),
        (("--style_loss=gram,moments", "--style_layers=block1_conv1:1/2/3"), "or 2, one for each"),
        (("--coarse_steps=0",), "whole numbers of 1 or more in --coarse_steps"),
        (("--coarse_steps=a",), "whole numbers of 1 or more in --coarse_steps"),
        (("--wrap", "--padding=reflect"), "without another padding"),
    ],
)
def test_what_makes_no_objective_is_one_line(refused, flags, words):
    assert words in refused(1, *flags)


# Neighbours.


def test_neighbours_need_no_style_loss_and_strength_leads_to_them(run, tmp_path):
    log = log_of(run, tmp_path, "--content_loss=neighbors", "--content_layers=block1_conv2")
    assert log[0]["terms"].keys() == {"content", "tv"} and "style_weight" not in log[0]
    near, far = (
        start_of(run, tmp_path, "--content_loss=neighbors", f"--strength={s}")["terms"]["content"]
        for s in (0.1, 0.4)
    )
    assert far == pytest.approx(16 * near, rel=1e-3)  # from the content: squares of the blend


# Borders.


def test_each_padding_makes_another_picture_and_says_so(run, tmp_path, capsys):
    found = set()
    for padding in ("zero", "reflect", "replicate", "wrap"):
        assert run(f"--padding={padding}") == 0
        found.add((tmp_path / "out.png").read_bytes())
        said = f"made for zero padding and is used with {padding}"
        assert (said in capsys.readouterr().err) == (padding != "zero")
    assert len(found) == 4
    assert run("--wrap") == 0
    assert (tmp_path / "out.png").read_bytes() in found


def test_a_network_keeps_the_padding_that_it_was_made_with(run, tmp_path, capsys):
    plain = vn.build("vgg19", weights="random", last_layer="block2_conv1", padding="reflect")
    batches = [synthetic.picture(0)[None, :64, :64].astype(np.float32) / 255]
    means = vn.channel_means(plain, batches)
    folder = tmp_path / "reflecting"
    vn.save(vn.normalize(plain, means), means, folder, formats=("saved_model",))
    assert run(f"--model={folder}") == 0
    own = (tmp_path / "out.png").read_bytes()
    assert "padding" not in capsys.readouterr().err
    assert run(f"--model={folder}", "--padding=reflect") == 0
    assert (tmp_path / "out.png").read_bytes() == own
    assert run(f"--model={folder}", "--padding=zero") == 0
    assert "made for reflect padding and is used with zero" in capsys.readouterr().err


def test_sides_that_no_stride_divides_are_refused_with_ones_that_do(refused, run):
    layers = ("--content_layers=block1_conv2", "--style_layers=block2_conv1")
    line = refused(1, "--wrap", "--size=33", *layers)
    assert "multiples of 2 pixels" in line and "Received: 25 x 33. Use --size=32 (24 x 32)" in line
    assert run("--wrap", "--size=32", *layers) == 0


def test_a_wrapped_texture_has_no_seam(run, tmp_path):
    flags = ("--task=texture", "--wrap", "--size=48", "--steps=60")
    assert run(*flags) == 0
    pixels = np.asarray(Image.open(tmp_path / "out.png"), np.float64)
    sheet = np.tile(pixels, (2, 2, 1))
    for axis in (0, 1):
        steps = np.abs(np.diff(sheet, axis=axis)).mean(axis=(1 - axis, 2))
        seam = steps[pixels.shape[axis] - 1]
        assert seam < np.mean(steps) + 3 * np.std(steps)


# Scales.


def test_each_scale_has_its_factor_and_its_steps(run, tmp_path, capsys):
    flags = ("--size=64", "--scales=3", "--scale_factor=1.5", "--coarse_steps=2,3", "--steps=4")
    log = log_of(run, tmp_path, *flags)
    sizes = [tuple(size) for size in dict.fromkeys(tuple(line["size"]) for line in log)]
    assert sizes == [(21, 28), (32, 43), (48, 64)]
    said = capsys.readouterr().err
    assert all(
        f"{width} x {height} {n}/{n} steps" in said
        for (height, width), n in zip(sizes, (2, 3, 4), strict=True)
    )


def test_there_is_a_factor_for_sliced_wasserstein():
    assert strength.FACTORS["sliced_wasserstein"] > 0


# Pixels beyond 0 and 1.


@pytest.fixture
def saturated(tmp_path):
    """A content and a style of black, white and full colours."""
    for name, shape in {"content": (24, 32), "style": (40, 40)}.items():
        pixels = np.where(picture(*shape, seed=len(name)) > 127, 255, 0).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return ("--optimizer=lbfgs", "--history_size=5", "--bits=16", "--steps=40")


def clipping(said: str) -> tuple[float, float, str]:
    """What the last line says: the loss, that of the clipped picture, and the flag to try."""
    found = re.search(r"([\d.e+]+)(?: \(| in float32; )(\S+) once clipped.*try (--\S+)\)", said)
    assert found, said
    return float(found[1]), float(found[2]), found[3]


def test_what_clipping_costs_is_said_and_how_to_avoid_it(run, saturated, tmp_path, capsys):
    assert run(*saturated) == 0
    loss, clipped, flag = clipping(capsys.readouterr().err)
    assert clipped > 1.05 * loss
    written = (tmp_path / "out.png").rename(tmp_path / "written.png")
    (first,) = log_of(run, tmp_path, *saturated, f"--init={written}", "--steps=1")
    assert first["loss"] == pytest.approx(clipped, rel=1e-3)
    capsys.readouterr()
    assert run(*saturated, flag) == 0
    assert "once clipped" not in capsys.readouterr().err


def test_both_losses_are_in_float32_where_one_is(run, saturated, tmp_path, capsys):
    assert run(*saturated, "--precision=bfloat16") == 0
    _, clipped, _ = clipping(capsys.readouterr().err)
    written = (tmp_path / "out.png").rename(tmp_path / "written.png")
    (first,) = log_of(run, tmp_path, *saturated, f"--init={written}", "--steps=1")
    assert first["loss"] == pytest.approx(clipped, rel=1e-3)


# Products in bfloat16.


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--style_loss=sliced_wasserstein", "--renew_every=2"),
        ("--scales=2", "--preserve_color=luminance", "--tile=16"),
    ],
    ids=" ".join,
)
def test_what_bfloat16_changes_is_said(run, tmp_path, capsys, flags):
    first, *_ = log_of(run, tmp_path, "--precision=bfloat16", *flags)
    assert first["precision"] == "bfloat16"
    assert 1e-4 < first["gradient_error"] < 0.2
    said = capsys.readouterr().err
    assert f"the gradient is off by {first['gradient_error']:.2%}" in said
    rounded, exact = map(float, re.search(r"loss (\S+) \((\S+) in float32", said).groups())
    assert rounded != pytest.approx(exact, rel=1e-6)
    assert rounded == pytest.approx(exact, rel=0.02)


def test_in_float32_nothing_is_said_of_precision(run, tmp_path, capsys):
    (first, *_) = log_of(run, tmp_path)
    assert "gradient_error" not in first
    assert "in float32" not in capsys.readouterr().err
