"""What is kept from being imported with TensorFlow."""

from __future__ import annotations

import importlib
import sys

import pytest

from vgg_normalize.runtime import starting


def test_what_keras_could_do_without_is_hidden_from_it_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with starting._without("colorsys", "json"):
        with pytest.raises(ImportError):
            importlib.import_module("colorsys")
        # What is there already stays: code that has it may use it.
        importlib.import_module("json")
    assert importlib.import_module("colorsys").rgb_to_hsv(1, 0, 0) == (0.0, 1.0, 1.0)


def test_it_comes_back_after_an_error_too(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(RuntimeError), starting._without("colorsys"):
        raise RuntimeError
    importlib.import_module("colorsys")
