"""`python -m style.apply`: pictures by a trained styliser.

python -m style.apply --network=adain --content=photo.jpg --style=painting.jpg --output=out.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from style.flags import define_colors
from style.settings import ApplySettings, parse_weights
from vgg_normalize import command
from vgg_normalize.progress import Stop

NAME = "style.apply"
DEFAULTS: dict[str, Any] = command.defaults(ApplySettings)


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command, with the defaults of `ApplySettings`."""
    add = command.adder(values, DEFAULTS)
    string, number, whole = flags.DEFINE_string, flags.DEFINE_float, flags.DEFINE_integer
    several = flags.DEFINE_list
    add(string, "network", "Directory that style.train saved.")
    add(string, "content", "Content picture, or a folder of them.")
    add(several, "style", "Style pictures; of cin names of styles that it was trained on.")
    add(several, "style_blend", "Weights of the styles (equal).")
    add(string, "output", "Picture to write: .png, .jpg or .tif; for a folder a folder.")
    add(
        number,
        "alpha",
        "How much style: 0 the content, as far as the network keeps it, 1 the style (not of cin).",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    add(whole, "size", "Long side of the result in pixels (0: the content's).", lower_bound=0)
    add(whole, "style_size", "Long side of the styles in pixels.", lower_bound=1)
    add(whole, "tile", "Compute by tiles of so many pixels (0: whole; adain only).", lower_bound=0)
    define_colors(add)
    add(
        flags.DEFINE_bool,
        "overwrite",
        "Make again what is in a folder of outputs already (else it is left as it is).",
    )
    add(
        whole,
        "max_skipped",
        "How many pictures of a folder may fail; each is named, and the rest is made.",
        lower_bound=0,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command.run(
        NAME,
        __doc__ or "",
        define_flags,
        ApplySettings,
        ("network", "content", "output"),
        _start,
        argv,
        less_memory="Use --tile, or lower --size.",
    )


def _start(settings: dict[str, Any], given: set[str], stop: Stop) -> None:
    """The heavy imports come only now: a wrong flag is answered at once."""
    made = dict(settings)
    made["style_blend"] = parse_weights("style_blend", settings["style_blend"])
    for name in ("style", "content_mask"):
        made[name] = tuple(settings[name])
    with command.starting_tensorflow():
        from style import applier
    applier.run(ApplySettings(**made), stop)


def console() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
