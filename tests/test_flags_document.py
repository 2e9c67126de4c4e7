"""docs/flags.md says what the flags of the commands are."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from absl import flags

DOCS = Path(__file__).resolve().parents[1] / "docs"
AGAIN = "run python docs/make_flags.py"


def make_flags():
    spec = importlib.util.spec_from_file_location("make_flags", DOCS / "make_flags.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_on_disk_is_what_the_script_makes():
    assert (DOCS / "flags.md").read_text(encoding="utf-8") == make_flags().render(), AGAIN


def test_every_flag_of_every_command_is_in_its_section():
    sections = make_flags().render().split("\n## ")[1:]
    names = ("vgg_normalize.__main__", "style.__main__", "style.train", "style.apply")
    names += ("style.studio.__main__",)
    assert len(sections) == len(names)
    for section, name in zip(sections, names, strict=True):
        values = flags.FlagValues()
        importlib.import_module(name).define_flags(values)
        assert section.startswith(f"`python -m {name.removesuffix('.__main__')}`")
        for flag in values:
            assert f"`--{flag}`" in section, AGAIN


def test_the_script_needs_no_tensorflow(tmp_path):
    code = (
        "import runpy, sys\n"
        f"script = runpy.run_path({str(DOCS / 'make_flags.py')!r})\n"
        "script['render']()\n"
        "sys.exit(bool({'tensorflow', 'keras'} & sys.modules.keys()))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=DOCS.parent).returncode == 0
