"""What benchmarks, scripts and studies share: bad input is one line and status 2, a fault keeps its traceback."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from coinfer_ray.cli.scripts import inner_share, positive_int, positive_number, run_script
from coinfer_ray.errors import InputError
from coinfer_ray.runtime.executors import Envelope, LocalExecutor, WorkerContext
from tests.test_docs import load

ROOT = Path(__file__).parents[1]


def test_bad_input_is_one_line_and_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def refuse() -> None:
        raise InputError("model: 'nope' is unknown;\nknown: alexnet")

    monkeypatch.setattr(sys, "argv", ["benchmarks/bench_some.py"])
    with pytest.raises(SystemExit) as ended:
        run_script(refuse)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "bench_some.py: model: 'nope' is unknown; known: alexnet\n"


def test_a_fault_is_raised_as_it_is_and_success_returns(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 / 0)
    run_script(lambda: 3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (positive_int, {"1": 1, "40": 40}, ("0", "-1", "1.5", "", "many", "²")),
        (positive_number, {"0.5": 0.5, "1e10": 1e10}, ("0", "-1", "inf", "nan", "many")),
        (inner_share, {"0.52": 0.52}, ("0", "1", "1.5", "-1", "nan", "half")),
    ],
)
def test_numbers_are_what_they_are_called(check, right, wrong) -> None:
    assert {text: check(text) for text in right} == right
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match="must be a"):
            check(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench_splits.py", "--rates", "0"), "argument --rates: '0' must be a whole number, at least 1"),
        (("bench_multiples.py", "--levels", "-1"), "argument --levels: '-1' must be a share above 0 and below 1"),
        (("bench_multiples.py", "--networks", "nope"), "bench_multiples.py: model: 'nope' is unknown; "),
        (("bench_sql.py", "--scenarios", "0"), "argument --scenarios: '0' must be a finite number above 0"),
        (("bench_sql.py", "--model", "nope"), "bench_sql.py: model: 'nope' is unknown; "),
        (("bench_sweep.py", "--solvers", "nope"), "bench_sweep.py: solver: 'nope' is unknown; "),
        (
            ("bench_sweep.py", "--only", "ray", "--searched", "19"),
            "bench_sweep.py: searched: 19 scenarios; Ray is measured on at least 20",
        ),
        (("bench_sweep.py", "--searched", "-1"), "bench_sweep.py: searched: -1 scenarios; Ray is measured on "),
        (
            ("bench_cluster.py", "--nodes", "2", "--keep-gb", "1e6"),
            "bench_cluster.py: nodes: 2 would leave less than 1e+06 GB of this machine's memory (",
        ),
    ],
)
def test_benchmarks_check_before_they_measure(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", list(arguments))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # what SIGTERM does to these tests stays
    with patch.dict(os.environ), pytest.raises(SystemExit) as ended:  # some set Ray's variables
        runpy.run_path(str(ROOT / "benchmarks" / arguments[0]), run_name="__main__")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def start_sleeper(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[float], float]:
    """Chunks that take as long as they are called."""

    def work(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    return work


class Slow(LocalExecutor):
    """Hands out a chunk 0.2 s after the one before came back."""

    def run(self, *given: Any) -> Generator[Envelope[Any], None, None]:
        for envelope in super().run(*given):
            yield envelope
            time.sleep(0.2)


def test_what_an_executor_adds_to_chunks_is_told_from_them(tmp_path: Path) -> None:
    """Neither the first chunk, solved once beforehand, nor the way to it counts."""
    watched = load(ROOT / "benchmarks" / "bench_sweep.py").Watched(Slow(), tmp_path / "ready")
    assert [envelope.value for envelope in watched.run(start_sleeper, {}, enumerate((0.1, 0.3, 0.2)))] == [
        0.1,
        0.3,
        0.2,
    ]
    took = watched.took()
    assert watched.chunks == 3
    assert 0.6 <= took["inside"] < 5 and 0.4 <= took["outside"] < 5  # a busy machine sleeps longer
    assert took["inside"] + took["outside"] == pytest.approx(took["seconds"])
    assert len(list((tmp_path / "ready").iterdir())) == 1


@pytest.mark.slow
def test_rays_share_of_a_sweep_is_measured_with_one_thread_on_either_side() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "bench_sweep.py", "--only", "ray", "--searched", "40", "--json"]
    done = subprocess.run([*command, "--repeats", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ray = json.loads(done.stdout)["ray"]
    assert (ray["chunks"], ray["repeats"]) == (20, 1)
    one, local = (ray[name]["seconds"]["median"] for name in ("ray_1", "local"))
    assert ray["overhead"]["median"] == pytest.approx(one / local - 1)
    assert 0 < ray["ray_1"]["outside"]["median"] < one
    assert ray["speed_up"]["median"] == pytest.approx(one / ray["ray_2"]["seconds"]["median"])
