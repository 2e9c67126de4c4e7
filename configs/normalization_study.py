"""Trains one network with each normalisation alike, and lays all on one sheet, normalization_study.png:

    python configs/normalization_study.py --content=PHOTOGRAPHS --style=PAINTINGS

More flags of style.train may follow.  The networks, their logs and checkpoints stand in study/; what
is finished there is not trained again.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import style
from style import train
from style.feedforward import networks
from style.feedforward.layers import ConditionalInstanceNormalization
from style.feedforward.normalizations import NORMALIZATIONS

FOLDER = Path("study")
KINDS = (*NORMALIZATIONS, "spectral")
# Photographs on the sheet, and those that statistics are taken of.
SHOWN, MEASURED = 3, 16
# Steps that a point of the loss curve is averaged over.
WINDOW = 10


def flags_of(kind: str) -> list[str]:
    """What sets one network apart: instance normalisation stays where the kernels are divided."""
    return ["--spectral"] if kind == "spectral" else [f"--normalization={kind}"]


def train_one(kind: str, flags: list[str]) -> None:
    """Train a network, unless it is there."""
    code = train.main(
        [
            "style.train",
            "--flagfile=configs/normalization_study.cfg",
            *flags,
            *flags_of(kind),
            f"--output={FOLDER / kind}",
            f"--log={FOLDER / kind}.jsonl",
            f"--checkpoint={FOLDER / kind}_state",
            "--resume",
        ]
    )
    if code:
        sys.exit(code)


def losses(kind: str) -> np.ndarray:
    """The loss of each step."""
    lines = (FOLDER / f"{kind}.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def between_images(kind: str, contents: np.ndarray) -> list[float]:
    """For each normalised layer, the share of a channel's variance that lies between images.

    That is the variance of the images' means over the variance of all activations, averaged over
    channels: 0 where every image is normalised alone.  Scale and offset of the style do not matter.
    """
    with np.load(FOLDER / f"{kind}_state" / "training.npz") as arrays:
        normalization = "instance" if kind == "spectral" else kind
        styles = len(style.load_stylizer(FOLDER / kind).known_styles)
        network = networks.cin(styles, normalization=normalization, spectral=kind == "spectral")
        for i, variable in enumerate([*network.variables, *network.state]):
            variable.assign(arrays[f"variable{i}"])
    kinds = (ConditionalInstanceNormalization, type(NORMALIZATIONS[normalization](8)))
    layers = [layer for layer in network.transform.layers if isinstance(layer, kinds)]
    model = keras.Model(network.transform.input, [layer.output for layer in layers])
    code = np.eye(styles, dtype=np.float32)[:1].repeat(len(contents), 0)
    shares = []
    for output in model({"content": contents, "code": code}):
        x = np.asarray(output, np.float64)
        share = x.mean((1, 2)).var(0) / np.maximum(x.var((0, 1, 2)), 1e-12)
        shares.append(float(share.mean()))
    return shares


def main() -> None:
    arguments = dict(flag.lstrip("-").split("=", 1) for flag in sys.argv[1:] if "=" in flag)
    FOLDER.mkdir(exist_ok=True)
    for kind in KINDS:
        train_one(kind, sys.argv[1:])
    paths = sorted(Path(arguments["content"]).iterdir())[:MEASURED]
    contents = np.stack([style.load_image(path, size=256)[:128, :128] for path in paths])
    canvas = Figure(figsize=(2 + 1.5 * len(KINDS), 9), layout="constrained")
    pictures, curves = canvas.subfigures(2, 1, height_ratios=(SHOWN * 1.5, 4))
    cells = pictures.subplots(SHOWN, 1 + len(KINDS))
    loss_axes, share_axes = curves.subplots(1, 2)
    for row in range(SHOWN):
        cells[row, 0].imshow(contents[row])
    cells[0, 0].set_title("content")
    for column, kind in enumerate(KINDS, 1):
        stylize = style.load_stylizer(FOLDER / kind)
        cells[0, column].set_title(kind)
        for row in range(SHOWN):
            cells[row, column].imshow(stylize(contents[row], stylize.known_styles[0]))
        loss = losses(kind)
        loss_axes.plot(np.convolve(loss, np.ones(WINDOW) / WINDOW, "valid"), label=kind)
        share_axes.plot(between_images(kind, contents), ".-", label=kind)
    for axes in cells.flat:
        axes.set_axis_off()
    loss_axes.set(title=f"loss, mean of {WINDOW} steps", xlabel="step", yscale="log")
    share_axes.set(title="share of variance between images", xlabel="normalised layer")
    share_axes.legend(ncols=2, fontsize=8)
    canvas.savefig("normalization_study.png", dpi=80)
    print("normalization_study.png")


if __name__ == "__main__":
    main()
