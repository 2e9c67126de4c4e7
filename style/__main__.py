"""`python -m style`: style transfer, texture synthesis, inversion and amalgamation.

For example: python -m style --flagfile configs/transfer.cfg
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from absl import flags

from style.cli import sweep
from style.cli.common_flags import (
    define_checkpoint_flags,
    define_folder_flags,
    define_output_flags,
)
from style.cli.settings import (
    Settings,
    parse_counts,
    parse_layers,
    parse_style_layers,
    parse_weights,
)
from style.cli.sweep import Variant
from style.cli.transfer_flags import (
    define_layer_flags,
    define_objective_flags,
    define_optimizer_flags,
    define_picture_flags,
    define_regularization_flags,
    define_run_flags,
    define_scale_flags,
    define_start_flags,
)
from style.synthesis.options import UNUSED
from style.synthesis.strength import require_strength
from vgg_normalize.errors import OutputError, UsageError
from vgg_normalize.runtime import command
from vgg_normalize.runtime.paths import require_distinct
from vgg_normalize.runtime.progress import InterruptHandler, say
from vgg_normalize.runtime.starting import starting_tensorflow

DEFAULTS = command.defaults(Settings)
ANIMATIONS = (".gif", ".webp", ".mp4")
# Names that flags had before.
ALIASES = {"memory": "history_size", "smoothing": "preconditioner_exponent"}


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command, with the defaults of `Settings`."""
    add = command.adder(values, DEFAULTS)
    define_picture_flags(add)
    define_start_flags(add)
    define_layer_flags(add)
    define_objective_flags(add)
    define_regularization_flags(add)
    define_optimizer_flags(add)
    define_scale_flags(add)
    define_run_flags(add)
    define_output_flags(add)
    define_checkpoint_flags(add)
    define_folder_flags(add)
    flags.DEFINE_string(
        "sweep",
        None,
        "FLAG:VALUE,VALUE[;FLAG:VALUE,VALUE]: write one labelled sheet of pictures, one for each "
        "combination of the values of one or two flags.",
        flag_values=values,
        module_name=command.HELP_GROUP,
    )
    for former, name in ALIASES.items():
        flags.DEFINE_alias(former, name, values, module_name=command.HELP_GROUP)


def _start(values: dict[str, Any], given: set[str], stop: InterruptHandler) -> None:
    """The heavy imports come only now: a wrong flag is answered at once."""
    settings = {name: value for name, value in values.items() if name != "sweep"}
    several = _several(values)
    unused = set(sweep.UNUSED) if several else set()
    settings |= {name: DEFAULTS[name] for name in unused}
    parsed = parse(settings)
    variants = _variants(values["sweep"], settings) if values["sweep"] else []
    read = ("content", "style", "content_mask", "style_mask", "init", "model")
    written = ("output", "log", "animation", "checkpoint", "memory_folder")
    require_distinct(
        {name: settings[name] for name in read if name not in UNUSED[parsed.task]},
        {name: settings[name] for name in written},
    )
    _require_places(parsed)
    for what, names in ((f"--task={parsed.task}", set(UNUSED[parsed.task])), (several, unused)):
        if given & names:
            say(f"{what} does not use {', '.join('--' + name for name in sorted(given & names))}")
    say(f"{_description(parsed)}; starting TensorFlow")
    with starting_tensorflow():
        from style.cli import run_transfer
    run_transfer.run(parsed, stop, variants)


def _several(values: dict[str, Any]) -> str:
    """What asks for several pictures, in words; "" for one picture.

    Raises:
        UsageError: Two things do, or the task or the styles do not go with it.
    """
    kinds = {
        "--sweep": values["sweep"],
        "--interpolate": values["interpolate"],
        "a folder of contents": values["content"] and Path(values["content"]).is_dir(),
    }
    asked = [kind for kind, given in kinds.items() if given]
    if len(asked) > 1:
        raise UsageError(
            f"Expected only one of {', '.join(kinds)}. Received: {' and '.join(asked)}. Leave out one."
        )
    if not asked or asked == ["--sweep"]:
        return "".join(asked)
    if values["task"] not in ("transfer", "amalgamation"):
        raise UsageError(
            f"Expected --task=transfer or amalgamation with {asked[0]}. Received: {values['task']}. "
            "Make its pictures one by one."
        )
    if values["interpolate"] and (len(values["style"]) < 2 or values["style_blend"]):
        raise UsageError(
            "Expected several --style and no --style_blend with --interpolate. Received: "
            f"{len(values['style'])} and {len(values['style_blend'])}. Name the styles on the way."
        )
    return asked[0]


def _require_places(settings: Settings) -> None:
    """Check where files beside the output go, before any work.

    Raises:
        OutputError: The folder that one would be in does not exist.
        UsageError: The animation is named like none.
    """
    pairs = settings.memory_folder if settings.optimizer == "lbfgs" else None
    for path in (settings.log, settings.animation, pairs):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise OutputError(
                f"Expected the folder of {path} to exist. Received: none there. Create it first."
            )
    if settings.animation is not None:
        _require_animation(settings.animation)


def _require_animation(path: str) -> None:
    """Raises UsageError where an animation is named like none, or cannot be written here."""
    suffix = Path(path).suffix.lower()
    if suffix not in ANIMATIONS:
        raise UsageError(
            f"Expected {', '.join(ANIMATIONS)} as --animation. Received: {path!r}. Change the suffix."
        )
    if suffix == ".mp4" and importlib.util.find_spec("av") is None:
        raise UsageError(
            f"Expected the package av for {path!r}. Received: none installed. Use pip install "
            "'vgg-normalize[video]', or a .webp."
        )


def _description(settings: Settings) -> str:
    """What is made, in words."""
    unread = UNUSED[settings.task]
    content = f" of {settings.content}" if settings.content and "content" not in unread else ""
    style = f" in the style of {', '.join(settings.style)}" if "style" not in unread else ""
    return f"{settings.task}{content}{style}, {settings.size} pixels"


def _variants(text: str, settings: dict[str, Any]) -> list[Variant]:
    """The settings of each picture of a sheet.

    Raises:
        UsageError: The sweep, or a value in it, is malformed.
    """
    variants = []
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
        variants.append(Variant(values, parse({**settings, **changed})))
    return variants


def parse(settings: dict[str, Any]) -> Settings:
    """The settings that the values of flags stand for.

    Raises:
        UsageError: A value does not have the form that its flag asks for.
    """
    require_strength(settings["strength"])
    parsed = dict(settings)
    parsed["content_layers"] = parse_layers("content_layers", settings["content_layers"])
    parsed["style_layers"] = parse_style_layers("style_layers", settings["style_layers"])
    parsed["coarse_steps"] = parse_counts("coarse_steps", settings["coarse_steps"])
    parsed["style_blend"] = parse_weights("style_blend", settings["style_blend"])
    for name in ("style", "content_mask", "style_mask"):
        parsed[name] = tuple(settings[name])
    return Settings(**parsed)


COMMAND = command.Command(
    name="style",
    usage=__doc__ or "",
    define_flags=define_flags,
    settings=Settings,
    required=("model", "output"),
    work=_start,
    less_memory="Use --tile=512, or lower --size or --history_size.",
    more_flags=("sweep",),
)
main, console = COMMAND.main, COMMAND.console

if __name__ == "__main__":
    console()
