"""What products in bfloat16 change in a run, by the same objective in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from style.cli.settings import Settings
from style.objective.evaluation import traced_once
from style.synthesis.descent import Step
from style.synthesis.inputs import Inputs
from style.synthesis.problem import Problem


class PrecisionCheck:
    """The objective of a run in float32.

    Args:
        settings: Of the run.
        model: The network, in float32.
        inputs: The pictures.
    """

    def __init__(self, settings: Settings, model: keras.Model, inputs: Inputs) -> None:
        self._problem = Problem(dataclasses.replace(settings, precision="float32"), model, inputs)
        self._objectives: dict[tuple[int, int], Callable[[tf.Tensor], Any]] = {}

    def gradient_error(self, step: Step) -> float:
        """The norm of the error of the gradient at a step over the norm of the gradient."""
        _, expected, _ = self._evaluate(step, step.state.x)
        gradient = step.state.gradient * step.state.scale
        return float(tf.norm(gradient - expected) / tf.norm(expected))

    def loss_at(self, step: Step, picture: tf.Tensor) -> float:
        """The objective of a step at a picture [1, H, W, 3]."""
        value, _, _ = self._evaluate(step, picture)
        return float(value)

    def _evaluate(self, step: Step, picture: tf.Tensor) -> Any:
        shape = step.shape
        if shape not in self._objectives:
            self._objectives[shape] = traced_once(self._problem.evaluate(shape))
        renew = self._problem.renew(shape)
        if renew is not None and step.draw is not None:
            renew(*step.draw)
        return self._objectives[shape](picture)
