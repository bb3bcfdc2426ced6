"""Progress: a rate is shown only when it means something."""

from __future__ import annotations

import json

import pytest

from coinfer_ray.runtime import progress
from coinfer_ray.runtime.progress import LINE_EVERY_S, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(clock: list[float], total: int, steps: list[tuple[float, int]], capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed while after each of ``steps`` (seconds, count) so many more are done."""
    with Progress("things", total) as shown:
        for seconds, count in steps:
            clock[0] += seconds
            shown.advance(count)
    return capsys.readouterr().err


def test_the_start_is_no_part_of_the_rate(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    # A minute of compilation before the first, then ten a second: 900 are left, 90 s.
    printed = lines_of(clock, 1000, [(60.0, 10), *[(1.0, 10)] * 9, (LINE_EVERY_S, 300)], capsys).splitlines()
    assert printed[0] == "things: 10 of 1,000"  # a minute has gone by, one step says nothing
    # 390 in 39 seconds since the first.
    assert printed[1] == "things: 400 of 1,000, 10/s, 60 s left"
    assert len(printed) == 3  # and the last one, when it ends early


def test_no_rate_of_a_few_steps_or_of_a_moment(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(clock, 9, [(40.0, 1), (40.0, 1)], capsys).splitlines() == [
        "things: 1 of 9",
        "things: 2 of 9",
        "things: 2 of 9",
    ]
    assert lines_of(clock, 9, [(0.1, 1)] * 5, capsys) == "things: 5 of 9\n"


def test_the_rate_is_that_of_the_last_two_minutes(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = [(10.0, 1)] * 30, [(1.0, 10)] * 200
    assert lines_of(clock, 10_000, slow + fast, capsys).splitlines()[-1] == "things: 2,030 of 10,000, 10/s, 13 min left"


def test_what_is_done_needs_no_rate(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(clock, 40, [(1.0, 10)] * 4, capsys) == "things: 40 of 40\n"


def test_lines_for_programs(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.FORM_VARIABLE, "json")
    printed = lines_of(clock, 1000, [(60.0, 10), *[(1.0, 10)] * 9, (LINE_EVERY_S, 300)], capsys).splitlines()
    assert [json.loads(line) for line in printed[:2]] == [
        {"what": "things", "done": 10, "total": 1000, "failed": 0, "per_s": None, "left_s": None},
        {"what": "things", "done": 400, "total": 1000, "failed": 0, "per_s": 10.0, "left_s": 60.0},
    ]
