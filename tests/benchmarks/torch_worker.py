"""The PyTorch side of the benchmarks: reads one JSON command a line, answers with one.

Runs in an environment of its own (`pip install torch==2.13.0 numpy`), so that both frameworks can
be timed alternately in one run, on the device that the first argument names.  Everything here is the
plain way to write it in PyTorch, in float32 without TensorFloat-32, as `style` computes.
"""

import json
import sys
import time

import numpy as np
import peak
import torch
from torch_adain import Adain

MEAN_BGR = [103.939, 116.779, 123.68]


class Network:
    """VGG up to a layer from an .npz of kernels [h, w, in, out] and biases."""

    def __init__(self, path):
        arrays = np.load(path)
        self.mean = torch.tensor(MEAN_BGR).view(1, 3, 1, 1)
        self.layers = []
        for key in arrays.files:
            name, kind = key.split("/")
            if kind == "kernel":
                kernel = torch.tensor(arrays[key].transpose(3, 2, 0, 1).copy())
                self.layers.append((name, kernel, torch.tensor(arrays[f"{name}/bias"])))

    def __call__(self, image):
        x = image.flip(1) * 255 - self.mean
        found, block = {}, "block1"
        for name, kernel, bias in self.layers:
            if name.split("_")[0] != block:
                block = name.split("_")[0]
                x = torch.nn.functional.max_pool2d(x, 2)
            x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, padding=1))
            found[name] = x
        return found


def gram(x):
    f = x.flatten(2)[0]
    return f @ f.T / f.shape[1]


class Style:
    """The contract's transfer objective with Gram matrices."""

    def __init__(self, command):
        self.network = Network(command["weights"])
        pictures = np.load(command["pictures"])
        content, style = (
            torch.tensor(pictures[name].transpose(2, 0, 1)[None].copy())
            for name in ("content", "style")
        )
        self.start = torch.tensor(pictures["start"].transpose(2, 0, 1)[None].copy())
        self.command = command
        with torch.no_grad():
            features = self.network(content)
            self.content = {name: features[name] for name in command["content_layers"]}
            features = self.network(style)
            self.grams = {name: gram(features[name]) for name in command["style_layers"]}

    def loss(self, image):
        found = self.network(image)
        content = sum(((found[n] - p) ** 2).mean() for n, p in self.content.items())
        style = sum(((gram(found[n]) - g) ** 2).mean() for n, g in self.grams.items())
        return self.command["content_weight"] * content + self.command["style_weight"] * style

    def evaluate(self, repeats):
        image = self.start.clone().requires_grad_(True)
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            image.grad = None
            loss = self.loss(image)
            loss.backward()
            times.append(time.perf_counter() - began)
        return {"seconds": times, "loss": loss.item(), "gradient": image.grad.norm().item()}

    def optimize(self, evaluations, optimizer, stretch):
        """Seconds and values of all evaluations; says so after each stretch, and waits for a line."""
        image = self.start.clone().requires_grad_(True)
        if optimizer == "lbfgs":
            method = torch.optim.LBFGS(
                [image],
                lr=1,
                max_iter=evaluations,
                max_eval=evaluations,
                history_size=100,
                tolerance_grad=-1,
                tolerance_change=-1,
            )
        else:
            method = torch.optim.Adam([image], lr=0.02)
        began, history = time.perf_counter(), []

        def closure():
            nonlocal began
            method.zero_grad()
            loss = self.loss(image)
            loss.backward()
            history.append((time.perf_counter() - began, loss.item()))
            if len(history) % stretch == 0 and len(history) < evaluations:
                say({"history": history})
                stopped = time.perf_counter()
                sys.stdin.readline()
                began += time.perf_counter() - stopped
            return loss

        if optimizer == "lbfgs":
            method.step(closure)
        else:
            for _ in range(evaluations):
                method.step(closure)
        return {"history": history}


def means(network, batch, repeats):
    """Seconds of a forward pass with the channel means of every layer; the layout that is faster."""
    images = torch.rand(batch, 3, 224, 224)
    best = []
    with torch.inference_mode():
        for layout in (torch.contiguous_format, torch.channels_last):
            x = images.to(memory_format=layout)
            copy = Network.__new__(Network)
            copy.mean = network.mean
            copy.layers = [(n, k.to(memory_format=layout), b) for n, k, b in network.layers]
            times = []
            for _ in range(repeats):
                began = time.perf_counter()
                for activation in copy(x).values():
                    activation.mean((2, 3))
                times.append(time.perf_counter() - began)
            best.append(float(np.median(times)))
    return {"seconds": min(best), "contiguous": best[0], "channels_last": best[1]}


def say(answer):
    print(json.dumps({**answer, "peak": peak.gib()}), flush=True)


def main():
    torch.set_default_device(sys.argv[1])
    torch.backends.cudnn.allow_tf32 = False  # of matrix products it is off by itself
    torch.manual_seed(0)
    style = network = adain = None
    for line in sys.stdin:
        command = json.loads(line)
        kind = command["command"]
        if kind == "style":
            style = None
            peak.reset()
            style, answer = Style(command), {"version": torch.__version__}
        elif kind == "evaluate":
            answer = style.evaluate(command["repeats"])
        elif kind == "optimize":
            answer = style.optimize(
                command["evaluations"], command["optimizer"], command["stretch"]
            )
        elif kind == "network":
            network, answer = Network(command["weights"]), {"version": torch.__version__}
        elif kind == "means":
            answer = means(network, command["batch"], command["repeats"])
        elif kind == "adain":
            adain, answer = Adain(Network(command["weights"])), {"version": torch.__version__}
        elif kind == "adain_step":
            answer = adain.timed_step(command["size"], command["batch"])
        elif kind == "adain_apply":
            answer = adain.timed_apply(command["size"])
        say(answer)


if __name__ == "__main__":
    main()
