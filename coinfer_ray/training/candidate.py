"""Train one candidate: prune, fine-tune, split, insert the codec, train end to end, test (the paper's V-B)."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from coinfer_ray.compression.channel import make_channel
from coinfer_ray.compression.codec import CodecPair, Feature, build_codec, sent_elements
from coinfer_ray.compression.codec_start import restore_power, start_from_components
from coinfer_ray.compression.pruning import ChannelRanking, Criterion, shrink
from coinfer_ray.compression.quantize import Quantizer, huffman_bits
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.pointwise import with_safe_strides
from coinfer_ray.models.split import SplitNetwork, split
from coinfer_ray.models.trace import trace_graph
from coinfer_ray.problem.costs import INPUT_BITS
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy
from coinfer_ray.training.data import ImageSet
from coinfer_ray.training.prunable import measure_batch_norms
from coinfer_ray.training.trainer import (
    Batch,
    Diverged,
    Phase,
    Preprocess,
    ResidentImages,
    hits,
    label_loss,
    share,
    train,
)

FINE_TUNE = Phase(images=1_000, batch_size=64, learning_rate=5e-5, weight_decay=1e-2, optimizer="adamw")
MEASURE_IMAGES = 1_024  # on which a codec's power, a quantizer's range and the length of its code are measured
END_TO_END = Phase(images=1_500, batch_size=64, learning_rate=5e-5, weight_decay=1e-2, optimizer="adamw")


@dataclass(frozen=True)
class CodecPhase:
    """How a fresh codec learns to reproduce the feature before it is trained end to end.

    It starts from principal components (:mod:`coinfer_ray.compression.codec_start`), then sees ``images`` images
    ``passes`` times, but no more than ``flop`` FLOPs of its own forward and backward passes (a wide codec at an early
    cut costs as much as the network). ``learning_rate`` and ``end_to_end_rate``, that of the training end to end, are
    over an output's number of inputs (:func:`codec_rates`).
    """

    images: int = 4_096
    passes: int = 8
    batch_size: int = 64
    learning_rate: float = 0.5
    flop: float = 2e11
    end_to_end_rate: float = 0.01


CODEC = CodecPhase()
TEMPERATURE = 2.0  # of distillation (G. Hinton, O. Vinyals and J. Dean, 2015): both networks' outputs are divided by it
SINGLE = 100  # inputs: what a parameter that acts on a single value counts for


@dataclass(frozen=True)
class CandidateSettings:
    """How every candidate of a collection is trained. ``criterion``: what NNI ranks filters by.

    A pruned network's batch norms are measured on ``norm_images`` training images before anything is trained (0: they
    stay as they were). ``distillation`` (0..1) is the weight of the base network's soft outputs in the loss, at
    :data:`TEMPERATURE`; the labels have the rest.
    """

    fine_tune: Phase = FINE_TUNE
    codec: CodecPhase = CODEC
    end_to_end: Phase = END_TO_END
    criterion: Criterion = "l1"
    norm_images: int = 0
    distillation: float = 0.0


@dataclass(frozen=True)
class CandidateData:
    """What a candidate is trained and measured on."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    preprocess: Preprocess


@dataclass(frozen=True)
class Assembled:
    """A split network with its codec, and what it costs: FLOPs of an image on either side (the codec's included)
    and of the codec alone, bits of an image on the link."""

    network: SplitNetwork
    device_flop: int
    server_flop: int
    codec_flop: int
    uplink_bit: int


@dataclass(frozen=True)
class TrainedCandidate:
    """The trained network and what was measured on it, by the column names of ``coinfer_ray.records.store``."""

    network: SplitNetwork
    measured: Mapping[str, Any]


@dataclass(frozen=True)
class _DistillationLoss:
    """Cross-entropy with the teacher's softened outputs, and with the labels."""

    teacher: nn.Module
    weight: float

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            taught = self.teacher(batch.x)
        return distillation_loss(model(batch.x), taught, batch.labels, self.weight)


def distillation_loss(logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor, weight: float) -> torch.Tensor:
    """Cross-entropy of ``logits`` (n, classes) with a teacher's outputs ``taught`` at :data:`TEMPERATURE`, by
    ``weight`` (0..1), and with the ``labels`` (n,) by the rest."""
    logits = logits.float()
    targets = (taught.float() / TEMPERATURE).softmax(1)
    # Softened gradients are smaller by the square of the temperature.
    soft = F.cross_entropy(logits / TEMPERATURE, targets) * TEMPERATURE**2
    return weight * soft + (1 - weight) * F.cross_entropy(logits, labels)


def codec_rates(network: SplitNetwork, rate: float) -> dict[nn.Parameter, float]:
    """Learning rates of the codec's parameters: ``rate`` over the number of inputs of an output.

    A step of Adam moves each weight by its learning rate, so an output by up to so many of them at once; at one rate
    for all a wide codec leaves the scale of its feature within a few steps. (G. Yang et al., "Tensor Programs V",
    NeurIPS 2021, whose rule this is.) Biases and batch norms act on one value each and take :data:`SINGLE` inputs.
    """
    rates: dict[nn.Parameter, float] = {}
    for module in [*network.encoder.modules(), *network.decoder.modules()]:
        own = dict(module.named_parameters(recurse=False))
        for name, parameter in own.items():
            rates[parameter] = rate / (_fan_in(module) if name == "weight" else SINGLE)
    return rates


def _fan_in(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, nn.Conv2d):
        return module.weight[0].numel()
    if isinstance(module, nn.ConvTranspose2d):
        # Of its taps an output place sees one in stride x stride.
        return module.in_channels * max(1, module.weight[0, 0].numel() // module.stride[0] ** 2)
    return SINGLE


class CandidateTrainer:
    """Trains strategies that start from one base network; everything that they share is prepared once."""

    def __init__(
        self,
        base: nn.Module,
        space: SearchSpace,
        data: CandidateData,
        settings: CandidateSettings,
        *,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self.base = base
        self.space = space
        self.graph: LayerGraph = space.graph
        self.data = data
        self.train_images, self.validation_images, self.test_images = [
            ResidentImages.of(images, device) for images in (data.train, data.validation, data.test)
        ]
        self.settings = settings
        self.device = device
        self.precision = precision
        self.ranking = ChannelRanking(base, self.graph, settings.criterion)
        self._last_plain: tuple[Any, nn.Module] | None = None

    def train(self, strategy: Strategy, *, snr_db: float | None, seed: int) -> TrainedCandidate:
        """Train ``strategy`` for a channel of ``snr_db`` (None: noise-free) and measure it.

        Noise reaches what a codec encodes; a feature without one is sent as bits, at the rate at which they arrive.
        With ``feature_bits`` below a float's, what crosses an inner cut is quantised and arrives as it was sent,
        whatever ``snr_db``: a codec's output in training through a straight-through estimator, the feature of a network
        without a codec after it, so that one training serves all its cuts, and the whole on the device (the last such
        network is kept); the network as it is needs none.
        ``uplink_bit`` is what is left of those bits after Huffman coding, in the mean over validation images, where
        that is less.

        Raises:
            Diverged: the loss or the trained network's outputs are no numbers.
        """
        started = time.perf_counter()
        pruned = any(strategy.sparsity.values())
        whole = strategy.partition_point == len(self.graph.layers)
        after = not self._encodes(strategy) and (self._quantizes(strategy) or whole or not pruned)
        if after:
            assembled = self.assemble(self._without_codec(strategy, seed), strategy, snr_db)
        else:
            assembled = self._trained(strategy, snr_db, seed)
        network, sent = assembled.network, float(assembled.uplink_bit)
        if isinstance(network.channel, Quantizer):
            if after:
                self.calibrate(network, network.channel)
            sent = min(sent, self.coded_bit(network, network.channel))
        measured = self.measure(network, seed + 3)
        trained = pruned or not after
        measured |= {
            "device_flop": float(assembled.device_flop),
            "server_flop": float(assembled.server_flop),
            "uplink_bit": sent,
            "fine_tune_images": self.settings.fine_tune.images if trained else 0,
            "end_to_end_images": self.settings.end_to_end.images if trained else 0,
            "wall_s": time.perf_counter() - started,
        }
        return TrainedCandidate(network, measured)

    def _without_codec(self, strategy: Strategy, seed: int) -> nn.Module:
        """The strategy's pruned network, trained whole; the one before, where it is asked for again."""
        asked = tuple(strategy.sparsity.items()), seed
        if not any(strategy.sparsity.values()):
            return copy.deepcopy(self.base)
        if self._last_plain is None or self._last_plain[0] != asked:
            whole = Strategy(strategy.sparsity, len(self.graph.layers))
            self._last_plain = asked, self._trained(whole, None, seed).network.device_half
        return copy.deepcopy(self._last_plain[1])

    def _quantizes(self, strategy: Strategy) -> bool:
        """Whether what crosses the strategy's cut is quantised."""
        kind = self.space.cut_kind(strategy.partition_point)
        return strategy.feature_bits != FLOAT_BITS and kind not in ("raw", "none")

    def _encodes(self, strategy: Strategy) -> bool:
        """Whether what crosses the strategy's cut goes through a codec."""
        return self.space.canonical_codec(strategy) != Codec()

    def _trained(self, strategy: Strategy, snr_db: float | None, seed: int) -> Assembled:
        """The strategy's network after its phases of training."""
        settings, device = self.settings, self.device
        keep = self.ranking.keep(self.space.kept_channels(strategy))
        pruned = shrink(self.base, self.graph, keep).to(device)
        if settings.norm_images:
            measure_batch_norms(
                channels_last(pruned),
                self.train_images,
                self.data.preprocess,
                settings.norm_images,
                device=device,
                precision=self.precision,
            )
        self.tune(pruned, settings.fine_tune, seed)
        assembled = self.assemble(pruned, strategy, snr_db)
        network = assembled.network
        self._warm_up_codec(assembled, seed + 1)
        if isinstance(network.channel, Quantizer):
            self.calibrate(network, network.channel)
        rates = codec_rates(network, settings.codec.end_to_end_rate)
        self.tune(network, settings.end_to_end, seed + 2, rates)
        return assembled

    def measure(self, network: nn.Module, seed: int) -> dict[str, Any]:
        """What is known of a trained network's accuracy, and of the base network's on the same images, by the column
        names of ``coinfer_ray.records.store``. ``seed`` fixes the channel's noise, where there is any."""
        return self.compare_with_base(self._hits(network, seed))

    def compare_with_base(self, found: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """:meth:`measure` of a network that gets the images ``found`` right, (n,) bool by split."""
        measured: dict[str, Any] = dict(self.base_columns)
        for name, correct in found.items():
            before = self.base_hits[name]
            measured[f"{name}_accuracy"] = share(correct)
            measured[f"{name}_gained"] = int((correct & ~before).sum())
            measured[f"{name}_lost"] = int((before & ~correct).sum())
        return measured

    @cached_property
    def base_hits(self) -> dict[str, torch.Tensor]:
        """Which of the images that candidates are measured on the base network gets right: (n,) bool by split."""
        return self._hits(self._teacher, seed=0)

    @property
    def base_columns(self) -> dict[str, float]:
        """The base network's accuracies on the images that candidates are measured on, by their columns' names."""
        return {f"base_{name}_accuracy": share(correct) for name, correct in self.base_hits.items()}

    def _hits(self, network: nn.Module, seed: int) -> dict[str, torch.Tensor]:
        return {
            name: hits(network, part, self.data.preprocess, device=self.device, precision=self.precision, seed=seed)
            for name, part in (("validation", self.validation_images), ("test", self.test_images))
        }

    def assemble(self, pruned: nn.Module, strategy: Strategy, snr_db: float | None) -> Assembled:
        """Split a pruned network and insert codec and channel.

        FLOPs are counted on the pruned modules by a fresh trace, bits on the encoder's real output.
        """
        point = strategy.partition_point
        real = trace_graph(pruned, self.graph.input_shape, self.graph.model)
        device_flop = sum(layer.flops for layer in real.layers[:point])
        server_flop = sum(layer.flops for layer in real.layers[point:])
        kind = self.space.cut_kind(point)
        if kind == "raw":
            bits, pair = INPUT_BITS * self.graph.input_elements, None
        elif kind == "none":
            bits, pair = 0, None
        else:
            layer = real.layers[point - 1]
            feature = Feature(layer.out_channels, layer.out_height, layer.out_width, layer.vector)
            pair = build_codec(self.space.canonical_codec(strategy), feature, kind)
            bits = strategy.feature_bits * sent_elements(pair.encoder, feature)
        pair = pair or CodecPair(nn.Identity(), nn.Identity(), 0, 0)
        device_half, server_half = split(pruned, self.graph, point)
        channel = make_channel(snr_db if self._encodes(strategy) else None)
        if self._quantizes(strategy):
            channel = Quantizer(strategy.feature_bits)
        network = SplitNetwork(device_half, pair.encoder, channel, pair.decoder, server_half)
        network = channels_last(network.to(self.device))
        return Assembled(
            network,
            device_flop=device_flop + pair.encoder_flops,
            server_flop=server_flop + pair.decoder_flops,
            codec_flop=pair.encoder_flops + pair.decoder_flops,
            uplink_bit=bits,
        )

    def tune(
        self, network: nn.Module, phase: Phase, seed: int, rates: Mapping[nn.Parameter, float] | None = None
    ) -> None:
        """Train ``network`` in place for one phase, by the labels and the base network's outputs as the settings say.

        Raises:
            Diverged: the loss is no longer finite.
        """
        weight = self.settings.distillation
        train(
            network,
            self.train_images,
            self.data.preprocess,
            phase,
            seed=seed,
            device=self.device,
            precision=self.precision,
            rates=rates,
            loss=_DistillationLoss(self._teacher, weight) if weight else label_loss,
        )

    @cached_property
    def _teacher(self) -> nn.Module:
        return channels_last(copy.deepcopy(self.base).to(self.device)).eval()

    def _warm_up_codec(self, assembled: Assembled, seed: int) -> None:
        """Let the codec learn to reproduce the feature: much cheaper than end to end, since neither half is trained,
        and it spares the halves the shock of a random codec between them."""
        network, phase = assembled.network, self.settings.codec
        parameters = [*network.encoder.parameters(), *network.decoder.parameters()]
        if not parameters or not phase.images:
            return
        torch.manual_seed(seed)
        with_safe_strides(network)
        known = self.features(network, self.train_images, phase.images)
        if not torch.isfinite(known).all():
            raise Diverged("the feature at the cut is no number")
        snr_db = getattr(network.channel, "snr_db", None)
        start_from_components(
            network.encoder, network.decoder, known, noise=0.0 if snr_db is None else 10 ** (-snr_db / 10)
        )
        power = known.square().mean().clamp_min(1e-12)
        # A backward pass costs twice a forward pass.
        presentations = min(phase.passes * len(known), int(phase.flop / (3 * assembled.codec_flop)))
        steps = max(1, presentations // phase.batch_size)
        rates = codec_rates(network, phase.learning_rate)
        optimizer = torch.optim.AdamW([{"params": [parameter], "peak": rate} for parameter, rate in rates.items()])
        network.encoder.train()
        network.channel.train()
        network.decoder.train()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (1 - step / steps)
            target = known[torch.randint(len(known), (phase.batch_size,), device=self.device)]
            with self.autocast():
                output = network.decoder(network.channel(network.encoder(target)))
            loss = F.mse_loss(output.float(), target) / power
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if not torch.isfinite(loss):
            raise Diverged(f"the codec's reconstruction error is {float(loss)}")
        network.eval()
        known = known[:MEASURE_IMAGES]
        with torch.no_grad(), self.autocast():
            made = network.decoder(network.encoder(known)).float()
        restore_power(network.encoder, network.decoder, known, made)

    def calibrate(self, network: SplitNetwork, quantizer: Quantizer) -> None:
        """Forget the range of ``network``'s quantizer, and take that of the features that it sends now."""
        known = self.features(network, self.train_images, MEASURE_IMAGES)
        with torch.no_grad(), self.autocast():
            quantizer.reset()
            quantizer.calibrate(network.encoder(known))

    def coded_bit(self, network: SplitNetwork, quantizer: Quantizer) -> float:
        """Bits of a feature after Huffman coding, in the mean over validation images."""
        known = self.features(network, self.validation_images, MEASURE_IMAGES)
        with torch.no_grad(), self.autocast():
            codes = quantizer.codes(network.encoder(known))
        return float(huffman_bits(codes.cpu().numpy()).mean())

    def features(self, network: SplitNetwork, images: ResidentImages, count: int) -> torch.Tensor:
        """What the device half makes of the first so many images."""
        images = images.take(slice(0, count))
        network.eval()
        features = []
        with torch.no_grad(), self.autocast():
            for start in range(0, len(images), 256):
                part = images.images[start : start + 256]
                features.append(network.device_half(self.data.preprocess(part)).float())
        return torch.cat(features)

    def autocast(self) -> torch.autocast:
        """The precision that networks run in."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16)
