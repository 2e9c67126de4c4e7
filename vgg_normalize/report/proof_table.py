"""The findings of a proof beside their limits, for `report.html` and the model card."""

from __future__ import annotations

from vgg_normalize import verification
from vgg_normalize.verification import Check


def proof_rows(check: Check) -> list[tuple[str, str, str]]:
    """What was checked, what was found, and the limit.

    Features are f [H, W, C], channel means m [C] and outputs z of the original network, f', m' and
    z' those of the normalised one, and s [C] the scales.
    """
    errors = [
        (
            "features are the originals divided by the scales: max |s f' - f| / max |f|",
            check.worst_feature_error,
            verification.FEATURE_TOLERANCE,
        ),
        (
            "channel means are one: max |s m' - m| / max(m, 0.001 average)",
            check.worst_mean_deviation,
            verification.MEAN_TOLERANCE,
        ),
        (
            "predictions are unchanged: max |z' - z| / max |z|",
            check.worst_output_error,
            verification.OUTPUT_TOLERANCE,
        ),
    ]
    return [
        (what, f"{error:.1e}", f"{limit:.0e}") for what, error, limit in errors if error is not None
    ]
