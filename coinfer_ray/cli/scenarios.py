"""Commands about scenarios: optimize, compare, sweep, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, note, print_json, print_table, stdout_for_answers

if TYPE_CHECKING:
    from coinfer_ray.search import Answer


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer optimize --model alexnet --device rpi3b+ --server p100 --link 4g
  coinfer optimize --model alexnet --device-gflops 12 --server p100 --rate-mbps 7.5 --max-loss 0.01 --json
  coinfer optimize --model alexnet --device rpi4b --server p100 --link 3g --max-loss 0.05 --confidence 0.95
  coinfer optimize --model alexnet --device tk1 --server p100 --link wifi --optimizer paper --cuts inner
""",
    )(optimize)
    app.command(
        epilog="""Examples:

\b
  coinfer compare --model alexnet --device rpi3b+ --server p100 --link 4g
  coinfer compare --model regnet_x_400mf --input-px 224 --device tk1 --server p100 --link wifi \\
      --methods all_local,all_server,neurosurgeon --cuts inner
""",
    )(compare)
    app.command(
        epilog="""Examples:

\b
  coinfer sweep grid.yaml --out answers/
  coinfer sweep grid.yaml --out answers/ --executor local
  coinfer sweep grid.yaml --out /shared/answers --address ray-head:6379

\b
A grid file:
  model: [alexnet]
  device: [rpi3b+, {name: phone, gflops: {logspace: [0.1, 1000, 100]}}]
  server: [p100]
  link: [4g, {rate_mbps: [1, 10, 100]}, {bandwidth_mhz: 10, snr_db: {linspace: [0, 50, 51]}}]
  max_loss: [0.01, 0.02]
  confidence: [null, 0.95]       # may be left out: the predictor's best guess
""",
    )(sweep)
    app.command(
        epilog="""Examples:

\b
  coinfer report answers/
  coinfer report answers/ --out page.html
""",
    )(report)


def optimize(
    model: options.Model,
    device: options.Device = None,
    device_gflops: options.DeviceGflops = None,
    server: options.Server = None,
    server_gflops: options.ServerGflops = None,
    link: options.Link = None,
    rate_mbps: options.RateMbps = None,
    bandwidth_mhz: options.BandwidthMhz = None,
    snr_db: options.SnrDb = None,
    max_loss: options.MaxLoss = 0.02,
    confidence: options.Confidence = None,
    records: options.Records = None,
    accuracy: options.Accuracy = "validation",
    input_px: options.InputPx = None,
    cuts: options.Cuts = "all",
    codec_flops: options.CodecFlops = "count",
    input_bits: options.InputBits = 32,
    optimizer: options.Optimizer = "quantum",
    certify: options.Certify = False,
    objective: options.Objective = "latency",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Find the fastest strategy for one scenario."""
    with stdout_for_answers():
        from coinfer_ray.search import optimize as run

        answer = run(
            model,
            device,
            server,
            link,
            device_gflops=device_gflops,
            server_gflops=server_gflops,
            rate_mbps=rate_mbps,
            bandwidth_mhz=bandwidth_mhz,
            snr_db=snr_db,
            max_loss=max_loss,
            confidence=confidence,
            records=records,
            input_px=input_px,
            cuts=cuts,
            codec_flops=codec_flops == "count",
            input_bits=input_bits,
            accuracy=accuracy,
            optimizer=optimizer,
            objective=objective,
            seed=seed,
            certify=certify,
        )
    if json:
        print_json(answer.to_json())
    else:
        _print_answer(answer)


def compare(
    model: options.Model,
    device: options.Device = None,
    device_gflops: options.DeviceGflops = None,
    server: options.Server = None,
    server_gflops: options.ServerGflops = None,
    link: options.Link = None,
    rate_mbps: options.RateMbps = None,
    bandwidth_mhz: options.BandwidthMhz = None,
    snr_db: options.SnrDb = None,
    max_loss: options.MaxLoss = 0.02,
    confidence: options.Confidence = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="Comma-separated; default: all_local,all_server,neurosurgeon,coinfer."),
    ] = None,
    records: options.Records = None,
    accuracy: options.Accuracy = "validation",
    input_px: options.InputPx = None,
    cuts: options.Cuts = "all",
    codec_flops: options.CodecFlops = "count",
    input_bits: options.InputBits = 32,
    optimizer: options.Optimizer = "quantum",
    objective: options.Objective = "latency",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Put the compared methods side by side on one scenario."""
    with stdout_for_answers():
        from coinfer_ray.comparison import ALL_METHODS
        from coinfer_ray.comparison import compare as run

        rows = run(
            model,
            device,
            server,
            link,
            device_gflops=device_gflops,
            server_gflops=server_gflops,
            rate_mbps=rate_mbps,
            bandwidth_mhz=bandwidth_mhz,
            snr_db=snr_db,
            max_loss=max_loss,
            confidence=confidence,
            methods=ALL_METHODS if methods is None else [name.strip() for name in methods.split(",")],
            records=records,
            input_px=input_px,
            cuts=cuts,
            codec_flops=codec_flops == "count",
            input_bits=input_bits,
            accuracy=accuracy,
            optimizer=optimizer,
            objective=objective,
            seed=seed,
        )
    if json:
        print_json(rows)
    else:
        _print_comparison(rows)


def sweep(
    grid: Annotated[Path, typer.Argument(help="Grid file (YAML).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the answers; give it again to resume.")],
    solver: Annotated[str, typer.Option("--solver", help="quantum, exact, atlas or paper.")] = "quantum",
    certify: options.Certify = False,
    executor: options.Executor = "ray",
    address: options.Address = None,
    workers: options.Workers = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="Scenarios to a file; default: by size.")] = None,
    records: options.Records = None,
    accuracy: options.Accuracy = "validation",
    input_px: options.InputPx = None,
    cuts: Annotated[
        options.CutsChoice | None, typer.Option("--cuts", help="all or inner, instead of what the grid file says.")
    ] = None,
    codec_flops: options.CodecFlops = "count",
    input_bits: options.InputBits = 32,
    confidence: Annotated[
        float | None, typer.Option("--confidence", help="How sure the predictor must be, instead of the grid file's.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the grid file's.")] = None,
    json: options.Json = False,
) -> None:
    """Answer a grid of scenarios into a Parquet data set; run again to resume."""
    with stdout_for_answers():
        from coinfer_ray.sweeps import sweep as run

        answers = run(
            grid,
            out,
            solver=solver,
            executor=executor,
            address=address,
            workers=workers,
            seed=seed,
            cuts=cuts,
            confidence=confidence,
            certify=certify,
            records=records,
            input_px=input_px,
            codec_flops=codec_flops == "count",
            input_bits=input_bits,
            accuracy=accuracy,
            chunk=chunk,
        )
        feasible = answers.to_table(columns=["feasible"])["feasible"]
        summary = {
            "out": str(out),
            "scenarios": len(feasible),
            "feasible": feasible.to_numpy().sum().item(),
            "columns": answers.schema.names,
        }
    if json:
        print_json(summary)
    else:
        typer.echo(f"{summary['scenarios']:,} scenarios in {out}, {summary['feasible']:,} of them feasible")
        note(f"`coinfer report {out}` shows them")


def report(
    answers: Annotated[Path, typer.Argument(help="Folder that `coinfer sweep` wrote.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write a page with figures here (HTML, one file).")] = None,
    json: options.Json = False,
) -> None:
    """Show a sweep's answers as a table, and as a page with figures."""
    check_output(out)
    with stdout_for_answers():
        from coinfer_ray.report import read_sweep, summary_table, write_page

        results = read_sweep(answers)
        if out is not None:
            write_page(results, out)
    if json:
        print_json({"page": None if out is None else str(out), "rows": [row.to_json() for row in results.rows]})
    else:
        print_table(summary_table(results))
        if out is not None:
            note(f"page written to {out}")


def _print_answer(answer: Answer) -> None:
    from rich.table import Table

    strategy = answer.strategy
    pruned = {name: ratio for name, ratio in strategy.sparsity.items() if ratio}
    codec = {name: value for name, value in vars(strategy.codec).items() if value != 1}
    table = Table(show_header=False, title=f"{answer.model}, {answer.input_px} px", title_justify="left")
    table.add_row("latency", f"{answer.latency_s * 1e3:,.3f} ms")
    for name, seconds in (("device", answer.device_s), ("uplink", answer.uplink_s), ("server", answer.server_s)):
        table.add_row(f"  {name}", f"{seconds * 1e3:,.3f} ms")
    if answer.energy_j is not None:
        table.add_row("energy", f"{answer.energy_j:,.4g} J")
    table.add_row("sent", f"{answer.uplink_bit / 1e3:,.1f} kbit")
    known = answer.accuracy_source == "base"
    measured = "measured: the network as it is" if known else f"predicted, typical error {answer.typical_error:.4f}"
    table.add_row("accuracy", f"{answer.predicted_accuracy:.4f} ({measured})")
    if answer.accuracy_bound is not None and not known:
        table.add_row("  at least", f"{answer.accuracy_bound:.4f} with a confidence of {answer.confidence:g}")
    table.add_row("  least allowed", f"{answer.accuracy_floor:.4f} (base {answer.base_accuracy:.4f})")
    table.add_row("cut after", f"{answer.cut_after} (partition point {strategy.partition_point})")
    table.add_row("pruned", ", ".join(f"{name} {ratio:.0%}" for name, ratio in pruned.items()) or "nothing")
    table.add_row("codec", ", ".join(f"{name} {value:g}" for name, value in codec.items()) or "none")
    if answer.gap is not None:
        table.add_row("proven", f"at most {max(answer.gap, 0):.2%} above the best that the predictor allows")
    table.add_row("found by", f"{answer.optimizer}, {answer.evaluations:,} evaluations, {answer.seconds:.2f} s")
    print_table(table)


def _print_comparison(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    energy = rows[0]["energy_j"] is not None
    measure = "energy_j" if energy else "latency_s"
    names = ["latency ms", "device ms", "uplink ms", "server ms", *(["energy J"] if energy else [])]
    bounded = any(row["accuracy_bound"] is not None for row in rows)
    table = Table("method")
    for name in (*names, "to the best", "accuracy", *(["at least"] if bounded else [])):
        table.add_column(name, justify="right")
    table.add_column("cut after")
    best = min(row[measure] for row in rows)
    for row in rows:
        cells = [f"{row[name] * 1e3:,.3f}" for name in ("latency_s", "device_s", "uplink_s", "server_s")]
        if energy:
            cells.append(f"{row[measure]:,.4g}")
        cells.append(f"{row[measure] / best:,.2f}x" if best else "-")
        for name in ("accuracy", *(["accuracy_bound"] if bounded else [])):
            cells.append("-" if row[name] is None else f"{row[name]:.4f}")
        style = "bold" if row[measure] == best else None
        table.add_row(row["method"], *cells, row["cut_after"], style=style)
    print_table(table)
