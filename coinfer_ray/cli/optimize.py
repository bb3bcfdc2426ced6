"""``coinfer optimize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import print_json, print_table, stdout_for_answers
from coinfer_ray.errors import counted

if TYPE_CHECKING:
    from coinfer_ray.optimizer.optimize import Answer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer optimize --model alexnet --device rpi3b+ --server p100 --link 4g
  coinfer optimize --model alexnet --device-gflops 12 --server p100 --rate-mbps 7.5 --max-loss 0.01 --json
  coinfer optimize --model alexnet --device-gflops 12 --server p100 --link 4g --round-trip-ms 40
  coinfer optimize --model alexnet --device rpi4b --server p100 --link 3g --max-loss 0.05 --confidence 0.95
  coinfer optimize --model alexnet --device tk1 --server p100 --link wifi --optimizer paper --cuts inner
  coinfer optimize --model alexnet --device rpi4b-ncnn --server v100-ncnn --link 4g-typical --max-energy-j 0.02
  coinfer optimize --model alexnet --device rpi4b --server p100 --link 4g --objective throughput --max-latency-ms 30
  coinfer optimize --records own-records/ --device rpi4b --server p100 --link 4g
""",
    )(optimize)


@options.takes(options.SCENARIO, options.PROBLEM)
def optimize(
    model: options.Model = None,
    *,
    optimizer: options.Optimizer = "exact",
    time_limit: options.TimeLimit = 10.0,
    certify: options.Certify = False,
    objective: options.Objective = "latency",
    seconds_per_joule: options.SecondsPerJoule = None,
    max_energy_j: Annotated[
        float | None, typer.Option("--max-energy-j", help="The fastest that draws no more, among measured strategies.")
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(
            "--max-latency-ms", help="With --objective energy or throughput: no slower, among measured strategies."
        ),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    **chosen: Any,
) -> None:
    """Find the fastest strategy for one scenario."""
    with stdout_for_answers():
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.optimizer.optimize import optimize as run

        announce_compilation()
        answer = run(
            options.network_of(model, chosen["records"]),
            **options.given(chosen),
            optimizer=optimizer,
            objective=objective,
            seconds_per_joule=seconds_per_joule,
            seed=seed,
            certify=certify,
            time_limit_s=time_limit,
            max_energy_j=max_energy_j,
            max_latency_ms=max_latency_ms,
        )
    if json:
        print_json(answer.to_json())
    else:
        names = {"latency": "fastest", "energy": "leanest", "weighted": "best", "throughput": "greatest throughput"}
        best = names[objective]
        _print_answer(answer, best if max_energy_j is None and max_latency_ms is None else f"{best} within the budget")


def _print_answer(answer: Answer, best: str) -> None:
    from rich.table import Table

    from coinfer_ray.problem.strategy import FLOAT_BITS

    strategy = answer.strategy
    pruned = {name: ratio for name, ratio in strategy.sparsity.items() if ratio}
    codec = {name: value for name, value in vars(strategy.codec).items() if value != 1}
    table = Table(show_header=False, title=f"{answer.model}, {answer.input_px} px", title_justify="left")
    table.add_row("latency", f"{answer.latency_s * 1e3:,.3f} ms")
    for name, seconds in (("device", answer.device_s), ("uplink", answer.uplink_s), ("server", answer.server_s)):
        table.add_row(f"  {name}", f"{seconds * 1e3:,.3f} ms")
    if answer.crossing_s:
        table.add_row("  round trip", f"{answer.crossing_s * 1e3:,.3f} ms")
    if answer.items_per_s is not None:
        stages = {"device": answer.device_s, "uplink": answer.uplink_s, "server": answer.server_s}
        slowest = max(stages, key=lambda stage: stages[stage])
        table.add_row("throughput", f"{answer.items_per_s:,.4g} items/s, held up by the {slowest}")
    if answer.energy_j is not None:
        table.add_row("energy", f"{answer.energy_j:,.4g} J")
    if answer.weighted_s is not None:
        table.add_row("weighted", f"{answer.weighted_s * 1e3:,.3f} ms, with the price of the energy")
    table.add_row("sent", f"{answer.uplink_bit / 1e3:,.1f} kbit")
    known = answer.accuracy_source == "base"
    rests_on = {
        "base": "measured: the network as it is",
        "measured": f"measured: {counted(answer.trainings, 'training')} of this strategy, "
        f"standard error {answer.typical_error:.4f}",
        "predicted": f"predicted, typical error {answer.typical_error:.4f}",
    }
    table.add_row("accuracy", f"{answer.predicted_accuracy:.4f} ({rests_on[answer.accuracy_source]})")
    if answer.accuracy_bound is not None and not known:
        table.add_row("  at least", f"{answer.accuracy_bound:.4f} with a confidence of {answer.confidence:g}")
    table.add_row("  least allowed", f"{answer.accuracy_floor:.4f} (base {answer.base_accuracy:.4f})")
    table.add_row("cut after", f"{answer.cut_after} (partition point {strategy.partition_point})")
    table.add_row("pruned", ", ".join(f"{name} {ratio:.0%}" for name, ratio in pruned.items()) or "nothing")
    table.add_row("codec", ", ".join(f"{name} {value:g}" for name, value in codec.items()) or "none")
    if strategy.feature_bits != FLOAT_BITS:
        table.add_row("feature", f"quantised to {strategy.feature_bits} bits a value")
    if answer.confidence is not None and answer.accuracy_source != "predicted" and answer.gap == 0:
        table.add_row("proven", f"the {best} of all whose measured accuracy keeps the bound")
    elif answer.gap is not None:
        table.add_row("proven", f"at most {max(answer.gap, 0):.2%} above the best that the predictor allows")
    table.add_row(
        "found by", f"{answer.optimizer}, {counted(answer.evaluations, 'evaluation')}, {answer.seconds:.2f} s"
    )
    print_table(table)
