"""What pruning and a codec do to a network before anything is trained: seconds, where a training takes a minute.

The base network's outputs are soft labels, so the divergence of a compressed network's from them needs none, and says
more than a count of errors: near the base network, where hardly an image changes its class, it still tells strategies
apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import nn

from coinfer_ray.compression.codec_start import start_from_components
from coinfer_ray.compression.pruning import shrink
from coinfer_ray.errors import InputError
from coinfer_ray.models.layout import channels_last
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.runtime.sealed import read_sealed, write_sealed
from coinfer_ray.training.candidate import CandidateTrainer
from coinfer_ray.training.memory import release_freed_memory
from coinfer_ray.training.prunable import measure_batch_norms
from coinfer_ray.training.trainer import ResidentImages

IMAGES = 1_000  # validation images that outputs are compared on
NORM_IMAGES = 1_024  # that batch norms are measured on, where the recipe measures them
START_IMAGES = 1_024  # that a codec's closed-form start is fitted to
BATCH = 250


@dataclass(frozen=True)
class Damage:
    """How far a compressed network's outputs are from the base network's, on validation images, before any training.

    ``divergence``: Kullback-Leibler, in nats an image, of the whole: pruned, with its codec as it starts from the
    feature's principal components. ``pruned``: without the codec. ``error``: of the codec's reconstruction, as a share
    of the feature's power; 0 without one. ``changed``: the share of images that the whole gives another class.
    """

    divergence: float
    pruned: float
    error: float
    changed: float


class DamageMeter:
    """Measures strategies of a trainer's network; what the base network says is asked for once."""

    def __init__(self, trainer: CandidateTrainer, images: int = IMAGES) -> None:
        self.trainer = trainer
        self.images = trainer.validation_images.take(slice(0, images))
        self._base = self._outputs(channels_last(trainer.base.to(trainer.device)).eval())

    @torch.no_grad()
    def measure(self, strategy: Strategy) -> Damage:
        """The damage of a strategy. Quantising is left out: it changes next to nothing beside the rest."""
        trainer = self.trainer
        keep = trainer.ranking.keep(trainer.space.kept_channels(strategy))
        pruned = shrink(trainer.base, trainer.graph, keep).to(trainer.device)
        if trainer.settings.norm_images:
            measure_batch_norms(
                channels_last(pruned),
                trainer.train_images,
                trainer.data.preprocess,
                NORM_IMAGES,
                device=trainer.device,
                precision=trainer.precision,
            )
        pruned = channels_last(pruned).eval()
        alone, changed = self._divergence(pruned)
        if trainer.space.canonical_codec(strategy) == Codec():
            return Damage(alone, alone, 0.0, changed)
        strategy = Strategy(strategy.sparsity, strategy.partition_point, strategy.codec, FLOAT_BITS)
        network = trainer.assemble(pruned, strategy, None).network
        known = trainer.features(network, trainer.train_images, START_IMAGES)
        torch.manual_seed(0)  # a stage's components beyond the first few hundred start at random
        start_from_components(network.encoder, network.decoder, known)
        network.eval()
        starts = range(0, len(known), BATCH)
        made = torch.cat([network.decoder(network.encoder(known[start : start + BATCH])) for start in starts])
        error = float((made - known).square().mean() / known.square().mean().clamp_min(1e-12))
        whole, changed = self._divergence(network)
        return Damage(whole, alone, error, changed)

    def _divergence(self, network: nn.Module) -> tuple[float, float]:
        found = self._outputs(network)
        apart = F.kl_div(found.log_softmax(1), self._base.log_softmax(1), reduction="batchmean", log_target=True)
        return float(apart), float((found.argmax(1) != self._base.argmax(1)).float().mean())

    def _outputs(self, network: nn.Module) -> torch.Tensor:
        """(images, classes) float32 on the trainer's device."""
        found = []
        for start in range(0, len(self.images), BATCH):
            part: ResidentImages = self.images.take(slice(start, start + BATCH))
            with torch.no_grad(), self.trainer.autocast():
                found.append(network(self.trainer.data.preprocess(part.images)).float())
        return torch.cat(found)


KEEP_EVERY = 20


class Damages:
    """The damage of strategies, measured once and kept in the Parquet file ``path``, which need not be there yet."""

    def __init__(self, path: Path, space: SearchSpace) -> None:
        self.path, self.space = path, space
        rows = _rows_of(path) if path.exists() else []
        names = [field.name for field in fields(Damage)]
        self.known = {row["strategy"]: Damage(*(row[name] for name in names)) for row in rows}

    def name_of(self, strategy: Strategy) -> str:
        """Equal for strategies of equal damage: without a codec a network is the same wherever it is cut, and what
        quantising changes is left out."""
        codec = self.space.canonical_codec(strategy)
        point = len(self.space.graph.layers) if codec == Codec() else strategy.partition_point
        sparsity = (f"{value:.6g}" for value in strategy.sparsity.values())
        return " ".join([*sparsity, str(point), *(f"{value:g}" for value in codec.values())])

    def missing(self, strategies: Sequence[Strategy]) -> Mapping[str, Strategy]:
        """Those of ``strategies`` that have not been measured, by their names."""
        wanted = {self.name_of(strategy): strategy for strategy in strategies}
        return {name: strategy for name, strategy in wanted.items() if name not in self.known}

    def measure(self, strategies: Sequence[Strategy], meter: DamageMeter) -> None:
        """Measure what is missing; what was measured is in the file every few strategies, and at the end."""
        missing = self.missing(strategies)
        if not missing:
            return
        with Progress("strategies' damage measured", len(missing)) as progress:
            for number, (name, strategy) in enumerate(missing.items(), 1):
                self.known[name] = meter.measure(strategy)
                release_freed_memory()
                if number % KEEP_EVERY == 0 or number == len(missing):
                    self._write()
                progress.advance()

    def of(self, strategies: Sequence[Strategy]) -> np.ndarray:
        """(n, 4) divergence, that of the pruned network alone, the codec's error, and the share of images changed."""
        return np.array([astuple(self.known[self.name_of(strategy)]) for strategy in strategies])

    def _write(self) -> None:
        columns = {field.name: [vars(row)[field.name] for row in self.known.values()] for field in fields(Damage)}
        table = pa.table({"strategy": list(self.known), **columns})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(self.path, table)


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """InputError where the file is not as it was written."""
    try:
        rows: list[dict[str, Any]] = read_sealed(path).to_pylist()
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"damage: {path} cannot be read ({reason}); remove it, and it is measured anew") from None
    return rows
