"""``coinfer sweep``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import note, print_json, stdout_for_answers
from coinfer_ray.errors import InputError, counted
from coinfer_ray.runtime.address import as_address

if TYPE_CHECKING:
    from coinfer_ray.sweeps.sweep import Prepared

GridObjectiveChoice = Literal["latency", "energy"]
_FLOAT_BITS = 32
_SHOWN = 5  # strategies in the summary


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer sweep grid.yaml --out answers/
  coinfer sweep grid.yaml --out answers/ --executor local
  coinfer sweep grid.yaml --out answers/ --solver atlas --columns compact
  coinfer sweep grid.yaml --out answers/ --dry-run
  coinfer sweep --check --out answers/
  coinfer sweep grid.yaml --out /shared/answers --address ray-head:6379
  coinfer sweep grid.yaml --out s3://bucket/answers

\b
A grid file:
  model: [alexnet]
  device: [rpi3b+, {name: phone, gflops: {logspace: [0.1, 1000, 100]}}]
  server: [p100]
  link: [4g, {rate_mbps: [1, 10, 100], round_trip_ms: 40}, {bandwidth_mhz: 10, snr_db: {linspace: [0, 50, 51]}}]
  max_loss: [0.01, 0.02]
  confidence: [null, 0.95]       # may be left out: 0.9; null or 0: predictions as they are
""",
    )(sweep)


@options.takes({name: option for name, option in options.PROBLEM.items() if name != "cuts"})
def sweep(
    grid: Annotated[Path | None, typer.Argument(help="Grid file (YAML).")] = None,
    *,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            callback=options.as_place,
            help="Folder for the answers, or its address (s3://bucket/prefix); give it again to resume.",
        ),
    ] = None,
    solver: Annotated[
        str, typer.Option("--solver", help="exact, atlas, quantum, genetic, paper or paper-parent.")
    ] = "exact",
    time_limit: options.TimeLimit = None,
    certify: options.Certify = False,
    executor: options.Executor = "ray",
    address: options.Address = None,
    workers: options.Workers = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="Scenarios to a file; default: by size.")] = None,
    columns: Annotated[
        str, typer.Option("--columns", help="full, compact (number, strategy, latency), or names with commas.")
    ] = "full",
    shard: Annotated[
        str | None, typer.Option("--shard", help="I/N: the I-th of N parts alone, in a folder of its own.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Solve a few, say what all will take, write nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Read the files in --out and compare them with what was written.")
    ] = False,
    cuts: Annotated[
        options.CutsChoice | None, typer.Option("--cuts", help="all or inner, instead of what the grid file says.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            "--confidence",
            help="How sure an answer must be, instead of the grid file's; 0 takes predictions as they are.",
        ),
    ] = None,
    round_trip_ms: Annotated[
        float | None, typer.Option("--round-trip-ms", help="Of every link, instead of what the grid file says.")
    ] = None,
    server_load: Annotated[
        float | None, typer.Option("--server-load", help="Of every server, instead of what the grid file says.")
    ] = None,
    cost_model: options.CostModel = None,
    objective: Annotated[
        GridObjectiveChoice | None, typer.Option("--objective", help="Instead of what the grid file says.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the grid file's.")] = None,
    json: options.Json = False,
    **chosen: Any,
) -> None:
    """Answer a grid of scenarios into a Parquet data set; run again to resume."""
    if out is None:
        if not dry_run:
            raise InputError("out: no folder is given; give --out DIR")
    elif check:
        _check(out, json)
        return
    if grid is None:
        raise InputError("grid: none is given; give a grid file, or --check alone")
    with stdout_for_answers():
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.sweeps.sweep import prepare
        from coinfer_ray.sweeps.sweep import sweep as run

        announce_compilation()
        if cuts is not None:
            chosen["cuts"] = cuts
        common: dict[str, Any] = {
            "solver": solver,
            "seed": seed,
            "confidence": confidence,
            "round_trip_ms": round_trip_ms,
            "server_load": server_load,
            "cost_model": cost_model,
            "objective": objective,
            "certify": certify,
            "chunk": chunk,
            "columns": columns,
            "shard": None if shard is None else _shard(shard),
            "time_limit_s": time_limit,
            **options.given(chosen),
        }
        if dry_run:
            expected = _estimate(prepare(grid, out, solver_options=None, **common), workers)
        else:
            answers = run(grid, out, executor=executor, address=address, workers=workers, **common)
            assert out is not None
            summary = _summary(out, answers.schema.names)
    if dry_run:
        _print_estimate(expected, json)
        return
    assert out is not None
    if json:
        print_json(summary)
        return
    typer.echo(f"{counted(summary['scenarios'], 'scenario')} in {out}, {summary['feasible']:,} of them feasible")
    for each in summary["strategies"][:_SHOWN]:
        cut, bits = each["cut_after"], f", {each['feature_bits']} bits" if each["feature_bits"] < _FLOAT_BITS else ""
        share = each["scenarios"] / max(1, summary["scenarios"])
        source = each["accuracy_source"] or "its accuracy by link"
        typer.echo(f"  {share:6.1%}  {each['model']} cut after {cut}{bits}, {source}, {each['id']}")
    if len(summary["strategies"]) > _SHOWN:
        where = out.partition("?")[0] if as_address(out) else out
        more = counted(len(summary["strategies"]) - _SHOWN, "more strategy", "more strategies")
        typer.echo(f"  and {more}, in {where}/_strategies.parquet")
    if columns == "full" and shard is None:
        note(f"`coinfer report {quote(out)}` shows them")


def _summary(out: str, columns: list[str]) -> dict[str, Any]:
    """How many scenarios are answered, and by which strategies, the most frequent first."""
    from coinfer_ray.sweeps.reader import open_sweep

    sweep = open_sweep(out)
    shown = ["id", "model", "scenarios", "cut_after", "feature_bits", "accuracy_source"]
    strategies = sweep.strategies.select(shown).sort_by([("scenarios", "descending"), ("id", "ascending")]).to_pylist()
    return {
        "out": out,
        "scenarios": len(sweep),
        "feasible": sum(each["scenarios"] for each in strategies),
        "columns": columns,
        "strategies": strategies,
    }


def _check(out: str, json: bool) -> None:
    from coinfer_ray.sweeps.reader import check_files, finished_manifest

    manifest = finished_manifest(out)
    check_files(manifest)
    if json:
        print_json({"out": out, "files": len(manifest.files), "rows": manifest.rows, "bytes": manifest.bytes})
    else:
        files, rows = counted(len(manifest.files), "file"), counted(manifest.rows, "row")
        typer.echo(f"{out}: all {files} ({rows}) are as they were written")


def _estimate(prepared: Prepared, workers: int | None) -> dict[str, Any]:
    from coinfer_ray.runtime.executors.local import allowed_threads
    from coinfer_ray.sweeps.estimate import estimate

    found = estimate(prepared)
    shared = workers or allowed_threads()
    return {**asdict(found), "workers": shared, "wall_s": found.first_s + found.seconds / shared}


def _print_estimate(expected: dict[str, Any], json: bool) -> None:
    if json:
        print_json(expected)
        return
    size = f"{expected['bytes'] / 1e6:,.1f} MB"
    typer.echo(
        f"{counted(expected['scenarios'], 'scenario')} in {counted(expected['files'], 'file')} of {size} together"
    )
    workers, judged = counted(expected["workers"], "worker"), counted(expected["sampled"], "scenario")
    typer.echo(f"about {expected['wall_s']:,.1f} s with {workers}, judged by {judged}; nothing is written")


def _shard(text: str) -> tuple[int, int]:
    part, _, whole = text.partition("/")
    if not (part.isdecimal() and whole.isdecimal()):
        raise InputError(f"shard: {text!r} is not of the form I/N; 2/4 is the second of four parts")
    return int(part), int(whole)
