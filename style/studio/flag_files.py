"""Settings as the flag file and the command line that `python -m style` takes."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from style.cli.settings import Settings


def flag_file(settings: Settings, name: str) -> str:
    """The text of a flag file, a flag a line; its first line is the command."""
    return "\n".join([f"# python -m style --flagfile {name}", *flag_lines(settings), ""])


def command_line(settings: Settings) -> str:
    """The command with all its flags, quoted for a shell."""
    return shlex.join(["python", "-m", "style", *flag_lines(settings)])


def flag_lines(settings: Settings) -> list[str]:
    """--name=value of each setting that is not the default."""
    defaults = Settings(output="")
    return [
        _line(field.name, value)
        for field in dataclasses.fields(Settings)
        if (value := getattr(settings, field.name)) != getattr(defaults, field.name)
    ]


def _line(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={_text(value)}"


def _text(value: Any) -> str:
    """A value as its flag reads it: lists by commas, layers as LAYER:WEIGHT or LAYER:WEIGHT/WEIGHT."""
    if not isinstance(value, tuple):
        return str(value)
    parts = []
    for part in value:
        if isinstance(part, tuple):
            layer, weight = part
            weights = weight if isinstance(weight, tuple) else (weight,)
            parts.append(f"{layer}:{'/'.join(str(w) for w in weights)}")
        else:
            parts.append(str(part))
    return ",".join(parts)
