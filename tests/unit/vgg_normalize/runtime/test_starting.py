"""How TensorFlow is imported: without what nothing needs, and without garbage collection."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref

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


@pytest.fixture
def not_yet_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)


def test_nothing_is_collected_during_the_import(not_yet_imported):
    with starting._uncollected():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count()


def test_an_import_that_fails_leaves_the_collector_on(not_yet_imported):
    with pytest.raises(ImportError), starting._uncollected():
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(not_yet_imported):
    gc.disable()
    try:
        with starting._uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


class Cycle:
    """What the collector alone frees."""

    def __init__(self) -> None:
        self.itself = self


def test_what_was_made_during_the_import_stays(not_yet_imported):
    with starting._uncollected():
        made = weakref.ref(Cycle())
    gc.collect()
    assert made() is not None


def test_what_was_made_after_the_import_is_collected(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", sys)
    cycle = Cycle()
    made = weakref.ref(cycle)
    with starting._uncollected():
        assert gc.isenabled()
    del cycle
    gc.collect()
    assert made() is None
