"""How time and memory grow: python tests/benchmarks/bench_scale.py --images=PHOTOGRAPHS

* --what=tiles: one evaluation at 1536 pixels, whole and by tiles of 256, 512 and 1024;
* --what=growth: one evaluation at 512 to 4096 pixels by tiles;
* --what=large: one evaluation of 8192 x 8192 pixels by tiles, start of the process and set-up of the
  pictures included;
* --what=processes: images a second of `vgg_normalize` on one and on two processes of this machine.

Every figure comes from a process of its own; memory is its largest resident set, as `/usr/bin/time
-v` reports it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STYLE_LAYERS = [f"block{block}_conv1" for block in range(1, 6)]


def evaluate(options):
    """One evaluation in this process: seconds, megapixels, peak memory, the value."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np
    import tensorflow as tf

    from style import models
    from style.objective import value_and_gradient
    from style.synthesis import picture_terms
    from vgg_normalize.networks import chain

    model = models.load(options.model)
    names = [stage.layer.name for stage in chain.stages(model)]
    shape = (options.size, options.size)
    random = np.random.Generator(np.random.PCG64(0))
    style = random.random((512, 512, 3), np.float32)
    # Repeated noise, made in place: drawing so much would take more memory than what is measured.
    patches = (picture_terms.as_batch(random.random((512, 512, 3), np.float32)) for _ in range(2))
    times = [1, *(-(-side // 512) for side in shape), 1]
    content, image = (tf.tile(patch, times)[:, : shape[0], : shape[1]] for patch in patches)
    layers = [(name, 1.0) for name in STYLE_LAYERS if name in names]
    deepest = "block4_conv2" if "block4_conv2" in names else names[-1]
    terms = picture_terms.content_terms(model, [(deepest, 1.0)], 1.0, shape=shape)
    terms += picture_terms.style_terms(
        model, [picture_terms.Style(style)], layers, 100.0, shape=shape, tile=options.tile
    )
    function = tf.function(
        value_and_gradient.make_value_and_gradient(
            model, terms, shape, content=content, tile=options.tile
        )
    ).get_concrete_function(image)
    del content  # as a run does: the objective has what it needs of it
    seconds = []
    for _ in range(options.repeats):
        began = time.perf_counter()
        value, gradient, _ = function(image)
        largest = float(tf.reduce_max(tf.abs(gradient[:, :512, :512])))
        seconds.append(time.perf_counter() - began)
        del gradient
    found = {
        "seconds": min(seconds),
        "value": float(value),
        "gradient": largest,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(json.dumps(found))


def child(options, size, tile, repeats):
    """The same in a process of its own."""
    command = [sys.executable, __file__, f"--model={options.model}", f"--size={size}"]
    command += [f"--tile={tile}", f"--repeats={repeats}", "--what=evaluate"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def line(size, tile, found, whole=None):
    """Print one row."""
    ratio = f", ratio to whole {found['seconds'] / whole['seconds']:.2f}" if whole else ""
    memory = f" ({found['peak_gib'] / whole['peak_gib']:.2f} of whole)" if whole else ""
    print(
        f"{size} x {size}, tile {tile}: {found['seconds']:.2f} s "
        f"({found['seconds'] / size**2 * 1e6:.2f} s a megapixel){ratio}, peak "
        f"{found['peak_gib']:.2f} GiB{memory}; value {found['value']:.8g}, largest gradient near a corner "
        f"{found['gradient']:.8g}",
        flush=True,
    )


def processes(options):
    """Images a second on one and on two processes."""
    rates = {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            ports = [f"127.0.0.1:{23450 + os.getpid() % 1000 + i}" for i in range(count)]
            running = []
            for i in range(count):
                cluster = {"cluster": {"worker": ports}, "task": {"type": "worker", "index": i}}
                environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
                if count > 1:
                    environment["TF_CONFIG"] = json.dumps(cluster)
                command = [sys.executable, "-m", "vgg_normalize", "--task=measure"]
                command += ["--weights=random", f"--images={options.images}", "--seed=0"]
                command += [f"--output={folder}/out", f"--max_images={options.count}"]
                running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
            if any(process.communicate()[1] and process.returncode for process in running):
                sys.exit("a process failed")
            report = json.loads((Path(folder) / "out" / "report.json").read_text())
            rates[count] = report["images_per_second"]
    print(
        f"{rates[1]:.2f} images/s on one process, {rates[2]:.2f} on two "
        f"(ratio {rates[2] / rates[1]:.2f})"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vgg19", help="as --model of python -m style")
    parser.add_argument("--images", help="a folder of photographs")
    parser.add_argument("--what", nargs="+", default=["tiles", "growth", "large", "processes"])
    parser.add_argument("--size", type=int, default=1536)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--count", type=int, default=80, help="images for --what=processes")
    options = parser.parse_args()
    if options.what == ["evaluate"]:
        evaluate(options)
        return
    if "tiles" in options.what:
        whole = child(options, 1536, 0, options.repeats)
        line(1536, 0, whole)
        for tile in (256, 512, 1024):
            line(1536, tile, child(options, 1536, tile, options.repeats), whole)
    if "growth" in options.what:
        for size in (512, 1024, 2048, 4096):
            line(size, options.tile, child(options, size, options.tile, 1))
    if "large" in options.what:
        line(8192, options.tile, child(options, 8192, options.tile, 1))
    if "processes" in options.what:
        processes(options)


if __name__ == "__main__":
    main()
