"""How commands tell of errors."""

from __future__ import annotations

import pytest

from vgg_normalize.runtime.command import as_flags


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Lower `size`.", "Lower --size."),
        (
            "Use `tile=512` and `memory_folder=DIR` (2 GiB).",
            "Use --tile=512 and --memory_folder=DIR (2 GiB).",
        ),
        ("Use `formats=saved_model,npz`.", "Use --formats=saved_model,npz."),
        ("Received: 'a `b.png'. Check `content`", "Received: 'a `b.png'. Check --content"),
        ("run `pip install x` first", "run `pip install x` first"),
    ],
)
def test_options_in_backticks_are_called_flags(message, said):
    assert as_flags(message) == said
