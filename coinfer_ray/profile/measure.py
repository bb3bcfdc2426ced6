"""Measure how long pieces of neural networks take on this machine, with numpy and ONNX Runtime alone.

    python3 measure.py --threads 4

`coinfer profile` measures with this module, and `coinfer profile --bundle FOLDER` copies it as it stands beside the
models that a board is to run. So it imports nothing of coinfer, and Python 3.9 runs it. What is measured is kept after
every piece; the same line again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WARM_UP_S, MEASURE_S = 0.05, 0.25  # of one piece of work, at least
FEWEST_CALLS, MOST_CALLS = 7, 200
EVICT_BYTES = 64 << 20  # more than the caches of most processors hold
BUSY_LOAD = 0.5  # processors that others keep at work, from which on times are in doubt
WIDE_SPREAD = 0.25
PLAN = "plan.json"  # of a bundle, beside this file
FORMAT = 1  # of the plan and of what is measured
LINE_EVERY_S = 30.0  # of progress, where there is no terminal


class Prepared(NamedTuple):
    """Work that is ready: ``call`` does it once; ``touch`` reads its input, which the layer before would just have
    written."""

    call: Callable[[], object]
    touch: Callable[[], object]


class Timed(NamedTuple):
    """A piece of work by its number: the median time of a call (s), its spread, and the load by others meanwhile."""

    number: int
    seconds: float
    spread: float
    load: float


class Unusable(Exception):
    """A file or an option that cannot be used; the message is one line."""


def version() -> str:
    """What runs the models, and which version of it."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def prepare(model: bytes, weights: Mapping[str, Sequence[int]], threads: int) -> Prepared:
    """An ONNX ``model`` and the shapes of the ``weights`` that it lacks, ready to be run on so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(with_weights(model, weights), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    feature = np.random.default_rng(0).random(entry.shape, dtype=np.float32)
    return Prepared(lambda: session.run(None, {entry.name: feature}), feature.sum)


def with_weights(model: bytes, weights: Mapping[str, Sequence[int]]) -> bytes:
    """The model with its weights, all values of one alike: none takes longer than another.

    They are what makes a model large, so no file holds them. A protobuf message that is followed by another one of its
    type is both merged: a model with one more ``graph`` (field 7) has that graph's initialisers (field 5) as well, and
    a runtime reads the same model as from a file that holds them. Their fields in onnx.proto: dims 1, data_type 2,
    name 8, raw_data 9.
    """
    tensors: list[bytes] = []
    for name, shape in weights.items():
        values = np.full(tuple(shape), 1 / max(1, math.prod(shape[1:])), dtype="<f4").tobytes()
        dims = b"".join(b"\x08" + _varint(size) for size in shape)
        head = dims + b"\x10\x01" + _sized(8, name.encode()) + b"\x4a" + _varint(len(values))
        tensors += [b"\x2a" + _varint(len(head) + len(values)) + head, values]
    return b"".join([model, b"\x3a", _varint(sum(map(len, tensors))), *tensors])


def _varint(number: int) -> bytes:
    """A number from 0 on in groups of seven bits, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _sized(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def measure(
    numbers: Iterable[int], prepare: Callable[[int], Prepared], threads: int, seconds: float = math.inf
) -> Iterator[Timed]:
    """Measure the pieces of work of those numbers, in that order, until the time is up."""
    deadline = time.monotonic() + seconds
    for number in numbers:
        if time.monotonic() > deadline:
            return
        median, spread = time_calls(prepare(number))
        yield Timed(number, median, spread, load_average() - threads)


def time_calls(work: Prepared, clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """The median time of a call (s), and its spread: the range of the middle half over the median.

    Calls until :data:`WARM_UP_S` have passed are not counted; then until :data:`MEASURE_S` and at least
    :data:`FEWEST_CALLS`, at most :data:`MOST_CALLS`. Before each the caches are emptied and the input is read: in a
    network a layer's input has just been written, and its weights have been forgotten since the last image. (Weights
    that stay in the cache made AlexNet's linear layers nine times too fast.)
    """
    others = np.zeros(EVICT_BYTES // 8)
    begun = clock()
    while True:
        work.call()
        if clock() - begun >= WARM_UP_S:
            break
    times: list[float] = []
    while len(times) < MOST_CALLS and (len(times) < FEWEST_CALLS or sum(times) < MEASURE_S):
        np.add(others, 1.0, out=others)
        work.touch()
        before = clock()
        work.call()
        times.append(clock() - before)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return median, (high - low) / median


def load_average() -> float:
    """Processes that ran or waited over the last minute."""
    return os.getloadavg()[0]


def load_before(threads: int, resumed: bool) -> float:
    """The load by others before anything runs: some of the last minute's is one's own where one has ``resumed``."""
    return max(0.0, load_average() - threads) if resumed else load_average()


def machine() -> str:
    """The processor by name, where the system says it, and how many there are."""
    named = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = next(line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    except (OSError, StopIteration):
        pass
    return f"{named}, {os.cpu_count()} processors"


def doubts(load: float, spread: float) -> list[str]:
    """Why times may be wrong, after a highest ``load`` by others and a median ``spread``."""
    found = []
    if load > BUSY_LOAD:
        found.append(f"the machine was busy with other work (load {load:.1f} besides): times may be too long")
    if spread > WIDE_SPREAD:
        found.append(f"times of one layer differ by {spread:.0%} (half of them): measure on a quiet machine")
    return found


def measure_bundle(bundle: Path, out: Path, threads: int, minutes: float | None) -> str:
    """Measure what ``out`` does not hold yet of a bundle's plan; what is there to say at the end.

    Raises:
        Unusable: a bundle that is not whole, an ``out`` of another run, or nothing to run models with.
    """
    plan = _read_plan(bundle / PLAN)
    pieces = {piece["number"]: piece for piece in plan["pieces"]}
    results = _begun(out, plan, threads)
    measured = results["measured"]
    rest = [number for number in pieces if str(number) not in measured]
    results["load_by_others"] = max(results["load_by_others"], load_before(threads, resumed=bool(measured)))
    _say_doubts(results)

    def prepared(number: int) -> Prepared:
        return _prepared(bundle, pieces[number], threads)

    begun = shown = time.monotonic()
    for done, each in enumerate(measure(rest, prepared, threads, math.inf if minutes is None else minutes * 60), 1):
        measured[str(each.number)] = [each.seconds, each.spread]
        results["load_by_others"] = max(results["load_by_others"], each.load)
        results["when"] = time.strftime("%Y-%m-%d", time.gmtime())
        _write(out, results)
        now = time.monotonic()
        if sys.stderr.isatty() or now - shown > LINE_EVERY_S:
            left = (now - begun) / done * (len(rest) - done) / 60
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"{len(measured)} of {len(pieces)} measured, {left:.1f} min left ", end=end, file=sys.stderr)
            shown = now
    if sys.stderr.isatty():
        print(file=sys.stderr)
    _say_doubts(results)
    more = "" if len(measured) == len(pieces) else " (the same line again measures more)"
    return (
        f"{len(measured)} of {len(pieces)} measured{more}. Take {out} to where coinfer is installed, and there:\n"
        f"  coinfer profile --measured {out.name} --out DEVICE.yaml"
    )


def _say_doubts(results: Mapping[str, Any]) -> None:
    spreads = [spread for _, spread in results["measured"].values()]
    for doubt in doubts(results["load_by_others"], float(np.median(spreads)) if spreads else 0.0):
        print(f"warning: {doubt}", file=sys.stderr)


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Unusable(f"{path}: cannot be read ({_first_line(error)}); copy the whole bundle again") from None
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        raise Unusable(f"{path}: not of format {FORMAT}, as this measure.py; copy the whole bundle again")
    return plan


def _prepared(bundle: Path, piece: Mapping[str, Any], threads: int) -> Prepared:
    path = bundle / piece["file"]
    try:
        model = path.read_bytes()
    except OSError as error:
        raise Unusable(f"{path}: cannot be read ({error.strerror}); copy the whole bundle again") from None
    if hashlib.sha256(model).hexdigest() != piece["sha256"]:
        raise Unusable(f"{path}: is not the file of {PLAN}; copy the whole bundle again")
    try:
        return prepare(model, piece["weights"], threads)
    except Exception as error:  # ONNX Runtime's own classes, one for each of its states
        raise Unusable(f"{path}: {version()} cannot load it ({_first_line(error)}); use another version") from None


def _begun(out: Path, plan: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """What ``out`` holds, where it is of the same run; else a run's beginning."""
    try:
        backend = version()
    except ModuleNotFoundError:
        raise Unusable("ONNX Runtime is missing; pip install onnxruntime") from None
    run = {
        "format": FORMAT,
        "kind": "measured",
        "bundle": plan["bundle"],
        "threads": threads,
        "backend": backend,
        "machine": machine(),
    }
    try:
        text = out.read_text()
    except FileNotFoundError:
        made = {"node": platform.node(), "when": "", "load_by_others": 0.0}
        return {**run, **made, "made": plan["made"], "measured": {}}
    except (OSError, ValueError) as error:
        raise Unusable(f"{out}: cannot be read ({_first_line(error)}); give another --out") from None
    try:
        there = json.loads(text)
    except ValueError:
        there = None
    if not isinstance(there, dict) or there.get("kind") != "measured":
        raise Unusable(f"{out}: is there and is nothing that measure.py wrote whole; give another --out")
    for key, value in run.items():
        if there.get(key) != value:
            raise Unusable(f"{out}: {key} is {there.get(key)!r} there and {value!r} here; give another --out")
    return there


def _write(out: Path, results: Mapping[str, Any]) -> None:
    """Write the results under another name, then move them to ``out``: it is whole whenever power fails."""
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        with temporary.open("w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        raise Unusable(f"{out}: cannot be written ({error.strerror}); give another --out") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def main() -> int:
    """Measure the bundle that this file lies in: 0 done, 2 bad input (one line says what is wrong), 130 interrupted."""
    parser = argparse.ArgumentParser(description="Measure the models of this folder; run again to go on.")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads to run models on (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("measured.json"), help="the file to write and to go on with")
    parser.add_argument("--minutes", type=float, metavar="M", help="time to measure for (default: until all is done)")
    given = parser.parse_args()
    if given.threads < 1 or (given.minutes is not None and not given.minutes > 0):
        parser.error("--threads and --minutes must be above 0")
    try:
        print(measure_bundle(Path(__file__).resolve().parent, given.out, given.threads, given.minutes))
    except Unusable as error:
        print(f"measure.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; {given.out} keeps what is measured, the same line again goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
