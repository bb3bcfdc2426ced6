"""One training loop and one evaluation for every network, device and phase.

Images travel as bytes; scaling, augmentation and normalisation run on the training device, a batch at a time,
so there are no loader processes and nothing is decoded twice.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from coinfer_ray.files import write_whole
from coinfer_ray.training.data import DataSplits, ImageSet

PAD_FRACTION = 8  # a random crop shifts an image by at most 1/8 of its side
CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device
CHECKPOINT_EVERY = 500  # steps


@dataclass(frozen=True)
class Phase:
    """One stretch of training: how many images, in which batches, at which peak learning rate."""

    images: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 5e-4
    warmup: float = 0.15
    optimizer: str = "sgd"
    augment: bool = True


class Diverged(RuntimeError):
    """The loss stopped being a number."""


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
        self, images: np.ndarray, device: torch.device, rng: np.random.Generator | None = None
    ) -> torch.Tensor:
        """(n, h, w, 3) uint8 to (n, 3, input_px, input_px) float32; with ``rng``, flipped and shifted at random."""
        x = torch.from_numpy(np.ascontiguousarray(images)).to(device, non_blocking=True)
        x = x.permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(self.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, 3, 1, 1)
        x = (x - mean) / std
        if rng is not None:
            x = _augment(x, rng)
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


def keep_freed_memory() -> None:
    """Let the C allocator keep what it frees until :func:`release_freed_memory`.

    A training step frees and takes again buffers of up to 150 MB; given back to the kernel each time they cost
    108,000 page faults a step of AlexNet, 30 % of its time on a CPU. Does nothing where the C library is not
    glibc.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 256 << 20)


def release_freed_memory() -> None:
    """Give back to the system what earlier networks took: between candidates.

    A traced network is a ring of references, which Python finds only now and then: without this a worker grows by
    190 MB a candidate of AlexNet.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def pick_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    flags = torch.backends.cpu.get_cpu_capability()
    return torch.bfloat16 if native is not None and native() and "AVX512" in flags else torch.float32


def train(
    model: nn.Module,
    images: ImageSet,
    preprocess: Preprocess,
    phase: Phase,
    *,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    fast: Iterable[nn.Parameter] = (),
    fast_factor: float = 1.0,
    on_images: Callable[[int], None] | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Train ``model`` in place by cross-entropy for one phase: warm-up, then a linear decay to zero.

    The same seed draws the same batches and augmentations; dropout and the channel's noise follow torch's own
    generator, seeded here too. The parameters ``fast`` (fresh ones in a trained network) learn at ``fast_factor``
    times the phase's rate. ``on_images`` is called with the number of images of each batch. With a
    ``checkpoint`` path the state is kept there now and then, a later call goes on from it with the same result,
    and the file is removed at the end.

    Raises:
        Diverged: the loss is no longer finite.
    """
    if phase.images <= 0:
        return
    torch.manual_seed(seed)
    sampler = _Sampler(len(images), phase.batch_size, seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hurried = {id(parameter) for parameter in fast}
    groups = [
        {"params": [p for p in parameters if id(p) not in hurried], "factor": 1.0},
        {"params": [p for p in parameters if id(p) in hurried], "factor": fast_factor},
    ]
    optimizer = _make_optimizer([group for group in groups if group["params"]], phase)
    steps = -(-phase.images // phase.batch_size)
    warmup = max(1, round(phase.warmup * steps))
    first = 0
    if checkpoint is not None and checkpoint.exists():
        first = _resume(checkpoint, model, optimizer, sampler)
        if on_images is not None:
            on_images(first * phase.batch_size)
    model.train()
    for step in range(first, steps):
        if checkpoint is not None and step > first and step % CHECKPOINT_EVERY == 0:
            _keep(checkpoint, model, optimizer, sampler, step)
        rate = min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * rate * group["factor"]
        rows = sampler.draw()
        x = preprocess(images.images[rows], device, sampler.rng if phase.augment else None)
        y = torch.from_numpy(images.labels[rows]).to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        if (step % CHECK_EVERY == 0 or step == steps - 1) and not torch.isfinite(loss):
            raise Diverged(f"the loss is {float(loss.detach())} after {step + 1} of {steps} steps")
        if on_images is not None:
            on_images(len(rows))
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


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
def accuracy(
    model: nn.Module,
    images: ImageSet,
    preprocess: Preprocess,
    *,
    device: torch.device,
    precision: torch.dtype,
    seed: int = 0,
    batch_size: int = 256,
) -> float:
    """Share of ``images`` classified correctly. ``seed`` fixes the channel noise, where there is any."""
    model.eval()
    torch.manual_seed(seed)
    correct = 0
    for start in range(0, len(images), batch_size):
        part = images.take(slice(start, start + batch_size))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = model(preprocess(part.images, device))
        correct += int((logits.argmax(1).cpu().numpy() == part.labels).sum())
    return correct / len(images)
