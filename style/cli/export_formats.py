"""The formats that `style.train` is asked for, checked before TensorFlow starts."""

from __future__ import annotations

from collections.abc import Sequence

from vgg_normalize.errors import UsageError
from vgg_normalize.runtime.extras import require_extras

EXPORT_FORMATS = ("saved_model", "onnx", "litert")


def parse_formats(texts: Sequence[str], export_size: int | None) -> tuple[str, ...]:
    """The formats in their order, the SavedModel first, which `style.apply` reads.

    Args:
        texts: Names of formats; "saved_model" may be left out.
        export_size: Side in pixels of the exports, if one is asked for.

    Raises:
        UsageError: A format is unknown, its packages are missing, or no format uses the size.
    """
    unknown = [text for text in texts if text not in EXPORT_FORMATS]
    if unknown:
        raise UsageError(
            f"Expected --formats of {', '.join(EXPORT_FORMATS)}. Received: {', '.join(unknown)}. "
            "Correct it."
        )
    formats = tuple(name for name in EXPORT_FORMATS if name in (*texts, "saved_model"))
    if export_size is not None and len(formats) == 1:
        raise UsageError(
            f"Expected --formats of onnx or litert with --export_size. Received: {','.join(formats)}, "
            "which takes any size. Leave --export_size out."
        )
    require_extras(formats)
    return formats
