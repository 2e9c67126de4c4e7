"""`python -m style.apply`: stylise pictures with a trained network.

For example: python -m style.apply --network=adain --content=photo.jpg --style=painting.jpg --output=out.png
"""

from __future__ import annotations

from typing import Any

from absl import flags

from style.cli.common_flags import MAX_SIDE, Add, define_folder_flags, define_output_flags
from style.cli.settings import ApplySettings, parse_weights
from vgg_normalize.runtime import command
from vgg_normalize.runtime.progress import InterruptHandler
from vgg_normalize.runtime.starting import starting_tensorflow

DEFAULTS: dict[str, Any] = command.defaults(ApplySettings)


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command, with the defaults of `ApplySettings`."""
    add = command.adder(values, DEFAULTS)
    _define_pictures(add)
    _define_sizes(add)
    define_output_flags(add)
    define_folder_flags(add)


def _define_pictures(add: Add) -> None:
    """The network, the pictures that it reads, and where the result goes."""
    add(flags.DEFINE_string, "network", "Directory that style.train saved.")
    add(flags.DEFINE_string, "content", "Path of the content picture, or of a folder of them.")
    add(
        flags.DEFINE_list,
        "style",
        "Paths of the style pictures, separated by commas; for a cin network the names of styles "
        "that it was trained on.",
    )
    add(
        flags.DEFINE_list,
        "style_blend",
        "Weights of the styles, one number of 0 or more for each; equal by default.",
    )
    add(
        flags.DEFINE_string,
        "output",
        "Path of the picture to write: .png, .jpg or .tif; for a folder of contents a folder.",
    )
    add(
        flags.DEFINE_float,
        "alpha",
        "Strength of the style: 1 is the style, 0 the content as far as the network keeps it; "
        "always 1 for a cin network.",
        lower_bound=0.0,
        upper_bound=1.0,
    )


def _define_sizes(add: Add) -> None:
    """Sizes of the result, the styles and the tiles."""
    add(
        flags.DEFINE_integer,
        "size",
        "Long side of the result in pixels; 0 for the size of the content.",
        lower_bound=0,
        upper_bound=MAX_SIDE,
    )
    add(
        flags.DEFINE_integer,
        "style_size",
        "Long side in pixels at which the styles are read.",
        lower_bound=1,
        upper_bound=MAX_SIDE,
    )
    add(
        flags.DEFINE_integer,
        "tile",
        "Side in pixels of the tiles in which the result is computed, to save memory; 0 computes "
        "the whole picture at once if it fits. For adain networks only.",
        lower_bound=0,
    )


def _start(settings: dict[str, Any], given: set[str], stop: InterruptHandler) -> None:
    """The heavy imports come only now: a wrong flag is answered at once."""
    parsed = dict(settings)
    parsed["style_blend"] = parse_weights("style_blend", settings["style_blend"])
    for name in ("style", "content_mask"):
        parsed[name] = tuple(settings[name])
    with starting_tensorflow():
        from style.cli import run_stylize
    run_stylize.run(ApplySettings(**parsed), stop)


COMMAND = command.Command(
    name="style.apply",
    usage=__doc__ or "",
    define_flags=define_flags,
    settings=ApplySettings,
    required=("network", "content", "output"),
    work=_start,
    less_memory="Use --tile, or lower --size.",
)
main, console = COMMAND.main, COMMAND.console

if __name__ == "__main__":
    console()
