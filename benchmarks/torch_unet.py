"""The network, losses, crops and optimiser of rams_jax in PyTorch, for benchmarks/throughput.py only.

Written as PyTorch is used best: channels_last, fused AdamW, the parts of a step inside `torch.compile` unless asked
otherwise. Crops are drawn from the data set in memory as `rams_jax.augment` does: the same maps, read in the same
places, by other random numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = 1.7


class Convolution(nn.Module):
    """3 x 3, standardised; `kernel` is [out, in, 3, 3]."""

    def __init__(self, inputs: int, outputs: int, centred: bool = True):
        super().__init__()
        kernel = torch.randn(outputs, inputs, 3, 3) / math.sqrt(9 * inputs)
        self.kernel = nn.Parameter(kernel.contiguous(memory_format=torch.channels_last))
        self.gain, self.bias = nn.Parameter(torch.ones(outputs)), nn.Parameter(torch.zeros(outputs))
        self.centred = centred

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel - self.kernel.mean((1, 2, 3), keepdim=True) if self.centred else self.kernel
        kernel = kernel * (self.gain / torch.sqrt((kernel**2).sum((1, 2, 3)) + 1e-6))[:, None, None, None]
        kernel = kernel.to(x.dtype, memory_format=torch.channels_last)
        return F.conv2d(x, kernel, self.bias.to(x.dtype), padding=1)


class Mix(nn.Linear):
    """1 x 1 convolution as a product of matrices, which is faster with few channels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight.to(x.dtype), self.bias.to(x.dtype)).permute(0, 3, 1, 2)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, layers: int, first: bool = False):
        super().__init__()
        sizes = [inputs] + [outputs] * layers
        self.layers = nn.ModuleList(Convolution(sizes[i], outputs, not first or i > 0) for i in range(layers))

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.01) * (GAIN * inside)
        return x


class UNet(nn.Module):
    """`rams_jax.model.MultiTaskUNet` for float[B, C, H, W]; at least one auxiliary task and one own level."""

    def __init__(self, settings: Any, channels: int, classes: int, auxiliary: int):
        super().__init__()
        s, self.depth, self.own = settings, settings.depth, settings.own_levels
        assert 0 < s.own_levels < s.depth and auxiliary
        widths = [s.width * 2**level for level in range(s.depth)]
        for name, values in (("mean", s.mean), ("std", s.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])
        self.tasks = {"segmentation": classes + 1, "approximation": classes, "auxiliary": auxiliary}
        parts: dict[str, nn.Module] = {}
        for level in range(s.depth):
            parts[f"encoder{level}"] = Block(widths[level - 1] if level else channels, widths[level], 2, level == 0)
        for level in range(s.depth - 1):
            shared = level >= s.own_levels
            for task in ["shared"] if shared else self.tasks:
                if shared or level < s.own_levels - 1:
                    parts[f"up{level}_{task}"] = Mix(widths[level + 1], widths[level])
                parts[f"decoder{level}_{task}"] = Block(2 * widths[level], widths[level], 2 if shared else 1)
        top = s.own_levels - 1
        parts[f"up{top}_shared"] = Mix(widths[top + 1], widths[top])
        parts |= {f"{task}_logits": Mix(s.width, outputs) for task, outputs in self.tasks.items()}
        self.parts = nn.ModuleDict(parts)

    def load(self, params: Any) -> None:
        """Takes the parameters of flax, as numpy arrays."""
        with torch.no_grad():
            for name, part in self.parts.items():
                theirs = params["params"][name]
                if isinstance(part, Block):
                    for i, layer in enumerate(part.layers):
                        layer.kernel.copy_(torch.tensor(theirs[f"Convolution_{i}"]["kernel"]).permute(3, 2, 0, 1))
                        layer.gain.copy_(torch.tensor(theirs[f"Convolution_{i}"]["gain"]))
                        layer.bias.copy_(torch.tensor(theirs[f"Convolution_{i}"]["bias"]))
                else:
                    dense = theirs.get("Dense_0", theirs)
                    part.weight.copy_(torch.tensor(dense["kernel"]).T)
                    part.bias.copy_(torch.tensor(dense["bias"]))

    def gradients(self) -> dict[str, Any]:
        """Those of the last backward pass, in the tree and the layouts of flax."""
        tree: dict[str, Any] = {}
        for name, part in self.parts.items():
            if isinstance(part, Block):
                tree[name] = {
                    f"Convolution_{i}": {
                        "kernel": layer.kernel.grad.permute(2, 3, 1, 0).numpy(),
                        "gain": layer.gain.grad.numpy(),
                        "bias": layer.bias.grad.numpy(),
                    }
                    for i, layer in enumerate(part.layers)
                }
            else:
                dense = {"kernel": part.weight.grad.T.numpy(), "bias": part.bias.grad.numpy()}
                tree[name] = {"Dense_0": dense} if name.startswith("up") else dense
        return {"params": tree}

    def forward(self, image: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float[B, C, H, W] and bool[B, H, W] to the logits of the three tasks, float32[B, channels, H, W]."""
        masks = [inside[:, None].to(self.dtype)]
        for _ in range(self.depth - 1):
            masks.append(F.max_pool2d(masks[-1], 2))
        x = (((image - self.mean) / self.std).to(self.dtype) * masks[0]).contiguous(memory_format=torch.channels_last)
        skips = []
        for level in range(self.depth):
            x = self.parts[f"encoder{level}"](x, masks[level])
            skips.append(x)
            x = F.max_pool2d(x, 2) if level < self.depth - 1 else x

        def up(x: Tensor, level: int, task: str) -> Tensor:
            x = F.interpolate(self.parts[f"up{level}_{task}"](x), scale_factor=2, mode="nearest")
            return torch.cat([x * masks[level], skips[level]], 1)

        for level in range(self.depth - 2, self.own - 1, -1):
            x = self.parts[f"decoder{level}_shared"](up(x, level, "shared"), masks[level])
        x = up(x, self.own - 1, "shared")
        outputs = []
        for task in self.tasks:
            y = x
            for level in range(self.own - 1, -1, -1):
                y = y if level == self.own - 1 else up(y, level, task)
                y = self.parts[f"decoder{level}_{task}"](y, masks[level])
            outputs.append(self.parts[f"{task}_logits"](y.float()))
        return outputs[0], outputs[1], outputs[2]

    dtype = torch.float32


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1.0)


def dice(probability: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """One minus the soft Dice of each channel of [B, T, h, w], averaged over those present."""
    overlap, area = (weights * probability * truth).sum((0, 2, 3)), (weights * (probability + truth)).sum((0, 2, 3))
    return masked_mean(1 - 2 * overlap / area.clamp(min=1e-6), ((weights * truth).sum((0, 2, 3)) > 0).float())


def loss(logits: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor], weights: Any) -> Tensor:
    """`rams_jax.train_step.batch_loss` of the rule `multitask`; `weights` is its LossSettings."""
    segmentation, approximation, auxiliary = logits
    known = (batch["valid"] & batch["strong"][:, None, None]).float()
    truth = F.one_hot(batch["full"], segmentation.shape[1]).permute(0, 3, 1, 2).float()
    total = masked_mean(F.cross_entropy(segmentation, batch["full"], reduction="none"), known)
    total = total + dice(segmentation.softmax(1)[:, 1:], truth[:, 1:], known[:, None])
    current = torch.stack([batch["current"] == k + 1 for k in range(approximation.shape[1])], 1).float()
    seen = batch["valid"] & (batch["complete"][:, None, None] | (batch["current"] > 0))
    cross_entropy = F.binary_cross_entropy_with_logits(approximation, current, reduction="none")
    total = total + weights.approximation * masked_mean(cross_entropy, seen[:, None].float().expand_as(current))
    for i, weight in enumerate(weights.auxiliary):
        stroke, logit = batch["auxiliary"][..., i], auxiliary[:, i]
        yes, drawn = (stroke == 2).float(), ((stroke != 0) & batch["valid"]).float()
        cross_entropy = F.binary_cross_entropy_with_logits(logit, yes, reduction="none")
        total = total + weight * masked_mean(cross_entropy, drawn)
        total = total + weight * dice(logit.sigmoid()[:, None], yes[:, None], drawn[:, None])
    return total


def _uniform(shape: tuple[int, ...], device: Any, low: float = -1.0) -> Tensor:
    return torch.rand(shape, device=device) * (1 - low) + low


def crops(data: dict[str, Tensor], index: Tensor, settings: Any) -> dict[str, Tensor]:
    """Augmented crops of the images `index`, int64[B], as `rams_jax.augment.crop` makes them."""
    s, device, b, side = settings, index.device, len(index), settings.crop
    height, width = data["image"].shape[1:3]
    inside, labelled = data["inside"][index], data["labelled"][index]
    wanted = (torch.rand(b, device=device) < s.foreground) & labelled.flatten(1).any(1)
    candidates = torch.where(wanted[:, None, None], labelled, inside).flatten(1)
    place = torch.where(candidates, torch.rand(candidates.shape, device=device), -1.0).argmax(1)
    centre = torch.stack([place // width, place % width], 1).float()

    axis = torch.arange(side, device=device) - side // 2.0
    nodes = max(2, side // s.elastic_grid + 1)
    bend = F.interpolate(s.elastic * torch.randn(b, 2, nodes, nodes, device=device), (side, side), mode="bicubic")
    aspect = torch.exp(0.5 * _uniform((b,), device) * math.log(s.aspect))
    scale = torch.exp(_uniform((b,), device) * math.log(s.scale))
    flip = torch.where(torch.rand(2, b, device=device) < (0.5 if s.flip else 0.0), -1.0, 1.0)
    rows = ((axis[:, None] + bend[:, 0]) * (scale * aspect * flip[0])[:, None, None]).flatten(1)
    columns = ((axis[None, :] + bend[:, 1]) * (scale / aspect * flip[1])[:, None, None]).flatten(1)
    angle = (math.radians(s.rotation) * _uniform((b,), device))[:, None]
    row = centre[:, :1] + rows * angle.cos() - columns * angle.sin()
    column = centre[:, 1:] + rows * angle.sin() + columns * angle.cos()

    near = (row + 0.5).floor().long(), (column + 0.5).floor().long()
    known = (near[0] >= 0) & (near[0] < height) & (near[1] >= 0) & (near[1] < width)
    spot = index[:, None], near[0].clamp(0, height - 1), near[1].clamp(0, width - 1)
    maps = torch.where(known[..., None], data["maps"][spot], 0).unflatten(1, (side, side)).long()

    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    top, left = row.floor().long(), column.floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, along = (row - top)[..., None], (column - left)[..., None]
    images, which = data["image"], index[:, None]
    upper = images[which, top, left] * (1 - along) + images[which, top, right] * along
    lower = images[which, bottom, left] * (1 - along) + images[which, bottom, right] * along
    image = (upper * (1 - down) + lower * down).unflatten(1, (side, side)).permute(0, 3, 1, 2)

    sigma = (s.blur * torch.rand(b, device=device)).clamp(min=1e-3)
    taps = torch.exp(-0.5 * ((torch.arange(5, device=device) - 2.0) / sigma[:, None]) ** 2)
    taps = (taps / taps.sum(1, keepdim=True))[:, :, None, None, None]
    padded = F.pad(image, (0, 0, 2, 2), mode="replicate")
    image = sum(taps[:, i] * padded[:, :, i : i + side] for i in range(5))
    padded = F.pad(image, (2, 2, 0, 0), mode="replicate")
    image = sum(taps[:, i] * padded[..., i : i + side] for i in range(5))
    channels = image.shape[1]
    mean = image.mean((2, 3), keepdim=True)
    contrast = torch.exp(_uniform((b, channels, 1, 1), device) * math.log(s.contrast))
    brightness, noise = (torch.tensor(x, device=device)[:, None, None] for x in (s.brightness, s.noise))
    image = (image - mean) * contrast + mean + brightness * _uniform((b, channels, 1, 1), device)
    image = image + noise * torch.rand(b, 1, 1, 1, device=device) * torch.randn(image.shape, device=device)
    classes = data["classes"][index]
    ids = maps[..., :2].clamp(min=0).flatten(1)
    of_class = classes.gather(1, ids).view(b, side, side, 2)
    return {
        "image": torch.where(maps[:, None, ..., 2] > 0, image, 0.0),
        "inside": maps[..., 2] > 0,
        "valid": maps[..., 3] > 0,
        "full": of_class[..., 0],
        "current": torch.where(maps[..., 1] < 0, -1, of_class[..., 1]),
        "auxiliary": maps[..., 4:],
        "strong": data["strong"][index],
        "complete": data["complete"][index],
    }


def dataset(data: Any, device: str) -> dict[str, Tensor]:
    """A `DatasetState` of one shard as tensors; the maps lie beside each other, for one look-up a pixel."""
    maps = [data.full, data.masks.current, data.inside, data.valid]
    maps = [np.asarray(x)[..., None] for x in maps] + [np.asarray(data.auxiliary)]
    arrays = {
        "image": data.image,
        "inside": data.inside,
        "labelled": (np.asarray(data.full) > 0) | (np.asarray(data.partial) > 0),
        "maps": np.concatenate([x.astype(np.int16) for x in maps], -1),
        "classes": np.asarray(data.classes).astype(np.int64),
        "strong": data.strong,
        "complete": data.complete,
    }
    return {name: torch.tensor(np.asarray(x), device=device) for name, x in arrays.items()}


class Trainer:
    """One step after another: crops, gradient, clipping, AdamW, running average; `parts` are its compiled pieces."""

    def __init__(self, program: Any, data: Any, params: Any, device: str = "cpu", compiled: bool = True):
        model = program.model
        self.net = UNet(model.settings, data.image.shape[-1], model.classes, model.auxiliary).to(device)
        self.net.load(params)
        self.net.dtype = getattr(torch, model.settings.dtype)
        self.data, self.program = dataset(data, device), program
        self.average = [p.detach().clone() for p in self.net.parameters()]
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
        slots = (np.asarray(x)[0].astype(np.int64) for x in (data.strong_slots, data.weak_slots))
        self.slots = [torch.tensor(x, device=device) for x in slots]
        if device == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")  # as jax does

        def wrapped(function: Any) -> Any:
            return torch.compile(function) if compiled else function

        self._crops = wrapped(lambda index: crops(self.data, index, program.augment))
        self._loss = wrapped(lambda batch: loss(self.net(batch["image"], batch["inside"]), batch, program.loss))

    def sample(self) -> dict[str, Tensor]:
        p = self.program
        counts = zip(self.slots, (p.strong_crops, p.weak_crops), strict=True)
        chosen = [slots[torch.randint(len(slots), (count,), device=slots.device)] for slots, count in counts]
        return self._crops(torch.cat(chosen))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return self._loss(batch)

    def gradient(self, batch: dict[str, Tensor]) -> Tensor:
        self.optimizer.zero_grad()
        value = self._loss(batch)
        value.backward()
        return value.detach()

    def step(self) -> Tensor:
        """A GPU may still be at it when this returns."""
        value = self.gradient(self.sample())
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.net.parameters()], 1 - self.program.ema)
        return value
