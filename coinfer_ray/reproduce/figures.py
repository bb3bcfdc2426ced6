"""The evaluation's figures and tables, from the rows of :mod:`coinfer_ray.reproduce.rows`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from statistics import median

from coinfer_ray.methods.proposed import Proposed
from coinfer_ray.methods.prune_partition import PrunePartition
from coinfer_ray.methods.registry import METHODS
from coinfer_ray.report.model import Cell, Column, Figure, Grid, Series, TableView
from coinfer_ray.reproduce.claims import (
    CLAIMS,
    PARTITION_CLAIMS,
    by_scenario,
    claim_cells,
    partition_ratios,
    ratios,
)
from coinfer_ray.reproduce.rows import SETTINGS, Row, Setting

NETWORKS = {"alexnet": "AlexNet", "regnet_x_400mf": "RegNetX-400MF"}
NUMBERS = {"alexnet": (7, 9), "regnet_x_400mf": (8, 10)}  # the paper's figures over the rate, and at one place


def network(model: str) -> str:
    """The network's name as people write it."""
    return NETWORKS.get(model, model)


def titles(rows: Iterable[Row]) -> list[str]:
    """The methods of ``rows`` in the order of the registry."""
    there = {row.title for row in rows}
    return [method.title for method in METHODS.values() if method.title in there]


def hover(row: Row) -> str:
    """A point's lines for the pointer."""
    behind = "the network as it is"
    if row.accuracy is not None and row.base_accuracy is not None and row.accuracy != row.base_accuracy:
        count = row.trainings
        how = f"measured in {count} training{'s' * (count > 1)}" if count else "predicted"
        behind = f"loses {100 * (row.base_accuracy - row.accuracy):.2f} points ({how})"
    bits = f", {row.bits} bits a value" if row.bits != 32 else ""
    return (
        f"{row.title}: {1e3 * row.latency_s:,.4g} ms\n"
        f"device {1e3 * row.device_s:,.4g}, link {1e3 * row.uplink_s:,.4g}, server {1e3 * row.server_s:,.4g} ms\n"
        f"cut after {row.cut_after}{bits}\n{behind}"
    )


def partition_figure(rows: Sequence[Row], command: str) -> Figure:
    """Fig. 6: the plain methods by device and link."""
    return Figure(
        name="fig6-partition",
        title="Fig. 6: where to cut AlexNet as it is",
        caption="AlexNet at 224 pixels, cut within. Nothing is pruned or compressed, so nothing needs to be trained: "
        "this figure is the paper's own, and says that FLOPs, features and cuts are counted as it counts them.",
        command=command,
        kind="bars",
        x_label="link",
        y_label="latency (ms)",
        y_log=True,
        series=[
            Series(
                label=title,
                x=[row.link for row in own],
                y=[1e3 * row.latency_s for row in own],
                text=[hover(row) for row in own],
                panel=device,
                filters={"device": device, "link": [row.link for row in own], "method": title},
            )
            for device in _each(row.device for row in rows)
            for title in titles(rows)
            if (own := [row for row in rows if row.device == device and row.title == title])
        ],
    )


def partition_table(rows: Sequence[Row], command: str) -> TableView:
    """The ratios of Fig. 6 beside those that the paper prints."""
    cells = []
    for (device, link), (local, server, cut) in partition_ratios(rows).items():
        theirs = PARTITION_CLAIMS.get((device, link), (None, None))
        cells.append([device, link, cut, _times(local), _times(theirs[0]), _times(server), _times(theirs[1])])
    return TableView(
        title="Partition's gain, ours and the paper's",
        caption="How many times as long All_Local and All_Server take as the best cut. A dash: the paper prints none.",
        command=command,
        columns=[
            Column("device"),
            Column("link"),
            Column("cut after"),
            Column("All_Local", numeric=True),
            Column("in the paper", numeric=True),
            Column("All_Server", numeric=True),
            Column("in the paper ", numeric=True),
        ],
        rows=cells,
        filters={"device": "device", "link": "link"},
    )


def rate_figure(rows: Sequence[Row], model: str, setting: Setting, command: str) -> Figure:
    """Figs. 7 and 8: latency over the uplink rate, a panel for each device."""
    return Figure(
        name=f"fig{NUMBERS[model][0]}-{setting.name}",
        title=f"Fig. {NUMBERS[model][0]}: {network(model)} over the uplink rate, {setting.title}",
        caption="Latency of every method, each with the fastest of its strategies that keeps the loss within 2 points "
        "with confidence 0.9. " + _verified(rows),
        command=command,
        kind="line",
        x_label="uplink rate (Mb/s)",
        y_label="latency (ms)",
        x_log=True,
        y_log=True,
        series=_curves(rows, lambda row: row.rate_mbps),
    )


def place_figure(rows: Sequence[Row], model: str, setting: Setting, command: str) -> Figure:
    """Figs. 9 and 10: what computing and what sending takes, for one device and link."""
    own = {title: [row for row in rows if row.title == title] for title in titles(rows)}
    return Figure(
        name=f"fig{NUMBERS[model][1]}-{setting.name}",
        title=f"Fig. {NUMBERS[model][1]}: {network(model)}, computing against sending, {setting.title}",
        caption="A Raspberry Pi 3B+ on 4G beside a P100. Toward the lower left is better. " + _verified(rows),
        command=command,
        kind="points",
        x_label="sending (ms)",
        y_label="computing (ms)",
        y_log=True,
        series=[
            _series(
                title,
                mine,
                [1e3 * row.uplink_s for row in mine],
                [1e3 * (row.device_s + row.server_s) for row in mine],
                "",
            )
            for title, mine in own.items()
        ],
    )


def loss_figure(rows: Sequence[Row], model: str, setting: Setting, command: str) -> Figure:
    """Latency against the loss that is allowed."""
    return Figure(
        name=f"loss-{model.replace('_', '-')}-{setting.name}",
        title=f"{network(model)}: what a point of accuracy buys, {setting.title}",
        caption="Latency on 4G against the loss that is allowed. " + _verified(rows),
        command=command,
        kind="line",
        x_label="loss that is allowed (points)",
        y_label="latency (ms)",
        y_log=True,
        series=_curves(rows, lambda row: 100 * row.max_loss),
    )


def winner_figure(rows: Sequence[Row], setting: Setting, command: str) -> Figure:
    """Who is fastest where: device speed by uplink rate, a panel for each network."""
    grids = []
    for model in _each(row.model for row in rows):
        cells: dict[tuple[float, float], str] = {}
        speeds = _speeds([row for row in rows if row.model == model])
        for methods in by_scenario(row for row in rows if row.model == model).values():
            # Of equals the first of the registry is named: a plain cut before a method that ends there too.
            best = min(row.latency_s for row in methods.values())
            first = next(row for row in methods.values() if row.latency_s <= best * (1 + 1e-9))
            cells[speeds[first.device], first.rate_mbps] = first.title
        x, y = sorted({rate for _, rate in cells}), sorted({speed for speed, _ in cells})
        z = [[cells.get((speed, rate)) for rate in x] for speed in y]
        grids.append(Grid(x=x, y=y, z=z, panel=network(model), filters={"network": network(model)}))
    return Figure(
        name=f"winners-{setting.name}",
        title=f"Who is fastest where, {setting.title}",
        caption="The method of least latency at 2 points, by device speed and uplink rate, beside a P100. Where "
        "several end with the same strategy the simplest is named.",
        command=command,
        kind="heat",
        x_label="uplink rate (Mb/s)",
        y_label="device speed (GFLOPS)",
        x_log=True,
        y_log=True,
        grids=grids,
    )


def claims_table(rows: Sequence[Row], command: str) -> TableView:
    """The paper's claims on Figs. 7, 8 and 11 beside ours, in the paper's setting."""
    return TableView(
        title="The paper's claims",
        caption="How many times as long the other methods take: least and greatest over the links of the figure. "
        "Below 1 another method is faster somewhere. JALAD, early exits and DADS, which the paper does not compare "
        "with, do not count here.",
        command=command,
        columns=[
            Column("figure"),
            Column("network"),
            Column("device"),
            Column("against"),
            Column("the paper"),
            Column("here", strong=True),
            Column("why they may differ"),
        ],
        rows=[[claim[0], network(claim[1]), *claim[2:]] for claim in (claim_cells(each, rows) for each in CLAIMS)],
        filters={"network": "network", "device": "device"},
    )


def wins_table(rows: Sequence[Row], command: str) -> TableView:
    """In how many scenarios the proposed method is fastest, and by how much it wins and loses."""
    cells: list[Sequence[str | float | Cell | None]] = []
    for setting in SETTINGS:
        for model in _each(row.model for row in rows):
            for device, noisy in product(_each(row.device for row in rows), (False, True)):
                where = setting.name, model, device, noisy
                own = [row for row in rows if (row.setting, row.model, row.device, row.snr_db is not None) == where]
                found = ratios(own)
                if not found.runner_up:
                    continue
                count = len(found.runner_up)
                share = Cell(f"{found.won} of {count}", found.won / count)
                published = ratios(own, without=(PrunePartition.name,)).runner_up
                spread = [_times(value) for gains in (found.runner_up, published) for value in _spread(gains)]
                link = "noisy" if noisy else "noise-free"
                cells.append([setting.title, network(model), device, link, share, *spread, _rival(own)])
    return TableView(
        title="How often the proposed method is fastest",
        caption="Over the links of Figs. 7, 8 and 11: scenarios in which nothing is faster (an equal cut counts), "
        "and the runner-up's latency over its own, least, median and greatest; the runner-up among the published "
        "methods is the best but for Prune_Partition, which is this framework without its codec. Rival: what is most "
        "often faster where it is not fastest.",
        command=command,
        columns=[
            Column("setting"),
            Column("network"),
            Column("device"),
            Column("link"),
            Column("fastest", numeric=True, strong=True),
            Column("least", numeric=True),
            Column("median", numeric=True),
            Column("greatest", numeric=True),
            Column("published: least", numeric=True),
            Column("median ", numeric=True),
            Column("greatest ", numeric=True),
            Column("rival"),
        ],
        rows=cells,
        filters={"network": "network", "device": "device"},
    )


def links_table(rows: Sequence[Row], model: str, setting: Setting, command: str) -> TableView:
    """Methods by scenarios: latencies of the paper's devices and links."""
    names = titles(rows)
    cells: list[Sequence[str | float | Cell | None]] = []
    for methods in by_scenario(rows).values():
        by_title = {row.title: row for row in methods.values()}
        one = next(iter(by_title.values()))
        best = min(row.latency_s for row in by_title.values())
        line: list[str | float | Cell | None] = [one.device, one.link]
        for title in names:
            row = by_title.get(title)
            value = None if row is None else 1e3 * row.latency_s
            fastest = row is not None and row.latency_s <= best * (1 + 1e-9)
            line.append(None if value is None else Cell(f"{value:,.4g}", value, strong=fastest))
        cells.append(line)
    return TableView(
        title=f"{network(model)}: every method on the paper's devices and links, {setting.title}",
        caption="Latency in ms at a loss of 2 points; the fastest in bold.",
        command=command,
        columns=[
            Column("device"),
            Column("link"),
            *(Column(name, numeric=True, filters={"method": name}, strong=name == Proposed.title) for name in names),
        ],
        rows=cells,
        filters={"device": "device", "link": "link"},
    )


def _curves(rows: Sequence[Row], x: Callable[[Row], float]) -> list[Series]:
    """Latency of every method over ``x``, a panel for each device."""
    return [
        _series(title, own, [x(row) for row in own], [1e3 * row.latency_s for row in own], device)
        for device in _each(row.device for row in rows)
        for title in titles(rows)
        if (own := [row for row in rows if row.device == device and row.title == title])
    ]


def _series(title: str, rows: Sequence[Row], x: Sequence[float], y: Sequence[float], panel: str) -> Series:
    filters = {"network": network(rows[0].model), "device": rows[0].device, "method": title}
    return Series(
        label=title,
        x=list(x),
        y=list(y),
        text=[hover(row) for row in rows],
        verified=[row.verified for row in rows],
        panel=panel,
        filters=filters,
    )


def _verified(rows: Sequence[Row]) -> str:
    if all(row.verified for row in rows):
        return "Every point was really trained, or is the network as it is."
    return "What was not trained is drawn hollow."


def _rival(rows: Sequence[Row]) -> str:
    """The method that is most often strictly faster than the proposed one."""
    faster: dict[str, int] = {}
    for methods in by_scenario(rows).values():
        if Proposed.name not in methods:
            continue
        best = min(methods.values(), key=lambda row: row.latency_s)
        if best.latency_s < methods[Proposed.name].latency_s * (1 - 1e-9):
            faster[best.title] = faster.get(best.title, 0) + 1
    return max(faster, key=lambda title: faster[title]) if faster else "none"


def _speeds(rows: Sequence[Row]) -> dict[str, float]:
    """Device speeds in GFLOPS by the name that a device given by its speed alone has."""
    return {row.device: float(row.device.split()[0]) for row in rows}


def _each(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _times(value: float | None) -> Cell | None:
    return None if value is None else Cell(f"{value:,.3g}\u00d7", value)


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Least, median and greatest."""
    return min(values), median(values), max(values)
