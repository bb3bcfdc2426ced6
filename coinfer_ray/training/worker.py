"""One worker of a collection: what it is given, how it starts, how it trains a candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from coinfer_ray.errors import InputError, counted
from coinfer_ray.models import zoo
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.runtime.executors.base import WorkerContext
from coinfer_ray.training.base import BASE_PHASE, BaseNetwork, build_base
from coinfer_ray.training.candidate import CandidateData, CandidateSettings, CandidateTrainer
from coinfer_ray.training.data import DataSplits, ImageSet
from coinfer_ray.training.memory import keep_freed_memory, pick_precision, release_freed_memory
from coinfer_ray.training.prunable import PrunablePhase
from coinfer_ray.training.recipes import for_images, recipe_for
from coinfer_ray.training.trainer import Diverged, Phase, Preprocess

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class CollectSettings:
    """How a collection trains. ``prunable``: a second phase of the base network's training (None: it has none).

    ``validation_images`` and ``test_images`` cap what candidates and base network are measured on (None: all): an
    accuracy of 0.8 on 2,000 images has a standard error of 0.9 points, on 5,000 of 0.57. ``any_base`` takes a base
    network that is no better than guessing, for trials.
    """

    base: Phase = BASE_PHASE
    prunable: PrunablePhase | None = None
    candidate: CandidateSettings = field(default_factory=CandidateSettings)
    validation_images: int | None = None
    test_images: int | None = None
    any_base: bool = False

    def for_training_images(self, images: int) -> CollectSettings:
        """With no more passes over so many training images than :func:`coinfer_ray.training.recipes.for_images` allows;
        the second phase is shortened in proportion."""
        first = for_images(self.base, images)
        shorter = self.with_base_images(first.images, None) if first.images != self.base.images else self
        return replace(shorter, base=first)

    def with_base_images(self, base: int | None, prunable: int | None) -> CollectSettings:
        """With so many images in the two phases of the base network's training.

        None leaves the first as it is and shortens the second in proportion; 0 leaves the second out. Recipes without
        a second phase don't get one.
        """
        second = self.prunable
        if second is not None:
            if prunable is None:
                prunable = second.images if base is None else round(second.images * base / self.base.images)
            second = replace(second, images=prunable) if prunable else None
        first = self.base if base is None else replace(self.base, images=base)
        return replace(self, base=first, prunable=second)

    def from_weights(self, base: int | None, prunable: int | None) -> CollectSettings:
        """For a base network that begins with given weights: neither phase, or each on as many images as asked for."""
        second = replace(self.prunable, images=prunable) if self.prunable and prunable else None
        return replace(self, base=replace(self.base, images=base or 0), prunable=second)


def default_settings(model: ModelLike, input_px: int = 224) -> CollectSettings:
    """How a network's base and candidates are trained where nothing else is asked.

    Raises:
        InputError: an unknown network, or an input too small for it.
    """
    recipe = recipe_for(load_graph(model, input_px), own=resolve_model(model).own)
    return CollectSettings(base=recipe.base, prunable=recipe.prunable, candidate=recipe.candidate)


@dataclass(frozen=True)
class Task:
    """One training: what a worker needs to know of a candidate."""

    candidate: int
    strategy: Strategy
    snr_db: float | None
    seed: int

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of its record that are known before it is trained."""
        return {
            "candidate": self.candidate,
            "sparsity": list(self.strategy.sparsity.values()),
            "partition_point": self.strategy.partition_point,
            "codec": list(self.strategy.codec.values()),
            "snr_db": self.snr_db,
            "feature_bits": self.strategy.feature_bits,
            "seed": self.seed,
        }


def make_trainer(shared: Mapping[str, Any], context: WorkerContext) -> CandidateTrainer:
    """One worker's trainer from the shared arrays (:func:`shared_values`)."""
    keep_freed_memory()
    torch.set_num_threads(context.threads)
    device = torch.device("cpu") if context.gpu is None else torch.device("cuda", context.gpu)
    graph: LayerGraph = shared["graph"]
    settings: CollectSettings = shared["settings"]
    sets = {
        name: ImageSet(shared[f"{name}_images"], shared[f"{name}_labels"]) for name in ("train", "validation", "test")
    }
    base = BaseNetwork(shared["weights"], 0.0, 0.0, {"model": graph.model}, source=shared["source"])
    network = build_base(base, graph.classes)
    return CandidateTrainer(
        network,
        SearchSpace(graph),
        CandidateData(
            train=sets["train"],
            validation=sets["validation"].take(slice(0, settings.validation_images)),
            test=sets["test"].take(slice(0, settings.test_images)),
            preprocess=shared["preprocess"],
        ),
        settings.candidate,
        device=device,
        precision=pick_precision(device),
    )


def start_worker(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Task], dict[str, Any]]:
    """Build one worker's trainer from the shared arrays; the returned function trains one candidate."""
    trainer = make_trainer(shared, context)
    # Measured here, by what measures the candidates and on the same images, so that a loss is a difference of two
    # networks and of nothing else.
    base_columns = trainer.base_columns

    def work(task: Task) -> dict[str, Any]:
        row = task.columns | base_columns
        try:
            trained = trainer.train(task.strategy, snr_db=task.snr_db, seed=task.seed)
            return row | {"status": "ok"} | dict(trained.measured)
        except Diverged as error:
            return row | {"status": "diverged", "error": str(error)}
        except (torch.OutOfMemoryError, MemoryError) as error:
            return row | {"status": "out_of_memory", "error": str(error).splitlines()[0]}
        finally:
            release_freed_memory()

    return work


def gpu_share() -> float:
    """GPUs that a worker takes where nothing is said: a quarter, for one small network leaves most of a GPU idle;
    0 where this machine has none."""
    return 0.25 if torch.cuda.is_available() else 0.0


def candidate_seed(seed: int, candidate: int, repeat: int = 0) -> int:
    """The seed of a candidate's training: the plan's seed, the candidate's number and the repeat's, mixed."""
    mixed = [seed, candidate, repeat] if repeat else [seed, candidate]
    return int(np.random.SeedSequence(mixed).generate_state(1)[0])


def shared_values(graph: LayerGraph, data: DataSplits, base: BaseNetwork, settings: CollectSettings) -> dict[str, Any]:
    """What :func:`start_worker` takes: images, labels and weights as arrays, and how to train with them."""
    arrays = {}
    for name in SPLITS:
        part: ImageSet = getattr(data, name)
        arrays[f"{name}_images"] = part.images
        arrays[f"{name}_labels"] = part.labels
    return arrays | {
        "graph": graph,
        "settings": settings,
        "weights": base.weights,
        "source": base.source,
        "preprocess": Preprocess.of(data, graph.input_px),
    }


def graph_for(model: ModelLike, input_px: int, data: DataSplits) -> LayerGraph:
    """The network's layer graph with as many outputs as ``data`` has classes.

    Raises:
        InputError: an unknown network, an input too small for it, or one that gives another number of class scores.
    """
    source, classes = resolve_model(model), len(data.classes)
    if source.kind == "graph":
        zoo.build(source, classes)  # says that it cannot
    graph = load_graph(source, input_px, classes)
    if graph.classes != classes:
        raise InputError(
            f"model: {source.name} gives {counted(graph.classes, 'class score')}, {data.name} has "
            f"{counted(classes, 'class', 'classes')}; let it give as many, or take {zoo.CLASSES_ARGUMENT}"
        )
    return graph
