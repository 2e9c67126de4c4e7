"""Writes docs/flags.md, a table of every flag of the commands: python docs/make_flags.py

The flags are read from the commands themselves, without TensorFlow.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

from absl import flags

DOCUMENT = Path(__file__).with_name("flags.md")
# Command, what it does, and where the class of its settings is.
COMMANDS = (
    ("vgg_normalize", "Normalises a VGG and proves it, or audits one.", "vgg_normalize.cli", ""),
    ("style", "Transfer, texture, inversion, amalgamation.", "style.cli", ""),
    ("style.train", "Trains a feed-forward styliser.", "style.cli", "Train"),
    ("style.apply", "Stylises pictures with a trained network.", "style.cli", "Apply"),
    ("style.studio", "A page in the browser on which pictures are made.", "style.studio", "Studio"),
)
INTRODUCTION = """\
# Flags

This file is written by `python docs/make_flags.py` from the flags themselves; do not edit it.

Flags are given as `--name=value`. Switches may also be given as `--name` and `--noname`. A *list* is
separated by commas. An empty default means that there is none, or that the help says what it is.
`--flagfile=PATH` reads flags from a file, one a line, with `#` for comments; a flag given after it
wins. Every command also takes `--help`, and `--debug`, which shows the traceback of an error.
"""
TYPES = {"string enum": "choice", "comma separated list of strings": "list", "bool": "switch"}


def render() -> str:
    """The whole document."""
    sections = [_section(*command) for command in COMMANDS]
    return "\n".join([INTRODUCTION, *sections])


def _section(command: str, purpose: str, room: str, prefix: str) -> str:
    """The table of one command, and the former names of its flags."""
    package = importlib.import_module(command)
    module = f"{command}.__main__" if hasattr(package, "__path__") else command
    values = flags.FlagValues()
    importlib.import_module(module).define_flags(values)
    settings = getattr(importlib.import_module(f"{room}.settings"), f"{prefix}Settings")
    fields = dataclasses.fields(settings)
    required = {field.name for field in fields if field.default is dataclasses.MISSING}
    lines = [
        f"## `python -m {command}`\n\n{purpose}\n",
        "| flag | type | default | bounds or choices | help |",
        "|---|---|---|---|---|",
    ]
    aliases = []
    for name in values:
        flag = values[name]
        former = flag.help.startswith("Alias for --")
        if former:
            aliases.append(f"`--{name}` ({flag.help.removeprefix('Alias for ').rstrip('.')})")
        else:
            lines.append(_row(flag, name in required))
    if aliases:
        lines.append(f"\nFormer names that still work: {', '.join(aliases)}.")
    return "\n".join(lines) + "\n"


def _row(flag: flags.Flag, required: bool) -> str:
    """One row: name, type, default, bounds or choices, help."""
    kind = TYPES.get(flag.flag_type(), flag.flag_type())
    default = "**required**" if required else _code(flag.default)
    choices = getattr(flag.parser, "enum_values", None)
    words = flag.help.removeprefix(f"<{'|'.join(choices)}>: ") if choices else flag.help
    limits = ", ".join(f"`{choice}`" for choice in choices) if choices else _bounds(flag.parser)
    cells = (f"`--{flag.name}`", kind, default, limits, _escaped(words))
    return f"| {' | '.join(cells)} |"


def _code(value: Any) -> str:
    """A default as it would be typed; nothing for none."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if value in (None, ""):
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _bounds(parser: Any) -> str:
    low, high = (getattr(parser, f"{side}_bound", None) for side in ("lower", "upper"))
    if low is not None and high is not None:
        return f"{low:g} to {high:g}" if high < 10**5 else f"{low:g} to {high:,}"
    return "" if low is None else f"at least {low:g}"


def _escaped(words: str) -> str:
    """Words in which no character is Markdown's."""
    for character in "\\|<*":
        words = words.replace(character, f"\\{character}")
    return words


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")
    sys.exit(0)
