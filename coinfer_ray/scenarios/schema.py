"""The schema of grid files and of the YAML files that describe one device, server or link.

Imported only when such input is read: pydantic and PyYAML cost more time than a command's whole start. Whatever is
wrong becomes one line with the file, the key path and what would be right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.problem.layer_times import LayerTimes
from coinfer_ray.problem.network_times import Coefficients, MeasuredSide, NetworkTimes, SideTimes
from coinfer_ray.problem.space import Cuts
from coinfer_ray.scenarios.grid import Axis, GridObjective
from coinfer_ray.scenarios.presets import presets_of
from coinfer_ray.scenarios.scenario import (
    DEFAULT_CONFIDENCE,
    CostModel,
    check_max_loss,
    shannon_rate_bps,
)

MAX_NUMBERS = 10_000_000  # of one axis
MAX_LOAD = 1e6
MAX_CROSSING_MS = 1e9  # far above any link's; times remain numbers that can be added up
SHOWN = 60  # characters of a value in an error message
_SPACINGS: dict[str, Callable[[float, float, int], np.ndarray]] = {"logspace": np.geomspace, "linspace": np.linspace}


def _numbers(given: Any) -> tuple[float, ...]:
    """A number, a list of them, ``{logspace: [first, last, count]}`` or ``{linspace: [first, last, count]}``."""
    if isinstance(given, Mapping):
        if len(given) != 1 or next(iter(given)) not in _SPACINGS:
            raise ValueError(f"{dict(given)} must be a number, a list, or {{logspace: [first, last, count]}}")
        spacing, ends = next(iter(given.items()))
        return _spaced(spacing, ends)
    values = tuple(_number(value) for value in given) if isinstance(given, list | tuple) else (_number(given),)
    if not values:
        raise ValueError("an empty list; give at least one number")
    return values


def _spaced(spacing: str, ends: Any) -> tuple[float, ...]:
    if not isinstance(ends, list | tuple) or len(ends) != 3:
        raise ValueError(f"{spacing}: {ends} must be [first, last, count]")
    first, last, count = _number(ends[0]), _number(ends[1]), ends[2]
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_NUMBERS:
        raise ValueError(f"{spacing}: the count {_shown(count)} must be a whole number from 1 to {MAX_NUMBERS:,}")
    if spacing == "logspace" and min(first, last) <= 0:
        raise ValueError(f"{spacing}: {min(first, last):g} must be > 0")
    with np.errstate(all="ignore"):
        values = _SPACINGS[spacing](first, last, count)
    if not np.isfinite(values).all():
        raise ValueError(f"{spacing}: {first:g} and {last:g} are too far apart")
    return tuple(values.tolist())


def _number(value: Any) -> float:
    number = None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)  # YAML reads 1e6, without a dot and a sign, as text
    if number is None or not np.isfinite(number):
        raise ValueError(f"{_shown(value)} must be a finite number")
    return number


def _shown(value: Any) -> str:
    """A value in an error message; integers of thousands of digits cannot even be printed."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of so many digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _positive(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not value > 0:
            raise ValueError(f"{value:g} must be > 0")
    return values


def _scaled(values: tuple[float, ...], unit: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.array(values) * unit


def _usable(values: np.ndarray) -> bool:
    """Whether speeds or rates, and the times that they take, are numbers above 0."""
    with np.errstate(all="ignore"):
        return bool(((values > 0) & np.isfinite(values) & np.isfinite(1 / values)).all())


def _speeds(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not _usable(_scaled((value,), 1e9)):
            raise ValueError(f"{value:g} is a speed that no number holds in FLOP/s")
    return values


def _speed(value: Any) -> float:
    return _speeds(_positive((_number(value),)))[0]


def _share(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        try:
            check_max_loss(value)
        except InputError as error:
            raise ValueError(str(error).removeprefix("max_loss: ")) from None  # pydantic names the place
    return values


def _confidences(given: Any) -> tuple[float, ...]:
    """A probability, or a list in which ``null`` or 0 stands for none: the predictions as they are."""
    values = tuple(np.nan if value is None else _number(value) for value in given) if isinstance(given, list) else None
    if values is None:
        values = (np.nan,) if given is None else _numbers(given)
    if not values:
        raise ValueError("an empty list; give at least one probability, or null for none")
    for value in values:
        if not np.isnan(value) and not 0 <= value < 1:
            raise ValueError(f"{value:g} must be in [0, 1); it is a probability, 0.95 for 95 %")
    return tuple(value or np.nan for value in values)


def _power(value: Any) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError(f"{number:g} must be >= 0")
    return number


def _milliseconds(value: Any) -> float:
    number = _number(value)
    if not 0 <= number <= MAX_CROSSING_MS:
        raise ValueError(f"{number:g} must be in [0, {MAX_CROSSING_MS:g}]; it is a time in milliseconds")
    return number


def load_factor(value: Any) -> float:
    """By how many times itself other work makes all that a server does longer.

    Raises:
        ValueError: it is negative, or no number.
    """
    number = _number(value)
    if not 0 <= number <= MAX_LOAD:
        raise ValueError(f"{number:g} must be in [0, {MAX_LOAD:g}]; 0 is an idle server, 1 takes twice as long")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} must be a name")
    return value


Numbers = Annotated[tuple[float, ...], BeforeValidator(_numbers)]
PositiveNumbers = Annotated[tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_positive)]
Speeds = Annotated[PositiveNumbers, AfterValidator(_speeds)]
Speed = Annotated[float, BeforeValidator(_speed)]
Shares = Annotated[tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_share)]
Confidences = Annotated[tuple[float, ...], BeforeValidator(_confidences)]
Power = Annotated[float, BeforeValidator(_power)]
Load = Annotated[float, BeforeValidator(load_factor)]
Milliseconds = Annotated[float, BeforeValidator(_milliseconds)]
Name = Annotated[str, BeforeValidator(_text)]


class _Item(BaseModel):
    """An entry of an axis: a preset's name, a YAML file, or a mapping with the fields of the class."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]

    name: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, given: Any) -> Any:
        if isinstance(given, str):
            name = given.lower()
            check_name(cls.what, name, list(cls.presets))
            return {"name": name, **cls.presets[name]}
        if not isinstance(given, Mapping):
            raise ValueError(f"{given!r} must be a name or a mapping with the keys {_keys(cls)}")
        return dict(given)


class LayerSeconds(BaseModel):
    """The coefficients of :class:`coinfer_ray.problem.layer_times.LayerTimes`, in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conv_flop: Power
    grouped_flop: Power
    element: Power
    weight: Power
    layer: Power

    @model_validator(mode="after")
    def _any(self) -> LayerSeconds:
        if not any(self.model_dump().values()):
            raise ValueError("all of them are 0; at least one must be > 0")
        return self


def _seconds(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{value:g} must be >= 0 and finite: no layer may get slower as channels go")
    return values


class NetworkSeconds(BaseModel):
    """The numbers of :class:`coinfer_ray.problem.network_times.NetworkTimes`, by layer, and what they rest on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Name
    input_px: Annotated[int, Field(ge=1)]
    fingerprint: Name
    call: Power
    layers: Annotated[dict[str, Annotated[Coefficients, AfterValidator(_seconds)]], Field(min_length=1)]
    held_out_error: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _any(self) -> NetworkSeconds:
        if not any(map(any, self.layers.values())):
            raise ValueError("layers: all of them take 0 s; at least one number must be > 0")
        return self


class _Side(_Item):
    """A device or a server: one speed for all networks, or several; or one for each network."""

    gflops: Speeds | None = None
    gflops_by_network: Annotated[dict[str, Speed], Field(min_length=1)] | None = None
    layer_seconds: LayerSeconds | None = None
    network_seconds: Annotated[list[NetworkSeconds], Field(min_length=1)] | None = None
    held_out_error: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_speed(self) -> _Side:
        speeds = (self.gflops is not None) + (self.gflops_by_network is not None)
        if speeds > 1 or not (speeds or self.layer_seconds):
            raise ValueError("needs either gflops, or gflops_by_network, or layer_seconds")
        if self.network_seconds and not self.layer_seconds:
            raise ValueError("network_seconds needs layer_seconds beside it, by which the codec is counted")
        return self

    def times(self, cost_model: CostModel | None = None) -> SideTimes | None:
        """The times of its layers; None where its speed is to count, or is all that is known."""
        if self.layer_seconds is None or cost_model == "flops":
            return None
        layers = LayerTimes(**self.layer_seconds.model_dump())
        if self.network_seconds is None or cost_model == "layers":
            return layers
        networks = tuple(
            NetworkTimes(
                each.network,
                each.input_px,
                each.fingerprint,
                tuple(each.layers),
                tuple(each.layers.values()),
                each.call,
                layers,
            )
            for each in self.network_seconds
        )
        return MeasuredSide(self.label(), layers, networks, required=cost_model == "profile")

    def speeds(self, networks: Sequence[str], cost_model: CostModel | None = None) -> np.ndarray:
        """(n,) speeds in FLOP/s; (networks, 1) where each network has its own; 1 where costs are seconds.

        Raises:
            InputError: a network whose speed is not known.
        """
        if self.times(cost_model) is not None:
            return np.ones(1)
        if self.gflops is not None:
            return _scaled(self.gflops, 1e9)
        known = self.gflops_by_network or {}
        if not known:
            raise InputError(
                f"cost model: the file of {self.label()} has layer_seconds alone; leave out --cost-model flops, or add "
                "gflops to it"
            )
        if not networks:
            raise InputError(f"{self.what}: {self.label()} has a speed for each network; say for which")
        for network in networks:
            if network not in known:
                raise InputError(
                    f"{self.what}: the speed of {self.label()} on {network} is not known, only on {', '.join(known)}; "
                    f"give --{self.what}-gflops, or a file with gflops"
                )
        return _scaled(tuple(known[network] for network in networks), 1e9)[:, None]

    def label(self) -> str:
        if self.name is not None:
            return self.name
        if self.layer_seconds is not None:
            return f"measured {self.what}"
        return "one by network" if self.gflops is None else f"{_range(self.gflops)} GFLOPS"


class DeviceItem(_Side):
    what = "device"
    presets = {name: preset.item() for name, preset in presets_of("device").items()}

    compute_w: Power | None = None
    radio_w: Power | None = None
    idle_w: Power | None = None

    def axis(self, networks: Sequence[str], cost_model: CostModel | None) -> Axis:
        columns = {"device_flops_per_s": self.speeds(networks, cost_model)}
        powers = {"compute_w": self.compute_w, "radio_w": self.radio_w, "idle_w": self.idle_w}
        return _axis(self.label(), columns, self.times(cost_model), powers)


class ServerItem(_Side):
    what = "server"
    presets = {name: preset.item() for name, preset in presets_of("server").items()}

    per_crossing_ms: Milliseconds = 0.0
    load: Load = 0.0

    def loaded_speeds(self, networks: Sequence[str], cost_model: CostModel | None, load: float | None) -> np.ndarray:
        """:meth:`speeds` as they are beside the server's other work: divided by 1 + its load, or ``load`` instead."""
        return self.speeds(networks, cost_model) / (1 + (self.load if load is None else load))

    def axis(self, networks: Sequence[str], cost_model: CostModel | None, load: float | None = None) -> Axis:
        speeds = self.loaded_speeds(networks, cost_model, load)
        columns = {
            "server_flops_per_s": speeds,
            "per_crossing_s": np.full(speeds.shape[-1], self.per_crossing_ms / 1e3),
        }
        return _axis(self.label(), columns, self.times(cost_model))


class Radio(BaseModel):
    """The fields of :class:`coinfer_ray.scenarios.scenario.RadioPower`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_w: Power
    w_per_mbps: Power
    up_to_mbps: Power


class LinkItem(_Item):
    what = "link"
    presets = {name: preset.item() for name, preset in presets_of("link").items()}

    rate_mbps: PositiveNumbers | None = None
    bandwidth_mhz: PositiveNumbers | None = None
    snr_db: Numbers | None = None
    round_trip_ms: Milliseconds = 0.0
    radio: Radio | None = None

    @model_validator(mode="after")
    def _rate_or_bandwidth(self) -> LinkItem:
        given = [getattr(self, key) is not None for key in ("rate_mbps", "bandwidth_mhz", "snr_db")]
        if given not in ([True, False, False], [False, True, True]):
            raise ValueError("needs either rate_mbps, or bandwidth_mhz and snr_db")
        pairs = len(self.bandwidth_mhz or ()) * len(self.snr_db or ())
        if pairs > MAX_NUMBERS:
            raise ValueError(f"{pairs:,} pairs of bandwidth_mhz and snr_db; at most {MAX_NUMBERS:,}")
        if not _usable(self.axis().columns["rate_bps"]):
            raise ValueError("its rate in bit/s must be > 0 and finite")
        return self

    def axis(self) -> Axis:
        if self.bandwidth_mhz is None or self.snr_db is None:
            assert self.rate_mbps is not None
            rate = _scaled(self.rate_mbps, 1e6)
            snr = np.full(len(rate), np.nan)
            label = f"{_range(self.rate_mbps)} Mb/s"
        else:
            pairs = [(bandwidth * 1e6, decibels) for bandwidth in self.bandwidth_mhz for decibels in self.snr_db]
            rate = np.array([shannon_rate_bps(*pair) for pair in pairs])
            snr = np.array([decibels for _, decibels in pairs])
            label = f"{_range(self.bandwidth_mhz)} MHz, {_range(self.snr_db)} dB"
        round_trip = np.full(len(rate), self.round_trip_ms / 1e3)
        powers = {key: None if self.radio is None else getattr(self.radio, key) for key in Radio.model_fields}
        columns = {"rate_bps": rate, "snr_db": snr, "round_trip_s": round_trip}
        return _axis(self.name or label, columns, powers=powers)


class GridFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[list[Name], Field(min_length=1)]
    device: Annotated[list[DeviceItem], Field(min_length=1)]
    server: Annotated[list[ServerItem], Field(min_length=1)]
    link: Annotated[list[LinkItem], Field(min_length=1)]
    max_loss: Shares
    confidence: Confidences = (DEFAULT_CONFIDENCE,)
    round_trip_ms: Milliseconds | None = None
    server_load: Load | None = None
    objective: GridObjective = "latency"
    cost_model: CostModel | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    cuts: Cuts = "all"


def _keys(schema: type[BaseModel]) -> str:
    return ", ".join(schema.model_fields)


def _range(values: tuple[float, ...]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _axis(
    label: str,
    columns: dict[str, np.ndarray],
    times: SideTimes | None = None,
    powers: Mapping[str, float | None] | None = None,
) -> Axis:
    length = next(iter(columns.values())).shape[-1]
    known = {name: np.full(length, np.nan if value is None else value) for name, value in (powers or {}).items()}
    return Axis((label,), np.zeros(length, dtype=np.int32), columns, {} if times is None else {0: times}, known)
