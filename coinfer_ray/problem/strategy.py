"""A strategy: sparsity ratios, a partition point and the parameters of a codec."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from coinfer_ray.errors import InputError

FLOAT_BITS = 32  # of a value that is sent as it is
QUANTIZED_BITS = range(1, 9)  # that a value may be quantised to: a symbol fits a byte


def check_feature_bits(bits: int) -> None:
    """Raise InputError unless a value of a feature can be sent in so many bits."""
    if bits != FLOAT_BITS and bits not in QUANTIZED_BITS:
        raise InputError(
            f"feature bits: {bits} must be within {QUANTIZED_BITS.start}..{QUANTIZED_BITS.stop - 1}, or {FLOAT_BITS}, "
            "which sends floats"
        )


@dataclass(frozen=True)
class Codec:
    """Parameters of the encoder; the decoder mirrors it.

    At a spatial cut two convolutions with (output channels / input channels, kernel size, stride); at a vector
    cut two linear layers with (outputs / inputs). A stage whose parameters are all 1 is left out, so the default
    codec sends the feature as it is.
    """

    ratio_1: float = 1.0
    kernel_1: int = 1
    stride_1: int = 1
    ratio_2: float = 1.0
    kernel_2: int = 1
    stride_2: int = 1
    width_1: float = 1.0
    width_2: float = 1.0

    def values(self) -> tuple[float, ...]:
        return tuple(float(getattr(self, field.name)) for field in fields(self))

    @classmethod
    def from_values(cls, values: Sequence[float]) -> Codec:
        ratio_1, kernel_1, stride_1, ratio_2, kernel_2, stride_2, width_1, width_2 = map(float, values)
        return cls(ratio_1, int(kernel_1), int(stride_1), ratio_2, int(kernel_2), int(stride_2), width_1, width_2)


@dataclass(frozen=True)
class Strategy:
    """How to share a network: ``sparsity`` of each prunable set (the realised share of channels removed),
    ``partition_point`` (layers 1..c run on the device), the codec, and ``feature_bits``, the bits of a value
    of the feature that crosses: a float's, or 1 to 8 of a quantised one (:mod:`coinfer_ray.compression.quantize`)."""

    sparsity: Mapping[str, float]
    partition_point: int
    codec: Codec = Codec()
    feature_bits: int = FLOAT_BITS

    def to_json(self) -> dict[str, Any]:
        """The strategy as JSON can say it; :meth:`from_json` reads it."""
        return {
            "sparsity": dict(self.sparsity),
            "partition_point": self.partition_point,
            "codec": asdict(self.codec),
            "feature_bits": self.feature_bits,
        }

    @classmethod
    def from_json(cls, document: Any) -> Strategy:
        """Rebuild from a ``document``: what :meth:`to_json` gave, or an answer of ``coinfer optimize --json``.

        Raises:
            InputError: a key is missing or is no number, or bits that no feature can have.
        """
        if isinstance(document, Mapping) and "strategy" in document:
            document = document["strategy"]
        try:
            strategy = cls(
                sparsity={str(name): float(ratio) for name, ratio in document["sparsity"].items()},
                partition_point=int(document["partition_point"]),
                codec=Codec.from_values([document["codec"][field.name] for field in fields(Codec)]),
                feature_bits=int(document.get("feature_bits", FLOAT_BITS)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"strategy: {error!r} while reading it; expected the keys sparsity, partition_point and codec "
                "as `coinfer optimize --json` prints them"
            ) from None
        check_feature_bits(strategy.feature_bits)
        return strategy

    @classmethod
    def load(cls, path: str | Path) -> Strategy:
        """Read a strategy, or an answer that contains it, from the JSON file at ``path``.

        Raises:
            InputError: no such file, no JSON, or no strategy in it.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text()))
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"strategy: {path} cannot be read as JSON ({error})") from None
