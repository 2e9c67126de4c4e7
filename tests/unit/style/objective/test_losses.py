"""Style losses, content and regularisers: against closed forms, kernels and loops in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from helpers import activations, assert_gradient, double, gradient_of

from style.objective import losses

# Different numbers of positions; more of them than channels.
IMAGE, STYLE = activations(23, 4, seed=1), activations(17, 4, seed=2)
WEIGHTS = np.random.default_rng(3).uniform(0, 2, 23)
STYLE_WEIGHTS = np.random.default_rng(4).uniform(0, 2, 17)

# Of functions of sums; test_sliced_wasserstein.py has the one of projections.
NAMES = [name for name, make in losses.STYLE_LOSSES.items() if not make().projected]
each_loss = pytest.mark.parametrize("name", NAMES)
each_sum = pytest.mark.parametrize(
    "name", [name for name in NAMES if not losses.STYLE_LOSSES[name]().sampled]
)


def loss_of(name, style, t_style=None):
    """(F, t) -> the loss of features against a style's."""
    loss = losses.STYLE_LOSSES[name]()
    goal = loss.target(loss.sums(style, t_style))
    return lambda f, t=None: loss.distance(loss.sums(f, t), goal)


def of_numpy(f, t=None):
    """Mean, covariance, deviation and Gram matrix by a loop over positions."""
    t = np.ones(len(f)) if t is None else t
    mu, gram = np.zeros(f.shape[1]), np.zeros((f.shape[1],) * 2)
    for row, weight in zip(f, t, strict=True):
        mu, gram = mu + weight * row / t.sum(), gram + weight * np.outer(row, row) / t.sum()
    sigma = np.zeros_like(gram)
    for row, weight in zip(f, t, strict=True):
        sigma = sigma + weight * np.outer(row - mu, row - mu) / t.sum()
    return mu, sigma, np.sqrt(np.diag(sigma) + 1e-8), gram


def mean_kernel(kernel, x, y):
    return sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


def discrepancy(kernel, x, y):
    """MMD^2 over all pairs, by the definition."""
    return mean_kernel(kernel, x, x) + mean_kernel(kernel, y, y) - 2 * mean_kernel(kernel, x, y)


def closed_form(name, f, s, t=None, t_s=None):
    """The formula of the contract."""
    mu, cov, dev, gram = of_numpy(f, t)
    mu_s, cov_s, dev_s, gram_s = of_numpy(s, t_s)
    channels = f.shape[1]
    squares = np.sum((mu - mu_s) ** 2)
    if name == "gram":
        return np.mean((gram - gram_s) ** 2)
    if name == "moments":
        return np.mean((mu - mu_s) ** 2 + (dev - dev_s) ** 2)
    if name == "mmd_linear":
        return squares / channels
    if name == "mmd_poly":
        return (np.sum((gram - gram_s) ** 2) + 2 * squares) / channels**2
    if name == "mmd_gaussian":
        width = np.mean([np.sum((a - b) ** 2) for a in s for b in s])
        return discrepancy(lambda x, y: np.exp(-np.sum((x - y) ** 2) / (2 * width)), f, s)
    root = scipy.linalg.sqrtm(cov_s).real
    shared = np.trace(scipy.linalg.sqrtm(root @ cov @ root).real)
    return (squares + np.trace(cov) + np.trace(cov_s) - 2 * shared) / channels


@each_loss
def test_the_loss_is_the_closed_form(name):
    found = float(loss_of(name, double(STYLE))(double(IMAGE)))
    assert found > 1e-3
    assert found == pytest.approx(closed_form(name, IMAGE, STYLE), rel=1e-9)


@each_loss
def test_the_loss_in_float32_is_the_closed_form(name):
    style, image = tf.constant(STYLE, tf.float32), tf.constant(IMAGE, tf.float32)
    found = loss_of(name, style)(image)
    assert found.dtype == tf.float32
    assert float(found) == pytest.approx(closed_form(name, IMAGE, STYLE), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "kernel", "factor"),
    [
        ("mmd_linear", lambda x, y: x @ y, 4),
        ("mmd_poly", lambda x, y: (x @ y + 1) ** 2, 16),
    ],
)
def test_mmd_is_the_mean_of_the_kernel_over_all_pairs(name, kernel, factor):
    found = float(loss_of(name, double(STYLE))(double(IMAGE)))
    assert found == pytest.approx(discrepancy(kernel, IMAGE, STYLE) / factor, rel=1e-10)


@pytest.mark.parametrize("offset", [0.0, 0.3, 5.0])
def test_the_offset_of_the_polynomial_kernel_is_that_of_the_kernel(offset):
    loss = losses.mmd_poly(offset=offset)
    goal = loss.target(loss.sums(double(STYLE)))
    found = float(loss.distance(loss.sums(double(IMAGE)), goal))
    expected = discrepancy(lambda x, y: (x @ y + offset) ** 2, IMAGE, STYLE) / 16
    assert found == pytest.approx(expected, rel=1e-10)


def test_the_gaussian_width_is_the_style_s_and_not_the_picture_s():
    near, far = (loss_of("mmd_gaussian", double(c * STYLE))(double(IMAGE)) for c in (1, 3))
    assert float(near) == pytest.approx(closed_form("mmd_gaussian", IMAGE, STYLE), rel=1e-10)
    assert float(far) == pytest.approx(closed_form("mmd_gaussian", IMAGE, 3 * STYLE), rel=1e-10)


def test_the_gaussian_mmd_is_never_negative():
    close = loss_of("mmd_gaussian", tf.constant(STYLE, tf.float32))
    for scale in (0, 1e-8, 1e-6, 1e-4, 1e-2):
        assert float(close(tf.constant(STYLE * (1 + scale), tf.float32))) >= 0


def test_wasserstein_of_commuting_covariances_is_that_of_the_deviations():
    random = np.random.default_rng(0)
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])  # uncorrelated columns
    a, b, shift = random.uniform(0.5, 2, 2), random.uniform(0.5, 2, 2), random.normal(size=2)
    found = loss_of("wasserstein", double(signs * b))(double(signs * a + shift))
    assert float(found) == pytest.approx(np.sum(shift**2 + (a - b) ** 2) / 2, rel=1e-10)


def test_wasserstein_in_float32_survives_a_large_mean():
    style, image = (tf.constant(part + 30, tf.float32) for part in (STYLE, IMAGE))
    found = loss_of("wasserstein", style)(image)
    assert float(found) == pytest.approx(closed_form("wasserstein", IMAGE, STYLE), rel=1e-2)


@each_loss
@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_is_the_difference(name, seed):
    assert_gradient(loss_of(name, double(STYLE)), IMAGE, seed=seed)


@each_sum
def test_the_gradient_with_weights_is_the_difference(name):
    weighted = loss_of(name, double(STYLE), double(STYLE_WEIGHTS))
    assert_gradient(lambda f: weighted(f, double(WEIGHTS)), IMAGE)


@each_loss
def test_the_loss_is_zero_at_the_target_with_no_slope(name):
    found = loss_of(name, double(STYLE))
    assert float(found(double(STYLE))) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(gradient_of(found, STYLE), 0, atol=1e-7)


@each_loss
def test_the_order_of_positions_does_not_matter(name):
    order = np.random.default_rng(5).permutation(23)
    found = loss_of(name, double(STYLE))
    expected = float(found(double(IMAGE)))
    assert float(found(double(IMAGE[order]))) == pytest.approx(expected, rel=1e-12)


@each_sum
def test_repeated_positions_do_not_matter(name):
    found = loss_of(name, double(STYLE))
    expected = float(found(double(IMAGE)))
    assert float(found(double(np.tile(IMAGE, (3, 1))))) == pytest.approx(expected, rel=1e-9)


def dead(features):
    return features * np.array([1, 0, 1, 1])


DEGENERATE = {
    "dead in the picture": (dead(IMAGE), STYLE),
    "dead in the style": (IMAGE, dead(STYLE)),
    "dead in both": (dead(IMAGE), dead(STYLE)),
    "dead target": (dead(STYLE), dead(STYLE)),
    "constant picture": (np.full((23, 4), 0.3), STYLE),
    "constant style": (IMAGE, np.full((17, 4), 0.3)),
    "both constant": (np.full((23, 4), 0.3), np.full((17, 4), 0.3)),
    "both zero": (np.zeros((23, 4)), np.zeros((17, 4))),
    "zero picture": (np.zeros((23, 4)), STYLE),
    "constant and dead": (dead(np.full((23, 4), 0.3)), dead(STYLE)),
    "few positions": (IMAGE[:2], STYLE[:3]),
    "one position": (IMAGE[:1], STYLE[:1]),
}


@each_loss
@pytest.mark.filterwarnings("ignore:Matrix is singular")
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("case", DEGENERATE)
def test_the_loss_and_its_gradient_are_finite_on(name, dtype, case):
    image, style = (tf.constant(part, dtype) for part in DEGENERATE[case])
    found = loss_of(name, style)
    with tf.GradientTape() as tape:
        tape.watch(image)
        value = found(image)
    gradient = tape.gradient(value, image).numpy()
    assert np.isfinite(value.numpy()) and np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 10
    # A style without distances has no width of its own.
    if name != "mmd_gaussian" or np.ptp(DEGENERATE[case][1], axis=0).any():
        expected = closed_form(name, *DEGENERATE[case])
        assert float(value) == pytest.approx(expected, abs=1e-4, rel=1e-3)


@each_sum
def test_guided_losses_are_those_of_weighted_loops(name):
    found = loss_of(name, double(STYLE), double(STYLE_WEIGHTS))(double(IMAGE), double(WEIGHTS))
    expected = closed_form(name, IMAGE, STYLE, WEIGHTS, STYLE_WEIGHTS)
    assert float(found) == pytest.approx(expected, rel=1e-9)
    assert float(found) != pytest.approx(closed_form(name, IMAGE, STYLE), rel=1e-3)


@each_sum
def test_guides_of_one_change_nothing(name):
    plain = float(loss_of(name, double(STYLE))(double(IMAGE)))
    ones = loss_of(name, double(STYLE), double(np.ones(17)))(double(IMAGE), double(np.ones(23)))
    assert float(ones) == pytest.approx(plain, rel=1e-12)


@each_sum
def test_guides_of_zero_and_one_restrict_to_their_positions(name):
    inside, inside_style = WEIGHTS > 0.7, STYLE_WEIGHTS > 0.7
    guided = loss_of(name, double(STYLE), double(inside_style))
    restricted = loss_of(name, double(STYLE[inside_style]))
    expected = float(restricted(double(IMAGE[inside])))
    assert float(guided(double(IMAGE), double(inside))) == pytest.approx(expected, rel=1e-9)
    # What lies outside has no say and gets no gradient.
    gradient = gradient_of(lambda f: guided(f, double(inside)), IMAGE)
    assert not gradient[~inside].any() and gradient[inside].any()


@each_sum
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "guided"])
def test_sums_of_parts_add_up_and_give_the_loss_of_the_whole(name, weights):
    loss = losses.STYLE_LOSSES[name]()
    goal = loss.target(loss.sums(double(STYLE)))

    def sums(part):
        t = None if weights is None else double(weights[part])
        return loss.sums(double(IMAGE[part]), t)

    parts = [sums(slice(0, 5)), sums(slice(5, 20)), sums(slice(20, 23))]
    added = tf.nest.map_structure(lambda *part: tf.add_n(part), *parts)
    whole = sums(slice(None))
    for ours, theirs in zip(tf.nest.flatten(added), tf.nest.flatten(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    expected = float(loss.distance(whole, goal))
    assert float(loss.distance(added, goal)) == pytest.approx(expected, rel=1e-11)


@each_sum
def test_a_style_made_of_two_pictures_sums_is_the_pooled_style(name):
    loss = losses.STYLE_LOSSES[name]()
    both = tf.nest.map_structure(tf.add, loss.sums(double(STYLE)), loss.sums(double(IMAGE)))
    pooled = loss.sums(double(np.concatenate([STYLE, IMAGE])))
    other = loss.sums(double(activations(11, 4, seed=9)))
    found, expected = (float(loss.distance(other, loss.target(part))) for part in (both, pooled))
    assert found == pytest.approx(expected, rel=1e-11)


def test_only_the_gaussian_mmd_is_sampled():
    sampled = {name for name, make in losses.STYLE_LOSSES.items() if make().sampled}
    assert sampled == {"mmd_gaussian"} and losses.SAMPLES == 512


def root_of(matrix):
    return losses.trace_of_root(matrix, double(1))


def test_the_trace_of_the_root_is_that_of_scipy():
    matrix = STYLE.T @ STYLE
    expected = np.trace(scipy.linalg.sqrtm(matrix).real)
    assert float(root_of(double(matrix))) == pytest.approx(expected, rel=1e-12)
    # Its derivative is A^-1/2 / 2.
    inverse = np.linalg.inv(scipy.linalg.sqrtm(matrix).real)
    found = gradient_of(root_of, matrix)
    np.testing.assert_allclose(found, inverse / 2, rtol=1e-9, atol=1e-12)


def test_the_trace_of_the_root_scales_its_gradient_with_what_comes_in():
    matrix = STYLE.T @ STYLE
    once = gradient_of(root_of, matrix)
    thrice = gradient_of(lambda a: -3 * root_of(a), matrix)
    np.testing.assert_allclose(thrice, -3 * once, rtol=1e-12)


def test_squared_error_is_the_sum_and_its_gradient_twice_the_difference():
    other = activations(23, 4, seed=8)
    found = float(losses.squared_error(double(IMAGE), double(other)))
    assert found == pytest.approx(np.sum((IMAGE - other) ** 2), rel=1e-12)
    gradient = gradient_of(lambda f: losses.squared_error(f, double(other)), IMAGE)
    np.testing.assert_allclose(gradient, 2 * (IMAGE - other), rtol=1e-12)
    assert_gradient(lambda f: losses.squared_error(f, double(other)), IMAGE)


PICTURE = np.random.default_rng(6).uniform(0, 1, (1, 5, 7, 3))


def variation(picture, beta):
    """By a loop over pixels; beyond the last row and column the picture goes on unchanged."""
    _, height, width, channels = picture.shape
    total = 0.0
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                here = picture[0, i, j, c]
                down = picture[0, min(i + 1, height - 1), j, c] - here
                right = picture[0, i, min(j + 1, width - 1), c] - here
                total += (down**2 + right**2) ** (beta / 2)
    return total


@pytest.mark.parametrize("beta", [2.0, 1.0, 1.5, 2.5])
def test_total_variation_is_the_loop_over_pixels(beta):
    found = float(losses.total_variation(double(PICTURE), beta=beta))
    assert found == pytest.approx(variation(PICTURE, beta), rel=1e-5 if beta < 2 else 1e-9)


def test_total_variation_is_squared_by_default():
    found = float(losses.total_variation(double(PICTURE)))
    assert found == pytest.approx(variation(PICTURE, 2), rel=1e-12)


@pytest.mark.parametrize("beta", [2.0, 1.0, 1.5])
def test_total_variation_has_the_gradient_of_its_differences(beta):
    assert_gradient(lambda x: losses.total_variation(x, beta=beta), PICTURE)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("beta", [2.0, 1.0, 1.5])
def test_a_constant_picture_has_no_variation_and_no_gradient(beta, dtype):
    flat = tf.fill([1, 5, 7, 3], tf.constant(0.3, dtype))
    with tf.GradientTape() as tape:
        tape.watch(flat)
        value = losses.total_variation(flat, beta=beta)
    assert float(value) == pytest.approx(0, abs=1e-12 if dtype == tf.float64 else 1e-6)
    np.testing.assert_array_equal(tape.gradient(value, flat), 0)


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_a_picture_of_one_row_or_column_has_a_variation(beta):
    for thin in (PICTURE[:, :1], PICTURE[:, :, :1], PICTURE[:, :1, :1]):
        found = float(losses.total_variation(double(thin), beta=beta))
        assert found == pytest.approx(variation(thin, beta), rel=1e-5, abs=1e-4)


def test_the_range_excess_is_the_loop_over_pixels_that_leave_it():
    wide = 3 * PICTURE - 1
    below, above = wide[wide < 0], wide[wide > 1]
    assert below.size and above.size and below.size + above.size < wide.size
    expected = np.sum(below**2) + np.sum((above - 1) ** 2)
    assert float(losses.range_excess(double(wide))) == pytest.approx(expected)
    assert_gradient(losses.range_excess, wide)


def test_pixels_within_their_range_have_no_excess_and_no_gradient():
    assert float(losses.range_excess(double(PICTURE))) == 0
    np.testing.assert_array_equal(gradient_of(losses.range_excess, PICTURE), 0)


@pytest.mark.parametrize("alpha", [6.0, 2.0, 3.0])
def test_the_alpha_norm_is_the_loop_over_pixels(alpha):
    centred = PICTURE - 0.45
    expected = sum(np.sum(pixel**2) ** (alpha / 2) for pixel in centred.reshape(-1, 3))
    assert float(losses.alpha_norm(double(centred), alpha=alpha)) == pytest.approx(expected)
    assert_gradient(lambda x: losses.alpha_norm(x, alpha=alpha), centred)


def test_the_alpha_norm_is_zero_for_grey_with_no_gradient():
    grey = np.zeros((1, 4, 4, 3))
    assert float(losses.alpha_norm(double(grey))) == 0
    np.testing.assert_array_equal(gradient_of(losses.alpha_norm, grey), 0)
