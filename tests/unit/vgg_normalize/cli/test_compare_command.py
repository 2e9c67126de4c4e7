"""`--task=compare`: what a user types, finds afterwards, and is told."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import DATA, command, draw_weights, images, refused, small_vgg

import vgg_normalize as vn
from vgg_normalize import saved_network
from vgg_normalize.networks import vgg_layers

pytestmark = pytest.mark.slow

LAYERS = vgg_layers.convolutions("vgg19")
PUBLISHED = DATA / "weights" / "vgg19_normalised_to_block3_conv1.npz"
TRAINED = DATA / "weights" / "vgg19_imagenet_8bit.npz"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_vgg(monkeypatch)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder of weights: `a`, `a_scaled` (by `means`), `a_cut` (its first seven layers scaled),
    `other`; and `means.npz`."""
    folder = tmp_path_factory.mktemp("ground")
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_vgg(monkeypatch)
        model = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
        random = np.random.default_rng(1)
        shapes = vgg_layers.weight_shapes("vgg19")
        mean = {name: random.uniform(0.3, 3, shape[-1]) for name, shape in shapes.items()}
        error = {name: 0.01 * m for name, m in mean.items()}
        means = vn.Means(mean, error, dict.fromkeys(mean, 100), 6)
        means.save(folder / "means.npz")
        scaled = saved_network.named_weights(vn.normalize(model, means))
        np.savez(folder / "a.npz", **saved_network.named_weights(model))
        np.savez(folder / "a_scaled.npz", **scaled)
        np.savez(folder / "a_cut.npz", **dict(list(scaled.items())[:14]))
        other = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")), seed=5)
        np.savez(folder / "other.npz", **saved_network.named_weights(other))
    return folder


def flags(ground, output, weights, reference, *more):
    return (
        "--task=compare",
        f"--weights={ground / weights}.npz",
        f"--reference={ground / reference}.npz",
        f"--output={output}",
        *more,
    )


@pytest.fixture(scope="module")
def same(ground, tmp_path_factory):
    """The output of a comparison of a network with its original, with means."""
    output = tmp_path_factory.mktemp("same") / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_vgg(monkeypatch)
        more = f"--means={ground / 'means.npz'}"
        assert command(*flags(ground, output, "a_scaled", "a", more)) == 0
    return output


@pytest.fixture(scope="module")
def another(ground, tmp_path_factory):
    """The output of a comparison of a network with another."""
    output = tmp_path_factory.mktemp("another") / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_vgg(monkeypatch)
        assert command(*flags(ground, output, "a_scaled", "other")) == 0
    return output


def report_of(output):
    return json.loads((output / "report.json").read_text())


def test_the_output_holds_three_files_and_nothing_else(same, another):
    for output in (same, another):
        names = {path.name for path in output.iterdir()}
        assert names == {"report.json", "report.html", "scales.npz"}
        assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_the_report_has_the_keys_of_the_contract(same, another):
    for output in (same, another):
        report = report_of(output)
        assert report.keys() >= {"architecture", "settings", "versions", "compare", "check"}
        assert report["check"] is None and report["settings"]["task"] == "compare"
        assert report["compare"].keys() >= {"same", "sentence", "layers"}
        assert [layer["name"] for layer in report["compare"]["layers"]] == LAYERS
        for layer in report["compare"]["layers"]:
            assert layer.keys() >= {"name", "residual", "bias_residual", "factor", "differing"}
            assert layer["factor"].keys() == {"min", "median", "max"}


def test_a_network_and_its_original_are_the_same(same, ground):
    report = report_of(same)
    assert report["compare"]["same"] is True
    assert report["compare"]["sentence"].startswith("The same network up to scales")
    means = vn.Means.load(ground / "means.npz")
    for layer in report["compare"]["layers"]:
        assert layer["residual"] < 1e-5 and layer["bias_residual"] < 1e-5
        assert layer["differing"] == []
        mean = means.mean[layer["name"]]
        expected = {"min": mean.min(), "median": np.median(mean), "max": mean.max()}
        assert layer["factor"] == pytest.approx(expected, rel=1e-5)


def test_the_scales_are_what_the_weights_were_divided_by(same, ground):
    means = vn.Means.load(ground / "means.npz")
    with np.load(same / "scales.npz") as scales:
        assert scales.files == [f"{name}/scale" for name in LAYERS]
        for name in LAYERS:
            np.testing.assert_allclose(scales[f"{name}/scale"], means.mean[name], rtol=1e-5)


def test_the_references_activation_is_the_scale_times_the_weights(same, ground):
    image = images(2, 64, 64)
    mine, its = (
        vn.features(vn.build("vgg19", weights=ground / f"{name}.npz"))(image)
        for name in ("a_scaled", "a")
    )
    with np.load(same / "scales.npz") as scales:
        for name in LAYERS:
            expected = its[name].numpy()
            found = scales[f"{name}/scale"] * mine[name].numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_another_network_is_not_the_same_and_the_exit_code_is_zero(another):
    compare = report_of(another)["compare"]
    assert compare["same"] is False
    assert compare["sentence"].startswith("Not the same network: block1_conv1 differs in 4 of 4")
    assert compare["layers"][0]["residual"] > 0.1
    assert compare["layers"][0]["differing"] == [0, 1, 2, 3]
    assert "means" not in compare


def test_the_report_says_what_was_compared(same, ground):
    report = report_of(same)
    assert report["weights"]["source"] == str(ground / "a_scaled.npz")
    assert report["reference"]["source"] == str(ground / "a.npz")
    assert len(report["reference"]["sha256"]) == 64
    assert report["compare"]["tolerance"] == 0.02


def test_means_that_are_the_factors_agree_with_them(same, ground):
    report = report_of(same)
    assert report["means"]["source"] == str(ground / "means.npz")
    rows = report["compare"]["means"]
    assert [row["name"] for row in rows] == LAYERS
    for row in rows:
        assert row.keys() >= {"name", "ratio", "log_correlation", "rms_standard_errors"}
        assert row["ratio"] == {
            "mean": pytest.approx(1, abs=1e-5),
            "deviation": pytest.approx(0, abs=1e-5),
        }
        assert row["log_correlation"] == pytest.approx(1, abs=1e-6)
        assert row["rms_standard_errors"] < 1e-3


def test_means_that_are_off_are_told_by_how_much(ground, tmp_path):
    means = vn.Means.load(ground / "means.npz")
    half = {name: 1.05 * mean for name, mean in means.mean.items()}
    vn.Means(half, means.standard_error, means.positions, 6).save(tmp_path / "means.npz")
    more = f"--means={tmp_path / 'means.npz'}"
    assert command(*flags(ground, tmp_path / "out", "a_scaled", "a", more)) == 0
    for row in report_of(tmp_path / "out")["compare"]["means"]:
        assert row["ratio"]["mean"] == pytest.approx(1.05, rel=1e-4)
        assert row["rms_standard_errors"] == pytest.approx(5, rel=1e-3)  # 5 % at errors of 1 %


class _Reader(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self):
        super().__init__()
        self.found, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone_and_says_the_sentence(same, another):
    for output in (same, another):
        page = (output / "report.html").read_text()
        reader = _Reader()
        reader.feed(page)
        for tag, attributes in reader.found:
            assert tag not in ("script", "link", "iframe", "object", "embed"), tag
            for name in ("src", "href", "xlink:href"):
                assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
        assert "url(" not in page and "@import" not in page
        assert report_of(output)["compare"]["sentence"] in reader.text
        assert all(name in reader.text for name in LAYERS)
        assert ("Means and factors" in reader.text) == (output == same)


def test_a_table_and_the_sentence_are_printed(ground, tmp_path, capsys):
    more = f"--means={ground / 'means.npz'}"
    assert command(*flags(ground, tmp_path / "out", "a_scaled", "a", more)) == 0
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "The same network up to scales" in text and "block5_conv4" in text
    assert "residual" in text and "correlation" in text
    assert f"{tmp_path / 'out'}/report.html" in text


def test_networks_of_other_depth_are_compared_as_far_as_both_go(ground, tmp_path, capsys):
    for i, pair in enumerate((("a_cut", "a"), ("a", "a_cut"))):
        output = tmp_path / str(i)
        assert command(*flags(ground, output, *pair)) == 0
        text = capsys.readouterr().err
        assert "compared as far as block3_conv3, the last layer that both hold" in text
        compare = report_of(output)["compare"]
        assert compare["same"] is True
        assert [layer["name"] for layer in compare["layers"]] == LAYERS[:7]


def test_means_of_more_layers_are_of_use_for_a_cut_network(ground, tmp_path):
    more = f"--means={ground / 'means.npz'}"
    assert command(*flags(ground, tmp_path / "out", "a_cut", "a", more)) == 0
    rows = report_of(tmp_path / "out")["compare"]["means"]
    assert [row["name"] for row in rows] == LAYERS[:7]


def test_the_last_layer_ends_the_comparison(ground, tmp_path, capsys):
    more = "--last_layer=block2_conv1"
    assert command(*flags(ground, tmp_path / "out", "a_scaled", "a", more)) == 0
    assert "as far as" not in capsys.readouterr().err
    layers = report_of(tmp_path / "out")["compare"]["layers"]
    assert [layer["name"] for layer in layers] == LAYERS[:3]


def test_a_last_layer_that_a_file_lacks_is_refused(ground, tmp_path, capsys):
    more = "--last_layer=block5_conv1"
    line = refused(capsys, 3, *flags(ground, tmp_path / "out", "a_cut", "a", more))
    assert "a_cut.npz with 7, without block3_conv4" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("tolerance", "same"), [(0.02, False), (0.2, True)])
def test_the_tolerance_is_the_users(ground, tmp_path, tolerance, same):
    random = np.random.default_rng(0)
    with np.load(ground / "a.npz") as file:
        content = {name: file[name] for name in file.files}
    noise = random.normal(0, 1, content["block1_conv2/kernel"].shape)
    size = np.linalg.norm(content["block1_conv2/kernel"]) / np.linalg.norm(noise)
    content["block1_conv2/kernel"] = (content["block1_conv2/kernel"] + 0.05 * size * noise).astype(
        np.float32
    )
    np.savez(tmp_path / "noisy.npz", **content)
    more = (f"--weights={tmp_path / 'noisy.npz'}", f"--tolerance={tolerance}")
    assert command(*flags(ground, tmp_path / "out", "a", "a", *more)) == 0
    compare = report_of(tmp_path / "out")["compare"]
    assert compare["same"] is same and compare["tolerance"] == tolerance
    assert compare["layers"][1]["residual"] == pytest.approx(0.05, rel=0.1)
    assert max(layer["residual"] for layer in compare["layers"][2:]) < 0.02


def test_other_sources_than_files_are_compared(tmp_path):
    more = ("--weights=random", "--reference=random", f"--output={tmp_path / 'out'}")
    assert command("--task=compare", *more) == 0
    report = report_of(tmp_path / "out")
    assert report["compare"]["same"] is True
    assert report["reference"]["source"] == "random"
    for layer in report["compare"]["layers"]:
        assert layer["factor"] == {"min": 1, "median": 1, "max": 1} and layer["residual"] == 0


def test_an_adain_file_is_compared_with_its_original(ground, tmp_path):
    model = vn.build("vgg19", weights=ground / "a_scaled.npz")
    means = vn.Means.load(ground / "means.npz")
    saved_network.write(model, means, tmp_path, formats=("adain",), settings={})
    more = f"--weights={tmp_path / 'vgg19_normalized_adain.safetensors'}"
    assert command(*flags(ground, tmp_path / "out", "a_scaled", "a", more)) == 0
    assert report_of(tmp_path / "out")["compare"]["same"] is True


# Refusals.


def test_no_reference_is_a_wrong_call(ground, tmp_path, capsys):
    given = [x for x in flags(ground, tmp_path / "out", "a", "a") if not x.startswith("--ref")]
    line = refused(capsys, 1, *given)
    assert "Expected --reference for compare" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"<!DOCTYPE html>"])
@pytest.mark.parametrize("which", ["weights", "reference"])
def test_weights_that_cannot_be_read_are_refused(ground, tmp_path, capsys, which, content):
    path = tmp_path / "broken.npz"
    if content is not None:
        path.write_bytes(content)
    before = list(tmp_path.iterdir())
    more = f"--{which}={path}"
    line = refused(capsys, 3, *flags(ground, tmp_path / "out", "a", "a", more))
    assert str(path) in line
    assert list(tmp_path.iterdir()) == before


def test_a_reference_of_another_architecture_is_refused(ground, tmp_path, capsys):
    model = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg16")))
    np.savez(tmp_path / "vgg16.npz", **saved_network.named_weights(model))
    more = f"--reference={tmp_path / 'vgg16.npz'}"
    line = refused(capsys, 3, *flags(ground, tmp_path / "out", "a", "a", more))
    assert "--architecture" in line


def test_an_output_that_exists_is_left_as_it_is(ground, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    line = refused(capsys, 4, *flags(ground, tmp_path / "out", "a", "a"))
    assert "which exists" in line and "--overwrite" in line
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_an_output_is_replaced_where_that_is_asked_for(ground, tmp_path):
    assert command(*flags(ground, tmp_path / "out", "a", "other")) == 0
    assert command(*flags(ground, tmp_path / "out", "a", "a", "--overwrite")) == 0
    assert report_of(tmp_path / "out")["compare"]["same"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_refusal_leaves_a_former_output_as_it_was(ground, tmp_path, capsys):
    assert command(*flags(ground, tmp_path / "out", "a", "a")) == 0
    before = (tmp_path / "out" / "report.json").read_bytes()
    more = (f"--means={tmp_path / 'none.npz'}", "--overwrite")
    refused(capsys, 3, *flags(ground, tmp_path / "out", "a", "a", *more))
    assert (tmp_path / "out" / "report.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_means_of_other_layers_are_refused(ground, tmp_path, capsys):
    more = "--means=shipped"  # of the real widths
    line = refused(capsys, 3, *flags(ground, tmp_path / "out", "a_scaled", "a", more))
    assert "Expected means of the 16 layers compared" in line
    assert not list(tmp_path.iterdir())


def test_a_convolution_of_its_own_is_not_compared(ground, tmp_path, capsys):
    model = draw_weights(
        vgg_layers.build_architecture(
            vgg_layers.VggOptions("vgg19", preprocessing="unit"), conversion=True
        )
    )
    np.savez(tmp_path / "own.npz", **saved_network.named_weights(model))
    more = f"--weights={tmp_path / 'own.npz'}"
    line = refused(capsys, 3, *flags(ground, tmp_path / "out", "a", "a", more))
    assert "begins with a convolution of its own" in line
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]


# Real networks.


def test_the_published_network_is_the_trained_one_and_its_scales_are_the_shipped_means(
    monkeypatch, tmp_path
):
    if not (PUBLISHED.exists() and TRAINED.exists()):
        pytest.skip(f"no real weights in {DATA}")
    monkeypatch.setattr(vgg_layers, "FILTERS", (64, 128, 256, 512, 512))
    code = command(
        "--task=compare",
        f"--weights={PUBLISHED}",
        f"--reference={TRAINED}",
        "--means=shipped",
        f"--output={tmp_path / 'out'}",
    )
    assert code == 0
    compare = report_of(tmp_path / "out")["compare"]
    assert compare["same"] is True
    layers = compare["layers"]
    assert [layer["name"] for layer in layers] == LAYERS[:5]
    residuals = [round(layer["residual"], 4) for layer in layers]
    assert residuals == [0.0040, 0.0065, 0.0084, 0.0079, 0.0090]
    medians = [round(layer["factor"]["median"], 1) for layer in layers]
    assert medians == [18.2, 60.9, 123.9, 95.0, 122.0]
    ratios = [round(row["ratio"]["mean"], 3) for row in compare["means"]]
    assert ratios == [0.976, 0.977, 0.976, 0.978, 0.978]
    assert all(row["log_correlation"] > 0.995 for row in compare["means"])
