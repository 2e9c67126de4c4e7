"""Transfer of colours between pictures.

Pictures are float32, RGB, [H, W, 3], in [0, 1].
"""

from __future__ import annotations

import numpy as np

from style.images.resizing import require_pixels
from vgg_normalize.errors import UsageError

# Luma of Rec. 601, as in Gatys et al. (2017).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def with_luminance(result: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The result's luminance with the content's colours.

    Args:
        result: Floats, [H, W, 3]; clipped to [0, 1].
        content: Floats, [H, W, 3], in [0, 1], of the same size.

    Returns:
        Floats, [H, W, 3]; a little outside [0, 1] where the colours do not fit the luminance.

    Reference: Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017,
    section 5.2 (its YIQ space and this differ in no way but the name of the colour axes).
    """
    result, content = require_pixels(result), require_pixels(content)
    if result.shape != content.shape:
        raise UsageError(
            f"Expected a content of the result's shape {list(result.shape)}. Received: "
            f"{list(content.shape)}. Resize one."
        )
    luminance = np.clip(result, 0, 1) @ LUMA
    return content + (luminance - content @ LUMA)[..., None]


def match_luminance(style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The style in grey, with the content's mean and standard deviation of luminance.

        y' = (sigma_c / sigma_s) (y - mu_s) + mu_c

    Args:
        style: Floats, [H, W, 3], in [0, 1].
        content: Floats, [H', W', 3], in [0, 1].

    Returns:
        float32, [H, W, 3], three equal channels; not clipped.

    Reference: Gatys et al., CVPR 2017, equation 10.
    """
    y_style, y_content = require_pixels(style) @ LUMA, require_pixels(content) @ LUMA
    scale = y_content.std() / max(float(y_style.std()), 1e-5)
    grey = scale * (y_style - y_style.mean()) + y_content.mean()
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)


def match_colors(style: np.ndarray, content: np.ndarray, *, root: str = "symmetric") -> np.ndarray:
    """The style with the mean and covariance of the content's colours.

    Each colour x becomes A (x - mu_s) + mu_c, where A Sigma_s A^T = Sigma_c:

        cholesky:   A = L_c L_s^-1, with Sigma = L L^T
        symmetric:  A = Q^-1 (Q Sigma_c Q)^(1/2) Q^-1, with Q = Sigma_s^(1/2)

    Args:
        style: Floats, [H, W, 3], in [0, 1].
        content: Floats, [H', W', 3], in [0, 1].
        root: "cholesky", or "symmetric", whose A moves colours least.

    Returns:
        float32, [H, W, 3]; not clipped.

    Reference: Gatys et al., CVPR 2017, section 5.1; the 1e-5 I keeps a grey picture solvable.
    """
    if root not in ("cholesky", "symmetric"):
        raise UsageError(f"Expected root cholesky or symmetric. Received: {root!r}. Choose one.")
    style, content = require_pixels(style), require_pixels(content)
    source, target = style.reshape(-1, 3).astype(float), content.reshape(-1, 3).astype(float)
    sigma_s = np.cov(source.T, bias=True) + 1e-5 * np.eye(3)
    sigma_c = np.cov(target.T, bias=True) + 1e-5 * np.eye(3)
    if root == "cholesky":
        transform = np.linalg.cholesky(sigma_c) @ np.linalg.inv(np.linalg.cholesky(sigma_s))
    else:
        q = _matrix_root(sigma_s)
        inverse = np.linalg.inv(q)
        transform = inverse @ _matrix_root(q @ sigma_c @ q) @ inverse
    matched = (source - source.mean(0)) @ transform.T + target.mean(0)
    return matched.reshape(style.shape).astype(np.float32)


def _matrix_root(matrix: np.ndarray) -> np.ndarray:
    """V diag(lambda)^(1/2) V^T of a symmetric matrix V diag(lambda) V^T."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
