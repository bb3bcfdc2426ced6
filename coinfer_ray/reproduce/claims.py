"""What the paper claims of its figures, and the same figures of ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from coinfer_ray.methods.all_local import AllLocal
from coinfer_ray.methods.all_server import AllServer
from coinfer_ray.methods.proposed import Proposed
from coinfer_ray.methods.registry import BEYOND_THE_PAPER
from coinfer_ray.reproduce.rows import Row

WHY = {
    "worst": "inputs of 64 px here, 224 px there: features are smaller, so the link weighs less",
    "runner-up": "only what was trained and keeps the bound with a margin counts here, for every method",
    "local": "a network that is cut within has to send something, All_Local nothing",
    "server": "at high rates All_Server, whose input is small at 64 px, need not cut within",
    "noise": "the paper names no bandwidth, 1 MHz here; features without a codec are sent as bits here",
}


@dataclass(frozen=True)
class Claim:
    """One of the paper's figures. ``theirs``: least and greatest ratio, the second None where it prints one alone;
    ``over``: the runner-up or the worst of the other methods; ``noisy``: over channels with noise."""

    figure: str
    model: str
    device: str
    over: str
    theirs: tuple[float, float | None]
    noisy: bool = False


CLAIMS = (
    Claim("Fig. 7", "alexnet", "rpi3b+", "runner-up", (1.1, 2.2)),
    Claim("Fig. 7", "alexnet", "rpi3b+", "worst", (14.5, 198.0)),
    Claim("Fig. 7", "alexnet", "tk1", "runner-up", (1.1, 3.1)),
    Claim("Fig. 7", "alexnet", "tk1", "worst", (51.2, None)),
    Claim("Fig. 8", "regnet_x_400mf", "rpi3b+", "runner-up", (1.1, 2.7)),
    Claim("Fig. 8", "regnet_x_400mf", "rpi3b+", "worst", (46.4, 141.0)),
    Claim("Fig. 8", "regnet_x_400mf", "tk1", "runner-up", (1.1, 3.2)),
    Claim("Fig. 8", "regnet_x_400mf", "tk1", "worst", (47.4, None)),
    Claim("Fig. 11", "alexnet", "rpi3b+", "runner-up", (1.02, 1.5), noisy=True),
    Claim("Fig. 11", "alexnet", "rpi3b+", "worst", (11.0, 25.5), noisy=True),
)

# Fig. 6: All_Local and All_Server over the best plain cut of AlexNet at 224 px, as the paper prints them.
PARTITION_CLAIMS = {
    ("rpi3b+", "3g"): (3.7, 2.0),
    ("rpi3b+", "4g"): (8.5, None),
    ("rpi3b+", "wifi"): (9.7, None),
    ("rpi4b", "wifi"): (6.4, 1.2),
    ("tk1", "3g"): (None, 35.0),
    ("tk1", "wifi"): (None, 13.0),
}


@dataclass(frozen=True)
class Ratios:
    """How many times as long as the proposed method's the others' latencies are, scenario by scenario."""

    runner_up: tuple[float, ...]
    worst: tuple[float, ...]

    @property
    def won(self) -> int:
        """Scenarios in which no other method is faster; a tie, the same plain cut for instance, counts."""
        return sum(ratio >= 1 - 1e-9 for ratio in self.runner_up)


def scenario_of(row: Row) -> tuple[str, str, str, str, float, float]:
    """What a row shares with the other methods' rows of its scenario."""
    return row.setting, row.model, row.device, row.link, row.rate_mbps, row.max_loss


def by_scenario(rows: Iterable[Row]) -> dict[tuple[str, str, str, str, float, float], dict[str, Row]]:
    """Rows by scenario and method, in their order."""
    found: dict[tuple[str, str, str, str, float, float], dict[str, Row]] = {}
    for row in rows:
        found.setdefault(scenario_of(row), {})[row.method] = row
    return found


def ratios(rows: Iterable[Row], without: Collection[str] = ()) -> Ratios:
    """The other methods, but for those ``without``, against the proposed one in each scenario that both answer."""
    runner_up, worst = [], []
    for methods in by_scenario(rows).values():
        others = [row.latency_s for name, row in methods.items() if name not in (Proposed.name, *without)]
        if Proposed.name in methods and others:
            own = methods[Proposed.name].latency_s
            runner_up.append(min(others) / own)
            worst.append(max(others) / own)
    return Ratios(tuple(runner_up), tuple(worst))


def claim_cells(claim: Claim, rows: Sequence[Row]) -> list[str]:
    """A claim's row: figure, network, device, over what, the paper's ratios, ours, and why they may differ. Methods
    that the paper's comparison lacks do not count."""
    where = claim.model, claim.device, claim.noisy
    own = [row for row in rows if (row.model, row.device, row.snr_db is not None) == where]
    mine = ratios(own, without=BEYOND_THE_PAPER)
    found = mine.runner_up if claim.over == "runner-up" else mine.worst
    low, high = claim.theirs
    theirs = f"{low:g}\u00d7 to {high:g}\u00d7" if high is not None else f"from {low:g}\u00d7"
    ours = f"{_short(min(found))}\u00d7 to {_short(max(found))}\u00d7" if found else "not measured"
    reasons = [WHY["noise" if claim.noisy else claim.over]]
    if claim.over == "runner-up":
        beaten = {_fastest(methods) for methods in by_scenario(own).values()}
        reasons += [WHY[name] for name, method in (("local", AllLocal), ("server", AllServer)) if method.name in beaten]
    why = "; ".join(reasons)
    return [claim.figure, claim.model, claim.device, claim.over, theirs, ours, why]


def _short(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}" if ratio >= 10 else f"{ratio:.2g}"


def _fastest(methods: Mapping[str, Row]) -> str:
    """The fastest method of a scenario, the proposed one where it is level with the others."""
    return min(methods, key=lambda name: (round(methods[name].latency_s, 12), name != Proposed.name))


def partition_ratios(rows: Iterable[Row]) -> Mapping[tuple[str, str], tuple[float, float, str]]:
    """All_Local and All_Server over the best plain cut, and the layer that it is after, by device and link."""
    return {
        (device, link): (
            methods["all_local"].latency_s / methods["neurosurgeon"].latency_s,
            methods["all_server"].latency_s / methods["neurosurgeon"].latency_s,
            methods["neurosurgeon"].cut_after,
        )
        for (_, _, device, link, _, _), methods in by_scenario(rows).items()
    }
