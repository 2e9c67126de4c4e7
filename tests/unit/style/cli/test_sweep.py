"""`--sweep`: which pictures a sheet has, and what stands on it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import content_and_style, refused_style, save_model, stylise
from PIL import Image

from style import __main__ as entry
from style.cli import run_transfer, sweep
from style.images import writing
from style.synthesis import picture_terms

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return content_and_style(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def run(model, folder, tmp_path):
    def run(*arguments, output="out.png"):
        return stylise(
            *(f"--model={model}", f"--content={folder / 'content.png'}"),
            *(f"--style={folder / 'style.png'}", f"--output={tmp_path / output}"),
            *("--size=48", "--steps=3", "--optimizer=adam", *arguments),
        )

    return run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strength", "FLAG:VALUE"),
        ("strength:", "FLAG:VALUE"),
        ("nothing:1,2", "'nothing'"),
        ("output:a.png,b.png", "'output'"),
        ("strength:0.5,1", "between 0 and 1"),
        ("strength:much", "much"),
        ("style_loss:gram,nothing", "nothing"),
        ("steps:1,0", "steps"),
        ("steps:1;steps:2", "different flags"),
        ("steps:1;seed:1;size:32", "one or two"),
        ("seed:" + ",".join(map(str, range(200))), "at most"),
    ],
)
def test_a_sweep_that_is_off_is_refused_in_one_line(run, tmp_path, capsys, text, said):
    assert said in refused_style(capsys, tmp_path, 1, run, f"--sweep={text}")


def test_the_second_flag_goes_along_the_rows():
    axes = sweep.parse("style_loss:gram,moments;strength:0.2,0.8", list(entry.DEFAULTS))
    found = sweep.combinations(axes)
    assert found[1] == (("style_loss", "gram"), ("strength", "0.8"))
    assert found[2] == (("style_loss", "moments"), ("strength", "0.2"))


def test_a_sheet_holds_the_pictures_of_single_runs(run, tmp_path):
    assert run("--sweep=style_loss:gram,moments;strength:0.2,0.8") == 0
    sheet = np.asarray(Image.open(tmp_path / "out.png"))
    height, width = 32, 48
    strip = max(11, width // 22) * 8 // 5
    margin = sweep.MARGIN
    assert sheet.shape[:2] == (
        2 * (height + strip + margin) + margin,
        2 * (width + margin) + margin,
    )
    for i, loss in enumerate(("gram", "moments")):
        for j, strength in enumerate((0.2, 0.8)):
            name = f"{loss}_{strength}.png"
            assert run(f"--style_loss={loss}", f"--strength={strength}", output=name) == 0
            top = margin + i * (height + strip + margin) + strip
            left = margin + j * (width + margin)
            cell = sheet[top : top + height, left : left + width]
            assert (cell == np.asarray(Image.open(tmp_path / name))).all(), name
            label = sheet[top - strip : top, left : left + width]
            assert label.min() < 100


def test_targets_that_pictures_share_are_made_once(run, monkeypatch):
    made = []
    original = picture_terms.style_terms

    def counted(*arguments, **options):
        made.append(options["loss"])
        return original(*arguments, **options)

    monkeypatch.setattr(picture_terms, "style_terms", counted)
    assert run("--sweep=style_loss:gram,moments;strength:0.2,0.8") == 0
    assert made == ["gram", "moments"]


def test_the_sheet_so_far_is_there_after_each_picture(run, tmp_path, monkeypatch):
    original, seen = writing.save, []

    def save(path, pixels, **options):
        original(path, pixels, **options)
        seen.append((pixels < 0.999).mean())

    monkeypatch.setattr(run_transfer.writing, "save", save)
    assert run("--sweep=seed:1,2,3") == 0
    assert len(seen) == 3 and seen[0] < seen[1] < seen[2]


def test_a_value_that_cannot_be_costs_no_work(run, tmp_path, capsys):
    """The second picture is too small for the layers: seen before the first is begun."""
    assert run("--sweep=style_scale:1,0.03") == 2
    assert "at least 2 pixels" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_flag_fills_rows_of_six():
    cells = [
        sweep.Cell(sweep.Variant((("seed", str(i)),), entry.parse(_values())), np.zeros((8, 60, 3)))
        for i in range(7)
    ]
    columns = sweep.columns_of([cell.variant for cell in cells])
    assert columns == 6
    assert sweep.sheet(cells, 7, columns).shape[1] == 6 * (60 + sweep.MARGIN) + sweep.MARGIN


def _values():
    values = dict(entry.DEFAULTS)
    for name in ("style", "style_blend", "content_layers", "style_layers"):
        values[name] = []
    return {**values, "output": "o.png", "content_mask": [], "style_mask": []}
