"""An uplink's rate as it was measured over time: what a trace's CSV file holds."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from coinfer_ray.errors import InputError, counted

RATE = "rate_mbps"
TIMES = ("seconds", "timestamp")  # of the two columns the first that is there
LONGEST_S = 1e12  # some 30,000 years; no time is further from 0
_SHOWN = 40  # characters of a field in an error message
_RIGHT = "lines such as 12.5,3.8 below the header seconds,rate_mbps are right"


@dataclass(frozen=True, eq=False)
class RateTrace:
    """T samples of a rate, each of which holds until the next: ``seconds`` (T,) when it begins, rising;
    ``duration_s`` (T,) how long it holds, in s; ``rate_bps`` (T,) in bit/s."""

    seconds: np.ndarray
    duration_s: np.ndarray
    rate_bps: np.ndarray

    def __len__(self) -> int:
        return len(self.rate_bps)

    @classmethod
    def of(cls, seconds: Sequence[float], rate_bps: Sequence[float]) -> RateTrace:
        """Samples by when they begin; the last holds as long as the one before it, a single one for a second."""
        begins = np.array(seconds, dtype=np.float64)
        duration = np.diff(begins)
        last = duration[-1:] if len(duration) else np.ones(1)
        return cls(begins, np.concatenate([duration, last]), np.array(rate_bps, dtype=np.float64))


def read_rate_trace(path: str | Path) -> RateTrace:
    """Read a trace from a CSV file.

    A header names the columns, in any order and among others: ``rate_mbps`` (1e6 bit/s, above 0), and ``seconds``, when
    a sample begins, counted from whenever, or ``timestamp``, the same as Unix seconds or ISO 8601 (UTC where it names
    no zone). Without a header there are two columns, the time and the rate. Times rise from line to line. Empty lines
    and those that begin with ``#`` are passed over.

    Raises:
        InputError: the file cannot be read, or the first line in it that is wrong.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return _trace(str(path), _rows(str(path), file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"{path}: cannot be read ({reason}); give a CSV file: {_RIGHT}") from None


def _rows(where: str, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """The lines that count, with their numbers. Each is read by itself: a quotation mark that is left open would
    swallow all that follow."""
    for number, line in enumerate(file, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            (fields,) = csv.reader([line.strip("\r\n")], skipinitialspace=True, strict=True)
        except csv.Error as error:
            raise InputError(f"{where}: line {number}: is no line of a CSV file ({error}); {_RIGHT}") from None
        row = [field.strip() for field in fields]
        if any(row):
            yield number, row


def _trace(where: str, rows: Iterator[tuple[int, list[str]]]) -> RateTrace:
    time_at, rate_at, needs = 0, 1, 2
    seconds: list[float] = []
    rates: list[float] = []
    dated = True
    first = True
    for number, row in rows:
        place = f"{where}: line {number}"
        if first:
            first = False
            names = [field.lower() for field in row]
            if not _is_time(row[0]) or RATE in names:
                time_at, rate_at, dated = _columns(place, names)
                needs = max(time_at, rate_at) + 1
                continue
        if len(row) < needs:
            raise InputError(f"{place}: {len(row)} of {counted(needs, 'column')}; {_RIGHT}")
        begins = _seconds(place, row[time_at], dated)
        if seconds and begins <= seconds[-1]:
            raise InputError(
                f"{place}: the time {_cut(row[time_at])} is not after the one before; sort the lines by time"
            )
        seconds.append(begins)
        rates.append(_rate(place, row[rate_at]))
    if not rates:
        raise InputError(f"{where}: holds no samples; {_RIGHT}")
    return RateTrace.of(seconds, rates)


def _columns(place: str, names: list[str]) -> tuple[int, int, bool]:
    """Where the time stands and where the rate, and whether the time may be a date."""
    time = next((name for name in TIMES if name in names), None)
    for name, there in (("seconds or timestamp", time is not None), (RATE, RATE in names)):
        if not there:
            raise InputError(f"{place}: no column {name} in the header {_cut(','.join(names))}; {_RIGHT}")
    assert time is not None
    for name in (time, RATE):
        if names.count(name) > 1:
            raise InputError(f"{place}: the header has two columns {name}; leave one")
    return names.index(time), names.index(RATE), time == "timestamp"


def _is_time(text: str) -> bool:
    try:
        _seconds("", text, dated=True)
    except InputError:
        return False
    return True


def _seconds(place: str, text: str, dated: bool) -> float:
    number = _number(text)
    if math.isnan(number) and dated:
        try:
            moment = datetime.fromisoformat(text)
            number = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass
    if not abs(number) <= LONGEST_S:
        right = "seconds, or a date such as 2024-05-01T12:00:00" if dated else "a number of seconds"
        raise InputError(f"{place}: the time {_cut(text)} must be {right}")
    return number


def _rate(place: str, text: str) -> float:
    rate = _number(text) * 1e6
    if not (0 < rate < math.inf and 1 / rate < math.inf):
        raise InputError(
            f"{place}: {RATE} {_cut(text)} must be a number above 0, in Mb/s; where nothing got through, put the least "
            "rate that you reckon with"
        )
    return rate


def _number(text: str) -> float:
    """NaN where it is none as other programs write them: Python alone reads 1_0 as ten."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
