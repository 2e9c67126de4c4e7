"""`python -m style.train`: train a feed-forward styliser.

python -m style.train --flagfile configs/train_adain.cfg
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from style.flags import define_going_on
from style.settings import STYLE_LOSSES, TRAINING, TrainSettings, parse_layers
from vgg_normalize import command
from vgg_normalize.paths import require_distinct
from vgg_normalize.progress import Stop, say

NAME = "style.train"
DEFAULTS: dict[str, Any] = command.defaults(TrainSettings)


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command, with the defaults of `TrainSettings`."""
    add = command.adder(values, DEFAULTS)
    string, number, whole = flags.DEFINE_string, flags.DEFINE_float, flags.DEFINE_integer
    add(flags.DEFINE_enum, "method", list(TRAINING), "Which network.")
    add(
        string,
        "model",
        "The losses' network, and AdaIN's encoder: vgg19, vgg19_original, a directory that vgg_normalize "
        "saved, or a file of weights.",
    )
    add(string, "content", "Folder or .tar of content pictures.")
    add(string, "style", "Folder or .tar of style pictures; of cin each becomes a style.")
    add(string, "output", "Directory to make.")
    add(flags.DEFINE_bool, "overwrite", "Replace an existing output, all or nothing.")
    add(whole, "size", "Side of the random crops, in pixels.", lower_bound=16)
    add(whole, "resize", "Short side before cropping (twice the size).", lower_bound=1)
    add(whole, "batch_size", "Images in a batch.", lower_bound=1)
    defaults = {
        name: ", ".join(f"{method} {values[name]:g}" for method, values in TRAINING.items())
        for name in TRAINING["adain"]
    }
    add(whole, "steps", f"Steps ({defaults['steps']}).", lower_bound=1)
    add(number, "learning_rate", f"Of Adam ({defaults['learning_rate']}).", lower_bound=0.0)
    add(number, "decay", f"rate / (1 + decay step) ({defaults['decay']}).", lower_bound=0.0)
    add(
        flags.DEFINE_list,
        "content_layers",
        "LAYER:WEIGHT, ... (not of adain; block4_conv2:1, or the deepest there is).",
    )
    add(
        flags.DEFINE_list,
        "style_layers",
        "LAYER:WEIGHT, ... (blockK_conv1:1, K = 1 to 5; of adain 1 to 4).",
    )
    add(flags.DEFINE_enum, "style_loss", list(STYLE_LOSSES), "(adain moments; else gram).")
    add(number, "content_weight", "Factor of the content.", lower_bound=0.0)
    add(number, "style_weight", f"Factor of the style ({defaults['style_weight']}).", lower_bound=0)
    add(number, "tv_weight", "Factor of total variation.", lower_bound=0.0)
    add(whole, "seed", "Of weights, order and crops.", lower_bound=0)
    add(whole, "max_skipped", "Tolerate so many unreadable pictures in a folder.", lower_bound=0)
    add(string, "tensorboard", "Directory for TensorBoard's logs.")
    add(string, "preview", "Picture that shows fixed contents in fixed styles.")
    add(whole, "preview_every", "Steps between two previews.", lower_bound=1)
    define_going_on(add)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command.run(
        NAME,
        __doc__ or "",
        define_flags,
        TrainSettings,
        ("model", "content", "style", "output"),
        _start,
        argv,
        less_memory="Lower --size or --batch_size.",
    )


def _start(settings: dict[str, Any], given: set[str], stop: Stop) -> None:
    """The heavy imports come only now: a wrong flag is answered at once."""
    made = dict(settings)
    for name in ("content_layers", "style_layers"):
        made[name] = parse_layers(name, settings[name])
    for name, value in TRAINING[settings["method"]].items():
        made[name] = value if made[name] is None else made[name]
    require_distinct(
        {name: made[name] for name in ("content", "style", "model")},
        {name: made[name] for name in ("output", "log", "preview", "tensorboard", "checkpoint")},
    )
    say(
        f"training {settings['method']}: contents of {settings['content']}, styles of "
        f"{settings['style']}; starting TensorFlow"
    )
    with command.starting_tensorflow():
        from style import trainer
    trainer.run(TrainSettings(**made), stop)


def console() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
