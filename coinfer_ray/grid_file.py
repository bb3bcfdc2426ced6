"""The schema of grid files and of the YAML files that describe one device, server or link.

Imported only when such input is read: pydantic and PyYAML cost more time than a command's whole start. Whatever is
wrong becomes one line with the file, the key path and what would be right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import check_name
from coinfer_ray.scenario import (
    DEVICE_FLOPS_PER_S,
    LINK_RATE_BPS,
    SERVER_FLOPS_PER_S,
    Axis,
    Device,
    Grid,
    Link,
    Server,
    shannon_rate_bps,
)
from coinfer_ray.space import Cuts

MOST_NUMBERS = 10_000_000  # of one axis
MOST_SCENARIOS = 2**62
YAML_SUFFIXES = (".yaml", ".yml")
_SPACINGS: dict[str, Callable[[float, float, int], np.ndarray]] = {"logspace": np.geomspace, "linspace": np.linspace}


def read_yaml(path: str | Path) -> Any:
    """The document in a YAML file.

    Raises:
        InputError: it cannot be read, or is no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"{path}: cannot be read ({reason}); give a YAML file") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: no valid YAML{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None


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
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_NUMBERS:
        raise ValueError(f"{spacing}: the count {count} must be a whole number from 1 to {MOST_NUMBERS:,}")
    if spacing == "logspace" and min(first, last) <= 0:
        raise ValueError(f"{spacing}: {min(first, last):g} must be > 0")
    return tuple(_SPACINGS[spacing](first, last, count).tolist())


def _number(value: Any) -> float:
    number = None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            number = float(value)  # YAML reads 1e6, without a dot and a sign, as text
    if number is None or not np.isfinite(number):
        raise ValueError(f"{value!r} must be a finite number")
    return number


def _positive(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not value > 0:
            raise ValueError(f"{value:g} must be > 0")
    return values


def _share(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not -1 < value < 1:
            raise ValueError(f"{value:g} must be in (-1, 1); it is a share, 0.02 for 2 points")
    return values


def _confidences(given: Any) -> tuple[float, ...]:
    """A probability, or a list in which ``null`` stands for none: the predictions as they are."""
    values = tuple(np.nan if value is None else _number(value) for value in given) if isinstance(given, list) else None
    if values is None:
        values = (np.nan,) if given is None else _numbers(given)
    if not values:
        raise ValueError("an empty list; give at least one probability, or null for none")
    for value in values:
        if not np.isnan(value) and not 0 < value < 1:
            raise ValueError(f"{value:g} must be in (0, 1); it is a probability, 0.95 for 95 %")
    return values


def _power(value: Any) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError(f"{number:g} must be >= 0")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} must be a name")
    return value


Numbers = Annotated[tuple[float, ...], BeforeValidator(_numbers)]
PositiveNumbers = Annotated[tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_positive)]
Shares = Annotated[tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_share)]
Confidences = Annotated[tuple[float, ...], BeforeValidator(_confidences)]
Power = Annotated[float, BeforeValidator(_power)]
Name = Annotated[str, BeforeValidator(_text)]


class _Item(BaseModel):
    """An entry of an axis: a preset's name, a YAML file, or a mapping with the fields of the class."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, float]]]

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


class DeviceItem(_Item):
    what = "device"
    presets = {name: {"gflops": speed / 1e9} for name, speed in DEVICE_FLOPS_PER_S.items()}

    gflops: PositiveNumbers
    compute_w: Power | None = None
    radio_w: Power | None = None
    idle_w: Power | None = None

    def axis(self) -> Axis:
        return _axis(self.name or f"{_range(self.gflops)} GFLOPS", {"device_flops_per_s": np.array(self.gflops) * 1e9})


class ServerItem(_Item):
    what = "server"
    presets = {name: {"gflops": speed / 1e9} for name, speed in SERVER_FLOPS_PER_S.items()}

    gflops: PositiveNumbers

    def axis(self) -> Axis:
        return _axis(self.name or f"{_range(self.gflops)} GFLOPS", {"server_flops_per_s": np.array(self.gflops) * 1e9})


class LinkItem(_Item):
    what = "link"
    presets = {name: {"rate_mbps": rate / 1e6} for name, rate in LINK_RATE_BPS.items()}

    rate_mbps: PositiveNumbers | None = None
    bandwidth_mhz: PositiveNumbers | None = None
    snr_db: Numbers | None = None

    @model_validator(mode="after")
    def _rate_or_bandwidth(self) -> LinkItem:
        given = [getattr(self, key) is not None for key in ("rate_mbps", "bandwidth_mhz", "snr_db")]
        if given not in ([True, False, False], [False, True, True]):
            raise ValueError("needs either rate_mbps, or bandwidth_mhz and snr_db")
        rate = self.axis().columns["rate_bps"]
        if not ((rate > 0) & np.isfinite(rate)).all():
            raise ValueError("its rate in bit/s must be > 0 and finite")
        return self

    def axis(self) -> Axis:
        if self.bandwidth_mhz is None or self.snr_db is None:
            assert self.rate_mbps is not None
            rate = np.array(self.rate_mbps) * 1e6
            snr = np.full(len(rate), np.nan)
            label = f"{_range(self.rate_mbps)} Mb/s"
        else:
            pairs = [(bandwidth * 1e6, decibels) for bandwidth in self.bandwidth_mhz for decibels in self.snr_db]
            rate = np.array([shannon_rate_bps(*pair) for pair in pairs])
            snr = np.array([decibels for _, decibels in pairs])
            label = f"{_range(self.bandwidth_mhz)} MHz, {_range(self.snr_db)} dB"
        return _axis(self.name or label, {"rate_bps": rate, "snr_db": snr})


class GridFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[list[Name], Field(min_length=1)]
    device: Annotated[list[DeviceItem], Field(min_length=1)]
    server: Annotated[list[ServerItem], Field(min_length=1)]
    link: Annotated[list[LinkItem], Field(min_length=1)]
    max_loss: Shares
    confidence: Confidences = (np.nan,)
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    cuts: Cuts = "all"


def parse_grid(document: Any, where: str) -> Grid:
    """Validate a grid file's document; ``where`` names it in errors.

    Raises:
        InputError: the first thing wrong, with its key path.
    """
    document = _plain(document)
    if isinstance(document, dict):
        for axis in ("device", "server", "link"):
            if isinstance(document.get(axis), list):
                document[axis] = [_opened(item) for item in document[axis]]
    file = _validated(GridFile, document, where)
    twice = next((name for position, name in enumerate(file.model) if name in file.model[:position]), None)
    if twice is not None:
        raise InputError(f"{where}: model: {twice} stands there twice; name every network once")
    grid = Grid(
        models=tuple(file.model),
        device=_joined([item.axis() for item in file.device]),
        server=_joined([item.axis() for item in file.server]),
        link=_joined([item.axis() for item in file.link]),
        max_loss=np.array(file.max_loss),
        confidence=np.array(file.confidence),
        seed=file.seed,
        cuts=file.cuts,
        document=document,
    )
    if len(grid.models) * grid.per_model > MOST_SCENARIOS:
        raise InputError(f"{where}: {len(grid.models) * grid.per_model:,} scenarios; at most {MOST_SCENARIOS:,}")
    return grid


def one_device(given: Any) -> Device:
    """A single device from a name, a YAML file or a mapping."""
    item = _one("device", DeviceItem, given)
    axis = item.axis()
    return Device(
        axis.labels[0], float(axis.columns["device_flops_per_s"][0]), item.compute_w, item.radio_w, item.idle_w
    )


def one_server(given: Any) -> Server:
    """A single server from a name, a YAML file or a mapping."""
    axis = _one("server", ServerItem, given).axis()
    return Server(axis.labels[0], float(axis.columns["server_flops_per_s"][0]))


def one_link(given: Any) -> Link:
    """A single link from a name, a YAML file or a mapping."""
    item = _one("link", LinkItem, given)
    axis = item.axis()
    return Link(axis.labels[0], float(axis.columns["rate_bps"][0]), None if item.snr_db is None else item.snr_db[0])


Item = TypeVar("Item", bound=_Item)


def _one(what: str, schema: type[Item], given: Any) -> Item:
    where = str(given) if _is_file(given) else what
    item = _validated(schema, _opened(_plain(given)), where)
    for key, values in item:
        if isinstance(values, tuple) and len(values) != 1:
            raise InputError(f"{where}: {key} has {len(values)} values; one scenario takes one (a grid takes many)")
    return item


def _plain(given: Any) -> Any:
    """A document of dictionaries, lists, texts and numbers, whatever the caller built it from."""
    if isinstance(given, Mapping):
        return {str(key): _plain(value) for key, value in given.items()}
    if isinstance(given, np.ndarray | np.generic):
        return given.tolist()
    if isinstance(given, list | tuple):
        return [_plain(value) for value in given]
    return str(given) if isinstance(given, Path) else given


def _is_file(given: Any) -> bool:
    return isinstance(given, Path) or (isinstance(given, str) and given.lower().endswith(YAML_SUFFIXES))


def _opened(item: Any) -> Any:
    """What a YAML file holds where the item names one, else the item."""
    if not _is_file(item):
        return item
    document = read_yaml(item)
    if not isinstance(document, Mapping):
        raise InputError(f"{item}: must be a mapping, for example `gflops: 3`, and not {document!r}")
    return _plain(document)


M = TypeVar("M", bound=BaseModel)


def _validated(schema: type[M], document: Any, where: str) -> M:
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise InputError(_one_line(error, schema, where)) from None


def _one_line(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    """``where: key[2].path: what is wrong``: the first of pydantic's complaints."""
    errors = error.errors(include_url=False)
    # A mistyped key is also a missing one; the key itself is the better news.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    complaint = first["msg"][:1].lower() + first["msg"][1:]
    match first["type"]:
        case "value_error":
            complaint = str(first["ctx"]["error"])
            for what in ("device: ", "server: ", "link: "):  # the path says so already
                complaint = complaint.removeprefix(what)
        case "missing":
            complaint = "is missing"
        case "extra_forbidden":
            complaint = f"unknown key; known: {_keys(_schema_at(schema, first['loc'][:-1]))}"
        case "model_type" | "model_attributes_type" | "dict_type":
            complaint = f"must be a mapping with the keys {_keys(_schema_at(schema, first['loc']))}"
        case "list_type" | "too_short":
            complaint = "must be a list with at least one entry"
        case "greater_than_equal" | "int_type" | "literal_error":
            complaint = f"{first['input']!r}: {complaint}"
    return ": ".join(part for part in (where, path, complaint) if part)


def _schema_at(schema: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    items: dict[int | str, type[BaseModel]] = {"device": DeviceItem, "server": ServerItem, "link": LinkItem}
    return items.get(location[0], schema) if location else schema


def _keys(schema: type[BaseModel]) -> str:
    return ", ".join(schema.model_fields)


def _range(values: tuple[float, ...]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _axis(label: str, columns: dict[str, np.ndarray]) -> Axis:
    length = len(next(iter(columns.values())))
    return Axis((label,), np.zeros(length, dtype=np.int32), columns)


def _joined(parts: list[Axis]) -> Axis:
    """One axis from its items; items of the same name share a label."""
    labels = tuple(dict.fromkeys(part.labels[0] for part in parts))
    return Axis(
        labels,
        np.concatenate([np.full(len(part), labels.index(part.labels[0]), dtype=np.int32) for part in parts]),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
    )
