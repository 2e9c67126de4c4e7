"""What every command does around its work: flags, one-line errors, exit codes, a quiet start."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from vgg_normalize import errors
from vgg_normalize.progress import Heartbeat, Interrupted, Stop, one_line, say


def defaults(settings: type) -> dict[str, Any]:
    """Name to default of each field of a dataclass; None for what must be given."""
    return {
        field.name: None if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(settings)
    }


def adder(values: flags.FlagValues, defaults: Mapping[str, Any]) -> Callable[..., None]:
    """What defines flags among `values`: (`flags.DEFINE_integer` or the like, name, the rest)."""

    def add(kind: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> None:
        default = defaults[name]
        default = list(default) if isinstance(default, tuple) else default
        kind(name, default, *args, flag_values=values, **kwargs)

    return add


def run(
    name: str,
    usage: str,
    define_flags: Callable[[flags.FlagValues], None],
    settings: type,
    required: Sequence[str],
    work: Callable[[dict[str, Any], set[str], Stop], None],
    argv: Sequence[str] | None,
    *,
    less_memory: str,
    also: Sequence[str] = (),
) -> int:
    """Parse the flags and do the work; every error becomes one line and an exit code.

    Args:
        name: What error lines begin with.
        usage: What `--help` begins with.
        define_flags: Defines the flags among those it is given.
        settings: The dataclass whose fields are the flags that the work gets.
        required: Names of those that must be given.
        work: (flag name to value, names of those that were given, stop).
        argv: Program name and arguments; default: the process's.
        less_memory: What to do where memory runs out.
        also: Names of flags that the work gets besides.
    """
    values = flags.FlagValues()
    define_flags(values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="?", flag_values=values)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
    flags.DEFINE_flag(_Flagfile(), flag_values=values)
    stop = Stop()
    try:
        stop.install()
        arguments = list(sys.argv if argv is None else argv)
        found = _parse(usage, values, [*defaults(settings), *also], required, arguments)
        if found is not None:
            with Heartbeat():
                work(found, {flag for flag in found if values[flag].present}, stop)
    except errors.Error as error:
        if values.is_parsed() and values.debug:
            traceback.print_exc()
        say(f"{name}: {one_line(error)}")
        return error.exit_code
    except Interrupted as interrupted:
        say(f"{name}: interrupted")
        return interrupted.exit_code
    except BrokenPipeError:  # `| head` has seen enough of the help
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        say(f"{name}: Expected enough memory. Received: none left. {less_memory}")
        return errors.DevicesError.exit_code
    return 0


def _parse(
    usage: str,
    values: flags.FlagValues,
    wanted: list[str],
    required: Sequence[str],
    argv: list[str],
) -> dict[str, Any] | None:
    notes = io.StringIO()
    try:
        with contextlib.redirect_stderr(notes):  # absl only warns of a circle
            rest = values(argv, known_only=False)[1:]
    except flags.Error as error:
        raise errors.UsageError(f"{error} See --help.") from error
    if notes.getvalue():
        raise errors.UsageError(
            f"Expected flagfiles that do not name each other in a circle. Received: "
            f"{one_line(notes.getvalue())}. Correct --flagfile."
        )
    if values.help:
        print(f"{usage}\n{values.main_module_help() or values.get_help()}")
        return None
    if rest and os.path.exists(rest[0]):
        raise errors.UsageError(
            f"Expected flags only. Received: {rest[0]!r}, which is a file. Give it to a flag; several "
            "values of one flag are separated by commas, as in --style=a.png,b.png."
        )
    if rest:
        raise errors.UsageError(
            f"Expected flags only. Received: {rest[0]!r}. In a flagfile every line is "
            "--name=value or starts with #; check quotes, indentation and the file's encoding "
            "(UTF-8 without a byte order mark)."
        )
    for name in required:
        if not values[name].value:
            raise errors.UsageError(f"Expected --{name}. Received: none. See --help.")
    for name in wanted:
        text = str(values[name].value)
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            raise errors.UsageError(
                f"Expected --{name} without quotes. Received: --{name}={text}. Leave them out: a "
                "flagfile is taken literally."
            )
        value = values[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise errors.UsageError(
                f"Expected --{name} to be a finite number. Received: {value}. Correct it."
            )
    return {name: values[name].value for name in wanted}


class _Flagfile(flags.Flag):
    """--flagfile, which absl handles before parsing; defined so that --help shows it."""

    def __init__(self) -> None:
        super().__init__(
            flags.ArgumentParser(),
            flags.ArgumentSerializer(),
            "flagfile",
            "",
            "Read flags from this file, one a line.",
        )


@contextlib.contextmanager
def starting_tensorflow() -> Iterator[None]:
    """Imports in here that fail say so in one line; TensorFlow's notices are kept back.

    At the end a line says which devices there are.  TensorFlow writes half a page about this
    machine before any log level counts; it is shown only when the import fails.

    Raises:
        UsageError: Keras would not run on TensorFlow, channels last, in float32.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise errors.UsageError(
            f"Expected Keras to run on TensorFlow. Received: KERAS_BACKEND={backend}. Unset it."
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    Heartbeat.doing("starting TensorFlow")
    try:
        with _hushed():
            import keras

            from vgg_normalize import devices

            found_devices = devices.describe()
            yield
    except (ImportError, ValueError, RuntimeError) as error:
        if isinstance(error, errors.Error):
            raise
        raise errors.UsageError(
            f"Expected TensorFlow and Keras with the backend tensorflow. Received: "
            f"{one_line(error)}. Correct keras.json, or install the package again."
        ) from error
    found = {
        "backend": keras.config.backend(),
        "image_data_format": keras.config.image_data_format(),
        "floatx": keras.config.floatx(),
    }
    expected = {"backend": "tensorflow", "image_data_format": "channels_last", "floatx": "float32"}
    for key, value in expected.items():
        if found[key] != value:
            raise errors.UsageError(
                f"Expected Keras' {key} to be {value}. Received: {found[key]!r}. Unset "
                "KERAS_BACKEND and correct keras.json."
            )
    say(found_devices)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep back what is written to standard error, also by C++; show it if this fails."""
    if sys.stderr is None:  # closed: 2>&-
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
