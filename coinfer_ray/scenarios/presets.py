"""Devices, servers and links by name, each with where its numbers come from: what ``coinfer devices`` lists.

The paper's stay what they are in the paper, and its reproduction rests on them: speeds that a data sheet or a guess
gives. Those named ``...-ncnn`` are measured: times of whole networks, batch 1, from ncnn's published benchmark. A
network has a speed of its own on each of them, its operations over its time (AlexNet's fully connected layers wait for
memory, RegNet's many small ones for the processor), so one that was not measured is refused, not guessed. Links named
``...-typical`` have a round trip beside their rate; the paper's have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from coinfer_ray.scenarios.scenario import DEVICE_FLOPS_PER_S, LINK_RATE_BPS, SERVER_FLOPS_PER_S, RadioPower

Kind = Literal["device", "server", "link"]


@dataclass(frozen=True)
class Preset:
    """One name, and what stands behind it.

    ``gflops``: one speed for all networks (1e9 FLOP/s); ``gflops_by_network``: one for each that was measured.
    ``rate_mbps`` (1e6 bit/s) and ``round_trip_ms`` (1e-3 s) are a link's. ``date``: year, or year and month, of the
    source. ``note``: what the numbers leave open. ``compute_w`` and ``idle_w`` (W) are what a board draws at the wall
    with all of its cores at work, and waiting; ``radio`` is what sending draws; ``power_source`` says who measured
    them.
    """

    kind: Kind
    name: str
    title: str
    source: str
    date: str
    gflops: float | None = None
    gflops_by_network: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    rate_mbps: float | None = None
    round_trip_ms: float | None = None
    note: str = ""
    compute_w: float | None = None
    idle_w: float | None = None
    radio: RadioPower | None = None
    power_source: str = ""

    def item(self) -> dict[str, Any]:
        """The preset as an entry of a grid file."""
        numbers: dict[str, Any] = {"gflops": self.gflops, "gflops_by_network": dict(self.gflops_by_network) or None}
        if self.kind == "link":
            radio = None if self.radio is None else asdict(self.radio)
            numbers = {"rate_mbps": self.rate_mbps, "round_trip_ms": self.round_trip_ms, "radio": radio}
        numbers |= {"compute_w": self.compute_w, "idle_w": self.idle_w}
        return {key: value for key, value in numbers.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """What ``coinfer devices --json`` prints of it."""
        about = {"title": self.title, "source": self.source, "date": self.date, "note": self.note or None}
        power = {"power_source": self.power_source} if self.power_source else {}
        return {"name": self.name, **self.item(), **about, **power}


_PAPER = "L. Mu, IEEE Internet of Things Journal 11(4), 2024, Table {}"
_PAPER_DEVICES = {"rpi3b+": "Raspberry Pi 3B+", "rpi4b": "Raspberry Pi 4B", "tk1": "NVIDIA Jetson TK1"}
_PEAK = "a peak of the data sheet: what runs at batch 1 is far slower"
_PAPER_NOTES = {"rpi3b+": "27 to 46 times slower than measured with ncnn", "rpi4b": "4 to 6 times slower than measured"}
_PAPER_LINKS = {"3g": "3G", "4g": "4G", "5g": "5G", "wifi": "Wi-Fi"}

# GFLOP of the networks that ncnn's benchmark runs, at 224 pixels (AlexNet: 227), a product and a sum as two.
_NCNN_GFLOP = {"alexnet": 1.45, "regnet_y_400mf": 0.81, "resnet18": 3.64, "resnet50": 8.2}
# The network whose speed stands for another that was not measured: the same stages, without squeeze-and-excitation.
_STANDS_FOR = {"regnet_x_400mf": "regnet_y_400mf"}
_NCNN = "Tencent/ncnn, benchmark/README.md: least time of a run, batch 1"
_NCNN_DATE = "2026-07"
_NCNN_NOTE = "RegNetX-400MF by RegNetY-400MF; entries are of several versions of ncnn, so ratios of boards are rough"
# Milliseconds of AlexNet, RegNetY-400MF, ResNet-18, ResNet-50.
_NCNN_MS: tuple[tuple[Kind, str, str, tuple[float, float, float, float]], ...] = (
    ("device", "rpizero2w", "Raspberry Pi Zero 2 W, 4 threads", (271.2, 156.5, 351, 777)),
    ("device", "rpi3b+", "Raspberry Pi 3B+, 4 threads", (157.8, 118.6, 271, 584)),
    ("device", "rpi3b+-1thread", "Raspberry Pi 3B+, 1 thread", (270.1, 186.9, 379, 978)),
    ("device", "rpi4b", "Raspberry Pi 4B 1.8 GHz, 4 threads", (75.8, 65.3, 122, 262)),
    ("device", "rpi4b-1thread", "Raspberry Pi 4B 1.8 GHz, 1 thread", (139.3, 105.4, 191, 533)),
    ("device", "rpi5", "Raspberry Pi 5, 4 threads", (21.2, 10.9, 19.8, 45.9)),
    ("device", "rpi5-1thread", "Raspberry Pi 5, 1 thread", (35.2, 16.4, 29.5, 89)),
    ("device", "rk3588", "Rockchip RK3588, 4 threads (A76)", (19.8, 8.6, 15.0, 28.1)),
    ("device", "jetson-nano", "NVIDIA Jetson Nano, GPU (Vulkan)", (74.0, 17.9, 44.0, 93.1)),
    ("device", "jetson-nano-cpu", "NVIDIA Jetson Nano, 4 threads", (89.2, 56.7, 83.1, 203)),
    ("device", "jetson-tx2-nx", "NVIDIA Jetson TX2 NX, GPU (Vulkan)", (20.2, 8.9, 12.3, 30.0)),
    ("device", "jetson-orin-nano", "NVIDIA Jetson Orin Nano, GPU (Vulkan)", (8.6, 7.2, 4.7, 9.1)),
    ("device", "jetson-orin-nano-cpu", "NVIDIA Jetson Orin Nano, 6 threads", (12.3, 14.0, 12.3, 38.7)),
    ("device", "jetson-agx-orin", "NVIDIA Jetson AGX Orin, GPU (Vulkan)", (3.2, 3.3, 3.2, 4.8)),
    ("device", "snapdragon835", "Snapdragon 835, 4 threads", (64.2, 42.5, 73.6, 188)),
    ("device", "snapdragon855+", "Snapdragon 855+, 4 threads", (11.9, 7.9, 10.3, 26.2)),
    ("device", "snapdragon8gen2", "Snapdragon 8 Gen 2, 4 threads", (8.2, 6.2, 6.6, 18.9)),
    ("device", "dimensity9300", "Dimensity 9300, 8 threads", (6.0, 4.9, 5.4, 15.2)),
    ("server", "v100", "NVIDIA Tesla V100 (Vulkan)", (1.33, 2.38, 1.76, 3.42)),
    ("server", "rtx3060ti", "NVIDIA RTX 3060 Ti (Vulkan)", (1.10, 1.86, 1.14, 2.0)),
    ("server", "rtx3090", "NVIDIA RTX 3090 (Vulkan)", (0.86, 1.53, 0.90, 1.5)),
)


# Watts of a board at the wall: four cores at work, and idle.
_BOARD_W = {"rpi3b+": (5.1, 1.9), "rpi4b": (6.4, 2.7)}
_BOARDS = "J. Geerling, pidramble.com, Power consumption benchmarks: whole board"


def _of_ncnn(kind: Kind, name: str, title: str, milliseconds: tuple[float, ...]) -> Preset:
    """The preset of one row of ncnn's benchmark."""
    speeds = {network: gflop / ms * 1e3 for (network, gflop), ms in zip(_NCNN_GFLOP.items(), milliseconds, strict=True)}
    speeds |= {network: speeds[measured] for network, measured in _STANDS_FOR.items()}
    compute_w, idle_w = _BOARD_W.get(name, (None, None))
    return Preset(
        kind,
        f"{name}-ncnn",
        title,
        _NCNN,
        _NCNN_DATE,
        gflops_by_network=speeds,
        note=_NCNN_NOTE,
        compute_w=compute_w,
        idle_w=idle_w,
        power_source=_BOARDS if name in _BOARD_W else "",
    )


_HUANG = "J. Huang et al., MobiSys 2012, one handset of that year; the range is chosen low"
_RADIO_3G = RadioPower(base_w=0.81788, w_per_mbps=0.86898, up_to_mbps=1.5)
_RADIO_LTE = RadioPower(base_w=1.28804, w_per_mbps=0.43839, up_to_mbps=6.0)  # the median uplink of that study
_RADIO_WIFI = RadioPower(base_w=0.13286, w_per_mbps=0.28317, up_to_mbps=6.0)
_RATES = "rates: A. E. Eshratifar et al., BottleNet, arXiv 1902.01000 (2019); "
_HPBN = "I. Grigorik, High Performance Browser Networking (2013), Table 7-2"
_CODAVEL = "Codavel, Performance report: defining use cases (blog.codavel.com)"
PRESETS: tuple[Preset, ...] = (
    *(
        Preset(
            "device",
            name,
            _PAPER_DEVICES[name],
            _PAPER.format("II"),
            "2024",
            gflops=speed / 1e9,
            note=_PAPER_NOTES.get(name, _PEAK),
        )
        for name, speed in DEVICE_FLOPS_PER_S.items()
    ),
    *(
        Preset("server", name, "NVIDIA Tesla P100", _PAPER.format("II"), "2024", gflops=speed / 1e9, note=_PEAK)
        for name, speed in SERVER_FLOPS_PER_S.items()
    ),
    *(
        Preset("link", name, title, _PAPER.format("III"), "2024", rate_mbps=rate / 1e6, note="no round trip is counted")
        for (name, rate), title in zip(LINK_RATE_BPS.items(), _PAPER_LINKS.values(), strict=True)
    ),
    *(_of_ncnn(*row) for row in _NCNN_MS),
    Preset(
        "link",
        "3g-typical",
        "3G with its round trip",
        f"{_RATES}round trip: {_HPBN}, 100 to 500 ms",
        "2013",
        rate_mbps=1.1,
        round_trip_ms=200.0,
        note="networks differ by a factor of 5",
        radio=_RADIO_3G,
        power_source=_HUANG,
    ),
    Preset(
        "link",
        "4g-typical",
        "4G with its round trip",
        f"{_RATES}round trip: {_CODAVEL}, 25 to 50 ms; {_HPBN}, below 100 ms",
        "2019",
        rate_mbps=5.85,
        round_trip_ms=50.0,
        note="to a server in the operator's country",
        radio=_RADIO_LTE,
        power_source=_HUANG,
    ),
    Preset(
        "link",
        "wifi-typical",
        "Wi-Fi with its round trip",
        f"{_RATES}round trip: {_CODAVEL}, 10 to 25 ms",
        "2019",
        rate_mbps=18.88,
        round_trip_ms=10.0,
        note="a server in the same house is nearer",
        radio=_RADIO_WIFI,
        power_source=_HUANG,
    ),
)


def presets_of(kind: Kind) -> dict[str, Preset]:
    """The presets of one kind by name."""
    return {preset.name: preset for preset in PRESETS if preset.kind == kind}
