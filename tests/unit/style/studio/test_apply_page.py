"""The page of trained stylisers gives the pictures of `style.load_stylizer`."""

from __future__ import annotations

import numpy as np
import pytest
from stylizers import STYLE_SIZE, STYLES, shared_world, trained

gr = pytest.importorskip("gradio", reason="no gradio here: pip install '.[studio]'")

import style  # noqa: E402
from style.studio import apply_page  # noqa: E402
from style.studio.apply_page import ApplyPage  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return shared_world(tmp_path_factory)


@pytest.fixture
def apply(world, monkeypatch):
    """The picture that the page gives for these values of its fields."""
    monkeypatch.setattr(apply_page, "STYLE_SIZE", STYLE_SIZE)
    networks = [str(trained(world, method)) for method in ("adain", "cin")]
    with gr.Blocks():
        page = ApplyPage(networks, [], [])

    def apply(**chosen) -> np.ndarray:
        values = {"network": networks[0], "content": str(world / "photo.png"), "pictures": []}
        values |= {"names": [], "weights": "", "alpha": 1.0, "size": 48, **chosen}
        return page._apply({getattr(page, name): value for name, value in values.items()})

    apply.networks = networks
    return apply


def expected(directory: str, world, styles, **options) -> np.ndarray:
    photo = style.load_image(world / "photo.png", size=48)
    return np.round(style.load_stylizer(directory)(photo, styles, **options) * 255)


def test_pictures_are_blended_by_weights_and_alpha(apply, world):
    paths = [str(world / "styles" / name) for name in STYLES[:2]]
    made = apply(pictures=paths, weights="1, 3", alpha=0.5)
    pictures = [style.load_image(path, size=STYLE_SIZE) for path in paths]
    wanted = expected(apply.networks[0], world, pictures, weights=(1.0, 3.0), alpha=0.5)
    np.testing.assert_array_equal(made, wanted)


def test_fixed_styles_are_chosen_by_name(apply, world):
    cin = apply.networks[1]
    made = apply(network=cin, names=list(STYLES[:2]))
    np.testing.assert_array_equal(made, expected(cin, world, list(STYLES[:2])))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"network": "/etc"}, "Expected a styliser"),
        ({"content": None}, "Expected a content picture"),
        ({}, "Expected style. Received: none"),
        ({"weights": "1,x"}, "Expected weights of 0 or more"),
    ],
)
def test_what_cannot_be_applied_is_told_of(apply, chosen, words):
    with pytest.raises(gr.Error, match=words):
        apply(**chosen)
