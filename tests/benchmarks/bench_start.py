"""What a start takes: python tests/benchmarks/bench_start.py --content=photo.jpg --style=painting.jpg

Seconds from Enter to the first step in the log of `python -m style`, with the whole trained VGG19, and
of each phase of the same from Python.  Medians of --rounds; the files are in the
system's cache from a round before them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# What each phase runs; the clock starts at Enter.
PHASES = {
    "python and numpy": "import numpy",
    "tensorflow and keras": "from vgg_normalize.runtime import starting\n"
    "with starting.starting_tensorflow(): import keras",
    "network": "import style\nfrom style import models\nmodel = models.load('vgg19')",
    "pictures": "content = style.load_image({content!r}, size={size})\n"
    "picture = style.load_image({style!r})",
    "targets, graphs, first evaluation": "results = style.iter_transfer(model, content, picture)\n"
    "next(results)",
    "first step": "next(results)",
}


def phases(options: argparse.Namespace) -> list[float]:
    """Seconds of each phase."""
    began = time.time()
    lines = ["import json, time", "ends = []"]
    for code in PHASES.values():
        lines += [code.format(**vars(options)), "ends.append(time.time())"]
    lines.append("print(json.dumps(ends))")
    told = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    ends = [began, *json.loads(told.stdout.splitlines()[-1])]
    return [after - before for before, after in zip(ends, ends[1:], strict=False)]


def first_step(options: argparse.Namespace, folder: str) -> float:
    """Seconds from Enter to the second record, that of the first step."""
    log = Path(folder, "log.jsonl")
    log.unlink(missing_ok=True)
    began = time.time()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "style", f"--content={options.content}"),
            *(f"--style={options.style}", f"--size={options.size}", f"--log={log}"),
            *(f"--output={folder}/out.png", "--steps=1000"),
        ],
        stderr=subprocess.DEVNULL,
    )
    while not log.exists() or log.read_bytes().count(b"\n") < 2:
        if process.poll() is not None:
            sys.exit("The command ended before its first step.")
        time.sleep(0.02)
    seconds = time.time() - began
    process.kill()
    process.wait()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--content", required=True)
    parser.add_argument("--style", required=True)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first_step(options, folder)  # reads all files from the disk once
        rounds = [(first_step(options, folder), phases(options)) for _ in range(options.rounds)]
    for i, name in enumerate(PHASES):
        print(f"{statistics.median(times[i] for _, times in rounds):6.2f} s  {name}")
    print(
        f"{statistics.median(seconds for seconds, _ in rounds):6.2f} s  python -m style, from Enter to "
        f"the first step at {options.size} pixels"
    )


if __name__ == "__main__":
    main()
