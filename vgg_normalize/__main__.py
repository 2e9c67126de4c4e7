"""`python -m vgg_normalize`: normalise a VGG and prove it, or audit one.

python -m vgg_normalize --flagfile configs/demo.cfg
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from vgg_normalize import command
from vgg_normalize.progress import Stop
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
    return command.run(
        NAME,
        __doc__ or "",
        define_flags,
        Settings,
        ("images", "output"),
        _start,
        argv,
        less_memory="Lower --batch_size or --image_size.",
    )


def _start(settings: dict[str, Any], given: set[str], stop: Stop) -> None:
    """The heavy imports come only now: a wrong flag is answered at once."""
    with command.starting_tensorflow():
        from vgg_normalize import job
    job.run(Settings(**{**settings, "formats": tuple(settings["formats"])}), stop)


def console() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
