"""Traces of rates: files read line by line, and policies by an oracle in plain Python."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coinfer_ray
from coinfer_ray.atlas.atlas import Ranges, StrategyAtlas
from coinfer_ray.atlas.build import build
from coinfer_ray.atlas.replay import Replay, percentile, play
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.candidates import Candidates
from coinfer_ray.optimizer.optimize import answer
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.scenarios.rate_trace import RateTrace, read_rate_trace
from coinfer_ray.scenarios.scenario import Device, Link, Scenario, Server
from tests.synthetic import write_synthetic_records
from tests.test_robust import latency, rows_within

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "uplink_trace.csv"
DEVICE, SERVER, TRIP_S = Device("board", 6e9), Server("server", 1e12), 3e-3
RANGES = Ranges.of_speeds((6e9, 6e9), (1e12, 1e12), (2e5, 2e7))
RATES = (0.3, 2.0, 2.0, 15.0, 0.3, 7.0, 1.1)
BEGINS = (0.0, 1.0, 3.0, 3.5, 10.0, 11.0, 15.0)
HOLDS = (1.0, 2.0, 0.5, 6.5, 1.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    records = write_synthetic_records(tmp_path_factory.mktemp("records") / "r.parquet", repeats=2)
    return assemble("alexnet", records=records, regressor="decision_tree")


def trace() -> RateTrace:
    return RateTrace.of(BEGINS, [rate * 1e6 for rate in RATES])


def scenario(rate_mbps: float = 1.0, max_loss: float = 0.1, confidence: float | None = 0.9) -> Scenario:
    return Scenario(DEVICE, SERVER, Link("link", rate_mbps * 1e6, round_trip_s=TRIP_S), max_loss, confidence)


def seconds_of(costs: tuple[float, float, float]) -> list[float]:
    """What a strategy takes for each sample."""
    return [latency(costs, (6e9, 1e12, rate * 1e6, TRIP_S)) for rate in RATES]


def mean(values: list[float]) -> float:
    return math.fsum(value * held for value, held in zip(values, HOLDS, strict=True)) / math.fsum(HOLDS)


def under_for_95_percent(values: list[float]) -> float:
    total = math.fsum(HOLDS)
    for value in sorted(values):
        below = math.fsum(held for each, held in zip(values, HOLDS, strict=True) if each <= value)
        if below >= 0.95 * total:
            return value
    raise AssertionError("no value covers the trace")


@pytest.mark.parametrize("max_loss", [0.02, 0.1])
def test_policies_are_those_of_an_enumeration(problem: Problem, max_loss: float) -> None:
    found, every = play(problem, scenario(max_loss=max_loss), trace()), rows_within(problem, max_loss)
    times = [seconds_of(costs) for costs, _ in every]
    best = [min(column) for column in zip(*times, strict=True)]
    picks = [min(range(len(times)), key=lambda k: times[k][sample]) for sample in range(len(RATES))]
    fixed = min(times, key=mean)
    plain = min(times[: len(problem.known_costs)], key=mean)
    assert found.latency_s == pytest.approx(np.array(best), rel=1e-12)
    assert found.fixed_latency_s == pytest.approx(np.array(fixed), rel=1e-12)
    for policy, values in zip(found.policies, (best, fixed, plain), strict=True):
        assert policy.mean_latency_s == pytest.approx(mean(values), rel=1e-12)
        assert policy.p95_latency_s == pytest.approx(under_for_95_percent(values), rel=1e-12)
        assert policy.gap == pytest.approx(mean(values) / mean(best) - 1, rel=1e-9, abs=1e-12)
    switching = found.policies[0]
    assert switching.switches == sum(a != b for a, b in pairwise(picks))
    assert switching.strategies == len(set(picks)) and switching.strategy is None and found.ratio is None
    assert max_loss == 0.1 or switching.switches > 1
    assert [policy.name for policy in found.policies] == ["switching", "fixed", "plain_split"]
    shares = [used.share for used in found.strategies]
    assert shares == sorted(shares, reverse=True) and math.fsum(shares) == pytest.approx(1)


def test_each_sample_has_the_single_answer_for_its_rate(problem: Problem) -> None:
    found = play(problem, scenario(), trace())
    for rate, number, seconds in zip(RATES, found.chosen, found.latency_s, strict=True):
        single = answer(problem, scenario(rate))
        assert found.strategies[number].strategy == single.strategy
        assert seconds == pytest.approx(single.latency_s, rel=1e-12)
    one = RateTrace.of([5.0], [2e6])
    for policy in play(problem, scenario(), one).policies[:2]:
        assert policy.mean_latency_s == policy.p95_latency_s == pytest.approx(answer(problem, scenario(2)).latency_s)
        assert (policy.gap, policy.switches, policy.strategies) == (0, 0, 1)


def test_an_atlas_of_measured_strategies_takes_the_same(problem: Problem, tmp_path: Path) -> None:
    options: dict[str, Any] = {"crossings": True, "threads": 1, "quiet": True, "confidence": 0.9}
    atlas = build(problem, RANGES, max_loss=0.1, **options)
    atlas.save(tmp_path / "a.parquet")
    build(problem, RANGES, max_loss=0.05, **options).save(tmp_path / "b.atlas")
    (tmp_path / "notes.txt").write_text("not an atlas")
    plain = play(problem, scenario(), trace())
    for given_ in (atlas, tmp_path / "a.parquet", tmp_path):
        found = play(problem, scenario(), trace(), given_)
        assert found.ratio == atlas.info.ratio <= 1 + 1e-3
        assert found.latency_s == pytest.approx(plain.latency_s, rel=1e-3)
        for own, other in zip(found.policies, plain.policies, strict=True):
            assert own.mean_latency_s == pytest.approx(other.mean_latency_s, rel=1e-3)
            assert other.gap - 1e-12 <= own.gap <= (1 + other.gap) * (1 + 2e-3) - 1  # proven, and no better than it is
    other = play(problem, scenario(max_loss=0.05), trace(), tmp_path)  # the one of that loss is found
    assert all(used.loss <= 0.05 for used in other.strategies)
    for wrong in (scenario(max_loss=0.02), scenario(confidence=0.8), scenario(confidence=None)):
        with pytest.raises(InputError, match=r"has none of alexnet .* write it with `coinfer atlas build --crossings`"):
            play(problem, wrong, trace(), tmp_path)
    with pytest.raises(InputError, match=r"atlas: weights: row 3, .* lies outside"):
        play(problem, scenario(), RateTrace.of([0, 1, 2, 3], [1e6, 2e6, 3e6, 4e7]), atlas)
    with pytest.raises(InputError, match=r"the one given has none of alexnet"):
        play(assemble("alexnet"), scenario(), trace(), atlas)


def test_predictions_need_an_atlas_and_its_ratio_bounds_the_gap(problem: Problem) -> None:
    with pytest.raises(InputError, match="trace: at its least rate no number holds a latency"):
        play(problem, scenario(), RateTrace.of([0, 1], [1e-307, 1e6]))
    with pytest.raises(InputError, match=r"confidence: .* or --atlas, built with --confidence 0"):
        play(problem, scenario(confidence=None), trace())
    atlas: StrategyAtlas = build(problem, RANGES, max_loss=0.05, crossings=True, tolerance=0.1, threads=1, quiet=True)
    found = play(problem, scenario(max_loss=0.05, confidence=None), trace(), atlas)
    switching = found.policies[0]
    assert 0 <= switching.gap <= max(atlas.info.ratio - 1, 0) + 1e-12
    for rate, seconds in zip(RATES, found.latency_s, strict=True):
        exact = answer(problem, scenario(rate, 0.05, None), time_limit_s=None)
        assert exact.lower_bound_s is not None
        assert exact.lower_bound_s * (1 - 1e-9) <= seconds <= exact.latency_s * atlas.info.ratio * (1 + 1e-9)
    assert any(used.accuracy_source == "predicted" for used in found.strategies)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=30), st.integers(1, 99))
@settings(max_examples=80, deadline=None)
def test_a_percentile_weighs_by_time(rows: list[tuple[int, int]], percent: int) -> None:
    values, holds = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    total = int(holds.sum())
    expected = next(v for v in range(6) if 100 * sum(held for each, held in rows if each <= v) >= percent * total)
    assert percentile(values, holds / total, percent / 100) == expected


def test_without_a_plain_split_that_keeps_to_the_loss_there_is_none_beside_it(problem: Problem) -> None:
    with pytest.raises(InputError, match=r"max loss: no strategy reaches an accuracy of 1\.34"):
        play(problem, scenario(max_loss=-0.5), trace())
    poor = replace(problem, fitted=replace(problem.predictor, base_accuracy=problem.base_accuracy - 0.04))
    found = play(poor, scenario(max_loss=-0.01), trace())
    assert [policy.name for policy in found.policies] == ["switching", "fixed"]
    assert all(used.loss <= -0.01 for used in found.strategies)


# ------------------------------------------------------------------------------------------------------------- files


def read(tmp_path: Path, text: str | bytes) -> RateTrace:
    path = tmp_path / "trace.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rate_trace(path)


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("seconds,rate_mbps\n0,1.5\n2,3\n", [0, 2]),
        ("0,1.5\n2,3", [0, 2]),
        ('# "a quotation mark in a remark\nseconds,rate_mbps\n"0","1.5"\n2,3\n', [0, 2]),
        ("# of a walk\r\n\r\n Rate_Mbps , Seconds\r\n1.5, -1\r\n3, 1.5\r\n", [-1, 1.5]),
        (
            "cell,rate_mbps,timestamp\na,1.5,2024-05-01T00:00:00\nb,3,2024-05-01 02:00:04+02:00\n",
            [1714521600, 1714521604],
        ),
        ("2024-05-01T00:00:00Z,1.5\n1714521604,3\n", [1714521600, 1714521604]),
        ("timestamp,rate_mbps,seconds\nsoon,1.5,0\nlater,3,1\n", [0, 1]),
        ("\ufeffseconds,rate_mbps\n0,1.5\n2,3\n", [0, 2]),
    ],
)
def test_times_and_rates_are_read(tmp_path: Path, text: str, begins: list[float]) -> None:
    found = read(tmp_path, text)
    assert found.seconds.tolist() == begins and found.rate_bps.tolist() == [1.5e6, 3e6]
    assert found.duration_s.tolist() == [begins[1] - begins[0]] * 2


def test_a_sample_holds_until_the_next() -> None:
    assert trace().duration_s.tolist() == list(HOLDS)
    assert RateTrace.of([7.0], [1e6]).duration_s.tolist() == [1.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"trace\.csv: holds no samples; lines such as"),
        ("seconds,rate_mbps\n# nothing\n", r"trace\.csv: holds no samples"),
        ("seconds,rate\n0,1\n", r"trace\.csv: line 1: no column rate_mbps in the header 'seconds,rate'"),
        ("time,rate_mbps\n0,1\n", r"trace\.csv: line 1: no column seconds or timestamp in the header"),
        ("seconds,rate_mbps\n0,1\n1\n", r"trace\.csv: line 3: 1 of 2 columns; lines such as"),
        ("seconds,rate_mbps\n0,0\n", r"trace\.csv: line 2: rate_mbps '0' must be a number above 0, .* put the least"),
        ("seconds,rate_mbps\n0,-3\n", r"line 2: rate_mbps '-3' must be"),
        ("seconds,rate_mbps\n0,fast\n", r"line 2: rate_mbps 'fast' must be"),
        ("seconds,rate_mbps\n0,nan\n", r"line 2: rate_mbps 'nan' must be"),
        ("seconds,rate_mbps\n0,1e-320\n", r"line 2: rate_mbps '1e-320' must be"),
        ("seconds,rate_mbps\n0,1_0\n", r"line 2: rate_mbps '1_0' must be"),
        ('seconds,rate_mbps\n0,5,"a\n1,6,b\n', r"trace\.csv: line 2: is no line of a CSV file"),
        ("seconds,rate_mbps,rate_mbps\n0,1,2\n", r"line 1: the header has two columns rate_mbps; leave one"),
        ("seconds,rate_mbps\n0,1e308\n", r"line 2: rate_mbps '1e308' must be"),
        ("seconds,rate_mbps\n5,1\n\n5,1\n", r"line 4: the time '5' is not after the one before; sort"),
        ("seconds,rate_mbps\n2024-05-01,1\n", r"line 2: the time '2024-05-01' must be a number of seconds"),
        ("timestamp,rate_mbps\nnoon,1\n", r"line 2: the time 'noon' must be seconds, or a date such as"),
        ("seconds,rate_mbps\ninf,1\n", r"line 2: the time 'inf' must be"),
        ("seconds,rate_mbps\nnan,1\n", r"line 2: the time 'nan' must be"),
        ("seconds,rate_mbps\n0,1\n1e308,1\n", r"line 3: the time '1e308' must be"),
        (b"\xff\xfe\x00", r"trace\.csv: cannot be read \(not text\); give a CSV file"),
        ("0,1\n1," + 200_000 * "1" + "\n", r"trace\.csv: line \d+: is no line of a CSV file \(field larger than"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(InputError, match=r"none\.csv: cannot be read \(No such file"):
        read_rate_trace(tmp_path / "none.csv")


def test_the_example_is_what_it_says() -> None:
    found = read_rate_trace(EXAMPLE)
    assert "Synthetic" in EXAMPLE.read_text().splitlines()[0]
    for second, rate in zip(found.seconds.tolist(), found.rate_bps.tolist(), strict=True):
        expected = 4 * 2 ** (2 * math.sin(math.pi * second / 60)) * (0.25 if 80 <= second < 100 else 1)
        assert rate / 1e6 == pytest.approx(expected, abs=5.1e-4)
    assert len(found) == 120 and set(found.duration_s) == {2.0}


# ----------------------------------------------------------------------------------------------------------- command


def test_the_command_prints_policies_and_writes_samples(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem.predictor.save(tmp_path / "predictor.npz")
    records = str(tmp_path / "predictor.npz")
    shared = ["robust", "--records", records, "--device-gflops", "6", "--server-gflops", "1000", "--max-loss", "0.1"]
    given_ = [*shared, "--trace", str(EXAMPLE), "--round-trip-ms", "3"]
    out = tmp_path / "samples.csv"
    assert main([*given_, "--json", "--out", str(out)]) == 0
    document = json.loads(capsys.readouterr().out)
    found: Replay = coinfer_ray.replay(
        "alexnet", DEVICE, SERVER, trace=EXAMPLE, round_trip_ms=3, max_loss=0.1, records=records
    )
    assert document == json.loads(json.dumps(found.to_json()))
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    pool = Candidates.measured(problem, 0.9)
    cuts = {problem.graph.cut_name(problem.space.strategy(levels).partition_point) for levels in pool.levels}
    for line, seconds, rate in zip(lines, found.latency_s, found.trace.rate_bps, strict=True):
        assert float(line["latency_s"]) == seconds <= float(line["fixed_latency_s"])
        assert float(line["rate_mbps"]) == rate / 1e6 and line["cut_after"] in cuts
    assert main([*given_, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "best plain split, fixed" in printed.out and "120 samples, 240 s" in printed.err
    for wrong, words in (
        ([*given_, "--rate-mbps", "2"], "trace: has the rates, and rate_mbps was given too"),
        ([*given_, "--link", "4g"], "link: the trace has the rates"),
        ([*given_[:-1], "3:5"], "round trip ms: 3:5 is a range, and beside --trace one number is needed"),
        ([*given_, "--atlas", str(tmp_path / "none")], "none does not exist"),
        ([*shared, "--rate-mbps", "2", "--atlas", str(tmp_path)], "atlas: is for --trace"),
        ([*shared, "--trace", str(tmp_path / "none.csv")], "none.csv: cannot be read"),
        ([*given_, "--confidence", "0"], "or --atlas, built with --confidence 0"),
    ):
        assert main(wrong) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and words in printed.err
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        coinfer_ray.replay("alexnet", DEVICE, SERVER, trace=EXAMPLE, speed=3)  # type: ignore[call-arg]
