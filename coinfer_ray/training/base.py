"""The base network of a collection: trained once, kept as safetensors, the start of every candidate.

A collection's folder holds it as ``_base.safetensors`` (earlier versions: ``base.safetensors``, which made the folder
unreadable as a data set); a packed records file may have it beside itself under its own name,
``alexnet-64px.base.safetensors`` beside ``alexnet-64px.parquet``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from coinfer_ray.errors import InputError
from coinfer_ray.models import zoo
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.source import ModelLike, ModelSource, resolve_model
from coinfer_ray.models.symbolic import with_reshapes
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.training.data import DataSplits
from coinfer_ray.training.trainer import Phase, Preprocess, accuracy, train
from coinfer_ray.training.weights import check_weights

Factors: TypeAlias = tuple[np.ndarray, np.ndarray]
FACTOR_ENDS = (".left", ".right")  # of the names under which a file keeps them

BASE_FILE = "_base.safetensors"
_OLD_BASE_FILE = "base.safetensors"

# Ten passes over CIFAR-10's 45,000 training images.
BASE_PHASE = Phase(images=450_000, batch_size=128, learning_rate=5e-4, weight_decay=1e-2, warmup=0.1, optimizer="adamw")


def base_beside(records: Path) -> Path:
    """Where the base network of a records file, or of a collection's folder, would be.

    Records through noise, ``NAME.awgn.parquet``, share that of ``NAME.parquet`` where they have none of their own.
    """
    if not records.is_dir():
        own = records.with_suffix(".base.safetensors")
        shared = records.with_name(records.stem.removesuffix(".awgn") + ".base.safetensors")
        return shared if shared.is_file() and not own.is_file() else own
    old = records / _OLD_BASE_FILE
    return old if old.is_file() and not (records / BASE_FILE).exists() else records / BASE_FILE


@dataclass(frozen=True)
class BaseNetwork:
    """Weights by parameter name (float32 arrays), and what was measured on them.

    ``info`` holds model, input_px, the data's name and fingerprint, the training phase, the seed and the seconds.
    ``factors``: weights that are the product of two thin matrices, by name, and are kept as these
    (:func:`coinfer_ray.training.low_rank.with_low_rank`). ``source``: what builds the network (None: its name does).
    """

    weights: dict[str, np.ndarray]
    validation_accuracy: float
    test_accuracy: float
    info: dict[str, Any]
    factors: dict[str, Factors] = field(default_factory=dict)
    source: ModelSource | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.weights)


def fingerprint_of(weights: Mapping[str, np.ndarray]) -> str:
    """A hash of weights by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()[:16]


def train_base(
    model: ModelLike,
    input_px: int,
    data: DataSplits,
    *,
    phase: Phase = BASE_PHASE,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    checkpoint: Path | None = None,
    on_images: Callable[[int], None] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> BaseNetwork:
    """Train ``model`` on the training split, from scratch or from ``weights``, and measure it on the other two.

    What is measured and kept are the weights rounded to bfloat16, in half the space: the base network is then the
    same wherever its file is read, and the rounding's share of its error has been counted. Weights that a phase of no
    images leaves as they were given stay so.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    source = resolve_model(model)
    whole = zoo.build(source, len(data.classes))
    if weights is not None:
        whole.load_state_dict(weights, strict=False)
    whole = channels_last(whole.to(device))
    network = with_reshapes(whole, source.name)
    preprocess = Preprocess.of(data, input_px)
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
    )
    if phase.images or weights is None:
        round_weights(whole)
    validation, test = [
        accuracy(network, part, preprocess, device=device, precision=precision) for part in (data.validation, data.test)
    ]
    info = {
        "model": source.name,
        "input_px": input_px,
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "phase": asdict(phase),
        "seed": seed,
        "seconds": round(time.perf_counter() - started),
    }
    return BaseNetwork(arrays_of(whole), validation, test, info, source=source)


def arrays_of(network: nn.Module) -> dict[str, np.ndarray]:
    """A network's state as arrays by name."""
    return {name: tensor.cpu().contiguous().numpy() for name, tensor in network.state_dict().items()}


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Round every float of ``network`` to bfloat16, in place; they stay float32."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.bfloat16())


def save_base(base: BaseNetwork, path: Path) -> None:
    """Write the weights with their measurements in the file's metadata."""
    document = base.info | {"validation_accuracy": base.validation_accuracy, "test_accuracy": base.test_accuracy}
    arrays = {name: array for name, array in base.weights.items() if name not in base.factors}
    for name, pair in base.factors.items():
        arrays |= {f"{name}{end}": factor for end, factor in zip(FACTOR_ENDS, pair, strict=True)}
    tensors = {name: _compact(torch.from_numpy(array).contiguous()) for name, array in arrays.items()}
    write_whole(path, lambda temporary: save_file(tensors, temporary, {"coinfer_ray.base": json.dumps(document)}))


def read_base(path: Path) -> BaseNetwork:
    """Read what :func:`save_base` wrote.

    Raises:
        InputError: not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {}).get("coinfer_ray.base", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise InputError(f"base: {path} is not a readable safetensors file ({error})") from None
    if document is None:
        raise InputError(f"base: {path} has no metadata of coinfer; train it with `coinfer collect`")
    validation, test = document.pop("validation_accuracy"), document.pop("test_accuracy")
    weights = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for name, tensor in tensors.items()
    }
    left_end, right_end = FACTOR_ENDS
    factors = {}
    for name in [name.removesuffix(left_end) for name in weights if name.endswith(left_end)]:
        factors[name] = weights.pop(name + left_end), weights.pop(name + right_end)
        weights[name] = product(*factors[name])
    return BaseNetwork(weights, validation, test, document, factors)


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The weight (m, n) float32 of its factors (m, rank) and (rank, n).

    Computed in float64 and rounded to bfloat16, so that it is the same on every machine.
    """
    exact = torch.from_numpy(left).double() @ torch.from_numpy(right).double()
    return exact.bfloat16().float().numpy()


def load_base(path: Path, *, model: ModelLike, input_px: int, data: DataSplits) -> BaseNetwork:
    """:func:`read_base`, for this network and these images.

    Raises:
        InputError: not such a file, or the base of another network, input size or data set.
    """
    base, source = read_base(path), resolve_model(model)
    wanted = {"model": source.name, "input_px": input_px, "data_fingerprint": data.fingerprint}
    for name, value in wanted.items():
        if base.info[name] != value:
            raise InputError(f"base: {path} was trained with {name} {base.info[name]}, this run has {value}")
    return replace(base, source=source)


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """As bfloat16 where that loses nothing."""
    rounded = tensor.bfloat16()
    # Weights that modules share are one tensor, which a file must not hold twice by reference.
    return rounded if tensor.is_floating_point() and torch.equal(rounded.float(), tensor) else tensor.clone()


def build_base(base: BaseNetwork, classes: int) -> nn.Module:
    """The network with its weights, in evaluation mode and for every memory format
    (:func:`coinfer_ray.models.symbolic.with_reshapes`).

    Raises:
        InputError: the weights are not this network's.
    """
    name = str(base.info["model"])
    network = zoo.build(base.source or name, classes)
    weights = {key: torch.from_numpy(array.copy()) for key, array in base.weights.items()}
    check_weights(network, weights, f"base: its weights are not those of {name}")
    network.load_state_dict(weights, strict=False)
    return with_reshapes(network, name).eval()
