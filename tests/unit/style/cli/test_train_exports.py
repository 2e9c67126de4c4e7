"""`style.train --formats`, and the report and the card beside every styliser."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import feed_forward
from stylizers import flags_of, read

from style.cli import exports, stylizer_card
from style.cli.export_formats import parse_formats
from style.cli.settings import TrainSettings
from style.feedforward import exporting, saved_network, training
from vgg_normalize import onnx_files
from vgg_normalize.errors import NumericalError, UsageError
from vgg_normalize.runtime import extras

pytestmark = pytest.mark.slow


def missing(form: str) -> list[str]:
    return [n for n in extras.MODULES[form] if importlib.util.find_spec(n) is None]


onnx = pytest.mark.skipif(bool(missing("onnx")), reason="the extra [onnx] is not installed")
both = pytest.mark.skipif(
    bool(missing("onnx") + missing("litert")),
    reason="an extra of [onnx], [litert] is not installed",
)


def head_of(folder: Path) -> dict:
    """The YAML head of a card, as a hub reads it."""
    empty, head, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head)


@pytest.fixture(scope="module")
def made(world, tmp_path_factory) -> Path:
    """An adain network with all formats and a preview."""
    folder = tmp_path_factory.mktemp("formats")
    code = feed_forward(
        *("train", *flags_of(world, folder / "out"), "--formats=litert,onnx", "--steps=2"),
        *(f"--preview={folder / 'sheet.jpg'}", f"--checkpoint={folder / 'state'}"),
    )
    assert code == 0
    return folder


@pytest.fixture
def report(made) -> dict:
    return json.loads((made / "out" / "report.json").read_text())


# Formats.


@both
def test_all_formats_stand_beside_the_network_and_are_proved(made, report):
    entries = {entry["name"]: entry for entry in report["formats"]}
    assert list(entries) == ["saved_model", "onnx", "litert"]
    for form, name in exporting.FILES.items():
        assert entries[form]["file"] == name
        assert entries[form]["bytes"] == (made / "out" / name).stat().st_size
        assert 0 <= entries[form]["worst_difference"] <= exporting.TOLERANCE
    assert (entries["onnx"]["size"], entries["litert"]["size"]) == (None, 32)
    assert {"onnxruntime", "ai-edge-litert"} <= report["versions"].keys()


@both
def test_the_onnx_file_does_what_style_apply_does(made, world, tmp_path):
    output = tmp_path / "out.png"
    flags = (f"--network={made / 'out'}", f"--content={world / 'photo.png'}")
    style = world / "styles" / "b.png"  # 40 x 40, as it is
    code = feed_forward(
        "apply", *flags, f"--style={style}", "--style_size=40", f"--output={output}"
    )
    assert code == 0
    inputs = {"content": read(world / "photo.png"), "style": read(style)}
    arrays = {name: pixels[None].astype(np.float32) for name, pixels in inputs.items()}
    image = onnx_files.run(made / "out" / "network.onnx", arrays)["image"][0]
    np.testing.assert_allclose(image, read(output), atol=0.5 / 255 + 1e-3)


@pytest.mark.parametrize(
    ("texts", "size", "said"),
    [
        (["onnx", "tflite"], None, "Received: tflite"),
        (["saved_model"], 64, "Leave --export_size out"),
    ],
)
def test_formats_that_make_no_sense_are_refused(texts, size, said):
    with pytest.raises(UsageError, match=said):
        parse_formats(texts, size)


def test_the_saved_model_is_always_written():
    assert parse_formats([], None) == parse_formats(["saved_model"], None) == ("saved_model",)
    if not missing("onnx"):
        assert parse_formats(["onnx"], 64) == ("saved_model", "onnx")


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_a_format_without_its_packages_is_refused_before_tensorflow(no_training, monkeypatch, form):
    found, name = importlib.util.find_spec, extras.MODULES[form][0]
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == name else found(n))
    line = no_training(1, f"--formats={form}")
    assert f"pip install 'vgg-normalize[{form}]'" in line


@onnx
@pytest.mark.parametrize(
    ("flag", "code", "said"),
    [("33", 1, "multiple of 2, the stride"), ("40000", 5, "Lower --export_size")],
)
def test_a_size_that_cannot_be_is_refused_before_the_first_step(
    no_training, monkeypatch, flag, code, said
):
    monkeypatch.setattr(training, "step_function", lambda *a, **k: pytest.fail)
    assert said in no_training(code, "--formats=onnx", f"--export_size={flag}")


@onnx
def test_a_failed_conversion_is_told_before_the_first_step(no_training, monkeypatch):
    def fail(*arguments):
        raise ValueError("no such\noperation")

    monkeypatch.setitem(exporting._WRITERS, "onnx", fail)
    assert "Received: no such operation. Leave onnx out" in no_training(3, "--formats=onnx")


@onnx
def test_a_failed_proof_keeps_the_network_without_its_export(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(exporting, "worst_difference", lambda *arguments: 0.25)
    monkeypatch.setitem(exporting._WRITERS, "onnx", lambda *arguments: arguments[-1].touch())
    assert run("--formats=onnx", "--steps=1") == 6
    assert "difference of 0.25" in capsys.readouterr().err.splitlines()[-1]
    out = tmp_path / "out"
    assert not (out / "network.onnx").exists() and saved_network.SavedNetwork(str(out))
    report = json.loads((out / "report.json").read_text())
    assert [entry["name"] for entry in report["formats"]] == ["saved_model"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@both
def test_a_finished_training_lacks_what_was_not_written(made, world, capsys):
    """Going on with another format is not nothing to do."""
    flags = (*flags_of(world, made / "out"), "--steps=2", f"--checkpoint={made / 'state'}")
    capsys.readouterr()
    assert feed_forward("train", *flags, "--resume", "--formats=onnx") == 0
    assert "nothing to do" in capsys.readouterr().err
    (made / "out" / "network.onnx").rename(made / "onnx")
    try:
        assert feed_forward("train", *flags, "--resume", "--formats=onnx") == 4
        assert "Use --overwrite" in capsys.readouterr().err
    finally:
        (made / "onnx").rename(made / "out" / "network.onnx")


def test_sizes_are_any_where_the_format_can():
    settings = TrainSettings(
        content="", style="", output="", formats=("saved_model", "onnx", "litert"), size=48
    )
    assert exports.export_sizes(settings) == {"onnx": None, "litert": 48}
    fixed = dataclasses.replace(settings, export_size=64)
    assert exports.export_sizes(fixed) == {"onnx": 64, "litert": 64}
    assert exports.export_sizes(dataclasses.replace(settings, formats=())) == {}


# The report and the card.


@both
def test_the_report_tells_the_training(report):
    assert (report["method"], report["steps"], report["resumed_from"]) == ("adain", 2, 0)
    assert report["settings"]["size"] == 32 and report["styles"] == []
    first, last = report["losses"]["first"], report["losses"]["last"]
    assert (first["step"], last["step"]) == (0, 1) and first["loss"] > 0
    assert report["seconds"] >= last["seconds"] - 1e-3


@both
def test_the_card_is_what_a_hub_reads(made, report):
    folder = made / "out"
    head = head_of(folder)
    assert head["license"] == "other" and head["pipeline_tag"] == "image-to-image"
    assert head["library_name"] == "tensorflow"
    assert head["tags"] == ["style-transfer", "adain", "tensorflow", "onnx", "litert"]
    text = (folder / "README.md").read_text()
    assert "![Contents in rows, styles in columns" in text and "](preview.png)" in text
    assert read(folder / "preview.png").shape == (4 * 32, 4 * 32, 3)
    assert f"{report['losses']['last']['loss']:.5g}" in text
    # A card is published: no paths of this machine.
    assert str(made) not in text and str(folder) not in text


@both
def test_the_code_of_the_card_runs(made, world, monkeypatch):
    monkeypatch.chdir(made / "out")
    text = (made / "out" / "README.md").read_text()
    pictures = {
        name: np.random.default_rng(i).random((1, 32, 32, 3), np.float32)
        for i, name in enumerate(("content", "style"))
    }
    codes = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(codes) == 4
    own = codes[0].replace("photo.jpg", str(world / "photo.png"))
    scope: dict = {}
    exec(own.replace("painting.jpg", str(world / "styles" / "a.png")), scope)
    assert scope["image"].shape == scope["content"].shape == (37, 51, 3)
    images = []
    for code in codes[1:]:
        scope = dict(pictures)
        exec(code, scope)
        images.append(np.asarray(scope["image"]))
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], atol=1e-3)


def card(folder: Path, **changes) -> str:
    """The card of a made-up report."""
    settings = {
        "content": "/home/me/photos",
        "style": "/home/me/art",
        "model": "vgg19",
        "batch_size": 8,
        "size": 256,
        "learning_rate": 1e-3,
        "content_layers": [("block4_conv2", 1.0)],
        "style_layers": [("block1_conv1", 1.0)],
        "style_loss": "gram",
        "style_weight": 100.0,
    }
    content = {
        "method": "cin",
        "settings": settings,
        "styles": ["a|b.png", "*c*.png"],
        "steps": 7,
        "seconds": 3.0,
        "losses": {"first": None, "last": None},
        "formats": [],
        **changes,
    }
    stylizer_card.write(folder, content, None)
    return (folder / "README.md").read_text()


def test_a_card_of_fixed_styles_names_them_in_their_order(tmp_path):
    text = card(tmp_path)
    assert "1. a\\|b.png\n2. \\*c\\*.png" in text and '"a|b.png"' in text
    assert "[B, 2], one for each style" in text
    assert "preview" not in text and "loss before" not in text
    assert "/home/me" not in text and "photos" in text
    assert head_of(tmp_path)["tags"] == ["style-transfer", "cin", "tensorflow"]


def test_the_last_good_network_of_a_failed_training_has_a_card(run, tmp_path):
    assert run("--learning_rate=1e15") == NumericalError.exit_code
    assert head_of(tmp_path / "out.last_good")["license"] == "other"
