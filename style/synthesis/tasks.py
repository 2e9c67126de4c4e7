"""Transfer, texture and inversion in one call each; the command line goes the same way.

    import style, vgg_normalize as vn

    vgg = vn.normalized("vgg19")
    photo, painting = style.load_image("a.jpg", size=512), style.load_image("b.jpg")
    result = style.transfer(vgg, photo, painting, steps=300)
    style.save_image("out.png", result.image)
    print(result.status.value)

Images are float32, RGB, [H, W, 3], in [0, 1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from style import models
from style.images import resizing
from style.synthesis import descent
from style.synthesis.defaults import resolve
from style.synthesis.descent import Status, Step
from style.synthesis.inputs import Inputs
from style.synthesis.options import Options, shows_options
from style.synthesis.picture_terms import Style
from style.synthesis.problem import Problem
from vgg_normalize.errors import NumericalError, UsageError

Styles = np.ndarray | Style | Sequence[np.ndarray | Style]


@dataclasses.dataclass(frozen=True)
class Result:
    """A picture and how it was reached.

    Attributes:
        image: float32, [H, W, 3], clipped to [0, 1].
        loss: The objective there before it is clipped; `range_weight` brings the two together.
        terms: What each kind of term adds to it: "content", "style", "tv", "norm", "range".
        evaluations: Of the objective and its gradient, at this size.
        status: How the run stands or why it ended; `status.value` is a sentence.
    """

    image: np.ndarray
    loss: float
    terms: dict[str, float]
    evaluations: int
    status: Status


@shows_options("transfer")
def transfer(
    model: keras.Model | str, content: np.ndarray, styles: Styles, **options: Any
) -> Result:
    """The content in the style: Gatys, Ecker and Bethge, CVPR 2016, by default.

    Args:
        model: A network of vgg_normalize, or "vgg19", "vgg19_original" or the path of one.
        content: [H, W, 3] in [0, 1]; the result has its size.
        styles: A picture, a `Style` (a picture with a weight and masks), or several.
        **options: Of `style.Options`, which says what each one is; often `strength`, `steps`,
            `style_loss`, `preserve_color`, `tile`.  `init` may be a picture [H, W, 3] in [0, 1], too.

    Raises:
        UsageError: An option is invalid.
        ImagesError: A picture is too small for the layers.
        NetworkError: The network has no such layer, or there is no such network.
        DevicesError: There is not enough memory.
        NumericalError: The objective is not finite at the first picture.
    """
    return _last(_run_transfer(model, content, styles, options))


@shows_options("transfer")
def iter_transfer(
    model: keras.Model | str, content: np.ndarray, styles: Styles, **options: Any
) -> Iterator[Result]:
    """`transfer`, giving the first picture and the one after each step, to watch or to stop.

    Arguments and errors are those of `transfer`; errors are raised when the first picture is asked for.
    """
    return _results(_run_transfer(model, content, styles, options))


@shows_options("texture")
def texture(
    model: keras.Model | str,
    styles: Styles,
    *,
    shape: tuple[int, int] | None = None,
    **options: Any,
) -> Result:
    """A texture from noise: Gatys, Ecker and Bethge, NIPS 2015, by default.

    Args:
        model: As of `transfer`.
        styles: As of `transfer`.
        shape: Height and width of the result in pixels; default: those of the first style.
        **options: As of `transfer`.

    Raises:
        Error: As `transfer`.
    """
    return _last(_run_texture(model, styles, shape, options))


@shows_options("texture")
def iter_texture(
    model: keras.Model | str,
    styles: Styles,
    *,
    shape: tuple[int, int] | None = None,
    **options: Any,
) -> Iterator[Result]:
    """`texture`, giving the first picture and the one after each step, as `iter_transfer`."""
    return _results(_run_texture(model, styles, shape, options))


@shows_options("inversion", without="content_layers")
def invert(
    model: keras.Model | str, content: np.ndarray, layer: str = "block4_conv2", **options: Any
) -> Result:
    """A picture from noise that has the content's features in one layer.

    Args:
        model: As of `transfer`.
        content: [H, W, 3] in [0, 1].
        layer: Its name.
        **options: As of `transfer`; `norm_weight`, `tv_weight`, `tv_beta` and `range_weight` are the
            regularisers.

    Raises:
        Error: As `transfer`.

    Reference: Mahendran and Vedaldi, IJCV 2016.
    """
    return _last(_run_inversion(model, content, layer, options))


@shows_options("inversion", without="content_layers")
def iter_invert(
    model: keras.Model | str, content: np.ndarray, layer: str = "block4_conv2", **options: Any
) -> Iterator[Result]:
    """`invert`, giving the first picture and the one after each step, as `iter_transfer`."""
    return _results(_run_inversion(model, content, layer, options))


# A problem and a step towards its solution.
Run = Iterator[tuple[Problem, Step]]


def _run_transfer(
    model: keras.Model | str, content: np.ndarray, styles: Styles, options: dict[str, Any]
) -> Run:
    content = _require_image(content)
    chosen = _options("transfer", options)
    return _run(model, chosen, content.shape[:2], options, content, styles)


def _run_texture(
    model: keras.Model | str,
    styles: Styles,
    shape: tuple[int, int] | None,
    options: dict[str, Any],
) -> Run:
    shape = shape or _as_styles(styles)[0].pixels.shape[:2]
    return _run(model, _options("texture", options), shape, options, None, styles)


def _run_inversion(
    model: keras.Model | str, content: np.ndarray, layer: str, options: dict[str, Any]
) -> Run:
    content = _require_image(content)
    options = {**options, "content_layers": ((layer, 1.0),)}
    chosen = _options("inversion", options)
    return _run(model, chosen, content.shape[:2], options, content, ())


def _options(task: str, given: dict[str, Any]) -> Options:
    """The options of a call.

    Raises:
        UsageError: There is no option of that name.
    """
    names = [field.name for field in dataclasses.fields(Options) if field.name != "task"]
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise UsageError(
            f"Expected options {', '.join(names)}. Received: {', '.join(unknown)}. Correct them."
        )
    init = given.get("init")
    changed = {"init": "picture"} if isinstance(init, np.ndarray) else {}
    return Options(**{**given, **changed, "task": task})


def _run(
    model: keras.Model | str,
    options: Options,
    shape: tuple[int, ...],
    given: dict[str, Any],
    content: np.ndarray | None,
    styles: Styles,
) -> Run:
    """Every step of a task, with the problem that it belongs to."""
    network = models.load(model) if isinstance(model, str) else model
    chosen = _as_styles(styles)
    blend = options.style_blend or tuple(style.weight for style in chosen)
    options = resolve(dataclasses.replace(options, style_blend=blend), network, styles=len(chosen))
    init = given.get("init")
    inputs = Inputs(
        options,
        (shape[0], shape[1]),
        content=content,
        styles=[style.pixels for style in chosen],
        content_masks=_masks("content_mask", [style.content_mask for style in chosen]),
        style_masks=_masks("mask", [style.mask for style in chosen]),
        init=_require_image(init) if isinstance(init, np.ndarray) else None,
    )
    problem = Problem(options, network, inputs)
    for step in descent.descend(problem):
        require_finite_start(step.state)
        yield problem, step


def _result(problem: Problem, step: Step) -> Result:
    state = step.state
    image = problem.inputs.postprocess(np.asarray(state.x[0]))
    last = step.shape == problem.sizes[-1]
    status = descent.status_of(state, problem.steps[-1])
    return Result(
        image=np.clip(image, 0, 1),
        loss=float(state.value),
        terms={kind: float(value) for kind, value in state.terms.items()},
        evaluations=int(state.evaluations),
        status=status if last or status is Status.NOT_FINITE else Status.RUNNING,
    )


def require_finite_start(state: Any) -> None:
    """Raises NumericalError where the objective is not finite at the first picture."""
    if int(state.evaluations) <= 1 and not bool(state.finite):
        raise NumericalError(
            "Expected a finite objective. Received: NaN or infinity at the first picture. Check "
            "the weights and the pictures."
        )


def _results(run: Run) -> Iterator[Result]:
    return (_result(problem, step) for problem, step in run)


def _last(run: Run) -> Result:
    """The result of the last step; the pictures of the others are not wanted."""
    for problem, step in run:  # noqa: B007
        pass
    return _result(problem, step)


def _as_styles(styles: Styles) -> list[Style]:
    """Pictures and `Style`s as `Style`s."""
    several = [styles] if isinstance(styles, np.ndarray | Style) else list(styles)
    chosen = [style if isinstance(style, Style) else Style(style) for style in several]
    return [style._replace(pixels=_require_image(style.pixels)) for style in chosen]


def _masks(what: str, masks: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Masks [H, W] as [H, W, 1], none or one for each style."""
    given = [np.asarray(mask, np.float32)[..., None] for mask in masks if mask is not None]
    if given and len(given) != len(masks):
        raise UsageError(
            f"Expected a {what} of each style or of none. Received: {len(given)} of {len(masks)}. "
            "Give masks of ones for the others."
        )
    return given


def _require_image(image: Any) -> np.ndarray:
    """The image as float32, [H, W, 3].

    Raises:
        UsageError: Integers, another shape, or values far outside [0, 1].
    """
    pixels = resizing.require_pixels(image)
    resizing.require_unit_range(pixels)
    return np.asarray(pixels, np.float32)
