"""What hard use found: each was wrong once, and was wrong without a word or with a traceback."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import TINY, command, draw_weights, images, picture, refused, save_model, stylise
from PIL import Image

import vgg_normalize as vn
from vgg_normalize.errors import NetworkError

pytestmark = pytest.mark.slow


def test_images_too_small_for_the_network_are_refused_before_work(tmp_path, capsys):
    said = refused(
        *(capsys, 1, "--weights=random", "--last_layer=block4_conv1", "--images=sample"),
        *("--image_size=7", f"--output={tmp_path / 'out'}"),
    )
    assert "at least 8 pixels" in said
    assert not list(tmp_path.iterdir())


def test_a_list_of_weights_that_leaves_one_out_is_damage(tmp_path):
    saved = save_model(tmp_path / "saved")
    asset = saved / "saved_model" / "assets" / "means.json"
    content = json.loads(asset.read_text())
    content["network"]["weights"] = content["network"]["weights"][:-1]
    asset.write_text(json.dumps(content))
    with pytest.raises(NetworkError, match="damaged .*block2_conv1/bias is not listed"):
        vn.load(saved)


def test_a_network_for_grey_images_is_saved(tmp_path):
    layer = keras.layers.Conv2D(3, 3, padding="same", activation="relu", name="only")
    model = draw_weights(keras.Sequential([keras.Input((None, None, 1)), layer]))
    batch = images(2, 12, 12)[..., :1]
    means = vn.channel_means(model, [batch])
    vn.save(vn.normalize(model, means), means, tmp_path / "out")
    np.testing.assert_allclose(vn.load(tmp_path / "out")(batch), vn.normalize(model, means)(batch))


def test_networks_of_mixed_precision_are_checked_in_float32():
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    layer = keras.layers.Conv2D(4, 3, activation="relu", name="only", dtype=policy)
    model = draw_weights(keras.Sequential([keras.Input((None, None, 3)), layer]))
    batch = images(2, 12, 12)
    means = vn.channel_means(model, [batch])
    found = vn.check(model, vn.normalize(model, means), means, [batch])
    assert 0 < found.worst_feature_error < 0.05  # bfloat16 has three digits


@pytest.mark.parametrize("flag", ["content_weight", "style_weight", "style_scale", "tv_weight"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path, capsys, flag, value):
    assert stylise(f"--{flag}={value}", f"--output={tmp_path / 'out.png'}") == 1
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--size=3000000000", "--scales=1000000", "--style_scale=1e300"])
def test_sizes_beyond_reason_are_answered_at_once(tmp_path, capsys, flag):
    assert stylise(flag, f"--output={tmp_path / 'out.png'}") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_two_values_behind_one_flag_are_to_be_separated_by_commas(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(8, 8)).save(tmp_path / name)
    code = stylise("--style", tmp_path / "a.png", tmp_path / "b.png", "--output=out.png")
    assert code == 1 and "separated by commas" in capsys.readouterr().err


@pytest.mark.parametrize(
    "outputs",
    [
        ["--output={0}/content.png"],
        ["--output={0}/out.png", "--log={0}/content.png"],
        ["--output={0}/out.png", "--animation={0}/out.png"],
        ["--output={0}/link.png"],
    ],
)
def test_no_output_is_written_over_an_input_or_another_output(tmp_path, capsys, outputs):
    Image.fromarray(picture(16, 16)).save(tmp_path / "content.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "content.png")
    kept = (tmp_path / "content.png").read_bytes()
    arguments = [text.format(tmp_path) for text in outputs]
    content = f"--content={tmp_path / 'content.png'}"
    assert stylise(content, f"--style={tmp_path / 'content.png'}", *arguments) == 1
    assert "a place of its own" in capsys.readouterr().err
    assert (tmp_path / "content.png").read_bytes() == kept


def test_the_images_are_not_replaced_by_the_output(tmp_path, capsys):
    Image.fromarray(picture(40, 40)).save(tmp_path / "photo.png")
    said = refused(
        *(capsys, 1, *TINY, f"--images={tmp_path}", f"--output={tmp_path}", "--overwrite"),
    )
    assert "--images" in said and (tmp_path / "photo.png").exists()


@pytest.mark.parametrize("closing", ["2>&-", "2>&- >&-"])
def test_a_closed_standard_error_stops_nothing(tmp_path, closing):
    flags = " ".join((*TINY, "--images=sample", "--max_images=2", f"--output={tmp_path / 'out'}"))
    found = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m vgg_normalize {flags} {closing}"], timeout=300
    )
    assert found.returncode == 0
    assert (tmp_path / "out" / "report.json").exists()


def test_a_reader_that_has_seen_enough_of_the_help_is_no_error():
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m vgg_normalize --help | head -1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_a_whole_run_says_what_it_does_and_on_what(tmp_path, capsys):
    output = tmp_path / "out"
    assert command(*TINY, "--images=sample", "--max_images=2", f"--output={output}") == 0
    first, device, *_ = capsys.readouterr().err.splitlines()
    assert "normalising vgg19 (random)" in first and "sample" in first
    assert "TensorFlow" in device and "CPU" in device


def test_members_of_an_npz_that_are_not_needed_are_never_read(tmp_path, monkeypatch):
    model = vn.build("vgg19", weights="random", last_layer="block1_conv2")
    arrays = {
        f"block1_conv{i}/{kind}": array
        for i in (1, 2)
        for kind, array in zip(
            ("kernel", "bias"), model.get_layer(f"block1_conv{i}").get_weights(), strict=True
        )
    }
    np.savez(
        tmp_path / "w.npz", **arrays, **{"block5_conv4/kernel": np.zeros(8), "notes": np.ones(9)}
    )
    read = []
    original = np.lib.npyio.NpzFile.__getitem__
    monkeypatch.setattr(
        np.lib.npyio.NpzFile, "__getitem__", lambda f, k: read.append(k) or original(f, k)
    )
    vn.build("vgg19", weights=tmp_path / "w.npz", last_layer="block1_conv2")
    assert sorted(read) == sorted(arrays)
