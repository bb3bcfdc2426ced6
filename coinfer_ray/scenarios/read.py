"""From names, numbers and YAML files to devices, servers, links, scenarios and grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, get_args

import numpy as np
import yaml
from pydantic import BaseModel, ValidationError

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.problem.network_times import MeasuredSide, SideTimes
from coinfer_ray.scenarios.grid import Axis, Grid
from coinfer_ray.scenarios.scenario import (
    DEFAULT_CONFIDENCE,
    CostModel,
    Device,
    Given,
    Link,
    RadioPower,
    Scenario,
    Server,
    check_confidence,
    check_max_loss,
)
from coinfer_ray.scenarios.schema import (
    DeviceItem,
    GridFile,
    LayerSeconds,
    LinkItem,
    NetworkSeconds,
    Radio,
    ServerItem,
    _Item,
    _keys,
    _milliseconds,
    _shown,
    load_factor,
)

MAX_SCENARIOS = 2**62
MAX_NODES = 20_000_000  # values of a YAML file
_SHOWN = 60  # characters of a value in an error message
YAML_SUFFIXES = (".yaml", ".yml", ".json")  # JSON is YAML, too
T = TypeVar("T")


def read_yaml(path: str | Path) -> Any:
    """The document in a YAML file.

    Raises:
        InputError: it cannot be read, is no YAML, has a key twice, or aliases that go in circles or grow without end.
    """
    try:
        return _loaded(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"{path}: cannot be read ({reason}); give a YAML file") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: no valid YAML{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{path}: lists and mappings are nested too deeply; a few levels are right") from None


def _loaded(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, (), {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_node(node: yaml.Node, above: tuple[yaml.Node, ...], sizes: dict[int, int]) -> int:
    """How many nodes one is when its aliases are written out; raises MarkedYAMLError for what cannot be used.

    ``above``: the nodes that hold it; ``sizes``: those of nodes seen before, by ``id``.
    """
    if any(node is each for each in above):
        raise yaml.MarkedYAMLError(problem="this value holds itself by an alias", problem_mark=node.start_mark)
    if id(node) in sizes:
        return sizes[id(node)]
    inside, count = (*above, node), 1
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            count += _check_node(value, inside, sizes)
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            count += _check_node(key, inside, sizes)
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    message = f"the key {key.value!r} stands there twice, first in line {lines[key.value]}"
                    raise yaml.MarkedYAMLError(problem=message, problem_mark=key.start_mark)
                lines[key.value] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        count += sum(_check_node(each, inside, sizes) for each in node.value)
    else:
        _check_scalar(node)
    if count > MAX_NODES:
        raise yaml.MarkedYAMLError(problem=f"aliases make more than {MAX_NODES:,} values", problem_mark=node.start_mark)
    sizes[id(node)] = count
    return count


def _check_scalar(node: yaml.Node) -> None:
    """Raise MarkedYAMLError for a number or a date that there is not: PyYAML raises whatever comes."""
    try:
        yaml.SafeLoader("").construct_object(node)
    except yaml.YAMLError:
        raise
    except Exception:
        shown = node.value if len(node.value) <= _SHOWN else f"{node.value[:_SHOWN]}..."
        kind = node.tag.rpartition(":")[2]
        raise yaml.MarkedYAMLError(problem=f"{shown!r} is no {kind}", problem_mark=node.start_mark) from None


def device_of(
    given: Device | Given | None = None,
    gflops: float | None = None,
    network: str | None = None,
    cost_model: CostModel | None = None,
) -> Device:
    """A device from a preset's name, a YAML file, a mapping with the file's keys, or its speed alone.

    ``network`` is the one that it shall run: some devices have a speed for each. ``cost_model`` says what counts where
    a file has both a speed and measured times of layers (default: the times).

    Raises:
        InputError: an unknown name (the nearest are named), an unusable file, a speed that is not above 0, or not known
            for the network, or not exactly one of the two first arguments.
    """
    chosen = _one_of("device", given, {"gflops": gflops})
    return chosen if isinstance(chosen, Device) else one_device(chosen, network, cost_model)


def server_of(
    given: Server | Given | None = None,
    gflops: float | None = None,
    network: str | None = None,
    cost_model: CostModel | None = None,
    load: float | None = None,
) -> Server:
    """A server, as :func:`device_of` finds a device.

    ``load``, where it is given, goes before that of the file: beside other work all takes 1 + load times as long. A
    :class:`Server` of that many FLOP/s has so many fewer.
    """
    chosen = _one_of("server", given, {"gflops": gflops})
    if load is not None:
        try:
            load = load_factor(load)
        except ValueError as error:
            raise InputError(f"server load: {error}") from None
    if isinstance(chosen, Server):
        return chosen if load is None else replace(chosen, flops_per_s=chosen.flops_per_s / (1 + load))
    return one_server(chosen, network, cost_model, load)


def link_of(
    given: Link | Given | None = None,
    rate_mbps: float | None = None,
    bandwidth_mhz: float | None = None,
    snr_db: float | None = None,
    round_trip_ms: float | None = None,
) -> Link:
    """A link, as :func:`device_of` finds a device; its numbers are a rate, or bandwidth and SNR together.

    ``round_trip_ms``, where it is given, goes before the link's own.
    """
    numbers = {"rate_mbps": rate_mbps, "bandwidth_mhz": bandwidth_mhz, "snr_db": snr_db}
    chosen = _one_of("link", given, numbers)
    link = chosen if isinstance(chosen, Link) else one_link(chosen)
    return link if round_trip_ms is None else replace(link, round_trip_s=round_trip_of(round_trip_ms))


def round_trip_of(milliseconds: float) -> float:
    """A round trip in seconds.

    Raises:
        InputError: a time that is negative, or no number.
    """
    try:
        return _milliseconds(milliseconds) / 1e3
    except ValueError as error:
        raise InputError(f"round trip: {error}") from None


class ScenarioNumbers(TypedDict, total=False):
    """What a :class:`Scenario` takes in numbers.

    ``device_gflops``, ``server_gflops``: speeds in 1e9 FLOP/s. ``rate_mbps``: uplink rate in 1e6 bit/s;
    ``bandwidth_mhz`` and ``snr_db``: the same by Shannon's formula. ``round_trip_ms``: what crossing the link takes
    besides, in 1e-3 s (default: the link's own, 0 for the paper's). ``server_load``: beside its other work all that the
    server computes takes 1 + that as long (default: the file's own, else 0). ``cost_model``: ``flops``, operations over
    a speed, ``layers``, measured times of layers, or ``profile``, measured halves of the network, where a file has
    several (default: the last of these that it has). ``max_loss``: allowed loss of accuracy, a share (default 0.02).
    ``confidence``: how sure it must be that an answer keeps to the bound (default 0.9; None or 0: predictions as they
    are).
    """

    device_gflops: float | None
    server_gflops: float | None
    rate_mbps: float | None
    bandwidth_mhz: float | None
    snr_db: float | None
    round_trip_ms: float | None
    server_load: float | None
    cost_model: CostModel | None
    max_loss: float
    confidence: float | None


class ScenarioOptions(ScenarioNumbers, total=False):
    """What decides a :class:`Scenario`: device, server and link each by name, file or object, or by their numbers.

    ``device``, ``server``, ``link``: a preset's name, a YAML file, a mapping with the file's keys, or the object.
    """

    device: Device | Given | None
    server: Server | Given | None
    link: Link | Given | None


def resolve(*, network: str | None = None, **options: Unpack[ScenarioOptions]) -> Scenario:
    """One scenario of ``network`` from names, files, objects or numbers (see :class:`ScenarioOptions`).

    Raises:
        InputError: the first of them that cannot be used.
    """
    max_loss, confidence = options.get("max_loss", 0.02), options.get("confidence", DEFAULT_CONFIDENCE) or None
    check_max_loss(max_loss)
    if confidence is not None:
        check_confidence(confidence)
    cost_model = options.get("cost_model")
    if cost_model is not None:
        check_name("cost model", cost_model, get_args(CostModel))
    device = device_of(options.get("device"), options.get("device_gflops"), network, cost_model)
    server = server_of(
        options.get("server"), options.get("server_gflops"), network, cost_model, options.get("server_load")
    )
    check_measured("cost model", cost_model, (device.times, server.times))
    return Scenario(
        device=device,
        server=server,
        link=link_of(
            options.get("link"),
            options.get("rate_mbps"),
            options.get("bandwidth_mhz"),
            options.get("snr_db"),
            options.get("round_trip_ms"),
        ),
        max_loss=max_loss,
        confidence=confidence,
    )


def check_measured(where: str, cost_model: CostModel | None, times: Sequence[SideTimes | None]) -> None:
    """Raise InputError where a cost model is asked for that none of the sides' ``times`` has."""
    if cost_model == "layers" and not any(times):
        raise InputError(
            f"{where}: layers needs a device or a server with layer_seconds; give a file as `coinfer profile` writes it"
        )
    if cost_model == "profile" and not any(isinstance(each, MeasuredSide) for each in times):
        raise InputError(
            f"{where}: profile needs a device or a server with network_seconds; give a file as "
            "`coinfer profile --network NAME` writes it"
        )


def _one_of(what: str, given: T | None, numbers: Mapping[str, float | None]) -> T | dict[str, float]:
    """The named thing or the numbers that describe one, whichever was given."""
    known = {name: value for name, value in numbers.items() if value is not None}
    if given is None and not known:
        raise InputError(f"{what}: missing; give a name, a YAML file, or numbers ({', '.join(numbers)})")
    if given is not None and known:
        raise InputError(f"{what}: {given} and {', '.join(known)} were both given; give one of them")
    return known if given is None else given


def read_grid(path: str | Path) -> Grid:
    """Read a grid file (the project's interface shows one).

    Raises:
        InputError: the file cannot be read, or the first thing wrong in it with its key path.
    """
    return parse_grid(read_yaml(path), str(path))


def parse_grid(document: Any, where: str = "grid", changed: Mapping[str, Any] | None = None) -> Grid:
    """Validate a grid file's document; ``where`` names it in errors.

    ``changed`` has keys to take in place of the document's own, before anything is checked: an objective that is not
    asked for need not have the powers that it needs.

    Raises:
        InputError: the first thing wrong, with its key path.
    """
    document = _plain(document)
    if isinstance(document, dict):
        document |= changed or {}
        if "confidence" in document:  # two words for one thing: what was begun with the one goes on with the other
            given = document["confidence"]
            document["confidence"] = [*map(_none_for_0, given)] if isinstance(given, list) else _none_for_0(given)
        for axis in ("device", "server", "link"):
            if isinstance(document.get(axis), list):
                document[axis] = [_opened(item) for item in document[axis]]
    file = _validated(GridFile, document, where)
    twice = next((name for position, name in enumerate(file.model) if name in file.model[:position]), None)
    if twice is not None:
        raise InputError(f"{where}: model: {twice} stands there twice; name every network once")
    grid = Grid(
        models=tuple(file.model),
        device=_joined([item.axis(file.model, file.cost_model) for item in file.device]),
        server=_joined([item.axis(file.model, file.cost_model, file.server_load) for item in file.server]),
        link=_joined([item.axis() for item in file.link]),
        max_loss=np.array(file.max_loss),
        confidence=np.array(file.confidence),
        seed=file.seed,
        cuts=file.cuts,
        document=document,
        objective=file.objective,
    )
    if grid.objective == "energy":
        grid.check_powers()
    check_measured(f"{where}: cost_model", file.cost_model, (*grid.device.times.values(), *grid.server.times.values()))
    if len(grid.models) * grid.per_model > MAX_SCENARIOS:
        raise InputError(f"{where}: {len(grid.models) * grid.per_model:,} scenarios; at most {MAX_SCENARIOS:,}")
    return grid if file.round_trip_ms is None else grid.with_round_trip(file.round_trip_ms / 1e3)


def one_device(given: Any, network: str | None = None, cost_model: CostModel | None = None) -> Device:
    """A single device from a name, a YAML file or a mapping; the rest as in :func:`device_of`."""
    item = _one("device", DeviceItem, given)
    speed = item.speeds(() if network is None else (network,), cost_model).item()
    return Device(item.label(), speed, item.compute_w, item.radio_w, item.idle_w, item.times(cost_model))


def one_server(
    given: Any, network: str | None = None, cost_model: CostModel | None = None, load: float | None = None
) -> Server:
    """A single server from a name, a YAML file or a mapping; the rest as in :func:`server_of`."""
    item = _one("server", ServerItem, given)
    speed = item.loaded_speeds(() if network is None else (network,), cost_model, load).item()
    return Server(item.label(), speed, item.per_crossing_ms / 1e3, item.times(cost_model))


def one_link(given: Any) -> Link:
    """A single link from a name, a YAML file or a mapping."""
    item = _one("link", LinkItem, given)
    axis = item.axis()
    snr_db = None if item.snr_db is None else item.snr_db[0]
    columns = axis.columns
    radio = None if item.radio is None else RadioPower(**item.radio.model_dump())
    return Link(axis.labels[0], float(columns["rate_bps"][0]), snr_db, float(columns["round_trip_s"][0]), radio)


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


def _none_for_0(value: Any) -> Any:
    return None if value == 0 and not isinstance(value, bool) else value


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
    said = first.get("ctx", {})
    match first["type"]:
        case "value_error":
            complaint = str(first["ctx"]["error"])
            for what in ("device: ", "server: ", "link: "):  # the path says so already
                complaint = complaint.removeprefix(what)
        case "missing":
            complaint = "is missing"
        case "extra_forbidden":
            complaint = _unknown_key(str(first["loc"][-1]), _schema_at(schema, first["loc"][:-1]))
        case "model_type" | "model_attributes_type":
            complaint = f"must be a mapping with the keys {_keys(_schema_at(schema, first['loc']))}"
        case "dict_type":
            complaint = "must be a mapping"
        case "too_short" if said["field_type"] == "Dictionary":
            complaint = "must be a mapping with at least one entry"
        case "list_type" | "too_short":
            complaint = "must be a list with at least one entry"
        case "too_long":
            complaint = f"has {said['actual_length']} entries; {said['max_length']} are right"
        case "literal_error":
            known = said["expected"].replace("'", "").replace(" or ", ", ")
            complaint = f"{_shown(first['input'])} is unknown; known: {known}"
        case "int_type" | "int_parsing" | "int_from_float":
            complaint = f"{_shown(first['input'])} must be a whole number"
        case "float_type" | "float_parsing":
            complaint = f"{_shown(first['input'])} must be a number"
        case "greater_than_equal":
            complaint = f"{_shown(first['input'])} must be at least {said['ge']}"
        case "less_than":
            complaint = f"{_shown(first['input'])} must be below {said['lt']}"
    return ": ".join(part for part in (where, path, complaint) if part)


def _unknown_key(key: str, schema: type[BaseModel]) -> str:
    """What is right there, and where else the key would be."""
    owners = [f"{item.what}s" for item in (DeviceItem, ServerItem, LinkItem) if key in item.model_fields]
    elsewhere = f"; {key} is a key of {' and '.join(owners)}" if owners else ""
    return f"unknown key; known: {_keys(schema)}{elsewhere}"


def _schema_at(schema: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    """The schema of the mapping that stands there."""
    inside: dict[int | str, type[BaseModel]] = {
        "device": DeviceItem,
        "server": ServerItem,
        "link": LinkItem,
        "layer_seconds": LayerSeconds,
        "network_seconds": NetworkSeconds,
        "radio": Radio,
    }
    return next((inside[part] for part in reversed(location) if part in inside), schema)


def _joined(parts: list[Axis]) -> Axis:
    """One axis from its items; items of the same name share a label."""
    labels = tuple(dict.fromkeys(part.labels[0] for part in parts))
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])]).tolist()
    return Axis(
        labels,
        np.concatenate([np.full(len(part), labels.index(part.labels[0]), dtype=np.int32) for part in parts]),
        {name: _side_by_side([part.columns[name] for part in parts]) for name in parts[0].columns},
        {first + row: times for first, part in zip(starts, parts, strict=True) for row, times in part.times.items()},
        {name: np.concatenate([part.powers[name] for part in parts]) for name in parts[0].powers},
    )


def _side_by_side(columns: list[np.ndarray]) -> np.ndarray:
    """Columns (n,) as one; where some are (networks, n), all of them so."""
    networks = max((len(column) for column in columns if column.ndim == 2), default=0)
    if not networks:
        return np.concatenate(columns)
    return np.concatenate([np.broadcast_to(column, (networks, column.shape[-1])) for column in columns], axis=1)
