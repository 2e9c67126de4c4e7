"""The PyTorch side of `bench_train.py`: AdaIN with a mirrored decoder, written plainly."""

import time

import numpy as np
import torch
from torch.nn import functional


class Adain(torch.nn.Module):
    """Encoder from an .npz of VGG kernels, decoder mirrored, as `style.feedforward.networks.adain`."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.deepest = network.layers[-1][0]
        names = [name for name, _, _ in network.layers]
        self.style_layers = [name for name in names if name.endswith("conv1")]
        steps, block = [], names[-1].split("_")[0]
        for name, kernel, _ in reversed(network.layers):
            if name.split("_")[0] != block:
                block = name.split("_")[0]
                steps.append(torch.nn.Upsample(scale_factor=2, mode="nearest"))
            out, into = kernel.shape[:2]
            steps += [torch.nn.ReflectionPad2d(1), torch.nn.Conv2d(out, into, 3)]
            steps += [torch.nn.ReLU()] if into != 3 else []
        self.decoder = torch.nn.Sequential(*steps)
        self.optimizer = torch.optim.Adam(self.decoder.parameters(), 1e-4)

    def goal(self, content, style):
        mean, deviation = moments(style)
        own, spread = moments(content)
        return (content - own) / spread * deviation + mean

    def step(self, content, style):
        with torch.no_grad():
            styles = self.network(style)
            goal = self.goal(self.network(content)[self.deepest], styles[self.deepest])
        found = self.network(self.decoder(goal))
        loss = functional.mse_loss(found[self.deepest], goal)
        for name in self.style_layers:
            for ours, theirs in zip(moments(found[name]), moments(styles[name]), strict=True):
                loss = loss + 10 * functional.mse_loss(ours, theirs)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def timed_step(self, size, batch):
        content, style = torch.rand(2, batch, 3, size, size)
        began = time.perf_counter()
        loss = self.step(content, style)
        return {"seconds": time.perf_counter() - began, "loss": loss}

    def timed_apply(self, size):
        content, style = torch.rand(2, 1, 3, size, size)
        began = time.perf_counter()
        with torch.inference_mode():
            content, style = (self.network(x)[self.deepest] for x in (content, style))
            image = self.decoder(self.goal(content, style)).clamp(0, 1)
        return {"seconds": time.perf_counter() - began, "mean": float(np.mean(image.numpy()))}


def moments(x):
    return x.mean((2, 3), keepdim=True), (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
