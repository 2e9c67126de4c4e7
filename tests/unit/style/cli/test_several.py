"""Folders of contents, and pictures on the way between styles."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import picture, refused_style, save_model, stylise
from PIL import Image

from style.cli import run_several
from style.images import writing
from style.synthesis import descent

pytestmark = pytest.mark.slow
# By Adam, whose graphs are quickly traced; `LBFGS` where an optimiser might remember.
STEPS = (
    *("--size=32", "--steps=3", "--content_layers=block1_conv2", "--style_layers=block1_conv1"),
    "--optimizer=adam",
)
LBFGS = ("--optimizer=lbfgs", "--memory=2")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three contents, two of them of one size, and two styles."""
    contents = tmp_path / "in"
    contents.mkdir()
    for name, shape in {"a": (40, 60), "b": (60, 40), "c": (40, 60)}.items():
        pixels = picture(*shape, seed=ord(name))
        Image.fromarray(pixels).save(contents / f"{name}.png")
    for i in (1, 2):
        Image.fromarray(picture(50, 50, seed=i)).save(tmp_path / f"style{i}.png")
    return contents


def run(model: Path, place: Path, *arguments: object) -> int:
    return stylise(f"--model={model}", f"--style={place / 'style1.png'}", *STEPS, *arguments)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_folder_gives_the_pictures_of_single_runs(model, folder, tmp_path, monkeypatch, capsys):
    traced = []
    original = descent.make_optimizer
    monkeypatch.setattr(
        descent, "make_optimizer", lambda *a, **k: traced.append(a[2]) or original(*a, **k)
    )
    out = tmp_path / "out"
    assert run(model, tmp_path, f"--content={folder}", f"--output={out}", *LBFGS) == 0
    assert sorted(os.listdir(out)) == ["a.png", "b.png", "c.png"]
    assert sorted(traced) == [(21, 32), (32, 21)]  # once a size
    for name in "abc":
        alone = tmp_path / f"{name}.png"
        single = (f"--content={folder / name}.png", f"--output={alone}", *LBFGS)
        assert run(model, tmp_path, *single) == 0
        np.testing.assert_array_equal(pixels(out / f"{name}.png"), pixels(alone))
    assert "3 in" in capsys.readouterr().err


def test_a_folder_goes_on_and_names_what_fails(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (folder / "b.png").write_bytes(b"no picture")
    writing.save(out / "a.png", np.zeros((4, 4, 3), np.float32))
    assert run(model, tmp_path, f"--content={folder}", f"--output={out}") == 2
    said = capsys.readouterr().err
    assert "style: skipped b.png: " in said and "1 in " in said
    assert sorted(os.listdir(out)) == ["a.png", "c.png"]
    assert pixels(out / "a.png").shape == (4, 4, 3)  # what was there stays
    arguments = (f"--content={folder}", f"--output={out}", "--overwrite", "--max_skipped=1")
    assert run(model, tmp_path, *arguments) == 0
    assert pixels(out / "a.png").shape == (21, 32, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--preserve_color=match",),
        ("--content_loss=neighbors",),
        ("--style_loss=sliced_wasserstein", "--renew_every=1", "--steps=4"),
    ],
)
def test_what_contents_cannot_share_is_their_own(model, folder, tmp_path, arguments):
    out, alone = tmp_path / "out", tmp_path / "c.png"
    assert run(model, tmp_path, f"--content={folder}", f"--output={out}", *arguments) == 0
    assert run(model, tmp_path, f"--content={folder}/c.png", f"--output={alone}", *arguments) == 0
    np.testing.assert_array_equal(pixels(out / "c.png"), pixels(alone))


def test_an_interpolation_leads_from_style_to_style(model, folder, tmp_path):
    styles = f"--style={tmp_path / 'style1.png'},{tmp_path / 'style2.png'}"
    content = f"--content={folder / 'a.png'}"
    way = (content, styles, "--interpolate=3", f"--output={tmp_path / 'way.png'}")
    assert run(model, tmp_path, *way) == 0
    for i, blend in enumerate(("1,0", "0.5,0.5", "0,1"), 1):
        alone = tmp_path / "alone.png"
        assert (
            run(model, tmp_path, content, styles, f"--style_blend={blend}", f"--output={alone}")
            == 0
        )
        np.testing.assert_array_equal(pixels(tmp_path / f"way_{i}.png"), pixels(alone))
    assert not (tmp_path / "way.png").exists()


def test_blends_go_through_all_styles():
    assert run_several.blends_along(3, 5) == [
        (1.0, 0.0, 0.0),
        (0.5, 0.5, 0.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.5, 0.5),
        (0.0, 0.0, 1.0),
    ]
    assert run_several.blends_along(2, 1) == [(1.0, 0.0)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--content={0}", "--sweep=strength:0.2,0.8"), "--sweep and a folder"),
        (("--content={0}/a.png", "--interpolate=3"), "several --style"),
        (("--content={0}", "--task=inversion"), "--task=transfer or amalgamation"),
        (("--content={0}", "--output={0}/out.png"), "named like a picture"),
        (("--content={0}", "--output={0}"), "Expected every output at a place of its own"),
        (("--content={1}/empty",), "no images"),
    ],
)
def test_what_does_not_go_together_is_one_line(model, folder, tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    given = [a.format(folder, tmp_path) for a in arguments]
    if not any(a.startswith("--output") for a in given):
        given.append(
            f"--output={tmp_path / 'new'}"
            if "interpolate" not in given[-1]
            else f"--output={tmp_path / 'new.png'}"
        )
    code = 2 if "empty" in given[0] else 1
    line = refused_style(capsys, tmp_path, code, run, model, tmp_path, *given)
    assert words in line
