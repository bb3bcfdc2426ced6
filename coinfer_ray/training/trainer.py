"""One training loop and one evaluation for every network, device and phase.

Images lie on the training device as bytes (60,000 of CIFAR-10 are 184 MB); scaling, augmentation and normalisation
run there too, a batch at a time, so there are no loader processes and nothing is decoded twice.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from coinfer_ray.models.pointwise import with_safe_strides
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.training.data import DataSplits, ImageSet
from coinfer_ray.training.memory import flushed_denormals

PAD_FRACTION = 8  # a random crop shifts an image by at most 1/8 of its side
MAX_GRADIENT = 5.0
CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device
CHECKPOINT_S = 20.0  # between checkpoints: one of AlexNet is 700 MB, as many steps as one costs differ by machine


@dataclass(frozen=True)
class Phase:
    """One stretch of training: how many images, in which batches, at which peak learning rate.

    ``augment``: images are flipped and shifted at random; ``erase`` of their sides (0..1): a square as long is blanked
    out of each (T. DeVries and G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
    2017), which long trainings need.
    """

    images: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 5e-4
    warmup: float = 0.15
    optimizer: str = "sgd"
    augment: bool = True
    erase: float = 0.0


@dataclass(frozen=True)
class Batch:
    """What a loss sees of one step: ``x`` (n, 3, px, px) float32, ``labels`` (n,) int64, ``done``, the share 0..1 of
    the phase that lies behind it, and the phase's random generator, which checkpoints keep."""

    x: torch.Tensor
    labels: torch.Tensor
    done: float
    rng: np.random.Generator


Loss = Callable[[nn.Module, Batch], torch.Tensor]


def label_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy with the labels."""
    return F.cross_entropy(model(batch.x).float(), batch.labels)


class Diverged(RuntimeError):
    """The loss stopped being a number."""


@dataclass(frozen=True)
class ResidentImages:
    """An :class:`ImageSet` on the training device; on a CPU it is the same memory.

    ``images`` (n, height, width, 3) uint8, ``labels`` (n,) int64.
    """

    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, images: ImageSet | ResidentImages, device: torch.device) -> ResidentImages:
        """Copy to ``device`` what is not there yet."""
        if isinstance(images, ResidentImages):
            return cls(images.images.to(device), images.labels.to(device))
        with warnings.catch_warnings():
            # Arrays out of Ray's object store can't be written to, which torch has no word for; nobody writes here.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            return cls(torch.from_numpy(images.images).to(device), torch.from_numpy(images.labels).to(device))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: slice | torch.Tensor) -> ResidentImages:
        return ResidentImages(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Preprocess:
    """Bytes to network input: scale to ``input_px``, normalise by the training images' statistics."""

    input_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: DataSplits, input_px: int) -> Preprocess:
        return cls(input_px, tuple(data.mean.tolist()), tuple(data.std.tolist()))

    def __call__(
        self, images: torch.Tensor, rng: np.random.Generator | None = None, erase: float = 0.0
    ) -> torch.Tensor:
        """(n, h, w, 3) uint8 to (n, 3, input_px, input_px) float32; with ``rng``, flipped and shifted at random, and a
        square of ``erase`` of the sides blanked out."""
        x = images.permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1)
        x = (x - mean) / std
        if rng is not None:
            x = _augment(x, rng)
            if erase:
                x = _erased(x, rng, erase)
        if x.shape[-1] != self.input_px or x.shape[-2] != self.input_px:
            x = F.interpolate(
                x, size=(self.input_px, self.input_px), mode="bilinear", align_corners=False, antialias=False
            )
        return x.contiguous(memory_format=torch.channels_last)


def _augment(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    n, _, height, width = x.shape
    pad = max(1, min(height, width) // PAD_FRACTION)
    padded = F.pad(x, (pad, pad, pad, pad), mode="reflect")
    rows = torch.from_numpy(rng.integers(0, 2 * pad + 1, (n, 1)) + np.arange(height)).to(x.device)
    columns = rng.integers(0, 2 * pad + 1, (n, 1)) + np.arange(width)
    flipped = rng.random(n) < 0.5
    columns[flipped] = columns[flipped, ::-1]
    picked = torch.from_numpy(columns).to(x.device)
    batch = torch.arange(n, device=x.device)
    return padded.permute(0, 2, 3, 1)[batch[:, None, None], rows[:, :, None], picked[:, None, :]].permute(0, 3, 1, 2)


def _erased(x: torch.Tensor, rng: np.random.Generator, share: float) -> torch.Tensor:
    """``x`` with a square of zeros, the mean colour, around a random place of each image, in part outside it."""
    n, _, height, width = x.shape
    outside = []
    for side in (height, width):
        centre = torch.from_numpy(rng.random(n) * side).to(x.device, x.dtype)
        outside.append((torch.arange(side, device=x.device) + 0.5 - centre[:, None]).abs() > share * side / 2)
    return x * (outside[0][:, None, :, None] | outside[1][:, None, None, :])


@flushed_denormals()
def train(
    model: nn.Module,
    images: ImageSet | ResidentImages,
    preprocess: Preprocess,
    phase: Phase,
    *,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    rates: Mapping[nn.Parameter, float] | None = None,
    on_images: Callable[[int], None] | None = None,
    checkpoint: Path | None = None,
    loss: Loss = label_loss,
) -> None:
    """Train ``model`` in place by ``loss`` for one phase: warm-up, then a linear decay to zero.

    The same seed draws the same batches and augmentations; dropout and the channel's noise follow torch's own
    generator, seeded here too. ``rates``: the peak learning rates of parameters that do not take the phase's.
    ``on_images`` is called with the number of images of each batch. With a ``checkpoint`` path the state is kept
    there now and then, a later call goes on from it with the same result, and the file is removed at the end.

    Raises:
        Diverged: the loss is no longer finite.
    """
    if phase.images <= 0:
        return
    torch.manual_seed(seed)
    with_safe_strides(model)
    images = ResidentImages.of(images, device)
    sampler = _Sampler(len(images), phase.batch_size, seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    of_rate: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        of_rate.setdefault((rates or {}).get(parameter, phase.learning_rate), []).append(parameter)
    optimizer = _make_optimizer([{"params": group, "peak": rate} for rate, group in of_rate.items()], phase)
    steps = -(-phase.images // phase.batch_size)
    warmup = max(1, round(phase.warmup * steps))
    first = 0
    if checkpoint is not None and checkpoint.exists():
        first = _resume(checkpoint, model, optimizer, sampler)
        if on_images is not None:
            on_images(first * phase.batch_size)
    model.train()
    kept = time.monotonic()
    for step in range(first, steps):
        if checkpoint is not None and step > first and time.monotonic() >= kept + CHECKPOINT_S:
            _keep(checkpoint, model, optimizer, sampler, step)
            kept = time.monotonic()
        rate = min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        rows = sampler.draw()
        batch = images.take(torch.from_numpy(rows).to(device, non_blocking=True))
        x = preprocess(batch.images, sampler.rng if phase.augment else None, phase.erase)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            value = loss(model, Batch(x, batch.labels, step / steps, sampler.rng))
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        _clip(parameters, optimizer)
        optimizer.step()
        if (step % CHECK_EVERY == 0 or step == steps - 1) and not torch.isfinite(value):
            raise Diverged(f"the loss is {float(value.detach())} after {step + 1} of {steps} steps")
        if on_images is not None:
            on_images(min(len(rows), phase.images - step * phase.batch_size))  # of those asked for: batches are whole
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def _clip(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Let the next step scale the gradients down to a norm of :data:`MAX_GRADIENT`, where it is larger.

    A fused step divides by ``grad_scale`` as it reads them, which spares AlexNet a pass over 230 MB; it is what
    torch's own GradScaler hands to it.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    scale = (nn.utils.get_total_norm(gradients) / MAX_GRADIENT).clamp_min(1.0)
    # Dividing by 1 would still write every gradient; on a GPU that is cheaper than waiting for the norm.
    needed = scale.is_cuda or float(scale) != 1.0
    optimizer.grad_scale = scale if needed else None  # type: ignore[attr-defined]


class _Sampler:
    """Batches of row indices: every image once before any comes again."""

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.images = images
        self.batch_size = batch_size
        self.rng = np.random.default_rng(seed)
        self.order = np.empty(0, dtype=np.int64)

    def draw(self) -> np.ndarray:
        while len(self.order) < self.batch_size:
            self.order = np.concatenate([self.order, self.rng.permutation(self.images)])
        rows, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        return rows


def _make_optimizer(groups: list[dict[str, Any]], phase: Phase) -> torch.optim.Optimizer:
    if phase.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=phase.learning_rate, weight_decay=phase.weight_decay, fused=True)
    return torch.optim.SGD(
        groups,
        lr=phase.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=phase.weight_decay,
        fused=True,
    )


def _keep(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, sampler: _Sampler, step: int) -> None:
    state: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "order": torch.from_numpy(sampler.order.copy()),
        "rng": sampler.rng.bit_generator.state,
        "torch_rng": torch.get_rng_state(),
    }
    write_whole(path, lambda temporary: torch.save(state, temporary))


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, sampler: _Sampler) -> int:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    sampler.order = state["order"].numpy()
    sampler.rng.bit_generator.state = state["rng"]
    torch.set_rng_state(state["torch_rng"])
    return int(state["step"])


@torch.inference_mode()
def hits(
    model: nn.Module,
    images: ImageSet | ResidentImages,
    preprocess: Preprocess,
    *,
    device: torch.device,
    precision: torch.dtype,
    seed: int = 0,
    batch_size: int = 256,
) -> torch.Tensor:
    """Which of ``images`` are classified correctly, (n,) bool. ``seed`` fixes the channel noise, where there is any."""
    model.eval()
    torch.manual_seed(seed)
    images = ResidentImages.of(images, device)
    correct = torch.zeros(len(images), dtype=torch.bool, device=device)
    for start in range(0, len(images), batch_size):
        part = images.take(slice(start, start + batch_size))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = model(preprocess(part.images))
        correct[start : start + batch_size] = logits.argmax(1) == part.labels
    return correct.cpu()


def accuracy(
    model: nn.Module,
    images: ImageSet | ResidentImages,
    preprocess: Preprocess,
    *,
    device: torch.device,
    precision: torch.dtype,
    seed: int = 0,
    batch_size: int = 256,
) -> float:
    """Share of ``images`` classified correctly: the mean of :func:`hits`."""
    return share(hits(model, images, preprocess, device=device, precision=precision, seed=seed, batch_size=batch_size))


def share(correct: torch.Tensor) -> float:
    """The share of True in (n,) bool."""
    return int(correct.sum()) / len(correct)
