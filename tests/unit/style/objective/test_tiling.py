"""Tiles: every position is owned once, and objective and gradient are those of the whole picture."""

from __future__ import annotations

from functools import cache, partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_weights, peak_memory, small_vgg
from keras import layers

import vgg_normalize as vn
from style.objective import terms as objective
from style.objective import tile_references, value_and_gradient, windows
from style.objective import tiling as tiles
from style.objective.losses import STYLE_LOSSES
from style.synthesis import picture_terms
from style.synthesis.picture_terms import Style
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain

pytestmark = pytest.mark.slow

# Three tiles of 16 a side, the last ones smaller.
SHAPE, TILE = (37, 45), 16
# The largest relative difference of the objective and of its gradient.
CLOSE = {"float32": (1e-5, 1e-4), "float64": (1e-9, 1e-9)}
VGG = [f"block{block}_conv1" for block in range(1, 6)]


@cache
def network(kind: str = "max", dtype: str = "float32") -> keras.Model:
    """Convolutions that see 1, 4 and 8 pixels beyond their own ("wide": 2, 8 and 11)."""

    def convolution(filters, name, size=3, activation="relu", **options):
        options = {"padding": "same", "activation": activation, "dtype": dtype, **options}
        return layers.Conv2D(filters, size, name=name, **options)

    if kind == "wide":
        stack = [
            convolution(4, "first", 5, activation=None),
            layers.ReLU(dtype=dtype),
            layers.MaxPooling2D(3, dtype=dtype),
            layers.Dropout(0.5, dtype=dtype),
            convolution(5, "third", dilation_rate=2),
            convolution(5, "between", 1),
            convolution(4, "fourth"),
        ]
    else:
        pooling = {"max": layers.MaxPooling2D, "avg": layers.AveragePooling2D}[kind]
        stack = [
            convolution(4, "first"),
            convolution(5, "second"),
            pooling(2, dtype=dtype),
            convolution(6, "third"),
            pooling(2, dtype=dtype),
            convolution(6, "fourth"),
            convolution(4, "unused"),
        ]
    return draw_weights(keras.Sequential([keras.Input((None, None, 3), dtype=dtype), *stack]))


def noise(shape, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def content_and_picture(shape, dtype="float32"):
    """[1, H, W, 3] each; some of the picture is beyond its range."""
    content, picture = noise(shape, 1), 1.5 * noise(shape, 2) - 0.25
    return tf.constant(content[None], dtype), tf.constant(picture[None], dtype)


def evaluated(model, terms, shape, tile=0, dtype="float32", graph=None):
    """Objective, gradient and kinds of a picture: by tiles in a graph, as runs do; whole without.

    One evaluation does not pay for a graph of small layers, and is another reference without.
    """
    content, x = content_and_picture(shape, dtype)
    evaluate = value_and_gradient.make_value_and_gradient(
        model, terms, shape, content=content, tile=tile
    )
    in_graph = bool(tile) if graph is None else graph
    return tf.nest.map_structure(np.asarray, (tf.function(evaluate) if in_graph else evaluate)(x))


def distance(ours, theirs) -> float:
    """The relative difference in norm."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def assert_same(found, expected, dtype="float32"):
    close, close_gradient = CLOSE[dtype]
    assert expected[0] > 1e-4 and found[0].dtype == expected[0].dtype == dtype
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=close)
    assert found[1].dtype == dtype and found[1].shape == expected[1].shape
    assert distance(found[1], expected[1]) <= close_gradient
    assert set(found[2]) == set(expected[2])
    for kind, value in expected[2].items():
        assert float(found[2][kind]) == pytest.approx(float(value), rel=close), kind


def style_terms(model, *styles, shape=SHAPE, loss="gram", names=("first", "fourth"), tile=0):
    # Deep features are small here: so all layers have a say in the gradient.
    which = [(name, 20.0 if name == "fourth" else 1.0) for name in names]
    return picture_terms.style_terms(model, styles, which, 2.0, shape=shape, loss=loss, tile=tile)


def every_term(model, shape=SHAPE, tile=0):
    """One or more of each kind, of like gradients; the style's picture is larger than a tile."""
    return [
        *style_terms(model, Style(noise((41, 26), 3)), shape=shape, tile=tile),
        *picture_terms.content_terms(model, [("third", 1.0)], 0.3, shape=shape),
        objective.tv_term(0.2, (*shape, 3)),
        objective.norm_term(0.0005, shape),
        objective.range_term(0.5, (*shape, 3)),
    ]


ALONE = {
    "content": lambda model, tile: picture_terms.content_terms(
        model, [("second", 1.0), ("fourth", 3.0)], 1.0, shape=SHAPE
    ),
    "inversion": lambda model, tile: picture_terms.inversion_terms(
        model, noise(SHAPE, 1), "fourth", 2.0, tile=tile
    ),
    "variation 2": lambda model, tile: [objective.tv_term(1.0, (*SHAPE, 3))],
    "variation 1.5": lambda model, tile: [objective.tv_term(1.0, (*SHAPE, 3), 1.5)],
    "bounded variation": lambda model, tile: [objective.normalized_tv_term(1.0, SHAPE, 1.5)],
    "norm": lambda model, tile: [objective.norm_term(1.0, SHAPE)],
    "range": lambda model, tile: [objective.range_term(1.0, (*SHAPE, 3))],
}


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("loss", STYLE_LOSSES)
def test_each_style_loss_and_its_gradient_by_tiles_are_those_of_the_whole(loss, dtype):
    model, style = network(dtype=dtype), Style(noise((41, 26), 3))
    whole, tiled = (style_terms(model, style, loss=loss, tile=tile) for tile in (0, TILE))
    assert not any(term.linear for term in tiled)
    found = evaluated(model, tiled, SHAPE, TILE, dtype)
    assert_same(found, evaluated(model, whole, SHAPE, 0, dtype), dtype)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", ALONE)
def test_each_linear_term_and_its_gradient_by_tiles_are_those_of_the_whole(name, dtype):
    model = network(dtype=dtype)
    whole, tiled = (ALONE[name](model, tile) for tile in (0, TILE))
    assert all(term.linear for term in tiled)
    found = evaluated(model, tiled, SHAPE, TILE, dtype)
    assert_same(found, evaluated(model, whole, SHAPE, 0, dtype), dtype)


@pytest.mark.parametrize(
    ("kind", "shape", "tile"),
    [
        ("max", (11, 45), 16),  # one row of tiles
        ("avg", (49, 16), 16),  # the last tile is a row of pixels, and owns no deep position
        ("avg", (9, 33), 10),  # both axes end so; tiles of 8
        ("max", (18, 13), 1),  # tiles of 4, the least
        ("wide", (40, 31), 16),  # pooling by 3: tiles of 15
    ],
)
def test_a_sum_of_all_kinds_by_tiles_is_that_of_the_whole(kind, shape, tile):
    model = network(kind)
    expected = evaluated(model, every_term(model, shape), shape)
    assert set(expected[2]) == {"style", "content", "tv", "norm", "range"}
    assert_same(evaluated(model, every_term(model, shape, tile), shape, tile), expected)


def test_passes_over_the_tiles_are_in_memory_one_at_a_time(monkeypatch):
    """Two passes in turn take less than the one of a deeper layer; at the same time, more."""
    monkeypatch.setattr(tile_references, "MAX_KEPT", 0)
    # As deep networks do, it takes most where the second pass turns round, before slopes are needed.
    stack: list[keras.layers.Layer] = []
    for block, filters in enumerate((32, 64, 128)):
        for name in (f"{block}a", f"{block}b"):
            stack.append(layers.Conv2D(filters, 3, padding="same", activation="relu", name=name))
        stack.append(layers.MaxPooling2D())
    model = draw_weights(keras.Sequential([keras.Input((None, None, 3)), *stack]))
    shape, tile = (256, 256), 128
    content = tf.constant(noise(shape, 1)[None])

    def most(terms) -> int:
        evaluate = value_and_gradient.make_value_and_gradient(
            model, terms, shape, content=content, tile=tile
        )
        return peak_memory(evaluate, content)

    linear = picture_terms.content_terms(model, [("2b", 1.0)], 1.0, shape=shape)
    nonlinear = style_terms(
        model, Style(noise(shape, 2)), shape=shape, names=("0a", "1a", "2a"), tile=tile
    )
    assert most(nonlinear) < most(linear)


def test_content_features_that_are_not_kept_give_the_same_bits(monkeypatch):
    model = network()
    contents = [tf.constant(noise(SHAPE, seed)[None]) for seed in (1, 5)]

    def evaluations():
        """Of two contents in turn."""
        evaluate = value_and_gradient.make_value_and_gradient(
            *(model, ALONE["content"](model, TILE), SHAPE), content=contents[0], tile=TILE
        )
        traced = tf.function(evaluate)
        for content in contents:
            evaluate.compare_with(content, None)
            yield [np.asarray(x) for x in tf.nest.flatten(traced(noise(SHAPE, 2)[None]))]

    assert tile_references.numbers_kept({"a": (3, 4, 5), "b": (1, 1, 2)}) == 62
    kept = list(evaluations())
    monkeypatch.setattr(tile_references, "MAX_KEPT", 61)
    assert tile_references.numbers_kept({"a": (3, 4, 5), "b": (1, 1, 2)}) == 0
    for ours, theirs in zip(evaluations(), kept, strict=True):
        for found, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(found, expected)
    assert kept[0][0] != kept[1][0]


@pytest.mark.parametrize("loss", ["gram", "mmd_gaussian", "wasserstein"])
def test_a_tile_that_owns_no_position_of_a_layer_adds_nothing_to_it(loss):
    model, shape, tile = network("avg"), (9, 17), 8
    owned = tiles.make_tiling(model, ["fourth"], shape, tile).positions["fourth"]
    assert (owned[:, 2:].prod(axis=1) == 0).any()
    whole, tiled = (
        style_terms(model, Style(noise((17, 9), 3)), shape=shape, loss=loss, tile=side)
        for side in (0, tile)
    )
    assert_same(evaluated(model, tiled, shape, tile), evaluated(model, whole, shape))


@pytest.mark.parametrize("loss", ["moments", "mmd_poly", "mmd_gaussian"])
def test_styles_with_masks_and_places_by_tiles_are_those_of_the_whole(loss):
    model, random = network(), np.random.default_rng(4)
    left = np.zeros(SHAPE, np.float32)
    left[:, :20] = 1  # not where tiles meet
    soft = random.random((41, 26), np.float32)
    styles = [
        Style(noise((41, 26), 3), 1.0, mask=soft, content_mask=left),
        Style(noise((20, 19), 5), 2.0, content_mask=1 - left),
    ]
    whole, tiled = (style_terms(model, *styles, loss=loss, tile=tile) for tile in (0, TILE))
    expected = evaluated(model, whole, SHAPE)
    assert_same(evaluated(model, tiled, SHAPE, TILE), expected)
    plain = style_terms(model, *(style._replace(mask=None, content_mask=None) for style in styles))
    assert float(evaluated(model, plain, SHAPE)[0]) != pytest.approx(float(expected[0]), rel=1e-3)


def test_a_picture_in_one_tile_is_the_whole_to_the_last_bit():
    model = network()
    terms = every_term(model)
    for found, expected in zip(
        tf.nest.flatten(evaluated(model, terms, SHAPE, max(SHAPE))),
        tf.nest.flatten(evaluated(model, terms, SHAPE, graph=True)),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_tiles_without_a_graph_give_the_same():
    model, shape = network(), (21, 19)
    terms = [*every_term(model, shape), objective.normalized_tv_term(0.1, shape, 2.0)]
    content, x = content_and_picture(shape)
    evaluate = value_and_gradient.make_value_and_gradient(
        model, terms, shape, content=content, tile=TILE
    )
    found = tf.nest.map_structure(np.asarray, evaluate(x))
    assert_same(found, evaluated(model, terms, shape, TILE))
    np.testing.assert_array_equal(x, content_and_picture(shape)[1])


def test_vgg19_down_to_its_last_block_by_tiles_is_the_whole():
    """Some seconds: all filters, and windows of nearly the whole picture.

    In float64: with so many poolings some maxima are ties in float32, which rounding decides.
    """
    single = draw_weights(vn.build("vgg19", weights="random", last_layer="block5_conv1"))
    model, shape = (
        chain.copy(single, fresh_layer=partial(chain.copy_layer, dtype="float64")),
        (96, 130),
    )
    terms = picture_terms.style_terms(
        model, [Style(noise((64, 64), 3))], [(name, 1.0) for name in VGG], 1.0, shape=shape
    )
    terms += picture_terms.content_terms(model, [("block4_conv2", 1.0)], 1.0, shape=shape)
    assert tiles.make_tiling(model, VGG, shape, 64).tiles == 6
    by_tiles, whole = (evaluated(model, terms, shape, tile, "float64") for tile in (64, 0))
    assert_same(by_tiles, whole, "float64")


# Borders.


def near(shape, lines, width: int) -> np.ndarray:
    """Where a picture is within so many pixels of horizontal or vertical lines."""
    found = np.zeros(shape, bool)
    for line in lines:
        found[max(line - width, 0) : line + width] = True
        found[:, max(line - width, 0) : line + width] = True
    return found


@cache
def gradients(halo: bool = True):
    """Of the deepest layer's terms, by tiles and of the whole picture; kept for either halo."""
    model = network()
    terms = style_terms(model, Style(noise((41, 26), 3)), names=["fourth"])
    terms += picture_terms.content_terms(model, [("fourth", 1.0)], 1.0, shape=SHAPE)
    return [evaluated(model, terms, SHAPE, tile)[1][0] for tile in (TILE, 0)]


BANDS = {"the picture's": (0, 37, 45), "inner": (16, 32)}


@pytest.mark.parametrize("border", BANDS)
def test_the_gradient_is_right_at_borders(border):
    ours, theirs = gradients()
    band = near(SHAPE, BANDS[border], 2)
    assert distance(ours[band], theirs[band]) <= 1e-4


def test_without_their_halo_tiles_would_be_wrong(monkeypatch):
    fields = tiles.receptive_field
    monkeypatch.setattr(tiles, "receptive_field", lambda *arguments: (fields(*arguments)[0], 0))
    ours, theirs = gradients(halo=False)
    band = near(SHAPE, BANDS["inner"], 2)
    # One stride of pixels is left of the halo, which is not enough.
    assert distance(ours[band], theirs[band]) > 1e-2
    assert distance(ours, theirs) > 1e-2


@pytest.mark.parametrize("kind", ["max", "avg", "wide"])
@pytest.mark.parametrize("shape", [SHAPE, (49, 10)], ids=str)
def test_what_tiles_own_put_together_is_the_layer(kind, shape):
    model, names = network(kind), ["first", "third", "fourth"]
    x = tf.constant(noise(shape, 2)[None])
    features = value_and_gradient.feature_extractor(model, names)
    expected, tiling = features(x), tiles.make_tiling(model, names, shape, TILE)
    put = {name: np.full(feature.shape[1:], np.nan) for name, feature in expected.items()}
    for i in range(tiling.tiles):
        piece = windows.crop_window(x, tiling, i)
        for name, part in tiles.tile_features(features(piece), {}, tiling, i).items():
            (top, left), (height, width) = part.origin.numpy(), part.size.numpy()
            np.testing.assert_array_equal(part.features.shape[1:3], (height, width))
            put[name][top : top + height, left : left + width] = part.features[0]
            assert (part.with_border is None) == (name != "image")
            if name == "image":  # the slice ends where the picture does
                there = noise(shape, 2)[top : top + height + 1, left : left + width + 1]
                np.testing.assert_array_equal(part.with_border[0], there)
    for name, feature in expected.items():
        np.testing.assert_allclose(put[name], feature[0], rtol=1e-5, atol=1e-5)


def test_windows_added_up_count_each_pixel_as_often_as_it_is_covered():
    tiling = tiles.make_tiling(network(), ["fourth"], SHAPE, TILE)
    counted = tf.zeros([1, *SHAPE, 2])
    expected = np.zeros(SHAPE)
    for i, (top, left, height, width) in enumerate(tiling.windows):
        counted = windows.add_to_window(counted, tf.ones([1, height, width, 2]), tiling, i)
        expected[top : top + height, left : left + width] += 1
    assert expected.min() >= 1 and expected.max() > 1
    np.testing.assert_array_equal(counted[0], np.stack([expected, expected], -1))


# Sums.


@pytest.mark.parametrize("loss", [name for name in STYLE_LOSSES if name != "sliced_wasserstein"])
def test_total_sums_by_tiles_are_those_of_the_whole(loss):
    model, shape, chosen = network(), (41, 26), STYLE_LOSSES[loss]()
    picture, random = tf.constant(noise(shape, 3)[None]), np.random.default_rng(6)
    sizes, wanted = tiles.layer_shapes(model, ["first", "fourth"], shape), []
    for name in ("first", "fourth"):
        height, width, _ = sizes[name]
        at = random.integers(0, (height, width), (30, 2))
        guide = tf.constant(random.random((height, width)), tf.float32)
        options = {"samples": tf.constant(at, tf.int32)} if chosen.sampled else {"guide": guide}
        wanted.append((name, objective.style_sums(chosen, **options)))
    whole, tiled = (
        value_and_gradient.total_sums(model, picture, wanted, tile=t) for t in (0, TILE)
    )
    for ours, theirs in zip(tf.nest.flatten(tiled), tf.nest.flatten(whole), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


# How pictures are cut.


@cache
def small_network() -> keras.Model:
    with pytest.MonkeyPatch.context() as patch:
        small_vgg(patch, filters=(1, 1, 1, 1, 1))
        return vn.build("vgg19", weights="random", pooling="avg", last_layer="block5_conv1")


@pytest.mark.parametrize("depth", [0, 1, 3, 5])
@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((180, 150), 64),
        ((64, 64), 64),
        ((65, 64), 64),
        ((65, 129), 64),
        ((33, 161), 32),  # slivers: the last tile is one pixel
        ((16, 500), 48),  # one row
        ((47, 31), 16),
        ((63, 50), 5),  # below one stride
        ((97, 113), 70),  # no multiple of the stride
    ],
)
def test_every_position_of_every_layer_is_owned_exactly_once(shape, tile, depth):
    names, deepest = VGG[:depth], 2 ** max(depth - 1, 0)
    halo = [1, 1, 4, 10, 30, 70][depth]
    tiling = tiles.make_tiling(small_network(), names, shape, tile)
    assert set(tiling.positions) == set(tiling.inside) == {"image", *names}
    top, left, height, width = tiling.windows.T
    assert len(top) == tiling.tiles and tiling.shape == shape
    assert tiling.tiles == 1 or tiling.tiles >= np.prod(shape) / max(tile, deepest) ** 2
    assert (tiling.windows[:, :2] % deepest == 0).all()
    assert (tiling.windows >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= shape[0]).all() and (left + width <= shape[1]).all()
    for number, name in enumerate(("image", *names)):
        stride = 2 ** max(number - 1, 0)
        counters = np.zeros([side // stride for side in shape], int)
        for window, positions, inside in zip(
            tiling.windows, tiling.positions[name], tiling.inside[name], strict=True
        ):
            begin, end = positions[:2], positions[:2] + positions[2:]
            counters[begin[0] : end[0], begin[1] : end[1]] += 1
            if tiling.tiles > 1:
                assert (stride * positions[2:] <= max(tile, deepest)).all()
                assert (begin * stride % deepest == 0).all()
            # The positions are where they are said to be, and what they look at is in the window.
            np.testing.assert_array_equal(window[:2] // stride + inside, begin)
            assert (inside + positions[2:] <= window[2:] // stride).all()
            if positions[2:].all():
                sees = np.maximum(stride * begin - halo, 0), np.minimum(stride * end + halo, shape)
                assert (window[:2] <= sees[0]).all() and (window[:2] + window[2:] >= sees[1]).all()
        np.testing.assert_array_equal(counters, 1)


def test_no_tile_is_one_tile():
    for tile in (0, 37, 1000):
        tiling = tiles.make_tiling(network(), ["fourth"], (37, 30), tile)
        np.testing.assert_array_equal(tiling.windows, [[0, 0, 37, 30]])
        np.testing.assert_array_equal(tiling.positions["fourth"], [[0, 0, 9, 7]])


def test_tiles_are_as_equal_as_they_can_be():
    tiling = tiles.make_tiling(network(), ["fourth"], (34, 100), 32)
    sides = [np.unique(tiling.positions["image"][:, axis]) for axis in (2, 3)]
    np.testing.assert_array_equal(sides[0], [14, 20])
    np.testing.assert_array_equal(sides[1], [16, 28])


@pytest.mark.parametrize(
    ("name", "stride", "halo"),
    [
        ("block1_conv1", 1, 1),
        ("block2_conv1", 2, 4),
        ("block3_conv1", 4, 10),
        ("block4_conv1", 8, 30),
        ("block5_conv1", 16, 70),
    ],
)
def test_the_halo_is_what_a_position_of_vgg19_sees_beyond_its_own_pixels(name, stride, halo):
    strides, found = tiles.receptive_field(small_network(), ["image", "block1_conv1", name])
    assert (strides[name], found) == (stride, halo)
    assert strides["image"] == strides["block1_conv1"] == 1
    # Where the gradient of one position is not zero, all kernels being positive.
    model = vn.features(small_network(), [name])
    for weight in model.weights:
        weight.assign(tf.ones_like(weight))
    picture = tf.ones([1, 256, 256, 3])
    with tf.GradientTape() as tape:
        tape.watch(picture)
        position = model(picture)[name][0, 128 // stride, 128 // stride, 0]
    seen = np.flatnonzero(tape.gradient(position, picture)[0].numpy().any(axis=(1, 2)))
    assert (seen[0], seen[-1]) == (128 - halo, 128 + stride - 1 + halo)


def test_a_separate_relu_a_dilation_and_large_kernels_count():
    strides, halo = tiles.receptive_field(network("wide"), ["first", "fourth"])
    assert strides == {"image": 1, "first": 1, "fourth": 3}
    assert halo == 2 + 2 * 3 + 1 * 3
    assert tiles.receptive_field(network("wide"), ["first"]) == ({"image": 1, "first": 1}, 2)


def stack(*those, shape=(None, None, 3)) -> keras.Model:
    first = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")
    last = layers.Conv2D(2, 3, padding="same", activation="relu", name="last")
    return keras.Sequential([keras.Input(shape), first, *those, last])


REFUSED = {
    "a valid convolution": lambda: layers.Conv2D(2, 3, padding="valid", name="culprit"),
    "a strided convolution": lambda: layers.Conv2D(2, 3, 2, padding="same", name="culprit"),
    "an even kernel": lambda: layers.Conv2D(2, 4, padding="same", name="culprit"),
    "an oblong kernel": lambda: layers.Conv2D(2, (3, 1), padding="same", name="culprit"),
    "same pooling": lambda: layers.MaxPooling2D(2, padding="same", name="culprit"),
    "overlapping pooling": lambda: layers.AveragePooling2D(3, 2, name="culprit"),
    "oblong pooling": lambda: layers.MaxPooling2D((2, 1), name="culprit"),
    "zero padding": lambda: layers.ZeroPadding2D(1, name="culprit"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_layers_that_tiles_cannot_see_through_are_refused_by_name(what):
    model = stack(REFUSED[what]())
    with pytest.raises(NetworkError, match="same size.*'culprit'.*without tiles"):
        tiles.make_tiling(model, ["first", "last"], (64, 64), 32)
    # Nothing is refused that is not needed.
    assert tiles.make_tiling(model, ["first"], (64, 64), 32).tiles == 4
    assert tiles.make_tiling(model, ["last"], (64, 64), 64).tiles == 1


def test_a_network_for_one_size_is_refused():
    model = stack(shape=(64, 48, 3))
    with pytest.raises(NetworkError, match=r"any size.*\(64, 48, 3\).*without tiles"):
        tiles.make_tiling(model, ["first"], (64, 48), 32)
    terms = picture_terms.content_terms(model, [("last", 1.0)], 1.0, shape=(64, 48))
    with pytest.raises(NetworkError, match="without tiles"):
        value_and_gradient.make_value_and_gradient(model, terms, (64, 48), tile=32)


def test_the_largest_window_is_that_of_all_windows():
    random = np.random.default_rng(0)
    for _ in range(2000):
        align = int(2 ** random.integers(0, 5))
        halo = align * int(random.integers(0, 12))
        shape = tuple(int(side) for side in random.integers(1, 400, 2))
        tile = int(random.integers(1, 200))
        _, windows = tiles.make_blocks(shape, tile, align, halo)
        expected = tuple((windows[:, 2:] - windows[:, :2]).max(0).tolist())
        assert tiles.largest_block_window(shape, tile, align, halo) == expected
