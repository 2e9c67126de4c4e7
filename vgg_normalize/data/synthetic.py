"""Pictures with natural statistics, made in code: dead leaves with shading and texture.

Discs with radii distributed as r^-3 that hide one another give the edges, the scale invariance
and the power spectrum near 1/f^2 of natural images (Lee, Mumford and Huang, "Occlusion Models for
Natural Images", IJCV 2001).  Colours vary mostly in brightness, as in photographs; each leaf has
its own shading and grain.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

COUNT = 128
LEAVES = 900
SMALLEST_RADIUS = 6.0
LARGEST_RADIUS = 150.0
# Standard deviations of brightness and of the two colour oppositions, in [0, 1].
DEVIATIONS = (0.22, 0.06, 0.04)
_COLOR_BASIS = np.array([[1, 1, 1], [1, 0, -1], [0.5, -1, 0.5]])


def size(index: int) -> tuple[int, int]:
    """Height and width of picture `index`: both orientations, several shapes."""
    long_side, short_side = 320 + 16 * (index % 3), 224 + 8 * (index % 5)
    return (short_side, long_side) if index % 2 else (long_side, short_side)


def picture(index: int) -> np.ndarray:
    """Picture `index` (any non-negative number): uint8, [H, W, 3], always the same."""
    random = np.random.Generator(np.random.PCG64([index, 20160627]))
    height, width = size(index)
    grain = _fractal(random, height, width)
    canvas = 0.45 + 0.08 * grain[..., None] * np.ones(3)
    # Inverse of the cumulative distribution of r^-3 between the two radii.
    uniform = random.random(LEAVES)
    low, high = SMALLEST_RADIUS**-2, LARGEST_RADIUS**-2
    radii = (low - uniform * (low - high)) ** -0.5
    rows, columns = random.uniform(0, height, LEAVES), random.uniform(0, width, LEAVES)
    colors = 0.45 + (random.standard_normal((LEAVES, 3)) * DEVIATIONS) @ _COLOR_BASIS
    slopes = random.standard_normal((LEAVES, 2)) * 0.12
    roughness = random.exponential(0.04, LEAVES)
    for i in np.argsort(-radii + random.uniform(0, LARGEST_RADIUS / 2, LEAVES)):
        top, left = max(int(rows[i] - radii[i]), 0), max(int(columns[i] - radii[i]), 0)
        bottom = min(int(rows[i] + radii[i]) + 2, height)
        right = min(int(columns[i] + radii[i]) + 2, width)
        y = (np.arange(top, bottom) - rows[i])[:, None] / radii[i]
        x = (np.arange(left, right) - columns[i])[None, :] / radii[i]
        # One pixel of soft edge: coverage, as a camera would see it.
        cover = np.clip((1 - np.sqrt(y * y + x * x)) * radii[i] + 0.5, 0, 1)[..., None]
        shade = slopes[i, 0] * y + slopes[i, 1] * x
        shade = shade + roughness[i] * grain[top:bottom, left:right]
        patch = canvas[top:bottom, left:right]
        patch += cover * (colors[i] + shade[..., None] - patch)
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


@functools.lru_cache(COUNT)
def encoded(index: int) -> bytes:
    """Picture `index` as a PNG, which is kept: the proof reads what was measured once more."""
    buffer = io.BytesIO()
    Image.fromarray(picture(index)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _fractal(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise with a power spectrum of 1/f^2, mean 0, standard deviation 1."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.maximum(np.hypot(y, x), 1 / max(height, width))
    noise = random.standard_normal((height, width))
    field = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    return (field - field.mean()) / field.std()
