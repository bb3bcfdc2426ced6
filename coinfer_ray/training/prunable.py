"""Base networks trained to be pruned: random sub-networks along the ranking learn with the whole network.

Each step trains the whole network on the labels, and sub-networks on its outputs and the labels: the sandwich rule
with in-place distillation of slimmable networks (J. Yu and T. Huang, "Universally Slimmable Networks and Improved
Training Techniques", ICCV 2019; J. Yu et al., "BigNAS", ECCV 2020; H. Cai et al., "Once-for-All", ICLR 2020). What a
strategy cuts off later was then the least important part all along, and a short fine-tuning mends the rest.

Which channels a sub-network keeps is the L1 ranking of the weights that the phase begins with. The phase puts the
channels in that order, and at its end scales every filter, without changing what the network computes, so that the L1
norms of the final weights rank them the same way: a candidate that is pruned by L1 norm is a sub-network of those that
were trained, and neither the file nor the pruner has to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.source import ModelLike
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.training.base import BaseNetwork, arrays_of, load_base, round_weights, save_base, train_base
from coinfer_ray.training.data import DataSplits, ImageSet
from coinfer_ray.training.low_rank import with_low_rank
from coinfer_ray.training.memory import keep_freed_memory, pick_precision
from coinfer_ray.training.ordering import keep_order, ordered_network
from coinfer_ray.training.subnetworks import SlicedNetwork, draw_kept
from coinfer_ray.training.trainer import Batch, Phase, Preprocess, ResidentImages, accuracy, train

NORM_IMAGES = 10_000  # on which the whole network's batch norms are measured at the end


@dataclass(frozen=True)
class PrunablePhase(Phase):
    """A phase whose steps train sub-networks too.

    ``plain``: the share of the images, at the beginning, on which the whole network learns alone (it is the slower to
    learn, and the teacher of the others). ``subnetworks``: how many random ones a step trains, each on its part of
    the batch. Their common sparsity is uniform in 0..``most_sparsity``, that of each set normal around it with the
    standard deviation ``spread``. They learn the whole network's soft outputs with the weight ``soft``, the labels
    with the rest; in the mean they weigh as much as the whole network. ``rank``: of what stands for large linear layers
    at the end (:mod:`coinfer_ray.training.low_rank`; None: they stay).
    """

    plain: float = 0.0
    subnetworks: int = 2
    most_sparsity: float = 0.5
    spread: float = 0.12
    soft: float = 0.7
    rank: int | None = None


@dataclass
class _SandwichLoss:
    """The whole network on labels, sub-networks on its outputs and the labels."""

    network: SlicedNetwork
    graph: LayerGraph
    phase: PrunablePhase

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        phase = self.phase
        logits = model(batch.x).float()
        loss = F.cross_entropy(logits, batch.labels)
        if batch.done < phase.plain:
            return loss
        targets = phase.soft * logits.detach().softmax(1)
        targets += (1 - phase.soft) * F.one_hot(batch.labels, logits.shape[1])
        parts = min(phase.subnetworks, len(batch.labels))
        for x, target in zip(batch.x.chunk(parts), targets.chunk(parts), strict=True):
            kept = draw_kept(self.graph, batch.rng.uniform(0.0, phase.most_sparsity), phase.spread, batch.rng)
            loss = loss + F.cross_entropy(self.network(x, kept).float(), target) / parts
        return loss


def obtain_trained_base(
    path: Path,
    model: ModelLike,
    input_px: int,
    data: DataSplits,
    *,
    phase: Phase,
    prunable: PrunablePhase | None,
    seed: int,
    start: BaseNetwork | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    on_images: Callable[[int], None] | None = None,
    quiet: bool = False,
) -> BaseNetwork:
    """The base network at ``path``, trained and written there first where it is not: plainly, then to be pruned.

    ``prunable`` None leaves the second phase out; ``start`` is a plainly trained network that stands for the first;
    ``weights`` are what the first begins with, by name, instead of chance.
    Training that was cut off goes on from hidden files beside ``path``, with the same result. ``on_images`` is called
    with the number of images of each batch, and may raise to stop.

    Raises:
        InputError: what lies there is the base of another network, input size or data set.
        Diverged: the loss is no longer finite.
    """
    if path.exists():
        return load_base(path, model=model, input_px=input_px, data=data)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = pick_precision(device)
    plain_path = path.with_name(f".{path.name}.plain")

    def watched(progress: Progress) -> Callable[[int], None]:
        def advance(images: int) -> None:
            progress.advance(images)
            if on_images is not None:
                on_images(images)

        return advance

    if start is not None:
        plain = start
    elif plain_path.exists():
        plain = load_base(plain_path, model=model, input_px=input_px, data=data)
    else:
        with Progress("base network, images", phase.images, quiet=quiet) as progress:
            plain = train_base(
                model,
                input_px,
                data,
                phase=phase,
                seed=seed,
                device=device,
                precision=precision,
                checkpoint=path.with_name(f".{path.name}.checkpoint"),
                on_images=watched(progress),
                weights=weights,
            )
        if prunable is not None:
            save_base(plain, plain_path)
    if prunable is None:
        base = plain
    else:
        with Progress("base network to be pruned, images", prunable.images, quiet=quiet) as progress:
            base = make_prunable(
                plain,
                data,
                phase=prunable,
                seed=seed,
                device=device,
                precision=precision,
                checkpoint=path.with_name(f".{path.name}.prunable"),
                on_images=watched(progress),
            )
        if prunable.rank is not None:
            base = with_low_rank(base, data, prunable.rank, device=device, precision=precision)
    save_base(base, path)
    plain_path.unlink(missing_ok=True)
    return base


def make_prunable(
    base: BaseNetwork,
    data: DataSplits,
    *,
    phase: PrunablePhase,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    checkpoint: Path | None = None,
    on_images: Callable[[int], None] | None = None,
) -> BaseNetwork:
    """``base`` after a phase of the sandwich rule, measured anew on validation and test images.

    With a ``checkpoint`` path a phase that was cut off goes on from there, with the same result.

    Raises:
        Diverged: the loss is no longer finite.
    """
    started = time.perf_counter()
    network, graph = ordered_network(base, len(data.classes))
    network = channels_last(network.to(device))
    preprocess = Preprocess.of(data, graph.input_px)
    train(
        network,
        data.train,
        preprocess,
        phase,
        seed=seed,
        device=device,
        precision=precision,
        checkpoint=checkpoint,
        on_images=on_images,
        loss=_SandwichLoss(SlicedNetwork(network, graph), graph, phase),
    )
    keep_order(network, graph)
    round_weights(network)
    measure_batch_norms(network, data.train, preprocess, NORM_IMAGES, device=device, precision=precision)
    round_weights(network)
    validation, test = [
        accuracy(network, part, preprocess, device=device, precision=precision) for part in (data.validation, data.test)
    ]
    info = base.info | {
        "prunable": asdict(phase),
        "prunable_seed": seed,
        "prunable_from": base.fingerprint,
        "prunable_seconds": round(time.perf_counter() - started),
    }
    weights = base.weights | arrays_of(network)  # a trace has what the forward uses, and no more
    return replace(base, weights=weights, validation_accuracy=validation, test_accuracy=test, info=info)


@torch.no_grad()
def measure_batch_norms(
    network: nn.Module,
    images: ImageSet | ResidentImages,
    preprocess: Preprocess,
    count: int,
    *,
    device: torch.device,
    precision: torch.dtype,
    batch_size: int = 256,
) -> None:
    """Replace the running means and variances of all batch norms by plain averages over the first ``count`` images.

    Of all norms, that is, that keep such: those of vectors too, and instance norms that track. The images are not
    augmented, as when the network is used. A network without them stays as it is.
    """
    norms = [module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    if not norms:
        return
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average in which every batch counts as much as any other
        norm.train()
    resident = ResidentImages.of(images, device).take(slice(0, count))
    instance = [norm for norm in norms if isinstance(norm, _InstanceNorm)]
    starts = range(0, len(resident) - len(resident) % batch_size or len(resident), batch_size)
    for number, start in enumerate(starts, 1):
        for norm in instance:
            norm.momentum = 1 / number  # the same average: these take None for none at all
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            network(preprocess(resident.images[start : start + batch_size]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
