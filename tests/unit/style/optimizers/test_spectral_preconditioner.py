"""The preconditioner in Fourier space: symmetric, positive definite, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import double

from style.optimizers import spectral_preconditioner

SIZES = [(8, 8), (7, 9), (6, 11), (11, 6), (1, 5), (5, 1)]
each_size = pytest.mark.parametrize("size", SIZES, ids=str)
each_state = pytest.mark.parametrize("learnt", [False, True], ids=["start", "learnt"])


def noise(size, seed=0):
    return np.random.default_rng(seed).normal(size=(1, *size, 3))


def state(size, learnt=False, exponent=0.4, dtype=tf.float64):
    """A preconditioner as a function of a gradient, at the start or after some pairs."""
    method = spectral_preconditioner.preconditioner(*size, exponent=exponent)
    preconditioner_state = method.init(tf.constant(noise(size), dtype))
    for seed in range(8 if learnt else 0):
        s = tf.constant(noise(size, 10 + seed), dtype)
        # A pair of a symmetric positive definite Hessian that mixes colours.
        mix = np.array([[3, 1, 0], [1, 2, 0.5], [0, 0.5, 1]])
        preconditioner_state, _ = method.update(
            preconditioner_state, s, tf.einsum("bhwc,cd->bhwd", s, tf.constant(mix, dtype))
        )
    return (lambda g: method.apply(preconditioner_state, g)), preconditioner_state


@each_size
def test_frequencies_are_those_of_numpy_and_at_least_one_cycle(size):
    found = spectral_preconditioner.frequencies(*size)
    assert found.shape == (size[0], size[1] // 2 + 1)
    assert found[0, 0] == found.min() == 1 / max(size)
    y, x = np.fft.fftfreq(size[0])[-1], np.fft.rfftfreq(size[1])[-1]
    assert found[-1, -1] == max(np.hypot(y, x), 1 / max(size))


@each_size
def test_bands_rise_with_frequency_and_none_is_empty(size):
    band, frequency = (
        spectral_preconditioner.bands(*size),
        spectral_preconditioner.frequencies(*size),
    )
    order = np.argsort(frequency.ravel(), kind="stable")
    assert band.ravel()[order[0]] == 0 and (np.diff(band.ravel()[order]) >= 0).all()
    np.testing.assert_array_equal(np.unique(band), np.arange(band.max() + 1))
    assert band.max() < spectral_preconditioner.BANDS


@each_size
def test_blocks_at_the_start_are_positive_with_mean_one_and_fall_with_frequency(size):
    blocks = state(size)[1].inverse_hessian.numpy()
    diagonal = blocks[:, 0, 0]
    assert diagonal.min() > 0 and diagonal.mean() == pytest.approx(1, rel=1e-12)
    assert (np.diff(diagonal) < 0).all()
    np.testing.assert_array_equal(blocks, diagonal[:, None, None] * np.eye(3))


def test_blocks_at_the_start_follow_the_power_law():
    size, exponent = (48, 48), 0.5
    blocks = state(size, exponent=exponent)[1].inverse_hessian.numpy()[:, 0, 0]
    band, frequency = (
        spectral_preconditioner.bands(*size),
        spectral_preconditioner.frequencies(*size),
    )
    expected = [(frequency[band == i] ** (-2 * exponent)).mean() for i in range(len(blocks))]
    np.testing.assert_allclose(blocks / blocks[0], expected / expected[0], rtol=1e-12)


@each_size
@each_state
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_the_product_is_that_of_numpy(size, learnt, dtype):
    apply, preconditioner_state = state(size, learnt, dtype=dtype)
    x = noise(size)
    half = preconditioner_state.inverse_hessian.numpy().astype(float)[
        spectral_preconditioner.bands(*size)
    ]
    spectrum = np.einsum("hwij,hwj->hwi", half, np.fft.rfft2(x[0], axes=(0, 1)))
    expected = np.fft.irfft2(spectrum, size, axes=(0, 1))[None]
    found = apply(tf.constant(x, dtype))
    assert found.dtype == dtype and found.shape == x.shape
    close = 1e-12 if dtype == tf.float64 else 1e-5
    np.testing.assert_allclose(found, expected, atol=close * np.abs(expected).max(), rtol=1e-9)


@each_size
@pytest.mark.parametrize("learn", [False, True])
def test_an_update_says_by_what_factor_the_new_matrix_fits_the_pair(size, learn):
    method = spectral_preconditioner.preconditioner(*size, exponent=0.4, learn=learn)
    preconditioner_state, start = (method.init(double(noise(size))),) * 2
    for seed in range(spectral_preconditioner.WARM_UP + 3):
        s, y = noise(size, 20 + seed), noise(size, 20 + seed) * [3, 1, 2] + noise(size, 40) / 9
        preconditioner_state, found = method.update(preconditioner_state, double(s), double(y))
        expected = np.sum(s * y) / np.sum(y * method.apply(preconditioner_state, double(y)))
        if learn and seed >= spectral_preconditioner.WARM_UP:
            expected = np.sqrt(expected)
        assert float(found) == pytest.approx(expected, rel=1e-10)
    assert np.array_equal(preconditioner_state.inverse_hessian, start.inverse_hessian) != learn


@each_size
def test_covariances_of_all_bands_add_up_to_the_products_of_colours(size):
    method = spectral_preconditioner.preconditioner(*size)
    s, y = noise(size, 1), noise(size, 2)
    s = s * np.sign(np.sum(s * y))
    preconditioner_state, _ = method.update(method.init(double(s)), double(s), double(y))
    for covariances, x in (
        (preconditioner_state.s_covariance, s),
        (preconditioner_state.y_covariance, y),
    ):
        expected = np.einsum("bhwc,bhwd->cd", x, x) / np.sum(s * y)
        np.testing.assert_allclose(np.sum(covariances, axis=0), expected, rtol=1e-10, atol=1e-12)


@each_size
@each_state
def test_it_is_symmetric(size, learnt):
    apply, _ = state(size, learnt)
    a, b = noise(size, 1), noise(size, 2)
    left, right = np.sum(a * apply(double(b))), np.sum(b * apply(double(a)))
    assert left == pytest.approx(right, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 5)], ids=str)
@each_state
def test_it_is_positive_definite(size, learnt):
    apply, preconditioner_state = state(size, learnt)
    basis = np.eye(3 * size[0] * size[1]).reshape(-1, 1, *size, 3)
    matrix = np.array([apply(double(column)).numpy().ravel() for column in basis])
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    values, blocks = (
        np.linalg.eigvalsh(matrix),
        np.linalg.eigvalsh(preconditioner_state.inverse_hessian),
    )
    np.testing.assert_allclose(values[[0, -1]], [blocks.min(), blocks.max()], rtol=1e-9)
    assert values[0] > 0


def test_exponent_zero_is_the_identity_at_the_start():
    x = noise((5, 8))
    np.testing.assert_allclose(state((5, 8), exponent=0)[0](double(x)), x, atol=1e-14)


def test_channels_do_not_mix_at_the_start():
    x, apply = noise((6, 7)), state((6, 7))[0]
    alone = x * np.array([1, 0, 0])
    found = apply(double(alone)).numpy()
    np.testing.assert_allclose(found[..., 0], apply(double(x)).numpy()[..., 0], atol=1e-13)
    assert not found[..., 1:].any()


def test_solve_finds_the_matrix_between_two_covariances():
    random = np.random.default_rng(0)
    roots = random.normal(size=(2, 4, 3, 6))
    s_covariance, y_covariance = roots @ roots.swapaxes(-1, -2)
    found = spectral_preconditioner.solve(double(s_covariance), double(y_covariance)).numpy()
    np.testing.assert_allclose(found, found.swapaxes(-1, -2), atol=1e-12)
    assert (np.linalg.eigvalsh(found) > 0).all()
    np.testing.assert_allclose(found @ y_covariance @ found, s_covariance, rtol=1e-3, atol=1e-3)


def test_it_learns_the_inverse_of_a_hessian_of_colours():
    blocks = state((8, 8), learnt=True)[1].inverse_hessian.numpy()
    inverse = np.linalg.inv([[3, 1, 0], [1, 2, 0.5], [0, 0.5, 1]])
    # Bands with few frequencies cannot show all three colours; the last ones can.
    np.testing.assert_allclose(blocks[-1], inverse, rtol=1e-3, atol=1e-3)


def test_it_does_not_learn_unless_asked():
    method = spectral_preconditioner.preconditioner(6, 6, learn=False)
    before = method.init(double(noise((6, 6))))
    after, _ = method.update(before, double(noise((6, 6), 1)), double(noise((6, 6), 1)))
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_was_learnt_is_used_after_the_warm_up_only():
    method = spectral_preconditioner.preconditioner(6, 6)
    preconditioner_state = method.init(double(noise((6, 6))))
    start = preconditioner_state.inverse_hessian.numpy()
    for i in range(1, spectral_preconditioner.WARM_UP + 2):
        preconditioner_state, _ = method.update(
            preconditioner_state, double(noise((6, 6), i)), double(7 * noise((6, 6), i))
        )
        assert int(preconditioner_state.pair_count) == i
        assert np.array_equal(preconditioner_state.inverse_hessian, start) == (
            i <= spectral_preconditioner.WARM_UP
        )


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_colour_that_never_moves_leaves_it_positive_definite(dtype):
    method = spectral_preconditioner.preconditioner(6, 7)
    preconditioner_state = method.init(tf.constant(noise((6, 7)), dtype))
    for i in range(6):
        s = tf.constant(noise((6, 7), i) * np.array([1, 0, 1]), dtype)
        preconditioner_state, _ = method.update(preconditioner_state, s, 2 * s)
    values = np.linalg.eigvalsh(preconditioner_state.inverse_hessian)
    assert np.isfinite(values).all() and (values > 0).all()
