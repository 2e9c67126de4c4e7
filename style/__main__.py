"""`python -m style`: style transfer, texture synthesis, inversion and amalgamation.

python -m style --flagfile configs/transfer.cfg
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from style import sweep
from style.flags import define_colors, define_going_on
from style.settings import (
    STYLE_LOSSES,
    TASKS,
    UNUSED,
    Settings,
    parse_layers,
    parse_weights,
)
from style.strength import require_strength
from style.sweep import Variant
from vgg_normalize import command
from vgg_normalize.errors import UsageError
from vgg_normalize.paths import require_distinct
from vgg_normalize.progress import Stop, say

NAME = "style"
DEFAULTS = command.defaults(Settings)


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command, with the defaults of `Settings`."""
    add = command.adder(values, DEFAULTS)
    string, number = flags.DEFINE_string, flags.DEFINE_float
    whole, choice, several = flags.DEFINE_integer, flags.DEFINE_enum, flags.DEFINE_list
    add(choice, "task", list(TASKS), "What to make.")
    add(
        string,
        "model",
        "vgg19 (trained on ImageNet, normalised by the means that come with this package), "
        "vgg19_original (not normalised), a directory that vgg_normalize saved, or a file of weights.",
    )
    add(string, "content", "Content picture.")
    add(several, "style", "Style pictures.")
    add(several, "style_blend", "Weights of the styles (equal).")
    add(string, "output", "Picture to write: .png, .jpg or .tif.")
    add(whole, "size", "Long side of the result in pixels.", lower_bound=1, upper_bound=10**6)
    bounds = {"lower_bound": 0.01, "upper_bound": 100.0}
    add(number, "style_scale", "The style's long side is size times this.", **bounds)
    add(several, "content_layers", "LAYER:WEIGHT, ... (block4_conv2:1, or the deepest there is).")
    add(several, "style_layers", "LAYER:WEIGHT, ... (blockK_conv1:1 for K = 1 to 5).")
    add(number, "content_weight", "Factor of the content.", lower_bound=0.0)
    add(number, "strength", "How much style, between 0 and 1: alike for every pair and loss.")
    add(number, "style_weight", "Factor of the style, instead of --strength.", lower_bound=0.0)
    add(number, "tv_weight", "Factor of total variation (0; inversion 0.03).", lower_bound=0.0)
    add(number, "norm_weight", "inversion: factor of the alpha norm.", lower_bound=0.0)
    add(
        number,
        "tv_beta",
        "Exponent beta of total variation: (dx^2 + dy^2)^(beta / 2).",
        lower_bound=0.5,
    )
    add(choice, "style_loss", list(STYLE_LOSSES), "How styles are compared.")
    add(string, "init", "content, style, noise or a picture (content; style; noise by task).")
    add(whole, "seed", "Of noise and samples.", lower_bound=0)
    add(choice, "optimizer", ["lbfgs", "adam"], "How to minimise.")
    add(whole, "steps", "Evaluations of the objective at the final size.", lower_bound=1)
    bounds = {"lower_bound": 1, "upper_bound": 20}
    add(whole, "scales", "Coarse to fine over so many sizes, each twice the last.", **bounds)
    add(whole, "memory", "Pairs that L-BFGS keeps.", lower_bound=1)
    add(string, "memory_folder", "Directory for these pairs, in files instead of in memory.")
    add(number, "smoothing", "L-BFGS: a of its first preconditioner 1/f^2a.", lower_bound=0.0)
    add(number, "learning_rate", "Of Adam.", lower_bound=0.0)
    add(several, "style_mask", "Which part of each style picture is used.")
    add(whole, "tile", "Compute by tiles of so many pixels (0: the whole picture).", lower_bound=0)
    add(whole, "preview_every", "Write the picture every so many steps.", lower_bound=0)
    add(string, "animation", "GIF of the run.")
    flags.DEFINE_string(
        "sweep",
        None,
        "FLAG:V,V[;FLAG:V,V]: one labelled sheet of pictures that differ in one or two flags.",
        flag_values=values,
    )
    define_colors(add)
    define_going_on(add)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command.run(
        NAME,
        __doc__ or "",
        define_flags,
        Settings,
        ("model", "output"),
        _start,
        argv,
        also=("sweep",),
        less_memory="Use --tile=512, or lower --size or --memory.",
    )


def _start(values: dict[str, Any], given: set[str], stop: Stop) -> None:
    """The heavy imports come only now: a wrong flag is answered at once."""
    settings = {name: value for name, value in values.items() if name != "sweep"}
    unused = set[str]()
    if values["sweep"]:
        unused = set(sweep.UNUSED)
        settings |= {name: DEFAULTS[name] for name in unused}
    parsed = parse(settings)
    variants = _variants(values["sweep"], settings) if values["sweep"] else []
    read = ("content", "style", "content_mask", "style_mask", "init", "model")
    written = ("output", "log", "animation", "checkpoint", "memory_folder")
    require_distinct(
        {name: settings[name] for name in read if name not in UNUSED[parsed.task]},
        {name: settings[name] for name in written},
    )
    for what, names in ((f"--task={parsed.task}", set(UNUSED[parsed.task])), ("--sweep", unused)):
        if given & names:
            say(f"{what} does not use {', '.join('--' + name for name in sorted(given & names))}")
    unread = UNUSED[parsed.task]
    what = f" of {parsed.content}" if parsed.content and "content" not in unread else ""
    style = f" in the style of {', '.join(parsed.style)}" if "style" not in unread else ""
    say(f"{parsed.task}{what}{style}, {parsed.size} pixels; starting TensorFlow")
    with command.starting_tensorflow():
        from style import job
    job.run(parsed, stop, variants)


def _variants(text: str, settings: dict[str, Any]) -> list[Variant]:
    """The settings of each picture of a sheet.

    Raises:
        UsageError: The sweep is off, or a value of a flag is.
    """
    found = []
    for values in sweep.combinations(sweep.parse(text, list(DEFAULTS))):
        parser = flags.FlagValues()
        define_flags(parser)
        try:
            parser(["style", *(f"--{name}={value}" for name, value in values)])
        except flags.Error as error:
            raise UsageError(
                f"Expected values in --sweep that their flags take. Received: {error}. Correct it."
            ) from error
        changed = {name: parser[name].value for name, _ in values}
        found.append(Variant(values, parse({**settings, **changed})))
    return found


def parse(settings: dict[str, Any]) -> Settings:
    """Flags as strings and lists into settings.

    Raises:
        UsageError: A value has not the form that its flag asks for.
    """
    require_strength(settings["strength"])
    made = dict(settings)
    for name in ("content_layers", "style_layers"):
        made[name] = parse_layers(name, settings[name])
    made["style_blend"] = parse_weights("style_blend", settings["style_blend"])
    for name in ("style", "content_mask", "style_mask"):
        made[name] = tuple(settings[name])
    return Settings(**made)


def console() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
