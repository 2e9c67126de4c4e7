"""`python -m style.apply`: what a user types, finds and is told."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from helpers import feed_forward
from stylizers import STYLE_SIZE, STYLES, loaded, photo, read, style_picture, trained

import style
from style import apply
from style.images import colors
from vgg_normalize.errors import UsageError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("networks_loaded_once")]


@pytest.fixture
def stylise(world, tmp_path):
    """Apply; the picture that comes out, in [0, 1]."""

    def stylise(
        method: str, *more: object, output: str = "out.png", style="a", side=STYLE_SIZE
    ) -> np.ndarray:
        code = feed_forward(
            *("apply", f"--network={trained(world, method)}", f"--output={tmp_path / output}"),
            *(f"--content={world / 'photo.png'}", *more),
            *([f"--style_size={side}"] if side and method != "cin" else []),
            *([f"--style={world / 'styles' / style}.png"] if style else []),
        )
        assert code == 0
        return read(tmp_path / output) if output.endswith(".png") else np.empty(0)

    return stylise


@pytest.mark.parametrize("method", ["adain", "encoder"])
def test_a_picture_is_what_the_signature_makes(stylise, world, method):
    """37 x 51: no multiple of any stride."""
    call = tf.saved_model.load(str(trained(world, method))).signatures["serving_default"]
    content, style = (tf.constant(p[None]) for p in (photo(world), style_picture(world, side=512)))
    expected = call(content=content, style=style)["image"][0]
    assert expected.shape == (37, 51, 3)
    np.testing.assert_allclose(stylise(method, side=None), expected, atol=1.1 / 255 / 2)


def test_alpha_leads_from_the_content_to_the_style(stylise, world):
    network = loaded(world, "adain")
    own, other = network.code(photo(world)), network.code(style_picture(world))
    for alpha in (0.0, 0.5, 1.0):
        expected = network.transform(photo(world), alpha * other + (1 - alpha) * own)
        found = stylise("adain", f"--alpha={alpha}")
        np.testing.assert_allclose(found, expected, atol=1.1 / 255 / 2)
    assert (stylise("adain", "--alpha=0") != stylise("adain", style="b", output="b.png")).any()


def test_styles_are_blended_by_their_weights(stylise, world):
    network = loaded(world, "adain")
    codes = [network.code(style_picture(world, name)) for name in "ab"]
    both = f"--style={world / 'styles' / 'a.png'},{world / 'styles' / 'b.png'}"
    for blend, shares in ((["--style_blend=3,1"], (0.75, 0.25)), ([], (0.5, 0.5))):
        found = stylise("adain", both, *blend, style=None)
        expected = network.transform(photo(world), shares[0] * codes[0] + shares[1] * codes[1])
        np.testing.assert_allclose(found, expected, atol=1.1 / 255 / 2)
    alone = stylise("adain", both, "--style_blend=0,2", style=None)
    np.testing.assert_array_equal(alone, stylise("adain", style="b"))


def test_fixed_styles_are_found_by_name(stylise, refused, world, tmp_path):
    call = tf.saved_model.load(str(trained(world, "cin"))).signatures["serving_default"]
    content = tf.constant(photo(world)[None])
    for names, weights in (("b", (0, 1, 0)), ("c.png,paintings/a.jpg", (0.5, 0, 0.5))):
        expected = call(content=content, weights=tf.constant([weights], tf.float32))["image"][0]
        found = stylise("cin", f"--style={names}", style=None)
        np.testing.assert_allclose(found, expected, atol=1.1 / 255 / 2)
    network = (f"--network={trained(world, 'cin')}", f"--output={tmp_path / 'new.png'}")
    shared = ("apply", *network, f"--content={world / 'photo.png'}")
    for named, received in (("--style=a,d", "d"), ("--style=", "none")):
        said = refused(1, *shared, named)
        assert f"Received: {received}." in said and all(name in said for name in STYLES)
    for flag in ("--alpha=0.5", "--tile=16", "--preserve_color=match"):
        assert "cin" in refused(1, *shared, "--style=a", flag)


def test_masks_say_where_each_style_goes(stylise, world):
    styles = f"--style={world / 'styles' / 'a.png'},{world / 'styles' / 'b.png'}"
    masks = f"--content_mask={world / 'left.png'},{world / 'right.png'}"
    found = stylise("adain", styles, masks, style=None)
    one, other = stylise("adain"), stylise("adain", style="b")
    np.testing.assert_allclose(found[:, :20], one[:, :20], atol=0.6 / 255)
    np.testing.assert_allclose(found[:, -20:], other[:, -20:], atol=0.6 / 255)
    # Where no mask is white the content shows.
    found = stylise("adain", f"--content_mask={world / 'left.png'}")
    np.testing.assert_allclose(found[:, :20], one[:, :20], atol=0.6 / 255)
    np.testing.assert_allclose(found[:, -20:], photo(world)[:, -20:], atol=0.6 / 255)


def test_colours_are_kept(stylise, world):
    grey = stylise("adain", "--preserve_color=luminance") - photo(world)
    inside = np.abs(grey).max(-1) > 0.02
    spread = np.ptp(np.where(np.abs(grey + photo(world) - 0.5) < 0.45, grey, np.nan), axis=-1)
    assert inside.any() and np.nanmax(spread) < 2 / 255
    network = loaded(world, "adain")
    matched = colors.match_colors(style_picture(world), photo(world))
    expected = network.transform(photo(world), network.code(matched))
    found = stylise("adain", "--preserve_color=match")
    np.testing.assert_allclose(found, expected, atol=1.1 / 255 / 2)


def test_a_folder_of_contents_gives_a_folder_of_pictures(stylise, refused, world, tmp_path):
    shared = f"--content={world / 'contents'}"
    (tmp_path / "many").mkdir()
    stylise("adain", shared, output="many")
    found = {path.name: read(path).shape[:2] for path in (tmp_path / "many").iterdir()}
    assert found == {
        **{"a.png": (40, 60), "b.png": (50, 45), "c.png": (36, 36), "d.png": (64, 48)},
    }
    alone = stylise("adain", f"--content={world / 'contents' / 'b.png'}")
    np.testing.assert_array_equal(read(tmp_path / "many" / "b.png"), alone)


def test_the_size_is_that_of_the_long_side_and_16_bits_are_kept(stylise, tmp_path):
    assert stylise("adain", "--size=40").shape == (29, 40, 3)
    stylise("adain", "--bits=16")
    values = tf.io.decode_png((tmp_path / "out.png").read_bytes(), dtype=tf.uint16).numpy()
    assert (values % 257 != 0).any()


@pytest.mark.parametrize("tile", [8, 17])
def test_tiles_leave_no_seams(stylise, tile):
    more = ("--size=45", "--alpha=0.7")
    np.testing.assert_allclose(
        stylise("adain", *more, f"--tile={tile}", output="tiles.png"),
        stylise("adain", *more),
        atol=1.01 / 255,
    )


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (3, ["--network={}/contents"], "--network"),
        (3, ["--network={}/model/saved_model"], "--network"),
        (1, ["--style_blend=1,2"], "--style_blend"),
        (1, ["--style_blend=0"], "zeros"),
        (1, ["--style_blend=-1"], "'-1'"),
        (1, ["--content_mask={0}/left.png,{0}/right.png"], "--content_mask"),
        (1, ["--alpha=2"], "alpha"),
        (1, ["--style="], "--style"),
        (1, ["--content="], "--content"),
        (1, ["--bits=12"], "12"),
        (1, ["--content={}/contents"], "a directory"),
        (1, ["--output={}/photo.bmp"], "photo.bmp"),
        (2, ["--content={}/broken/half.png"], "half.png"),
        (2, ["--content={}/nowhere.png"], "nowhere.png"),
        (2, ["--style={}/nowhere.png"], "nowhere.png"),
        (2, ["--content={}/small.png"], "at least 8"),
        (2, ["--style={}/thin.png", "--style_size=20"], "--style_size"),
        (2, ["--content={}/empty"], "no images"),
        (1, ["--content={}/empty", "--output={}/empty"], "--output and --content are both"),
        (2, ["--content_mask={}/nowhere.png"], "nowhere.png"),
        (4, ["--output={}/nowhere/out.png"], "nowhere"),
    ],
)
def test_bad_input_of_application(refused, world, tmp_path, code, arguments, said):
    good = (
        *(f"--network={trained(world, 'adain')}", f"--content={world / 'photo.png'}"),
        *(f"--style={world / 'styles' / 'a.png'}", f"--output={tmp_path / 'out.png'}"),
    )
    assert said in refused(code, "apply", *good, *(text.format(world) for text in arguments))


def test_tiles_of_an_encoder_network_are_refused(refused, world, tmp_path):
    said = refused(
        *(1, "apply", f"--network={trained(world, 'encoder')}", f"--output={tmp_path / 'o.png'}"),
        *(f"--content={world / 'photo.png'}", f"--style={world / 'styles' / 'a.png'}", "--tile=9"),
    )
    assert "looks" in said or "look at the whole picture" in said


def test_a_damaged_network_is_said_to_be(refused, world, tmp_path):
    folder = shutil.copytree(trained(world, "adain"), tmp_path / "damaged")
    (folder / "saved_model.pb").write_bytes(b"half")
    assert "damaged" in refused(
        *(3, "apply", f"--network={folder}", f"--output={tmp_path / 'out.png'}"),
        *(f"--content={world / 'photo.png'}", f"--style={world / 'styles' / 'a.png'}"),
    )


@pytest.mark.parametrize(
    "change", [{"stride": 0}, {"halo": -8}, {"halo": 3}, {"least_style": 0}, {"method": "magic"}]
)
def test_a_network_whose_description_makes_no_sense_is_damaged(refused, world, tmp_path, change):
    folder = shutil.copytree(trained(world, "adain"), tmp_path / "edited")
    asset = folder / "assets" / "network.json"
    asset.write_text(json.dumps({**json.loads(asset.read_text()), **change}))
    said = refused(
        *(3, "apply", f"--network={folder}", f"--output={tmp_path / 'out.png'}"),
        *(f"--content={world / 'photo.png'}", f"--style={world / 'styles' / 'a.png'}", "--tile=16"),
    )
    assert "damaged" in said and str(*change.values()) in said


def test_every_flag_of_the_contract_is_there():
    values = flags.FlagValues()
    apply.define_flags(values)
    wanted = ("network", "content", "style", "style_blend", "alpha", "output", "tile")
    assert all(name in values for name in wanted)


def test_a_stylizer_is_called_in_python_as_the_command_applies_it(stylise, world):
    """Two styles, blended, at a part of their strength."""
    call = style.load_stylizer(trained(world, "adain"))
    both = [style_picture(world, name) for name in "ab"]
    image = call(photo(world), both, weights=(1, 3), alpha=0.5)
    paths = ",".join(str(world / "styles" / f"{name}.png") for name in "ab")
    flags = ("--style_blend=1,3", "--alpha=0.5", f"--style={paths}")
    np.testing.assert_allclose(stylise("adain", *flags, style=None), image, atol=1.1 / 255 / 2)
    np.testing.assert_array_equal(call(photo(world), both[0]), call(photo(world), both[:1]))


def test_a_stylizer_of_fixed_styles_takes_their_names(world):
    call = style.load_stylizer(trained(world, "cin"))
    assert sorted(call.known_styles) == sorted(STYLES)
    first, second = call.known_styles[:2]
    assert (call(photo(world), first) != call(photo(world), second)).any()
    with pytest.raises(UsageError, match="styles that this network knows.*nobody"):
        call(photo(world), "nobody")
    with pytest.raises(UsageError, match="alpha=1"):
        call(photo(world), first, alpha=0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"weights": (1, 2)}, "one for each style"), ({"weights": (0,)}, "above 0")],
)
def test_a_stylizer_refuses_weights_that_cannot_be(world, options, said):
    call = style.load_stylizer(trained(world, "adain"))
    with pytest.raises(UsageError, match=said):
        call(photo(world), style_picture(world), **options)
