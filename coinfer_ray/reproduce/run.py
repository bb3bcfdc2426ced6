"""``coinfer reproduce``: compute the parts that are missing, draw the page and its pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from coinfer_ray.records.store import shipped_records
from coinfer_ray.report.interactive import write_interactive
from coinfer_ray.report.stills import write_stills
from coinfer_ray.reproduce.page import build_page
from coinfer_ray.reproduce.parts import FULL, MODELS, PARTS, QUICK, Rows
from coinfer_ray.reproduce.rows import Problems
from coinfer_ray.runtime.files import run_folder, write_whole
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.version import __version__

PAGE = "report.html"


def reproduce(out: str | Path, *, quick: bool = False, quiet: bool = False) -> Path:
    """Make the paper's tables and figures in the folder ``out``, and return the page.

    The page is ``report.html``; beside it lie PNG, SVG and CSV of each figure, and the rows of each part as CSV. Parts
    are kept as they end (``parts/``), so a run that was stopped goes on. ``quick`` takes fewer points and leaves out
    what takes minutes: the optimizers' gaps, CIA's agent and the regressors.

    Raises:
        InputError: the folder holds something else, or a run of another version or other records.
    """
    size = QUICK if quick else FULL
    command = f"coinfer reproduce --out {Path(out).name}{' --quick' if quick else ''}"
    with run_folder(out, "reproduce", {"version": __version__, "rests_on": _fingerprint(), **asdict(size)}) as folder:
        (folder / "parts").mkdir(exist_ok=True)
        problems = Problems()
        rows: dict[str, Rows] = {}
        with Progress("parts", len(PARTS), quiet=quiet) as progress:
            for name, part in PARTS.items():
                kept = folder / "parts" / f"{name}.json"
                if not kept.exists():
                    document = json.dumps(part(problems, size))
                    write_whole(kept, partial(Path.write_text, data=document))
                rows[name] = json.loads(kept.read_text())
                _write_csv(folder / f"{name}.csv", rows[name])
                progress.advance()
        page = build_page(rows, command)
        write_stills(page, folder)
        write_interactive(page, folder / PAGE)
    return Path(out) / PAGE


def _write_csv(path: Path, rows: Rows) -> None:
    """Rows of plain values as CSV; what is nested (a fit) stays in its part alone."""
    flat = [{name: value for name, value in row.items() if not isinstance(value, list | dict)} for row in rows]
    if not flat or not flat[0]:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_whole(path, lambda temporary: temporary.write_text(text.getvalue()))


def _fingerprint() -> Mapping[str, Any]:
    """What the rows rest on: all that ships but the networks, by its bytes."""
    ships = shipped_records(MODELS[0]).parent
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(ships.iterdir())
        if path.suffix in (".parquet", ".npz")
    }
