"""The packages that some formats need, and that are installed only with an extra."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from vgg_normalize.errors import UsageError

# Format to the modules by which it is written and run; each format has an extra of its name.
MODULES = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}


def require_extras(formats: Iterable[str]) -> None:
    """See, without importing them, that the packages of these formats are installed.

    Args:
        formats: Names of formats; those that need no extra are passed over.

    Raises:
        UsageError: One is not.
    """
    for form in formats:
        missing = [name for name in MODULES.get(form, ()) if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(
                f"Expected the packages of the format {form}. Received: no "
                f"{', '.join(name.replace('_', '-') for name in missing)}. Run pip install "
                f"'vgg-normalize[{form}]', or leave {form} out."
            )
