"""The report: numbers against hand-made means, and a page that stands alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from html_reader import Reader

from vgg_normalize.means import Means
from vgg_normalize.report import json_report
from vgg_normalize.verification import Check

pytestmark = pytest.mark.slow


def made(*, mean=(2.0, 0.0, 4.0, 1e-4), relative=0.1, images=100) -> Means:
    mean = np.array(mean)
    return Means(
        {"block1_conv1": mean},
        {"block1_conv1": np.where(mean > 0, relative, 0) * mean},
        {"block1_conv1": 9},
        images,
    )


def checked(**changes) -> Check:
    values = {
        "passed": True,
        "images": 7,
        "worst_mean_deviation": 2e-7,
        "worst_feature_error": 3e-7,
        "worst_output_error": None,
        "agreeing": 1.0,
        "mean_after": {"block1_conv1": np.array([1.0, np.nan, 0.9999, 1.0001])},
        "feature_errors": {"block1_conv1": 3e-7},
    }
    return Check(**{**values, **changes})


def facts(**settings) -> dict:
    settings = {
        "weights": "imagenet",
        "resize": "squash",
        "image_size": 224,
        "target_error": 0.0,
        "formats": ["saved_model", "h5", "npz"],
        "last_layer": None,
        "include_top": False,
        **settings,
    }
    return {
        "architecture": "vgg19",
        "pooling": "max",
        "settings": {"preprocessing": "caffe", "padding": "zero", **settings},
        "weights": {"source": "imagenet", "description": "Keras' <weights>", "sha256": ""},
        "means": {"source": "measured", "images": 100, "sha256": ""},
        "versions": {"tensorflow": "2"},
        "resumed_from": 0,
        "images": {
            "source": "my <folder>",
            "used": 100,
            "skipped": [{"path": "<b>&.jpg", "reason": "cut <off>"}],
            "sha256": "ab" * 32,
        },
        "images_per_second": 3.0,
    }


def written(folder, means, check, **settings) -> tuple[dict, str]:
    json_report.write(folder, facts(**settings), means, check)
    content = json.loads((folder / "report.json").read_text())
    return content, (folder / "report.html").read_text()


def test_layers_say_what_the_means_say():
    (entry,) = json_report.layers(made(), checked())
    assert entry["name"] == "block1_conv1" and entry["channels"] == 4
    assert entry["dead"] == [1]
    # 1e-4 is below a thousandth of the layer's average (6.0001 / 4), 0 is dead, not rare.
    assert entry["rarely_firing"] == 1
    assert entry["mean_before"] == {"min": 0.0, "median": pytest.approx(1.00005), "max": 4.0}
    assert entry["mean_after"] == {"min": 0.9999, "median": 1.0, "max": 1.0001}
    assert entry["max_relative_standard_error"] == pytest.approx(0.1)


def test_the_largest_relative_error_is_that_of_a_living_filter():
    error = {"a": np.array([0.1, 5.0, 0.9])}
    means = Means({"a": np.array([1.0, 0.0, 3.0])}, error, {"a": 9}, 10)
    assert json_report.layers(means, None)[0]["max_relative_standard_error"] == pytest.approx(0.3)


def test_a_layer_of_dead_filters_has_no_relative_error():
    (entry,) = json_report.layers(made(mean=(0.0, 0.0)), None)
    assert entry["max_relative_standard_error"] is None and entry["mean_after"] is None
    assert entry["dead"] == [0, 1]


def test_images_for_one_percent_follow_the_square_root_law():
    # Ten times the error of 1 %: a hundred times the images.
    found = json_report.accuracy(made(relative=0.1, images=100))
    assert found["images_for_1_percent_median"] == pytest.approx(10_000, abs=1)
    assert found["images_for_1_percent_share_95"] == pytest.approx(10_000, abs=1)
    assert json_report.accuracy(made(relative=0.005))["images_for_1_percent_median"] == 25


def test_one_image_gives_no_accuracy(tmp_path):
    content, page = written(tmp_path, made(relative=np.inf, images=1), None)
    assert content["accuracy"]["median"] is None
    assert "One image gives no standard errors" in page


def test_verdict_of_means_of_one_is_normalised():
    assert " is normalised " in json_report.verdict(
        made(mean=(1.0, 1.01, 0.99, 1.0), relative=0.01)
    )


@pytest.mark.parametrize(
    "mean", [(22.0, 24.0, 30.0), (0.5, 1.5, 1.0), (1.2, 1.2, 1.2), (0.0, 0.0, 0.0)]
)
def test_verdict_of_other_means_is_not_normalised(mean):
    # (0.5, 1.5, 1.0): the average of the layer alone is 1.
    text = json_report.verdict(made(mean=mean, relative=0.001))
    assert " is not normalised " in text and "block1_conv1" in text


def test_json_has_no_nan(tmp_path):
    check = checked(passed=False, worst_feature_error=float("nan"))
    json_report.write(tmp_path, facts(), made(), check)

    def never(name):
        raise AssertionError(name)

    text = (tmp_path / "report.json").read_text()
    assert json.loads(text, parse_constant=never)["check"]["worst_feature_error"] == "nan"


def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    _, page = written(tmp_path, made(), checked())
    reader = Reader(page)
    assert reader.open == []
    sources = [attrs[key] for _, attrs in reader.found for key in ("src", "href") if key in attrs]
    assert len(sources) == 2  # before and after
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in reader.found}
    assert "@import" not in page and "url(" not in page


def test_the_page_escapes_names(tmp_path):
    _, page = written(tmp_path, made(), checked())
    text = "".join(Reader(page).text)
    for name in ("<b>&.jpg", "cut <off>", "my <folder>"):
        assert name in text and name not in page


def test_the_page_tells_layers_check_dead_filters_and_how_to_load(tmp_path):
    _, page = written(tmp_path, made(), checked())
    text = "".join(Reader(page).text)
    for part in ("block1_conv1", "Proved on 7 images", "2.0e-07", "3.0e-07", "dead filters"):
        assert part in text, part
    for part in ("tf.saved_model.load", "keras.applications.VGG19", "numpy.load"):
        assert part in text, part


def test_the_page_offers_only_what_was_saved(tmp_path):
    _, page = written(tmp_path, made(), checked(), formats=["npz"])
    assert "tf.saved_model.load" not in page and "weights.h5" not in page
    assert "vgg19_normalized.npz" in page
    # Keras' class has all layers: it cannot load the file of a network that is cut.
    _, page = written(tmp_path, made(), checked(), last_layer="block1_conv1")
    assert "keras.applications.VGG19" not in page


def test_an_average_pooling_network_says_that_keras_pools_by_max(tmp_path):
    json_report.write(tmp_path, {**facts(), "pooling": "avg"}, made(), checked())
    assert "pools by max" in (tmp_path / "report.html").read_text()


def test_the_page_of_a_failed_check_does_not_say_how_to_load(tmp_path):
    _, page = written(tmp_path, made(), checked(passed=False))
    assert "The proof failed" in page and "nothing was saved" in page
    assert "How to load" not in page and "Proved" not in page


def test_the_page_of_an_audit_gives_the_verdict(tmp_path):
    content, page = written(tmp_path, made(), None)
    assert content["check"] is None
    assert "This network is not normalised" in page and "audit" in page
    assert "How to load" not in page


def verdict_classes(page: str) -> list[str]:
    """The classes of the boxes that give a verdict."""
    classes = [attrs.get("class") or "" for _, attrs in Reader(page).found]
    return [name for name in classes if "verdict" in name]


@pytest.mark.parametrize("normalised", [True, False])
def test_the_colour_of_an_audit_comes_from_the_data_not_from_the_words(
    tmp_path, monkeypatch, normalised
):
    words = "is not normalised" if normalised else "is normalised, and nothing failed"
    monkeypatch.setattr(json_report, "verdict", lambda means: words)
    mean = (1.0, 1.01, 0.99) if normalised else (2.0, 3.0, 4.0)
    _, page = written(tmp_path, made(mean=mean, relative=0.01), None)
    assert verdict_classes(page) == ["verdict" if normalised else "verdict failed"]
    assert words in page


@pytest.mark.parametrize("passed", [True, False])
def test_the_colour_of_a_check_is_that_of_its_result(tmp_path, passed):
    _, page = written(tmp_path, made(), checked(passed=passed))
    assert verdict_classes(page) == ["verdict" if passed else "verdict failed"]


def test_finished_is_a_report_with_a_passed_check_or_an_audit(tmp_path):
    assert not json_report.is_finished(str(tmp_path))
    written(tmp_path, made(), checked())
    assert json_report.is_finished(str(tmp_path))
    written(tmp_path, made(), None)
    assert json_report.is_finished(str(tmp_path))
    written(tmp_path, made(), checked(passed=False))
    assert not json_report.is_finished(str(tmp_path))
    for damaged in ("{", "[]", "{}", '"text"'):
        (tmp_path / "report.json").write_text(damaged)
        assert not json_report.is_finished(str(tmp_path))


def test_summary_counts_dead_and_rarely_firing_filters():
    text = json_report.summary(made(), checked(), "out")
    assert "100 images; 1 dead and 1 rarely firing filters." in text
    assert "Proved" in text and "out" in text
