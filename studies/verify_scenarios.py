"""How many of the returned strategies really keep to the accuracy bound: by training them.

    python studies/verify_scenarios.py --data DIR --base base.safetensors --out DIR [--records RECORDS]
        [--scenarios 10] [--max-loss 0.02] [--confidence 0.95] [--candidates 20] [--seeds 1] [--workers 1] [--json]

For the paper's devices and links, without a confidence and with one: the strategies that the search returns *before*
the loop (one fit, one optimisation) and *after* it (``coinfer search`` with --candidates trainings for all scenarios
together). A returned strategy is judged by a training that had no part in choosing it: before the loop by its first
one, after it by one more from another seed. A scenario whose answer is the network as it is needs no training.

Every training is a shard in --out; run the same line again to go on where it stopped. A candidate at 64 px takes 10 to
20 s of a core, so ten scenarios take some ten minutes of two.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from coinfer_ray.cli import EXIT_INTERRUPTED, explain
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import Records, read_records, shipped_records
from coinfer_ray.refine.cases import Case
from coinfer_ray.refine.rounds import LoopResult, search_loop
from coinfer_ray.runtime.executors import make_executor
from coinfer_ray.runtime.files import run_folder, write_whole
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, obtain_base
from coinfer_ray.training.worker import gpu_share

PLACES = [(device, link) for device in ("rpi3b+", "rpi4b", "tk1") for link in ("3g", "4g", "wifi")]
PLACES += [("rpi3b+", "5g"), ("rpi4b", "5g"), ("tk1", "5g")]
RESULT_FILE = "_result.json"


@dataclass(frozen=True)
class Judged:
    """One returned strategy. ``faster``: latency of the network as it is, best cut, over that of the strategy."""

    scenario: str
    untouched: bool
    predicted_accuracy: float | None
    validation_accuracy: float
    test_accuracy: float
    kept_validation: bool
    kept_test: bool
    faster: float


def main() -> int:
    arguments = parse()
    start = read_records(arguments.records or shipped_records("alexnet", 64))
    splits = load_data(arguments.data)
    base = obtain_base(arguments.base, arguments.records, start.info, splits)
    plain = [
        Case.of(resolve(device=device, server="p100", link=link, max_loss=arguments.max_loss))
        for device, link in PLACES[: arguments.scenarios]
    ]
    sure = [replace(case, confidence=arguments.confidence) for case in plain]
    with (
        run_folder(arguments.out, "verify_scenarios", {"settings_hash": start.info.settings_hash}) as folder,
        make_executor(arguments.executor, workers=arguments.workers, gpus_per_worker=gpu_share()) as executor,
    ):
        verifier = Verifier(start.info, splits, base, executor, folder=folder)
        tables: dict[str, list[Judged]] = {}
        for name, cases in (("no confidence", plain), (f"confidence {arguments.confidence:g}", sure)):
            result = search_loop(
                cases,
                start,
                verifier.measure,
                fit,
                budget=arguments.candidates,
                repeats=arguments.seeds,
                optimizer=arguments.optimizer,
            )
            tables[f"{name}, before the loop"] = judge_first(result, start)
            tables[f"{name}, after {result.trained} trainings"] = judge_last(result, start, verifier, arguments.seeds)
        document = {name: [asdict(row) for row in rows] for name, rows in tables.items()}
        text = json.dumps({"arguments": shown(arguments), "tables": document}, indent=2) + "\n"
        write_whole(folder / RESULT_FILE, lambda temporary: temporary.write_text(text))
    print(text if arguments.json else table(tables, arguments.max_loss))
    return 0


def fit(records: Records) -> Problem:
    return assemble(records.model, records=records)


def judge_first(result: LoopResult, start: Records) -> list[Judged]:
    """What one fit and one optimisation return; only those that the budget reached."""
    judged = []
    for state in result.states:
        first = next((step for step in state.steps if step.round == 1), None)
        if first is None:
            if state.best is not None and state.best.source != "verified":  # nothing better was predicted at once
                judged.append(returned(result, state.case, start, None, state.best_latency_s, None))
            continue
        row = {"validation_accuracy": first.measured_accuracy, "test_accuracy": first.test_accuracy}
        judged.append(returned(result, state.case, start, row, first.latency_s, first.predicted_accuracy))
    return judged


def judge_last(result: LoopResult, start: Records, verifier: Verifier, seeds: int) -> list[Judged]:
    """What the loop returns, judged by one more training of each."""
    found = [state for state in result.states if state.best is not None]
    space = result.problem.space
    compressed = {state.best.levels: None for state in found if state.best is not None and state.best.source != "base"}
    requests = [Request(space.strategy(np.array(levels)), repeat=seeds) for levels in compressed]
    rows = dict(zip(compressed, [row for _, row in sorted(verifier.measure(requests), key=position)], strict=True))
    return [
        returned(result, state.case, start, rows.get(state.best.levels), state.best_latency_s, None)
        for state in found
        if state.best is not None
    ]


def position(measured: tuple[int, Mapping[str, Any]]) -> int:
    return measured[0]


def returned(
    result: LoopResult,
    case: Case,
    start: Records,
    row: Mapping[str, Any] | None,
    latency_s: float | None,
    predicted: float | None,
) -> Judged:
    """``row``: what training gave, None for the network as it is; a training that failed measures 0."""
    base = {split: start.base_accuracy(split) for split in ("validation", "test")}
    measured = base if row is None else {split: row.get(f"{split}_accuracy") or 0.0 for split in base}
    untouched = float((result.problem.known_costs @ np.array(case.weights)).min())
    return Judged(
        scenario=case.name,
        untouched=row is None,
        predicted_accuracy=predicted,
        validation_accuracy=measured["validation"],
        test_accuracy=measured["test"],
        kept_validation=measured["validation"] >= base["validation"] - case.max_loss,
        kept_test=measured["test"] >= base["test"] - case.max_loss,
        faster=untouched / (latency_s or untouched),
    )


def table(tables: Mapping[str, Sequence[Judged]], max_loss: float) -> str:
    lines = [
        f"Share of returned strategies that really lose at most {max_loss * 100:g} points, by training them:",
        f"{'':36} scenarios compressed  kept (validation)  kept (test)  worst (validation)  faster by",
    ]
    for name, rows in tables.items():
        if rows:
            kept = [sum(getattr(row, f"kept_{split}") for row in rows) for split in ("validation", "test")]
            worst = min(row.validation_accuracy for row in rows)
            faster = float(np.exp(np.mean(np.log([row.faster for row in rows]))))
            compressed = sum(not row.untouched for row in rows)
            lines.append(
                f"{name:36} {len(rows):9} {compressed:10}  {kept[0] / len(rows):17.0%}  {kept[1] / len(rows):11.0%}"
                f"  {worst:18.4f}  {faster:8.2f}x"
            )
    return "\n".join(lines)


def shown(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--records", type=Path, help="default: the shipped ones of AlexNet at 64 px")
    parser.add_argument("--scenarios", type=int, default=10, choices=range(1, len(PLACES) + 1), metavar="N")
    parser.add_argument("--max-loss", type=float, default=0.02)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--candidates", type=int, default=20, help="trainings of the loop, with and without")
    parser.add_argument("--seeds", type=int, default=1, help="trainings behind an answer of the loop")
    parser.add_argument("--optimizer", default="exact")
    parser.add_argument("--executor", default="ray", choices=("ray", "local"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        status, message = explain(error)
        print(f"verify_scenarios: {message}", file=sys.stderr)
        sys.exit(status)
