"""Somebody's own training: torchvision's ResNet-18 on images, its weights saved as torch saves them.

``python train.py DATA OUT [IMAGES]``: DATA as ``coinfer collect --data`` takes it, OUT the file of the state dict,
IMAGES how many to train on, with repeats (8,000). Nothing here is coinfer's but the reader of images and the one line
for bad input.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.models import resnet18

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.errors import InputError
from coinfer_ray.training.data import ImageSet, load_data

INPUT_PX = 32
BATCH = 64
MEAN, STD = 0.5, 0.5  # of all three colours: what `coinfer collect` is told as --mean and --std


def network_input(images: ImageSet, rows: torch.Tensor) -> torch.Tensor:
    """Some of the images as the network takes them: (n, 3, 32, 32), normalised."""
    pixels = torch.from_numpy(images.images[rows.numpy()]).permute(0, 3, 1, 2).float() / 255
    if pixels.shape[-1] != INPUT_PX:
        pixels = F.interpolate(pixels, size=(INPUT_PX, INPUT_PX), mode="bilinear", antialias=True)
    return (pixels - MEAN) / STD


def main(source: str, out: Path, images: int = 8_000) -> None:
    if images < BATCH:
        raise InputError(f"IMAGES: {images} are less than a batch; {BATCH} or more are needed")
    if not out.parent.is_dir():
        raise InputError(f"OUT: {out.parent} is no folder; make it first")
    torch.manual_seed(0)
    data = load_data(source)
    network = resnet18(num_classes=len(data.classes))
    steps = images // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    labels = torch.from_numpy(data.train.labels)
    for step in range(steps):
        rows = torch.randint(len(labels), (BATCH,))
        loss = F.cross_entropy(network(network_input(data.train, rows)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    partial = out.with_suffix(".part")
    torch.save(network.state_dict(), partial)
    partial.replace(out)  # whole, or not at all


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="DATA")
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("images", metavar="IMAGES", type=positive_int, nargs="?", default=8_000)
    given = parser.parse_args()
    run_script(lambda: main(given.source, given.out, given.images))
