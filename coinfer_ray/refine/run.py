"""``coinfer refine``: the loop of :mod:`coinfer_ray.refine.rounds` with real trainings, kept in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from coinfer_ray.errors import InputError
from coinfer_ray.models.library import check_same_network
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.optimizer.problem import FeatureBits, Problem, assemble
from coinfer_ray.optimizer.solve import DEFAULT_OPTIMIZER
from coinfer_ray.problem.costs import INPUT_BITS
from coinfer_ray.problem.space import Cuts
from coinfer_ray.records.store import Records, Split, read_records, shipped_records, with_few_bits
from coinfer_ray.refine.cases import Case
from coinfer_ray.refine.rounds import LoopResult, search_loop
from coinfer_ray.runtime.executors.base import Executor
from coinfer_ray.runtime.files import run_folder, write_whole
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, obtain_base

RESULT_FILE = "_search.json"  # pyarrow's data sets pass over names that begin with _


def refine(
    model: ModelLike,
    cases: Sequence[Case],
    data: str | Path,
    out: str | Path,
    *,
    budget: int,
    executor: Executor,
    records: Records | str | Path | None = None,
    base: str | Path | None = None,
    repeats: int = 1,
    optimizer: str = DEFAULT_OPTIMIZER,
    seed: int = 0,
    quiet: bool = False,
    input_px: int | None = None,
    cuts: Cuts = "all",
    feature_bits: FeatureBits = "any",
    multiple: int = 1,
    codec_flops: bool = True,
    input_bits: float = INPUT_BITS,
    accuracy: Split = "validation",
) -> LoopResult:
    """Optimise and train in turn until each case's best trained strategy keeps to its bound and none is predicted
    to be faster, or until ``budget`` trainings are spent.

    ``model`` is what :func:`coinfer_ray.models.source.resolve_model` takes, but for a layer graph.
    ``records`` are those to start from (default: the shipped ones) and ``base`` is their base network, by default
    the one in their folder. Each training is a shard in ``out``, where the result so far is ``_search.json``. Run
    again with the same arguments, and a larger ``budget`` if more is wanted, to go on.

    Raises:
        InputError: records, images, base network or folder that do not belong together; see also
            :func:`coinfer_ray.refine.rounds.search_loop`.
    """
    source = resolve_model(model)
    start = records if isinstance(records, Records) else _start_records(records, source.name, input_px)
    check_same_network(source, start.graph, "records: are")
    if input_px not in (None, start.input_px):
        raise InputError(f"records: hold inputs of {start.input_px} px, not of {input_px}; give --input-px or others")

    if start.snr_db is None:  # trained without noise, they speak of links whose bits arrive as they were sent
        cases = [replace(case, snr_db=None) for case in cases]

    def fit(found: Records) -> Problem:
        return assemble(
            start.graph,
            records=found,
            cuts=cuts,
            feature_bits=feature_bits,
            multiple=multiple,
            codec_flops=codec_flops,
            input_bits=input_bits,
            accuracy=accuracy,
        )

    splits = load_data(data)
    network = obtain_base(base, records, start.info, splits, source)
    options = {
        "model": source.name,
        "start_records": _fingerprint(start),
        "scenarios": [asdict(case) for case in cases],
        "repeats": repeats,
        "cuts": cuts,
        "feature_bits": feature_bits,
        "codec_flops": codec_flops,
        "input_bits": input_bits,
        "accuracy": accuracy,
        "optimizer": optimizer,
        "seed": seed,
    }
    if multiple > 1:
        options["multiple"] = multiple
    with run_folder(out, "search", options) as folder:
        verifier = Verifier(start.info, splits, network, executor, folder=folder, quiet=quiet)

        def keep(result: LoopResult) -> None:
            text = json.dumps(result.to_json(), indent=2) + "\n"
            write_whole(folder / RESULT_FILE, lambda temporary: temporary.write_text(text))

        return search_loop(
            cases,
            start,
            verifier.measure,
            fit,
            budget=budget,
            repeats=repeats,
            split=accuracy,
            optimizer=optimizer,
            seed=seed,
            on_round=keep,
        )


def _start_records(path: str | Path | None, model: str, input_px: int | None) -> Records:
    path = shipped_records(model, input_px) if path is None else Path(path)
    if path.suffix == ".npz":
        raise InputError(f"records: {path} is a predictor; the loop fits again as it learns, give the records")
    return read_records(with_few_bits(path))


def _fingerprint(records: Records) -> str:
    """Of what the loop starts from, without what differs from run to run of the same candidates."""
    rows = records.table.drop_columns(["wall_s"]).to_pylist()
    document = json.dumps([records.info.settings_hash, rows], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:16]
