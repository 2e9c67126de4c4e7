"""The model card beside a normalised network."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image

from vgg_normalize.means import Means
from vgg_normalize.report import json_report, model_card
from vgg_normalize.verification import Check

MEANS = Means(
    {"block1_conv1": np.array([2.0, 0.0, 4.0])}, {"block1_conv1": np.full(3, 0.1)}, {}, 100
)
CHECK = Check(True, 7, 2e-7, 3e-7, None, 1.0, {"block1_conv1": np.array([1.0, np.nan, 1.0])}, {})


def facts(**settings) -> dict:
    """What a run says of itself."""
    return {
        "architecture": "vgg19",
        "pooling": "max",
        "settings": {
            "weights": "imagenet",
            "resize": "squash",
            "image_size": 224,
            "target_error": 0.0,
            "formats": ["saved_model", "onnx"],
            "last_layer": None,
            "include_top": False,
            "preprocessing": "caffe",
            "padding": "zero",
            **settings,
        },
        "weights": {"source": "", "description": "Keras' <b>weights</b>", "sha256": ""},
        "means": {"source": "measured", "images": 100, "sha256": ""},
        "versions": {"tensorflow": "2"},
        "resumed_from": 0,
        "images": {"source": "photos", "used": 100, "skipped": [], "sha256": "ab"},
        "images_per_second": 3.0,
        "formats": [
            {
                "name": "onnx",
                "file": "vgg19_normalized.onnx",
                "bytes": 2**21,
                "worst_difference": 2e-6,
            }
        ],
    }


def written(folder, check=CHECK, **settings) -> tuple[dict, str]:
    """The YAML head and the text of the card."""
    json_report.write(folder, facts(**settings), MEANS, check)
    text = (folder / "README.md").read_text()
    empty, head, body = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head), body


@pytest.mark.parametrize(
    ("weights", "licence"),
    [("imagenet", "cc-by-4.0"), ("imagenet_8bit", "cc-by-4.0"), ("mine.npz", "other")],
)
def test_the_head_says_the_licence_of_the_weights_as_far_as_it_is_known(tmp_path, weights, licence):
    head, text = written(tmp_path, weights=weights)
    assert head["license"] == licence and ("license_name" in head) == (licence == "other")
    assert head["library_name"] == "tensorflow"
    assert head["pipeline_tag"] == "image-feature-extraction"
    assert {"vgg19", "onnx", "style-transfer"} <= set(head["tags"])
    assert ("Simonyan" in text) == (licence != "other")


def test_without_a_saved_model_the_library_is_keras(tmp_path):
    head, text = written(tmp_path, formats=["h5"])
    assert head["library_name"] == "keras" and "onnx" not in head["tags"]
    assert "keras.applications.VGG19(" in text and "tf.saved_model" not in text


def test_the_card_tells_how_to_load_means_proof_and_files(tmp_path):
    _, text = written(tmp_path)
    assert '```python\nimport tensorflow as tf\nvgg = tf.saved_model.load("saved_model")' in text
    assert "| block1_conv1 | 3 | 1 | 0 | 2 | 4 |" in text
    assert "max \\|s f' - f\\| / max \\|f\\| | 3.0e-07 | 1e-04 |" in text
    assert "| vgg19_normalized.onnx | onnx | 2.0 MiB | 2.0e-06 |" in text
    assert "\\<b>weights" in text
    assert "![Channel means by layer](means.png)" in text
    with Image.open(tmp_path / "means.png") as figure:
        assert figure.width > figure.height > 300


def test_an_audit_and_a_failed_proof_have_no_card(tmp_path):
    for check in (None, Check(False, *list(CHECK.__dict__.values())[1:])):
        json_report.write(tmp_path, facts(), MEANS, check)
        assert not (tmp_path / "README.md").exists()


def test_the_head_is_yaml_whatever_the_texts(tmp_path):
    head = {"license": "no", "tags": ["a: b", "- c", '"d"', "ünïcode", "1.0"], "empty": ""}
    model_card.write(tmp_path, head, "T", {"": "first", "Second": "more", "Left out": ""})
    text = (tmp_path / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1]) == head
    assert text.endswith("---\n\n# T\n\nfirst\n\n## Second\n\nmore\n")
