"""One self-contained HTML page about a sweep: no scripts, nothing fetched, readable on a phone, light and dark."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from coinfer_ray.report.figures import figure_captions, latency_figure, second_figure
from coinfer_ray.report.results import PROPOSED, SweepResults, read_sweep
from coinfer_ray.report.table import summary_cells, summary_header, summary_note, times_faster
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.runtime.outputs import PAGE_MARK, check_replaceable

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
$mark
<title>$title</title>
<style>
:root {
  --paper: #ffffff; --ink: #16202b; --soft: #55616e; --faint: #d5dbe1; --stripe: #f3f6f8;
  --local: #d55e00; --server: #0072b2; --neurosurgeon: #009e73;
  --part-device: #e69f00; --part-uplink: #56b4e9; --part-server: #009e73;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12181f; --ink: #e8edf2; --soft: #a3b0bd; --faint: #36424e; --stripe: #1a222b;
    --local: #ff8a3d; --server: #56b4e9; --neurosurgeon: #3ccfa0;
    --part-device: #e69f00; --part-uplink: #56b4e9; --part-server: #2fbf92;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p, figcaption, dd { max-width: 44rem; }
.note, figcaption { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .7rem; text-align: right; }
th { border-bottom: 2px solid var(--faint); vertical-align: bottom; }
tbody tr:nth-child(even) { background: var(--stripe); }
.word { text-align: left; }
.ours { font-weight: 700; }
figure { margin: 0 0 1.5rem; }
figure svg { display: block; width: 100%; max-width: 38rem; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 32rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
</style>
</head>
<body>
<h1>$title</h1>
<p>$summary</p>
<h2>Summary</h2>
<div class="scroll">
$table
</div>
<p class="note">$table_note</p>
<h2>$first_title</h2>
<figure>
$first
<figcaption>$first_caption</figcaption>
</figure>
<h2>$second_title</h2>
<figure>
$second
<figcaption>$second_caption</figcaption>
</figure>
<h2>What these numbers rest on</h2>
$provenance
</body>
</html>
""")


def write_page(results: SweepResults | str | Path, out: str | Path) -> None:
    """Write the page about a sweep's results, or about the folder of one, to ``out``.

    Raises:
        InputError: a folder that is no sweep's (see :func:`coinfer_ray.report.results.read_sweep`), or ``out`` is a
            file that is no such page.
    """
    check_replaceable(out, "page")
    results = results if isinstance(results, SweepResults) else read_sweep(results)
    first_caption, second_caption = figure_captions(results)
    models = " and ".join(results.problems)
    page = _PAGE.substitute(
        mark=PAGE_MARK,
        title=escape(f"{models}: what to run where, scenario by scenario"),
        summary=escape(_summary(results)),
        table=_table(results),
        table_note=escape(summary_note(results)),
        first_title="Latency",
        first=latency_figure(results),
        first_caption=escape(first_caption),
        second_title="Inside the chosen strategies",
        second=second_figure(results),
        second_caption=escape(second_caption),
        provenance="\n".join(_provenance(model, problem) for model, problem in results.problems.items()),
    )
    write_whole(out, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def _summary(results: SweepResults) -> str:
    gains = [row.gain for row in results.rows if row.gain is not None]
    text = f"{len(results.rows):,} scenarios, each with the strategy that {results.solver} search found fastest: how "
    text += "much of every layer to prune, where to cut the network, and how to compress what is sent. "
    if not gains:
        return text + "No strategy keeps the accuracy that was asked for in any of them."
    if len(gains) < len(results.rows):
        text += f"{len(results.rows) - len(gains):,} of them have no strategy that keeps the accuracy asked for. "
    return text + (
        f"Against the best of the other methods the gain is {times_faster(min(gains))} to {times_faster(max(gains))}, "
        f"{times_faster(statistics.median(gains))} in the median."
    )


def _table(results: SweepResults) -> str:
    header = summary_header(results)
    first_number = header.index(PROPOSED)
    kinds = ["word" if i < first_number or name == "cut after" else "" for i, name in enumerate(header)]
    kinds[header.index(PROPOSED)] = "ours"

    def line(tag: str, cells: list[str]) -> str:
        return "".join(f'<{tag} class="{kind}">{escape(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))

    body = "\n".join(f"<tr>{line('td', cells)}</tr>" for cells in summary_cells(results))
    return f"<table>\n<thead><tr>{line('th', header)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _provenance(model: str, problem: Mapping[str, Any]) -> str:
    predictor = problem["predictor"]
    errors = {
        "typical error": f"{predictor['typical_error']:.4f} (root mean square, out of fold)",
        "noise of a training": "unknown, no strategy was trained twice"
        if predictor["noise_floor"] is None
        else f"{predictor['noise_floor']:.4f} between {predictor['repeated']} strategies' own trainings",
    }
    facts = {
        "input": f"{predictor['input_px']} x {predictor['input_px']} pixels",
        "predictor": f"{predictor['regressor']} fitted on {predictor['records']:,} really trained strategies",
        "accuracy": f"{predictor['accuracy']} images, {predictor['base_accuracy']:.4f} for the untouched network",
        **errors,
        "cuts": problem["cuts"],
        "codec's own FLOPs": problem["codec_flops"],
        "bits of an element": f"{problem['feature_bits']:g} of a feature, {problem['input_bits']:g} of the input",
        **dict(_flat(predictor["settings"])),
        "records": f"fingerprint {predictor['records_hash']}, settings {predictor['settings_hash']}",
        "fitted with": ", ".join(f"{name} {version}" for name, version in predictor["versions"].items()),
    }
    rows = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<h3>{escape(model)}</h3>\n<dl>\n{rows}\n</dl>"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The records' settings, one line for each group of them."""
    for name, value in settings.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if not isinstance(value, Mapping):
            yield label, f"{value:,}" if type(value) is int else str(value)
            continue
        plain = {key: each for key, each in value.items() if not isinstance(each, Mapping)}
        if plain:
            yield label, ", ".join(f"{key.replace('_', ' ')} {each}" for key, each in plain.items())
        yield from _flat({key: each for key, each in value.items() if isinstance(each, Mapping)}, f"{label}: ")
