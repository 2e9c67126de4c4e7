"""The command: what a user types, finds afterwards, and is told."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from helpers import ROOT, TINY, arrays, command, pictures, refused

import vgg_normalize as vn
from vgg_normalize import __main__ as entry

pytestmark = pytest.mark.slow

DEFAULTS = {
    "task": "normalize",
    "architecture": "vgg19",
    "weights": "imagenet",
    "reference": None,
    "tolerance": 0.02,
    "means": None,
    "allow_mismatch": False,
    "include_top": False,
    "last_layer": None,
    "pooling": "max",
    "preprocessing": "caffe",
    "padding": "zero",
    "images": None,
    "max_images": 0,
    "target_error": 0.0,
    "check_images": 256,
    "resize": "squash",
    "image_size": 224,
    "strategy": "auto",
    "logical_cpus": 0,
    "seed": 0,
    "allow_tf32": False,
    "max_skipped": 0,
    "formats": ["saved_model", "h5"],
    "output": None,
    "overwrite": False,
    "resume": False,
    "checkpoint_every": 1000,
}
CHOICES = {
    "task": ["normalize", "measure", "compare"],
    "architecture": ["vgg16", "vgg19"],
    "pooling": ["max", "avg"],
    "preprocessing": ["caffe", "torch", "unit", "none"],
    "resize": ["squash", "crop", "none"],
    "strategy": ["auto", "one", "mirrored", "multiworker", "tpu"],
}
LAYERS = ["block1_conv1", "block1_conv2"]
SAMPLE = (*TINY, "--images=sample", "--max_images=6")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A finished output with every format."""
    output = tmp_path_factory.mktemp("done") / "out"
    assert command(*SAMPLE, "--formats=saved_model,h5,npz", f"--output={output}") == 0
    return output


@pytest.fixture(scope="module")
def said(done) -> dict:
    """Its report."""
    return json.loads((done / "report.json").read_text())


@pytest.fixture
def settings(monkeypatch) -> list:
    """The settings with which the job would have run; it does not."""
    from vgg_normalize.cli import pipeline

    found: list = []
    monkeypatch.setattr(pipeline, "run", lambda settings, stop: found.append(settings))
    return found


def named_flags(*arguments: str) -> flags.FlagValues:
    values = flags.FlagValues()
    entry.define_flags(values)
    values(["vgg_normalize", *arguments])
    return values


# The output.


def test_the_output_holds_what_was_asked_for_and_nothing_else(done):
    assert {path.name for path in done.iterdir()} == {
        "saved_model",
        "vgg19_normalized.weights.h5",
        "vgg19_normalized.npz",
        "means.npz",
        "means.png",
        "README.md",
        "report.json",
        "report.html",
    }
    assert [path.name for path in done.parent.iterdir()] == ["out"]


def test_the_report_has_the_keys_of_the_contract(said):
    assert said.keys() >= {
        *("architecture", "pooling", "settings", "versions", "resumed_from", "images"),
        *("layers", "check", "images_per_second"),
    }
    assert said["images"].keys() == {"source", "used", "skipped", "sha256"}
    assert [layer["name"] for layer in said["layers"]] == LAYERS
    for layer in said["layers"]:
        assert layer.keys() >= {
            *("name", "channels", "dead", "rarely_firing", "mean_before", "mean_after"),
            "max_relative_standard_error",
        }
        assert layer["mean_before"].keys() == {"min", "median", "max"}
        assert layer["mean_after"].keys() == {"min", "median", "max"}
    assert said["check"].keys() >= {
        *("passed", "images", "worst_mean_deviation", "worst_feature_error"),
        "worst_output_error",
    }


def test_the_report_says_what_was_done(said):
    assert (said["architecture"], said["pooling"], said["resumed_from"]) == ("vgg19", "max", 0)
    images = said["images"]
    assert (images["source"], images["used"], images["skipped"]) == ("sample", 6, [])
    assert re.fullmatch("[0-9a-f]{64}", images["sha256"])
    assert said["images_per_second"] > 0
    assert said["versions"]["tensorflow"] == tf.__version__
    assert said["versions"]["keras"] == keras.__version__


def test_the_report_holds_every_flag(said, done):
    expected = {
        **DEFAULTS,
        "weights": "random",
        "last_layer": "block1_conv2",
        "image_size": 32,
        "images": "sample",
        "max_images": 6,
        "formats": ["saved_model", "h5", "npz"],
        "output": str(done),
        "batch_size": 2,
    }
    assert said["settings"] == expected


def test_the_check_passed_on_all_images_within_the_limits(said):
    check = said["check"]
    assert check["passed"] is True and check["images"] == 6
    assert check["worst_feature_error"] <= 1e-4 and check["worst_mean_deviation"] <= 1e-3
    assert check["worst_output_error"] is None  # there is no classifier
    for layer in said["layers"]:
        assert layer["mean_after"]["min"] == pytest.approx(1, abs=1e-3)
        assert layer["mean_after"]["max"] == pytest.approx(1, abs=1e-3)


def test_the_means_have_their_keys_types_and_positions(done):
    with np.load(done / "means.npz") as means:
        kinds = ("mean", "standard_error", "positions")
        assert set(means.files) == {
            "images",
            "settings",
            *(f"{n}/{kind}" for n in LAYERS for kind in kinds),
        }
        assert means["images"] == 6
        for name in LAYERS:
            assert means[f"{name}/positions"] == 6 * 32 * 32
            for kind in ("mean", "standard_error"):
                assert means[f"{name}/{kind}"].dtype == np.float64
                assert means[f"{name}/{kind}"].shape == (64,)


def test_the_report_and_the_means_agree(said, done):
    with np.load(done / "means.npz") as means:
        for layer in said["layers"]:
            mean, error = means[layer["name"] + "/mean"], means[layer["name"] + "/standard_error"]
            expected = {"min": mean.min(), "median": np.median(mean), "max": mean.max()}
            assert layer["mean_before"] == pytest.approx(expected)
            assert layer["max_relative_standard_error"] == pytest.approx((error / mean).max())


def test_the_weights_are_the_originals_divided_by_the_means(done):
    original = vn.build("vgg19", weights="random", last_layer="block1_conv2")
    with np.load(done / "means.npz") as means, np.load(done / "vgg19_normalized.npz") as weights:
        assert list(weights.files) == [f"{n}/{kind}" for n in LAYERS for kind in ("kernel", "bias")]
        first, second = (means[f"{name}/mean"] for name in LAYERS)
        for name, by, times in ((LAYERS[0], first, np.ones(3)), (LAYERS[1], second, first)):
            kernel, bias = original.get_layer(name).get_weights()
            expected = kernel * times[:, None] / by
            np.testing.assert_allclose(weights[f"{name}/kernel"], expected, rtol=1e-6)
            np.testing.assert_allclose(weights[f"{name}/bias"], bias / by, rtol=1e-6)


def test_the_saved_model_has_mean_one_and_its_signatures(done):
    saved = tf.saved_model.load(str(done / "saved_model"))
    assert set(saved.signatures) == {"serving_default", "block1", "vgg_input", "image_bytes"}
    assert list(saved.trainable_variables) == [] and list(saved.regularization_losses) == []
    assert len(saved.variables) == 4
    features = saved(tf.random.stateless_uniform((1, 20, 30, 3), (1, 2)))
    assert {name: tuple(f.shape) for name, f in features.items()} == dict.fromkeys(
        LAYERS, (1, 20, 30, 64)
    )


def test_the_h5_file_loads_into_keras_applications(tmp_path):
    output = tmp_path / "out"
    arguments = ("--weights=random", "--architecture=vgg16", "--image_size=32", "--images=sample")
    assert command(*arguments, "--max_images=2", "--formats=h5,npz", f"--output={output}") == 0
    network = keras.applications.VGG16(
        weights=str(output / "vgg16_normalized.weights.h5"), include_top=False
    )
    with np.load(output / "vgg16_normalized.npz") as weights:
        for name in ("block1_conv1", "block5_conv3"):
            kernel, bias = network.get_layer(name).get_weights()
            np.testing.assert_array_equal(kernel, weights[f"{name}/kernel"])
            np.testing.assert_array_equal(bias, weights[f"{name}/bias"])


def test_means_do_not_depend_on_what_is_saved_or_checked(done, tmp_path):
    changed = ("--formats=npz", "--check_images=2", "--checkpoint_every=2")
    assert command(*SAMPLE, *changed, f"--output={tmp_path / 'out'}") == 0
    assert arrays(tmp_path / "out" / "means.npz") == arrays(done / "means.npz")


# The audit.


def audit(capsys, output: Path, *arguments: str) -> tuple[str, dict]:
    assert command("--task=measure", *SAMPLE, f"--output={output}", *arguments) == 0
    assert {p.name for p in output.iterdir()} == {"means.npz", "report.json", "report.html"}
    return capsys.readouterr().err, json.loads((output / "report.json").read_text())


def test_an_audit_writes_only_what_it_found(capsys, tmp_path, done):
    told, said = audit(capsys, tmp_path / "out")
    assert said["check"] is None
    assert told.count("measuring 6/6") == 1
    assert all(layer["mean_after"] is None for layer in said["layers"])
    assert "This network is not normalised" in told
    assert "This network is not normalised" in (tmp_path / "out" / "report.html").read_text()
    assert arrays(tmp_path / "out" / "means.npz") == arrays(done / "means.npz")


@pytest.mark.parametrize("name", ["vgg19_normalized.npz", "vgg19_normalized.weights.h5"])
def test_an_audit_of_what_the_command_saved_says_normalised(capsys, tmp_path, done, name):
    told, said = audit(capsys, tmp_path / "out", f"--weights={done / name}")
    assert "This network is normalised" in told
    for layer in said["layers"]:
        assert layer["mean_before"]["min"] == pytest.approx(1, abs=1e-5)
        assert layer["mean_before"]["max"] == pytest.approx(1, abs=1e-5)


# Flags.


def test_every_flag_has_the_default_of_the_contract():
    values = named_flags()
    assert {name: values[name].value for name in DEFAULTS} == DEFAULTS
    assert values.batch_size > 0


@pytest.mark.parametrize("name", CHOICES)
def test_a_flag_takes_its_choices_and_no_others(name):
    for choice in CHOICES[name]:
        assert named_flags(f"--{name}={choice}")[name].value == choice
    with pytest.raises(flags.Error, match=name):
        named_flags(f"--{name}=other")


def test_help_names_every_flag_and_exits_0(capsys):
    assert command("--help") == 0
    text = capsys.readouterr().out
    for name in (*DEFAULTS, "batch_size", "flagfile"):
        assert re.search(rf"--(\[no\])?{name}\b", text), name


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--lastlayer=block1_conv2", "lastlayer"),
        ("extra", "extra"),
        ("--architecture=vgg18", "architecture"),
        ("--max_images=-1", "max_images"),
        ("--max_images=many", "max_images"),
        ("--batch_size=0", "batch_size"),
        ("--image_size=0", "image_size"),
        ("--checkpoint_every=0", "checkpoint_every"),
        ("--target_error=-0.1", "target_error"),
        ("--formats=saved_model,pb", "pb"),
        ("--formats=", "formats"),
        ("--include_top", "include_top"),  # with images of 32 pixels
    ],
)
def test_a_wrong_flag_is_named(capsys, tmp_path, argument, named):
    line = refused(capsys, 1, *SAMPLE, f"--output={tmp_path / 'out'}", argument)
    assert named in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "end"),
    [
        ("--max_images=many", "with base 10: 'many'. See --help."),
        ("--lastlayer=a", "'lastlayer'. Did you mean: last_layer? See --help."),
    ],
)
def test_a_sentence_ends_before_the_advice_to_read_the_help(capsys, argument, end):
    assert refused(capsys, 1, "--images=sample", "--output=out", argument).endswith(end)


@pytest.mark.parametrize("missing", ["images", "output"])
def test_a_missing_flag_is_named(capsys, missing):
    given = {"images": "--images=sample", "output": "--output=out"}
    del given[missing]
    assert f"--{missing}" in refused(capsys, 1, *given.values())


# Flagfiles.


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("\ufeff--images=sample\n", "--images=sample"),
        ("\ufeff# A comment\n--images=sample\n", "# A comment"),
        ("--images=sample\n  # indented\n", "# indented"),
        ("--images=sample\n--no_such_flag=1\n", "no_such_flag"),
        ("images=sample\n", "images=sample"),
        ('--images="sample"\n', "--images"),
        ("--images=sample\n--architecture='vgg16'\n", "'vgg16'"),
        ("--images=sample\n--flagfile=missing.cfg\n", "missing.cfg"),
    ],
)
def test_a_fault_in_a_flagfile_is_named(capsys, tmp_path, content, named):
    path = tmp_path / "run.cfg"
    path.write_text(content, encoding="utf-8")
    line = refused(capsys, 1, f"--flagfile={path}", *TINY, f"--output={tmp_path / 'out'}")
    assert named in line


def test_a_missing_flagfile_is_named(capsys, tmp_path):
    assert "none.cfg" in refused(capsys, 1, f"--flagfile={tmp_path / 'none.cfg'}")


def test_a_circular_flagfile_is_named(capsys, tmp_path):
    path = tmp_path / "circle.cfg"
    path.write_text(f"--images=sample\n--output={tmp_path / 'out'}\n--flagfile={path}\n")
    assert "circle.cfg" in refused(capsys, 1, f"--flagfile={path}", *TINY)


def test_a_flag_after_the_flagfile_wins(settings, tmp_path):
    path = tmp_path / "run.cfg"
    path.write_text("# comment\n--images=sample\n--seed=3\n--formats=npz\n--output=there\n")
    assert command("--flagfile", str(path), "--seed=4", "--formats=h5") == 0
    assert (settings[0].seed, settings[0].formats, settings[0].output) == (4, ("h5",), "there")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.cfg")), ids=lambda p: p.name)
def test_a_config_opens_with_its_command_and_parses(settings, monkeypatch, path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# python ")
    words = first.removeprefix("# python ").split()
    if words[0] == str(path.relative_to(ROOT).with_suffix(".py")):
        return  # the script beside it, which names it
    option, package, *arguments = words
    assert option == "-m" and f"configs/{path.name}" in arguments
    if package == "vgg_normalize":
        monkeypatch.chdir(ROOT)
        assert command(*arguments) == 0
        assert settings[0].images and settings[0].output


# Images and weights, as a user of the command meets them.


def test_a_skipped_image_is_named_in_the_report(capsys, tmp_path):
    folder = pictures(tmp_path / "images", 3)
    (folder / "<b>&.jpg").write_bytes(b"<html>not an image</html>")
    output = tmp_path / "out"
    where = (f"--images={folder}", f"--output={output}", "--task=measure")
    assert "<b>&.jpg" in refused(capsys, 2, *TINY, *where)
    assert not output.exists()
    assert command(*TINY, *where, "--max_skipped=1") == 0
    images = json.loads((output / "report.json").read_text())["images"]
    assert images["used"] == 3
    assert [one["path"] for one in images["skipped"]] == ["<b>&.jpg"]
    assert images["skipped"][0]["reason"]
    page = (output / "report.html").read_text()
    assert html.escape("<b>&.jpg") in page and "<b>&.jpg" not in page
    assert "<b>&.jpg" in capsys.readouterr().err


def test_no_readable_image_leaves_nothing(capsys, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").touch()
    where = (f"--images={folder}", f"--output={tmp_path / 'out'}")
    refused(capsys, 2, *TINY, *where, "--max_skipped=9")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("source", ["missing", "."])
def test_no_images_exit_2_before_the_network_is_built(capsys, tmp_path, monkeypatch, source):
    monkeypatch.setattr("vgg_normalize.vgg.build", lambda *args, **kwargs: pytest.fail("built"))
    where = (f"--images={tmp_path / source}", f"--output={tmp_path / 'out'}")
    assert str(tmp_path / source) in refused(capsys, 2, *TINY, *where)


@pytest.fixture
def weights(tmp_path) -> dict[str, np.ndarray]:
    model = vn.build("vgg19", weights="random", last_layer="block1_conv2")
    kinds = ("kernel", "bias")
    return {
        f"{name}/{kind}": array
        for name in LAYERS
        for kind, array in zip(kinds, model.get_layer(name).get_weights(), strict=True)
    }


def test_weights_that_are_not_finite_exit_3_before_any_image(
    capsys, tmp_path, monkeypatch, weights
):
    weights["block1_conv2/bias"][5] = np.nan
    np.savez(tmp_path / "w.npz", **weights)
    monkeypatch.setattr(
        "vgg_normalize.data.sources.batches", lambda *args, **kwargs: pytest.fail("read")
    )
    where = (f"--weights={tmp_path / 'w.npz'}", f"--output={tmp_path / 'out'}")
    assert "block1_conv2" in refused(capsys, 3, *SAMPLE, *where)
    assert not (tmp_path / "out").exists()


def test_a_dead_filter_is_listed_and_keeps_its_scale(tmp_path, weights):
    weights["block1_conv1/kernel"][..., 3] = 0
    weights["block1_conv1/bias"][3] = -1
    np.savez(tmp_path / "w.npz", **weights)
    output = tmp_path / "out"
    where = (f"--weights={tmp_path / 'w.npz'}", f"--output={output}", "--formats=npz")
    assert command(*SAMPLE, *where) == 0
    said = json.loads((output / "report.json").read_text())
    assert [layer["dead"] for layer in said["layers"]] == [[3], []]
    with np.load(output / "vgg19_normalized.npz") as saved:
        assert saved["block1_conv1/bias"][3] == -1
        assert all(np.isfinite(saved[key]).all() for key in saved.files)


def test_imagenet_weights_without_a_network_say_where_to_place_the_file(
    capsys, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise Exception("URL fetch failure on https://...")

    monkeypatch.setattr("keras.utils.get_file", fail)
    arguments = ("--images=sample", f"--output={tmp_path / 'out'}")
    line = refused(capsys, 3, *arguments)
    assert "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5" in line and "models" in line


# The rest.


@pytest.mark.parametrize("kind", [MemoryError, tf.errors.ResourceExhaustedError])
def test_too_little_memory_says_to_lower_the_batch(capsys, monkeypatch, kind):
    def fail(settings, stop):
        raise kind(None, None, "OOM") if kind is not MemoryError else kind

    monkeypatch.setattr("vgg_normalize.cli.pipeline.run", fail)
    assert "--batch_size" in refused(capsys, 5, "--images=sample", "--output=out")


def test_debug_shows_the_traceback(capsys, tmp_path):
    assert command("--debug", f"--images={tmp_path / 'none'}", "--output=out", *TINY) == 2
    assert "Traceback" in capsys.readouterr().err
