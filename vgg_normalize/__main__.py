"""`python -m vgg_normalize`: normalise a VGG and prove it, or audit one.

python -m vgg_normalize --flagfile configs/demo.cfg
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from absl import flags

from vgg_normalize import errors
from vgg_normalize.progress import Interrupted, Stop, one_line
from vgg_normalize.settings import Settings

# Also where TensorFlow would write a page of notices about this machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

DEFAULTS: dict[str, Any] = {
    field.name: None if field.default is dataclasses.MISSING else field.default
    for field in dataclasses.fields(Settings)
}


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command, with the defaults above."""

    def add(kind: Any, name: str, *args: Any, **kwargs: Any) -> None:
        default = DEFAULTS[name]
        default = list(default) if isinstance(default, tuple) else default
        kind(name, default, *args, flag_values=values, **kwargs)

    whole = {"lower_bound": 0}
    positive = {"lower_bound": 1}
    add(
        flags.DEFINE_enum,
        "task",
        ["normalize", "measure"],
        "normalize: measure, rescale, prove, save. measure: only report the means of a network as "
        "it is.",
    )
    add(flags.DEFINE_enum, "architecture", ["vgg16", "vgg19"], "The network.")
    add(
        flags.DEFINE_string,
        "weights",
        "imagenet (Keras' download), random (He-normal from --seed), or a .h5, .weights.h5, .keras "
        "or .npz file.",
    )
    add(flags.DEFINE_bool, "include_top", "Keep the classifier.")
    add(flags.DEFINE_string, "last_layer", "Cut the network after this convolution.")
    add(flags.DEFINE_enum, "pooling", ["max", "avg"], "Pooling to measure and to save with.")
    add(
        flags.DEFINE_enum,
        "preprocessing",
        ["caffe", "unit", "none"],
        "What the network wants: BGR 0 to 255 less the ImageNet mean, [0, 1], or [0, 255].",
    )
    add(
        flags.DEFINE_string,
        "images",
        "A folder, a .tar, tfds:NAME/SPLIT, or sample (synthetic, built in).",
    )
    add(flags.DEFINE_integer, "max_images", "At most so many images (0: all).", **whole)
    add(
        flags.DEFINE_float,
        "target_error",
        "Stop when 95 % of the living filters have a relative standard error of at most this (0: "
        "never).",
        lower_bound=0.0,
    )
    add(flags.DEFINE_integer, "check_images", "Images of the proof (0: all).", **whole)
    add(
        flags.DEFINE_enum,
        "resize",
        ["squash", "crop", "none"],
        "Squash to N x N; short side N x 256/224 and centre crop; or native size, one by one.",
    )
    add(flags.DEFINE_integer, "image_size", "N, in pixels.", **positive)
    add(flags.DEFINE_integer, "batch_size", "Images in a batch on one device.", **positive)
    add(
        flags.DEFINE_enum,
        "strategy",
        ["auto", "one", "mirrored", "multiworker", "tpu"],
        "Devices: one; all GPUs or logical CPUs of this machine; the workers of TF_CONFIG; a TPU.",
    )
    add(flags.DEFINE_integer, "logical_cpus", "Split the CPU into so many devices.", **whole)
    add(flags.DEFINE_integer, "seed", "Of random weights, choice and order.", **whole)
    add(flags.DEFINE_bool, "allow_tf32", "Allow TensorFloat-32 on GPUs.")
    add(flags.DEFINE_integer, "max_skipped", "Tolerate so many unreadable images.", **whole)
    add(flags.DEFINE_list, "formats", "What to save: saved_model, h5, npz.")
    add(flags.DEFINE_string, "output", "Directory to make.")
    add(flags.DEFINE_bool, "overwrite", "Replace an existing output, all or nothing.")
    add(flags.DEFINE_bool, "resume", "Go on from the last checkpoint.")
    add(
        flags.DEFINE_integer,
        "checkpoint_every",
        "Images between two checkpoints.",
        **positive,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    values = flags.FlagValues()
    define_flags(values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="?", flag_values=values)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
    flags.DEFINE_flag(_Flagfile(), flag_values=values)
    stop = Stop()
    try:
        stop.install()
        settings = _parse(values, list(sys.argv if argv is None else argv))
        if settings is None:
            return 0
        _start(settings, stop)
    except errors.Error as error:
        if values.is_parsed() and values.debug:
            traceback.print_exc()
        print(f"vgg-normalize: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interrupted:
        print("vgg-normalize: interrupted", file=sys.stderr)
        return interrupted.exit_code
    except MemoryError:
        print(_NO_MEMORY, file=sys.stderr)
        return errors.DevicesError.exit_code
    return 0


_NO_MEMORY = (
    "vgg-normalize: Expected enough memory for a batch. Received: none left. Lower --batch_size or "
    "--image_size."
)


def _parse(values: flags.FlagValues, argv: list[str]) -> dict[str, Any] | None:
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
        print(f"{__doc__}\n{values.main_module_help() or values.get_help()}")
        return None
    if rest:
        raise errors.UsageError(
            f"Expected flags only. Received: {rest[0]!r}. In a flagfile every line is "
            "--name=value or starts with #; check quotes, indentation and the file's encoding "
            "(UTF-8 without a byte order mark)."
        )
    for required in ("images", "output"):
        if not values[required].value:
            raise errors.UsageError(f"Expected --{required}. Received: none. See --help.")
    for name in DEFAULTS:
        text = str(values[name].value)
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            raise errors.UsageError(
                f"Expected --{name} without quotes. Received: --{name}={text}. Leave them out: a "
                "flagfile is taken literally."
            )
    return {name: values[name].value for name in DEFAULTS}


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


def _start(settings: dict[str, Any], stop: Stop) -> None:
    """The heavy imports come only now: a wrong flag is answered at once."""
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise errors.UsageError(
            f"Expected Keras to run on TensorFlow. Received: KERAS_BACKEND={backend}. Unset it."
        )
    try:
        import tensorflow as tf

        from vgg_normalize import job
    except (ImportError, ValueError, RuntimeError) as error:
        raise errors.UsageError(
            f"Expected TensorFlow and Keras with the backend tensorflow. Received: "
            f"{one_line(error)}. Correct keras.json, or install the package again."
        ) from error
    job.require_environment()
    try:
        job.run(Settings(**{**settings, "formats": tuple(settings["formats"])}), stop)
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError from error


def console() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
