"""Strength: how much style, alike for every pair of pictures, loss, size and set of layers.

The style weight beta of the objective alpha C + beta S is

    beta = k_S  strength / (1 - strength)  C(style) / S(content),

C(style) being the content loss of the style picture, brought to the result's size, and S(content)
the style loss of the content picture: what content and style are worth for this pair, since one of
them is the worst that the other's optimum can be.  The number k_S of each style loss was chosen by
looking at sheets of five pairs (docs/strength.md), so that at 0.5 the content is recognised at a
glance and the style is unmistakable.
"""

from __future__ import annotations

from collections.abc import Mapping

from vgg_normalize.errors import UsageError

DEFAULT = 0.5
FACTORS = {
    "gram": 10.0,
    "moments": 10.0,
    "mmd_linear": 10.0,
    "mmd_poly": 10.0,
    "mmd_gaussian": 10.0,
    "wasserstein": 3.0,
    "sliced_wasserstein": 10.0,
}


def require_strength(strength: float) -> None:
    """Raises UsageError unless the strength lies between 0 and 1."""
    if not 0 < strength < 1:
        raise UsageError(
            f"Expected `strength` between 0 and 1. Received: {strength:g}. For no style at all use "
            "`style_weight=0`, for nothing but style `content_weight=0`."
        )


def style_weights(
    strength: float,
    shares: Mapping[str, float],
    content_worth: float,
    style_worths: Mapping[str, float],
) -> dict[str, float]:
    """The weight of each style loss that a strength comes to; its share where it is worth nothing.

    Of a sum of losses each is calibrated as if it were alone, and they share the strength.

    Args:
        strength: In (0, 1).
        shares: Of a sum, the losses (keys of `losses.STYLE_LOSSES`) and their weights.
        content_worth: C(style), with the weights of the content layers.
        style_worths: S(content) of each loss, with the weights of the style layers.
    """
    weights = {}
    for loss, share in shares.items():
        weight, worth = share / sum(shares.values()), style_worths.get(loss, 0.0)
        if content_worth > 0 and worth > 0:
            weight *= FACTORS[loss] * strength / (1 - strength) * content_worth / worth
        weights[loss] = weight
    return weights
