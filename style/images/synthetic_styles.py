"""Style pictures made in code, uint8 [H, W, 3], for examples that need no download."""

from __future__ import annotations

import numpy as np
from PIL import Image


def strokes(height: int, width: int, seed: int = 3) -> np.ndarray:
    """A painting of short strokes that follow a swirling field, in blues and yellows."""
    random = np.random.default_rng(seed)
    canvas = np.tile(np.array([0.10, 0.16, 0.36]), (height, width, 1))
    palette = np.array(
        [
            [0.07, 0.13, 0.40],
            [0.16, 0.32, 0.62],
            [0.36, 0.55, 0.76],
            [0.78, 0.83, 0.74],
            [0.94, 0.77, 0.25],
            [0.85, 0.53, 0.16],
        ]
    )
    centers = random.uniform(0, 1, (5, 2)) * [height, width]
    y, x = np.mgrid[:height, :width]
    for i in range(9000):
        long_half = random.uniform(14, 24) * (1 - 0.4 * i / 9000)
        short_half = random.uniform(1.8, 3.2)
        row, column = random.uniform(0, height), random.uniform(0, width)
        offsets = centers - [row, column]
        distance = np.hypot(*offsets.T)
        nearest = int(np.argmin(distance))
        turn = np.exp(-distance[nearest] / 90)
        angle = np.arctan2(offsets[nearest, 0], offsets[nearest, 1]) + np.pi / 2
        angle = turn * angle + (1 - turn) * (0.35 * np.sin(row / 60 + column / 110))
        warm = np.exp(-distance[nearest] / 40) + random.normal(0, 0.22)
        color = palette[int(np.clip(warm * 3.6 + random.uniform(0, 2.2), 0, 5))]
        color = color + random.normal(0, 0.035, 3)
        box = (
            slice(max(int(row - 26), 0), int(row + 26)),
            slice(max(int(column - 26), 0), int(column + 26)),
        )
        dy, dx = y[box] - row, x[box] - column
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = -dx * np.sin(angle) + dy * np.cos(angle)
        cover = (np.abs(along) < long_half) & (np.abs(across) < short_half)
        bristles = 1 + 0.12 * np.cos(across * 3.1 + i)
        canvas[box][cover] = (color[None, None] * bristles[..., None])[cover]
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def mosaic(height: int, width: int, seed: int = 5) -> np.ndarray:
    """Stained glass: the cells of random points in bright colours, shaded, with lead between."""
    from scipy.spatial import cKDTree  # with scikit-image; the other styles do without

    random = np.random.default_rng(seed)
    palette = np.array(
        [
            [0.80, 0.12, 0.10],
            [0.95, 0.62, 0.08],
            [0.98, 0.86, 0.25],
            [0.05, 0.30, 0.62],
            [0.07, 0.55, 0.60],
            [0.93, 0.90, 0.82],
            [0.45, 0.08, 0.35],
            [0.10, 0.42, 0.18],
        ]
    )
    count = height * width // 1500
    points = random.uniform(0, 1, (count, 2)) * [height, width]
    places = np.moveaxis(np.mgrid[:height, :width], 0, -1).astype(float)
    distances, nearest = cKDTree(points).query(places, k=2)
    cell = nearest[..., 0]
    colors = palette[random.integers(0, len(palette), count)] + random.normal(0, 0.05, (count, 3))
    slopes = random.normal(0, 0.12, (count, 2))
    shade = ((places - points[cell]) / 20 * slopes[cell]).sum(-1)
    glass = np.clip((distances[..., 1] - distances[..., 0] - 2.5) / 1.5, 0, 1)[..., None]
    canvas = glass * (colors[cell] + shade[..., None]) + (1 - glass) * [0.06, 0.05, 0.07]
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def hatching(height: int, width: int, seed: int = 9) -> np.ndarray:
    """Blue ink hatched on cream paper in three directions, with red washes."""
    random = np.random.default_rng(seed)

    def smooth(size: int) -> np.ndarray:
        coarse = random.normal(size=(height // size + 3, width // size + 3)).astype(np.float32)
        return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))

    y, x = np.mgrid[:height, :width]
    tone, flow = smooth(90), smooth(140) * 1.2
    canvas = np.tile([0.95, 0.91, 0.80], (height, width, 1))
    for threshold, angle in ((-0.9, 0.6), (-0.1, -0.5), (0.6, 1.9)):
        along = angle + flow / 2
        phase = x * np.cos(along) + y * np.sin(along) + smooth(12) * 1.5
        line = np.clip(1.3 - np.abs(phase / 5 % 1 - 0.5) * 5, 0, 1)
        line = line * np.clip((tone - threshold) * 2.5, 0, 1)
        line = (line * (0.75 + 0.25 * np.clip(smooth(3), -1, 1)))[..., None]
        canvas = canvas * (1 - line) + line * [0.10, 0.12, 0.30]
    wash = 0.8 * np.clip(smooth(110) - 0.9, 0, 1)[..., None]
    canvas = canvas * (1 - wash) + wash * canvas * [0.75, 0.25, 0.15]
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
