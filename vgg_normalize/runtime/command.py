"""What all commands share: flags, errors in one line, and exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from vgg_normalize import errors
from vgg_normalize.runtime.progress import Heartbeat, Interrupted, InterruptHandler, one_line, say

# The heading of `--help`; absl would name the modules whose code defines the flags.
HELP_GROUP = "flags"
# How errors write options.
_OPTION = re.compile(r"`(\w+(?:=[^`\s]+)?)`")


def as_flags(message: str) -> str:
    """A message whose options, such as `size` or `tile=512`, are called flags: --size, --tile=512.

    Below the command line options are arguments of functions, and errors name them as such.
    """
    return _OPTION.sub(r"--\1", message)


def as_labels(message: str) -> str:
    """The same for a page, where options stand in words: size, tile=512."""
    return _OPTION.sub(r"\1", message)


def defaults(settings: type) -> dict[str, Any]:
    """Name to default of each field of a dataclass; None for fields without a default."""
    return {
        field.name: None if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(settings)
    }


def adder(values: flags.FlagValues, defaults: Mapping[str, Any]) -> Callable[..., None]:
    """A function that defines a flag with its default, called as `add(flags.DEFINE_integer, name, ...)`.

    Args:
        values: The flags to add to.
        defaults: Flag name to default value.
    """

    def add(kind: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> None:
        default = defaults[name]
        default = list(default) if isinstance(default, tuple) else default
        kind(name, default, *args, flag_values=values, module_name=HELP_GROUP, **kwargs)

    return add


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the package: its flags and its work.

    Attributes:
        name: What error lines begin with.
        usage: What `--help` begins with.
        define_flags: Defines the flags of the command among those it is given.
        settings: The dataclass whose fields are the flags that the work gets.
        required: Names of the flags that must be given.
        work: Does the work: (flag name to value, names of the flags that were given, stop).
        less_memory: What to do if memory runs out.
        more_flags: Names of flags that the work gets besides the fields of `settings`.
    """

    name: str
    usage: str
    define_flags: Callable[[flags.FlagValues], None]
    settings: type
    required: Sequence[str]
    work: Callable[[dict[str, Any], set[str], InterruptHandler], None]
    less_memory: str
    more_flags: Sequence[str] = ()

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Parse the flags, do the work and return the exit code; every error becomes one line.

        Args:
            argv: Program name and arguments; default: those of the process.
        """
        values = self._flag_values()
        stop = InterruptHandler()
        try:
            stop.install()
            settings = self._parse(values, list(sys.argv if argv is None else argv))
            if settings is not None:
                given = {flag for flag in settings if values[flag].present}
                with Heartbeat():
                    self.work(settings, given, stop)
        except errors.Error as error:
            if values.is_parsed() and values.debug:
                traceback.print_exc()
            say(f"{self.name}: {as_flags(one_line(error))}")
            return error.exit_code
        except Interrupted as interrupted:
            say(f"{self.name}: interrupted")
            return interrupted.exit_code
        except BrokenPipeError:  # `| head` has seen enough of the help
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            say(f"{self.name}: Expected enough memory. Received: none left. {self.less_memory}")
            return errors.DevicesError.exit_code
        return 0

    def console(self) -> None:
        """Run the command as a console script, which ends the process."""
        sys.exit(self.main())

    def _flag_values(self) -> flags.FlagValues:
        """The flags of this command and those that every command has, not yet parsed."""
        values = flags.FlagValues()
        self.define_flags(values)
        common: dict[str, Any] = {"flag_values": values, "module_name": HELP_GROUP}
        flags.DEFINE_bool("help", False, "Show this help.", short_name="?", **common)
        flags.DEFINE_bool("debug", False, "Show the traceback of an error.", **common)
        flags.DEFINE_flag(_Flagfile(), **common)
        return values

    def _parse(self, values: flags.FlagValues, argv: list[str]) -> dict[str, Any] | None:
        """Flag name to value; None if only the help was asked for.

        Raises:
            UsageError: A flag is unknown, missing, or has a wrong value.
        """
        rest = _parse_flags(values, argv)
        if values.help:
            print(f"{self.usage}\n{values.get_help(include_special_flags=False)}")
            return None
        if rest:
            raise _not_a_flag(rest[0])
        for name in self.required:
            if not values[name].value:
                raise errors.UsageError(f"Expected --{name}. Received: none. See --help.")
        names = [*defaults(self.settings), *self.more_flags]
        settings = {name: values[name].value for name in names}
        for name, value in settings.items():
            _require_sound(name, value)
        return settings


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python or TensorFlow, which may not be imported, ran out of memory."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def _parse_flags(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parse `argv` into `values` and return the arguments that are not flags.

    Raises:
        UsageError: A flag is unknown or has a wrong value, or flagfiles form a circle.
    """
    warnings = io.StringIO()
    try:
        with contextlib.redirect_stderr(warnings):  # absl only warns of a circle
            rest = values(argv, known_only=False)[1:]
    except (flags.CantOpenFlagFileError, UnicodeDecodeError) as error:
        raise _unreadable_flagfile(error) from error
    except flags.Error as error:
        raise errors.UsageError(f"{_sentence(str(error))} See --help.") from error
    if warnings.getvalue():
        raise errors.UsageError(
            f"Expected flagfiles that do not name each other in a circle. Received: "
            f"{one_line(warnings.getvalue())}. Correct --flagfile."
        )
    return rest


def _unreadable_flagfile(error: Exception) -> errors.UsageError:
    """The error for a flagfile that cannot be opened, or is not text."""
    cause = error.__context__  # absl keeps only the words of the operating system's error
    if isinstance(cause, OSError):
        received = f"{cause.filename!r} ({cause.strerror})"
    else:
        received = f"one that is not UTF-8 ({one_line(error)})"
    return errors.UsageError(
        f"Expected a flagfile that can be read. Received: {received}. Check --flagfile."
    )


def _sentence(text: str) -> str:
    """The text with a full stop, unless it ends a sentence already."""
    text = text.rstrip().replace(" ?", "?")  # absl writes "Did you mean: output ?"
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _not_a_flag(argument: str) -> errors.UsageError:
    """The error for an argument that is not a flag."""
    if os.path.exists(argument):
        return errors.UsageError(
            f"Expected flags only. Received: {argument!r}, which is a file. Give it to a flag; several "
            "values of one flag are separated by commas, as in --style=a.png,b.png."
        )
    return errors.UsageError(
        f"Expected flags only. Received: {argument!r}. In a flagfile every line is "
        "--name=value or starts with #; check quotes, indentation and the file's encoding "
        "(UTF-8 without a byte order mark)."
    )


def _require_sound(name: str, value: Any) -> None:
    """Check a flag's value: no quotes around it, and no NaN or infinity.

    Raises:
        UsageError: It has quotes, or is not finite.
    """
    text = str(value)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise errors.UsageError(
            f"Expected --{name} without quotes. Received: --{name}={text}. Leave them out: a "
            "flagfile is taken literally."
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise errors.UsageError(
            f"Expected --{name} to be a finite number. Received: {value}. Correct it."
        )


class _Flagfile(flags.Flag):
    """--flagfile, which absl handles before parsing; defined so that --help shows it."""

    def __init__(self) -> None:
        super().__init__(
            flags.ArgumentParser(),
            flags.ArgumentSerializer(),
            "flagfile",
            "",
            "Read flags from this file, one per line.",
        )
