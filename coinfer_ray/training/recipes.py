"""Default training recipes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.training.base import BASE_PHASE
from coinfer_ray.training.candidate import CODEC, FINE_TUNE, CandidateSettings
from coinfer_ray.training.prunable import PrunablePhase
from coinfer_ray.training.trainer import Phase


@dataclass(frozen=True)
class Recipe:
    """``base``: the base network's training, ``prunable``: its second phase, in which sub-networks learn with it;
    ``candidate``: the training of every candidate that starts from it."""

    base: Phase = BASE_PHASE
    prunable: PrunablePhase | None = None
    candidate: CandidateSettings = field(default_factory=CandidateSettings)


def _candidate(learning_rate: float, codec_rate: float, norm_images: int) -> CandidateSettings:
    """The one recipe of candidates, collected and handed over alike: pruned, fine-tuned a little, then trained end to
    end with its codec, all of it by distillation from the base network."""
    phase = replace(FINE_TUNE, images=4_000, batch_size=128, learning_rate=learning_rate)
    return CandidateSettings(
        fine_tune=phase,
        codec=replace(CODEC, end_to_end_rate=codec_rate),
        end_to_end=replace(phase, images=12_000),
        norm_images=norm_images,
        distillation=0.9,
    )


# AlexNet's two large linear layers end as matrices of rank 128, a tenth of their size.
PLAIN = Recipe(
    prunable=PrunablePhase(
        images=900_000,
        batch_size=128,
        learning_rate=5e-4,
        weight_decay=5e-2,
        warmup=0.05,
        optimizer="adamw",
        plain=0.3,
        rank=128,
    ),
    candidate=_candidate(learning_rate=2e-4, codec_rate=0.01, norm_images=0),
)

# Batch norms stand larger steps: six times for the base network (twelve passes over CIFAR-10's 45,000 training
# images), four times for candidates, ten for their codecs. Not more: AdamW's first steps are as long where next to
# nothing has to be repaired, and twenty times cost a network that is hardly pruned three points.
NORMALISED = Recipe(
    base=replace(BASE_PHASE, images=540_000, learning_rate=3e-3, weight_decay=5e-2),
    # Another 26 passes, half of them for the whole network alone.
    prunable=PrunablePhase(
        images=1_170_000,
        batch_size=256,
        learning_rate=4e-3,
        weight_decay=5e-2,
        warmup=0.05,
        optimizer="adamw",
        plain=0.5,
    ),
    candidate=_candidate(learning_rate=1e-3, codec_rate=0.1, norm_images=2_048),
)

# As many passes as few images are worth: the recipes' own numbers are for CIFAR-10's 45,000, where they are 10 to 12.
MAX_PASSES = 16
SMALL_BATCH = 64  # so that few images still make some hundreds of steps


def for_images(phase: Phase, training_images: int) -> Phase:
    """The base network's phase where there are so few training images that it would repeat them too often."""
    most = MAX_PASSES * training_images
    if phase.images <= most:
        return phase
    return replace(phase, images=most, batch_size=min(phase.batch_size, SMALL_BATCH))


def recipe_for(graph: LayerGraph, *, own: bool = False) -> Recipe:
    """The recipe of a network by its layers: :data:`NORMALISED` where one of them is a batch norm.

    Matrices of a user's ``own`` network keep their rank: what AlexNet can spare is not known of others.
    """
    recipe = NORMALISED if any(layer.kind == "batch_norm" for layer in graph.layers) else PLAIN
    if own and recipe.prunable is not None:
        return replace(recipe, prunable=replace(recipe.prunable, rank=None))
    return recipe
