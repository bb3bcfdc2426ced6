"""The page and the table about a sweep: made from real answers of a small grid."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from coinfer_ray.errors import InputError
from coinfer_ray.predictor.fit import fit_predictor
from coinfer_ray.report import SweepResults, open_results, read_sweep, summary_table, write_page
from coinfer_ray.report.interactive import MAX_BYTES, render
from coinfer_ray.report.model import Figure, Page, TableView
from coinfer_ray.report.page import MAX_PANELS, MAX_POINTS, figures_folder, sweep_page
from coinfer_ray.report.results import spread
from coinfer_ray.report.table import MAX_ROWS, milliseconds, summary_cells, summary_header, summary_note, times_faster
from coinfer_ray.runtime.files import RUN_FILE
from coinfer_ray.sweeps.reader import open_sweep
from coinfer_ray.sweeps.sweep import sweep
from tests.synthetic import SETTINGS, write_synthetic_records

PAPER_GRID = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "rpi4b", "tk1"],
    "server": ["p100"],
    "link": ["wifi", "3g", "4g", "5g"],
    "max_loss": [0.02],
}
RATE_GRID = {
    "model": ["alexnet"],
    "device": ["rpi3b+", {"name": "phone", "gflops": [1, 100]}],
    "server": ["p100"],
    "link": [{"rate_mbps": {"logspace": [0.01, 100, 12]}}],
    "max_loss": [0.01, 0.05, 0.1],
}
QUICK = {
    "executor": "local",
    "solver": "paper",
    "solver_options": {"max_evaluations": 300, "max_tries": 30},
    "quiet": True,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sweeps")
    records = write_synthetic_records(root / "alexnet-64px.parquet", count=100)
    predictor = fit_predictor(records, regressor="decision_tree")
    for name, grid in (("paper", PAPER_GRID), ("rates", RATE_GRID)):
        sweep(grid, root / name, records=predictor, **QUICK)
    return {name: root / name for name in ("paper", "rates")}


@pytest.fixture(scope="module")
def paper(folders: dict[str, Path]) -> SweepResults:
    return read_sweep(folders["paper"])


@pytest.fixture(scope="module")
def rates(folders: dict[str, Path]) -> SweepResults:
    return read_sweep(folders["rates"])


def test_rows_are_the_answers(folders: dict[str, Path], paper: SweepResults) -> None:
    import pyarrow.dataset as ds

    answers = ds.dataset(folders["paper"], exclude_invalid_files=True).to_table().sort_by("scenario").to_pylist()
    assert len(paper.rows) == paper.scenarios == len(answers) == 12
    for row, answer in zip(paper.rows, answers, strict=True):
        assert (row.device, row.link, row.latency_s) == (answer["device"], answer["link"], answer["latency_s"])
        best = min(answer["all_local_s"], answer["all_server_s"], answer["neurosurgeon_s"])
        assert row.gain == pytest.approx(best / answer["latency_s"])
        assert row.gain >= 1
    assert json.loads(json.dumps(paper.rows[0].to_json()))["others_s"].keys() == {
        "All_Local",
        "All_Server",
        "Neurosurgeon",
    }


def test_panels_hold_scenarios_that_differ_by_link_alone(paper: SweepResults, rates: SweepResults) -> None:
    assert list(paper.panels) == ["rpi3b+", "rpi4b", "tk1"]
    assert [row.link for row in paper.panels["tk1"]] == ["3g", "4g", "5g", "wifi"]
    assert len(rates.panels) == 9
    assert "phone, 100 GFLOPS, max loss 0.05" in rates.panels
    for rows in rates.panels.values():
        assert [row.rate_bps for row in rows] == sorted(row.rate_bps for row in rows) and len(rows) == 12
    assert rates.rows[0].link == "0.01 Mb/s"


def test_table_shows_every_scenario_or_says_which(paper: SweepResults, rates: SweepResults) -> None:
    assert len(summary_cells(paper)) == 12
    header = summary_header(paper)
    assert header[:3] == ["device", "link", "coinfer"] and all(
        len(cells) == len(header) for cells in summary_cells(paper)
    )
    assert len(rates.rows) == 108 and len(summary_cells(rates)) == MAX_ROWS
    assert f"{MAX_ROWS} of 108 scenarios" in summary_note(rates)
    assert {cells[1] for cells in summary_cells(rates)} == {"0.01", "0.05", "0.1"}
    assert summary_table(paper).row_count == 12


def test_numbers_read_well() -> None:
    assert [milliseconds(value) for value in (1.2345, 0.0123, 1.5e-3, 2e-4, 3.3e-6)] == [
        "1,234",
        "12.3",
        "1.50",
        "0.200",
        "0.0033",
    ]
    assert [times_faster(value) for value in (1.234, 12.34, 1234.0)] == ["1.23\u00d7", "12.3\u00d7", "1,234\u00d7"]
    assert spread(3, 5) == [0, 1, 2]
    assert spread(100, 4) == [0, 33, 66, 99]


class Document(HTMLParser):
    """Opened and closed tags, and whatever a page could fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)
        self.references += [
            value or "" for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")
        ]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def test_page_is_whole_and_fetches_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    for _ in range(2):  # its own page is brought up to date
        write_page(folders["paper"], out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page-figures", "page.html"]
    assert {path.name for path in figures_folder(out).iterdir()} == {
        f"{name}.{ending}" for name in ("latency", "time") for ending in ("png", "svg", "csv")
    }
    text = out.read_text(encoding="utf-8")
    document = Document()
    document.feed(text)
    assert document.open == []
    assert document.count["figure"] == 2 and document.count["table"] == 1
    assert [reference for reference in document.references if not reference.startswith(("#", "data:"))] == []
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    # The records' provenance comes from the sweep's files.
    assert SETTINGS["data"] in document.text and "100 really trained strategies" in document.text
    assert "64 x 64 pixels" in document.text and "0.8400" in document.text


def parts(page: Page) -> tuple[list[Figure], TableView]:
    (table,) = (part for part in page.parts() if isinstance(part, TableView))
    return list(page.figures()), table


def test_few_links_are_rows_with_the_gain_beside_them(paper: SweepResults) -> None:
    page = sweep_page(paper)
    (latency, time), table = parts(page)
    assert (latency.kind, time.kind) == ("points", "bars")
    assert latency.panels == time.panels == list(paper.panels)
    assert latency.labels == ["All_Local", "All_Server", "Neurosurgeon", "coinfer"]
    assert page.filters() == {
        "device": ["rpi3b+", "rpi4b", "tk1"],
        "link": ["3g", "4g", "5g", "wifi"],
        "method": latency.labels,
    }
    (ours,) = (one for one in latency.series if (one.label, one.panel) == ("coinfer", "tk1"))
    rows = paper.panels["tk1"]
    assert list(ours.x) == [1e3 * (row.latency_s or 0) for row in rows] and list(ours.y) == [row.link for row in rows]
    notes = [note.text for note in latency.notes if note.panel == "tk1"]
    assert notes == [times_faster(row.gain or 0) for row in rows]
    for panel in time.panels:  # the parts are the whole
        shares = [one.y if isinstance(one.x[0], str) else one.x for one in time.series if one.panel == panel]
        assert [sum(column) for column in zip(*shares, strict=True)] == pytest.approx([100] * 4)
    gains = sorted(row.gain or 0 for row in paper.rows)
    median = times_faster((gains[5] + gains[6]) / 2)
    assert page.lead == (
        f"coinfer is {median} as fast as the best other method in the median of 12 scenarios, "
        f"and up to {times_faster(gains[-1])}."
    )
    assert [column.numeric for column in table.columns[:5]] == [False, False, True, True, False]
    values = [row[2].value for row in table.rows if not isinstance(row[2], str | float | None)]
    assert values == pytest.approx([1e3 * (row.latency_s or 0) for row in paper.rows], rel=5e-3)


def test_many_links_are_curves_over_the_rate(rates: SweepResults) -> None:
    page = sweep_page(rates)
    (latency, gain), table = parts(page)
    assert (latency.kind, gain.kind) == ("line", "line")
    assert latency.panels == list(rates.panels)
    assert len(latency.series) == 9 * 4 and len(gain.series) == 9
    (ours,) = (one for one in gain.series if one.panel == "phone, 100 GFLOPS, max loss 0.05")
    rows = rates.panels[ours.panel]
    assert list(ours.x) == [row.rate_bps / 1e6 for row in rows] and list(ours.y) == [row.gain for row in rows]
    assert page.filters().keys() == {"device", "max loss", "method"}
    # A filter's values are the same in figures and in the table.
    assert page.filters()["max loss"] == ["0.01", "0.05", "0.1"]
    assert table.filters.keys() == {"device", "max loss"} and len(table.rows) == MAX_ROWS


def test_a_large_sweep_stays_a_small_page(rates: SweepResults) -> None:
    row = rates.rows[0]
    changed = (
        vars(row) | {"device": f"{device} GFLOPS", "link": f"{rate} Mb/s", "rate_bps": 1e4 * 1.01**rate}
        for device in range(40)
        for rate in range(1_000)
    )
    many = SweepResults(tuple(type(row)(**one) for one in changed), rates.problems, "exact", 40_000)
    page = sweep_page(many)
    (latency, _), table = parts(page)
    assert len(latency.panels) == MAX_PANELS and f"{MAX_PANELS} of 40 groups" in latency.caption
    assert {len(one.x) for one in latency.series} == {MAX_POINTS} and len(table.rows) == MAX_ROWS
    assert len(render(page).encode()) < MAX_BYTES


def test_infeasible_and_unfinished_sweeps_are_named(paper: SweepResults, tmp_path: Path) -> None:
    nothing = dict.fromkeys(("latency_s", "device_s", "uplink_s", "server_s", "predicted_accuracy", "cut_after"))
    rows = (type(paper.rows[0])(**(vars(paper.rows[0]) | nothing)), *paper.rows[1:7])
    partial = SweepResults(rows, paper.problems, paper.solver, 12)
    assert summary_cells(partial)[0][2] == "infeasible"
    assert "7 of 12 scenarios are answered" in summary_note(partial)
    write_page(partial, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 of them have no strategy" in text and '"text":"infeasible"' in text
    assert not re.search(r"\bnan\b", text.partition("<footer>")[0])
    assert rows[0].gain is None
    none = SweepResults(rows[:1], paper.problems, paper.solver, 1)
    assert sweep_page(none).lead == "No strategy keeps the accuracy that was asked for."
    assert [figure.name for figure in sweep_page(none).figures()] == ["latency"]


def test_dataset_in_memory_reports_alike(folders: dict[str, Path], paper: SweepResults) -> None:
    import pyarrow.dataset as ds

    dataset = ds.dataset(open_sweep(folders["paper"]).dataset.to_table())
    assert open_results(dataset, paper.problems, paper.solver).rows == paper.rows


def test_a_claim_that_lacks_what_a_page_needs_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    answers = folders["paper"]
    shutil.copytree(answers, tmp_path, dirs_exist_ok=True)
    settings = json.loads((answers / RUN_FILE).read_text())["settings"]
    for name in ("grid", "problems", "solver", "columns"):
        less = {key: value for key, value in settings.items() if key != name}
        (tmp_path / RUN_FILE).write_text(json.dumps({"format": 1, "kind": "sweep", "settings": less}))
        with pytest.raises(InputError, match=f"does not say its {name}; run its sweep again"):
            read_sweep(tmp_path)


def test_other_folders_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no {RUN_FILE}"):
        read_sweep(tmp_path)
    (tmp_path / RUN_FILE).write_text(json.dumps({"format": 1, "kind": "collect", "settings": {}}))
    with pytest.raises(InputError, match="written by `coinfer collect`"):
        read_sweep(tmp_path)
    run = (folders["paper"] / RUN_FILE).read_text()
    (tmp_path / RUN_FILE).write_text(run)
    with pytest.raises(InputError, match="no answers yet"):
        read_sweep(tmp_path)
    shutil.copytree(folders["paper"], tmp_path, dirs_exist_ok=True)
    chunk = next(tmp_path.glob("*/chunk-*.parquet"))
    content = chunk.read_bytes()
    for damaged in (content[: len(content) // 2], content[:99] + bytes([content[99] ^ 1]) + content[100:]):
        chunk.write_bytes(damaged)
        with pytest.raises(InputError, match=f"{chunk.name} is not as it was written") as error:
            read_sweep(tmp_path)
    assert "\n" not in str(error.value)


def test_shards_are_reported_together(folders: dict[str, Path], paper: SweepResults, tmp_path: Path) -> None:
    predictor = fit_predictor(folders["paper"].with_name("alexnet-64px.parquet"), regressor="decision_tree")
    parts = [tmp_path / name for name in ("first", "second")]
    for number, part in enumerate(parts, 1):
        sweep(PAPER_GRID, part, records=predictor, shard=(number, 2), chunk=1, **QUICK)
    both = read_sweep(parts)
    assert both.rows == paper.rows and both.scenarios == len(paper.rows)
    assert len(read_sweep(parts[0]).rows) < len(paper.rows)
    with pytest.raises(InputError, match=r"of the 2 shards 2/2 is missing"):
        read_sweep([parts[0], parts[0]])
    with pytest.raises(InputError, match=r"are of different sweeps; open them one by one"):
        read_sweep([parts[0], folders["rates"]])
