"""A made-up page with every kind of figure, a table, and every filter."""

from __future__ import annotations

from coinfer_ray.report.model import Cell, Column, Figure, Grid, Note, Page, Section, Series, TableView

DEVICES = ("rpi3b+", "rpi4b", "tk1")
LINKS = ("3g", "4g", "5g", "wifi")
METHODS = ("All_Local", "All_Server", "Neurosurgeon", "JALAD", "Two-step", "Bottleneck", "Learned", "coinfer")
RATES = tuple(0.01 * 10 ** (i / 8) for i in range(33))
SPEEDS = tuple(0.1 * 10 ** (i / 6) for i in range(25))


def latency(method: int, device: int, rate: float) -> float:
    """Milliseconds, of no network that there is."""
    return (900 / 15**device) ** (0.55 + method % 3 / 5) * (1 + (30 - 3.5 * method) / rate**0.7) / (1 + method / 4)


def every_kind() -> Page:
    """The page; its numbers mean nothing."""
    command = "coinfer reproduce --figure {} --model alexnet --device rpi3b+ --server p100 --link 3g --max-loss 0.02"
    curves = [
        Series(
            name,
            RATES,
            [latency(m, d, rate) for rate in RATES],
            [f"cut after conv{i % 5 + 1}" for i in range(len(RATES))] if name == "coinfer" else None,
            [i % 4 != 1 for i in range(len(RATES))] if name in ("coinfer", "Learned") else None,
            device,
            {"device": device, "method": name, "bound": "0.02"},
        )
        for d, device in enumerate(DEVICES)
        for m, name in enumerate(METHODS)
    ]
    dots = [
        Series(
            name,
            [latency(m, d, 1.2 * 4**i) for i in range(len(LINKS))],
            LINKS,
            verified=[i != 2 for i in range(len(LINKS))] if name == "coinfer" else None,
            panel=device,
            filters={"device": device, "link": LINKS, "method": name},
        )
        for d, device in enumerate(DEVICES)
        for m, name in enumerate(METHODS)
        if m not in (3, 5)
    ]
    notes = [Note(link, f"{1 + d + i / 3:.2f}\u00d7", device) for d, device in enumerate(DEVICES)
             for i, link in enumerate(LINKS)]  # fmt: skip
    bars = [
        Series(
            name,
            ("0.01", "0.02", "0.05"),
            [80 - 3 * m + b for b in range(3)],
            verified=[True, True, m > 1],
            filters={"method": name, "bound": ("0.01", "0.02", "0.05")},
        )
        for m, name in enumerate(("JALAD", "Two-step", "coinfer"))
    ]
    parts = [
        Series(
            name,
            [(20, 30, 50)[p], (70, 20, 10)[p], (5, 85, 10)[p]],
            LINKS[:3],
            panel=device,
            filters={"device": device, "link": LINKS[:3]},
        )
        for device in DEVICES[:2]
        for p, name in enumerate(("device", "uplink", "server"))
    ]
    wins = Grid(RATES, SPEEDS, [[METHODS[min(7, int(abs(j - i) / 5) + (i > 12) * 2)] for j in range(len(RATES))]
                                for i in range(len(SPEEDS))])  # fmt: skip
    gains = [
        Grid(
            RATES,
            SPEEDS,
            [[1 + (i * j % 90) / (20 + 10 * n) for j in range(len(RATES))] for i in range(len(SPEEDS))],
            bound,
            {"bound": bound},
        )
        for n, bound in enumerate(("0.01", "0.05"))
    ]
    places = ("uplink rate (Mb/s)", "device speed (GFLOP/s)")
    figures = [
        Figure("rates", "Latency over the uplink rate", "Lower is faster. Hollow points are predictions that "
               "no training has verified.", command.format("rates"), "line", places[0],
               "latency (ms)", True, True, curves),
        Figure("links", "Latency by link", "To the left is faster; in the margin the gain.", command.format("links"),
               "points", "latency (ms)", "", True, series=dots, notes=notes),
        Figure("accuracy", "Accuracy kept", "At three bounds.", command.format("accuracy"), "bars", "allowed loss",
               "accuracy (%)", series=bars),
        Figure("parts", "Where the time goes", "Shares of the latency.", command.format("parts"), "bars", "share (%)",
               "", series=parts, stacked=True),
        Figure("wins", "Which method is the fastest", "Each area has the colour of its method.", command.format("wins"),
               "heat", *places, True, True, grids=[wins]),
        Figure("gains", "How much faster", "By how much the answer is faster than the best other method.",
               command.format("gains"), "heat", *places, True, True, grids=gains, z_label="times as fast"),
    ]  # fmt: skip
    rows = []
    for d, device in enumerate(DEVICES):
        for i, link in enumerate(LINKS):
            times = [latency(m, d, 1.2 * 4**i) for m in range(len(METHODS))]
            cells = [Cell(f"{time:,.3g}", time, strong=time == min(times)) for time in times[:-1]]
            rows.append([device, link, *cells, None if (d, i) == (2, 1) else times[-1]])
    columns = [Column("device"), Column("link")]
    columns += [Column(name, True, {"method": name}, name == "coinfer") for name in METHODS]
    table = TableView("Latency (ms)", "The fastest of a row is bold.", command.format("table"), columns, rows,
                      {"device": "device", "link": "link"})  # fmt: skip
    return Page(
        "A page of every kind",
        "Pruning, cutting and encoding answer 4.2\u00d7 as fast as the best plain split, within 2 points of accuracy.",
        [
            Section("Against the other methods", "Every method answers the same scenarios.", figures[:3]),
            Section("Why", "", figures[3:]),
            Section("Every number", "", [table]),
        ],
        {"What these numbers rest on": {"records": "none", "a <name> & \"more\"": "</script><b>bold</b>"}},
    )  # fmt: skip
