"""Building the atlas of a network (:mod:`coinfer_ray.atlas.atlas`), and those that a grid of scenarios needs.

Building takes many calls of the exact solver. Each is kept in a folder beside the file as soon as it is done, so that a
build that was stopped goes on where it was; the folder goes when the file is there.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from coinfer_kernels.atlas.build import SolvedWeights, build_atlas
from coinfer_kernels.atlas.crossing import build_crossing_atlas
from coinfer_kernels.atlas.lookup import Atlas

from coinfer_ray.atlas.atlas import AtlasInfo, Range, Ranges, StrategyAtlas, load_atlas
from coinfer_ray.errors import InputError, counted
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.runtime.files import RUN_FILE, first_difference, remove_run, run_folder, write_whole
from coinfer_ray.runtime.outputs import KINDS, check_replaceable
from coinfer_ray.scenarios.grid import Grid, GridObjective
from coinfer_ray.version import __version__

TOLERANCE = 1e-3
MAX_NODES = 200_000  # boxes that one call of the exact solver may look at
BATCH = 4  # weights that are solved, and kept, at a time
NO_EDGE_DB = 1e6  # where an interval of SNRs is open: JSON has no infinity
ATLASES = "_atlas-"  # how the names of a grid's atlases begin, and of what is kept while they are built
_FILE = ATLASES + "{}-{:03d}.atlas"
_PART = "solved-{:06d}.npz"
_PARTS = ".parts"
_PART_NAME = r"solved-\d{6,}\.npz"
_LINE_EVERY_S = 5.0


def build(
    problem: Problem,
    ranges: Ranges,
    *,
    max_loss: float = 0.02,
    confidence: float | None = None,
    snr_db: float | None = None,
    crossings: bool = False,
    objective: GridObjective = "latency",
    tolerance: float = TOLERANCE,
    out: str | Path | None = None,
    max_nodes: int = MAX_NODES,
    threads: int | None = None,
    quiet: bool = False,
) -> StrategyAtlas:
    """Build the atlas of a problem for an accuracy bound, or go on with a build that was stopped.

    ``out`` is the file; the calls of the exact solver are kept beside it, in ``OUT.parts``, until it is there. Without
    ``out`` nothing is kept. ``snr_db`` picks the interval of signal-to-noise ratios that the predictor cannot tell
    apart from it. ``crossings``: for scenarios in which crossing the link takes time by itself, however much.
    ``objective``: what the weights of the ``ranges`` are of. Where the exact solver reaches ``max_nodes`` the atlas's
    ``ratio`` stays above 1 + ``tolerance``.

    Raises:
        InputError: values out of range, an SNR missing for a noisy predictor, a folder of another build, no strategy
            that is accurate enough, or so few boxes that nothing is proven; an atlas of other settings that ``out``
            would replace.
    """
    if not 0 <= max_loss < 1:
        raise InputError(f"max loss: {max_loss} must lie in [0, 1) for an atlas; solve other bounds one by one")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance: {tolerance} must lie between 0 and 1; 0.001 proves to a thousandth")
    if problem.predictor.noisy and (snr_db is None or not math.isfinite(snr_db)):
        raise InputError("snr: the records come from a noisy channel; say for which --snr-db the atlas is")
    info = AtlasInfo(
        model=problem.graph.model,
        input_px=problem.graph.input_px,
        max_loss=max_loss,
        confidence=confidence,
        accuracy_floor=_required(problem, max_loss, confidence),
        base_accuracy=problem.base_accuracy,
        snr_db=_snr_interval(problem, float(snr_db)) if problem.predictor.noisy and snr_db is not None else None,
        ranges=ranges,
        tolerance=tolerance,
        ratio=math.inf,
        solves=0,
        nodes=0,
        seconds=0.0,
        problem=problem.provenance(),
        version=__version__,
        crossings=crossings,
        objective=objective,
    )
    if out is None:
        return _solve(problem, info, [], None, max_nodes, threads, quiet)
    out = Path(out)
    check_replaceable(out, "atlas")
    _check_same_atlas(out, info)
    settings = _settings(info)
    with run_folder(out.with_name(out.name + _PARTS), "atlas", {**settings, "max_nodes": max_nodes}) as folder:
        atlas = _solve(problem, info, _read_parts(folder), folder, max_nodes, threads, quiet)
        atlas.save(out)
        remove_run(folder, _PART_NAME)
    return atlas


def _settings(info: AtlasInfo) -> dict[str, Any]:
    """All that decides an atlas."""
    outcome = ("format", "ratio", "solves", "nodes", "seconds")
    return {name: value for name, value in info.to_json().items() if name not in outcome}


def _check_same_atlas(out: Path, info: AtlasInfo) -> None:
    """Raise InputError where there is an atlas of other settings; one of the same is brought up to date, by whichever
    version it was built."""
    if not out.exists() or out.stat().st_size == 0:
        return
    there, here = (  # the objective first: where it differs, the rest does for that reason
        {"objective": each.objective, **_settings(each), "version": None} for each in (load_atlas(out, None).info, info)
    )
    if (difference := first_difference(there, here)) is not None:
        raise InputError(f"out: {out} is another atlas: {difference}; move it away, or give another name")


def _solve(
    problem: Problem,
    info: AtlasInfo,
    parts: list[SolvedWeights],
    folder: Path | None,
    max_nodes: int,
    threads: int | None,
    quiet: bool,
) -> StrategyAtlas:
    """Solve until the atlas is proven, starting from what is there."""
    problem = problem.at_link(None if info.snr_db is None else info.snr_db[1])
    began = printed = time.monotonic()
    done, holding = list(parts), _holding(problem, info)

    def report(solved: SolvedWeights, atlas: Atlas) -> None:
        nonlocal printed
        if folder is not None:
            path = folder / _PART.format(len(done))
            write_whole(path, lambda temporary: _write_part(temporary, solved))
        done.append(solved)
        if not quiet and time.monotonic() - printed >= _LINE_EVERY_S:
            printed = time.monotonic()
            print(f"atlas: {_progress(done, atlas)}", file=sys.stderr, flush=True)

    build = build_crossing_atlas if info.crossings else build_atlas
    facts = np.vstack([problem.known_levels, problem.measured.levels[holding]])
    costs = np.vstack([problem.known_costs, problem.measured.costs[holding]])
    named = _within(problem, facts)
    try:
        atlas = build(
            *problem.searched,
            problem.predictor.ensemble.tables,
            info.ranges.corners(),
            info.accuracy_floor,
            snr_db=0.0 if info.snr_db is None else info.snr_db[1],
            known_levels=named,
            known_costs=costs,
            tolerance=info.tolerance,
            batch=BATCH,
            max_nodes=max_nodes,
            threads=threads,
            solved=parts,
            report=report,
        )
    except ValueError as error:
        raise InputError(f"atlas: {error}") from None
    if not math.isfinite(atlas.ratio):
        raise InputError(f"atlas: nothing is proven within {max_nodes:,} boxes a call; allow more, or narrower ranges")
    atlas = atlas._replace(levels=_named_again(atlas, facts, named, costs))
    known, place = problem.is_known(atlas.levels), problem.measured.find(atlas.levels)
    accuracy = np.where(known, problem.base_accuracy, atlas.accuracy)
    accuracy[place >= 0] = problem.measured.accuracy[place[place >= 0]]
    atlas = atlas._replace(accuracy=accuracy)
    sources = np.where(known, "base", np.where(place >= 0, "measured", "predicted"))
    strategies = tuple(problem.space.strategy(levels) for levels in atlas.levels)
    return StrategyAtlas(
        atlas,
        tuple(sources.tolist()),
        strategies,
        tuple(problem.graph.cut_name(strategy.partition_point) for strategy in strategies),
        replace(
            info,
            ratio=atlas.ratio,
            solves=sum(len(part.weights) for part in done),
            nodes=int(sum(part.nodes.sum() for part in done)),
            seconds=time.monotonic() - began,
        ),
    )


def _within(problem: Problem, levels: np.ndarray) -> np.ndarray:
    """``levels`` (K, V) with a level of the cut that the kernels know (:attr:`Problem.searched`): where it is none of
    these, the last one of them at the same point. To the kernels it is a name, for the costs come beside it."""
    space, named = problem.space, levels.copy()
    points = np.asarray(space.variables[space.cut_variable].values)
    cuts = levels[:, space.cut_variable]
    for cut in np.unique(cuts[cuts >= space.searched_cuts]).tolist():
        alike = np.flatnonzero(points[: space.searched_cuts] == points[cut])
        named[cuts == cut, space.cut_variable] = alike[-1]
    return named


def _named_again(atlas: Atlas, facts: np.ndarray, named: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The atlas' levels, with those of ``facts`` (K, V) where a row is one of them by its name and its costs (K, 3)."""
    levels = atlas.levels.copy()
    for row in np.flatnonzero(np.isposinf(atlas.accuracy)):
        same = (named == atlas.levels[row]).all(axis=1) & (costs == atlas.costs[row]).all(axis=1)
        if same.any():
            levels[row] = facts[int(same.argmax())]
    return levels


def grid_atlases(
    grid: Grid,
    problem: Problem,
    *,
    tolerance: float = TOLERANCE,
    folder: str | Path | None = None,
    max_nodes: int = MAX_NODES,
    threads: int | None = None,
    quiet: bool = False,
    name: str | None = None,
) -> tuple[StrategyAtlas, ...]:
    """Atlases that together answer a grid's scenarios of one network.

    One for each accuracy bound, confidence and, for a noisy predictor, interval of signal-to-noise ratios. ``folder``
    keeps them as files, ``_atlas-NAME-NUMBER.atlas``, NAME the network's unless another is given; what is there already
    is read. They are Parquet, but a folder of answers has no other table that a tool could take for answers: neither
    begins their name as a data file's does nor ends it so, for DuckDB and Polars go by the ending.

    Raises:
        InputError: as :func:`build`, or a file there of another atlas, or of one that is proven less.
    """
    ranges, found = Ranges.of_grid(grid), list[StrategyAtlas]()
    crossings = grid.crossing_takes_time
    ratios = np.unique(grid.link.columns["snr_db"]) if problem.predictor.noisy else np.full(1, np.nan)
    for loss, asked, snr_db in product(np.unique(grid.max_loss), np.unique(grid.confidence), ratios):
        confidence = None if np.isnan(asked) else float(asked)
        floor = _required(problem, float(loss), confidence)
        if any(atlas.covers(floor, snr_db) for atlas in found):
            continue
        out = None if folder is None else Path(folder) / _FILE.format(name or problem.graph.model, len(found))
        if out is not None and out.exists():
            kept = load_atlas(out, grid.objective)
            own = kept.info.problem == json.loads(json.dumps(problem.provenance())) and kept.info.ranges.holds(ranges)
            own = own and kept.info.crossings == crossings
            if not (own and kept.covers(floor, snr_db) and kept.info.ratio <= 1 + tolerance):
                raise InputError(
                    f"atlas: {out} was built for other scenarios or records; move it away, or give another folder"
                )
        else:
            kept = build(
                problem,
                ranges,
                max_loss=float(loss),
                confidence=confidence,
                snr_db=float(snr_db),
                crossings=crossings,
                objective=grid.objective,
                tolerance=tolerance,
                out=out,
                max_nodes=max_nodes,
                threads=threads,
                quiet=quiet,
            )
        found.append(kept)
    return tuple(found)


def rename_old_atlases(folder: str | Path) -> None:
    """Give the atlases that an earlier version left in a sweep's folder, begun ones too, the names of today.

    They were called ``atlas-MODEL-NUMBER.parquet``, and every reader of the folder took them for answers.
    """
    for old in sorted(Path(folder).glob("atlas-*.parquet*")):
        name, _, rest = old.name.partition(".parquet")
        ours = KINDS["atlas"][1](old) if old.is_file() and not rest else (old / RUN_FILE).is_file()
        new = old.with_name(f"_{name}.atlas{rest}")
        if ours and rest in ("", _PARTS) and not new.exists():
            old.rename(new)


def _holding(problem: Problem, info: AtlasInfo) -> np.ndarray:
    """(M,) bool: measured strategies that keep to the atlas's bound. The network as it is always does: max_loss is no
    less than 0."""
    holds: np.ndarray = problem.measured_bound(info.confidence) >= problem.base_accuracy - info.max_loss
    return holds


def _required(problem: Problem, max_loss: float, confidence: float | None) -> float:
    """What strategies must be predicted to reach."""
    return float(problem.required_accuracy(np.array([problem.base_accuracy - max_loss]), confidence)[0])


def _snr_interval(problem: Problem, snr_db: float) -> Range:
    """SNRs that neither predictor nor measurements can tell from this one: above the first, up to the second."""
    ensemble, variables = problem.predictor.ensemble.tables, len(problem.space.variables)
    if ensemble.coefficients[variables] != 0:
        return float(np.nextafter(snr_db, -np.inf)), snr_db
    # A threshold belongs to what is below it, a measured ratio to what is above.
    measured = np.nextafter(problem.measured_ratios, -np.inf)
    edges = np.unique(np.concatenate([ensemble.threshold[ensemble.feature == variables], measured]))
    at = int(np.searchsorted(edges, snr_db))
    low = float(edges[at - 1]) if at else -NO_EDGE_DB
    return low, float(edges[at]) if at < len(edges) else NO_EDGE_DB


def _progress(done: list[SolvedWeights], atlas: Atlas) -> str:
    solves, nodes = sum(len(part.weights) for part in done), sum(int(part.nodes.sum()) for part in done)
    proven = f"proven to {atlas.ratio - 1:.3%}" if atlas.ratio < 100 else "not yet proven"
    strategies = counted(len(atlas.costs), "strategy", "strategies")
    return f"{counted(solves, 'weight')} solved ({counted(nodes, 'box', 'boxes')}), {strategies}, {proven}"


def _write_part(path: Path, solved: SolvedWeights) -> None:
    with path.open("wb") as file:  # savez would append .npz to a path
        np.savez(file, **solved._asdict())


def _read_parts(folder: Path) -> list[SolvedWeights]:
    """Earlier answers in their order, up to the first that is missing or not whole."""
    parts: list[SolvedWeights] = []
    while (path := folder / _PART.format(len(parts))).exists():
        try:
            with np.load(path, allow_pickle=False) as arrays:
                parts.append(SolvedWeights(**{name: arrays[name] for name in SolvedWeights._fields}))
        except Exception:  # a damaged file breaks NumPy and zipfile each in its own way; it is solved again
            break
    return parts
