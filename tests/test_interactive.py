"""The interactive page in a real browser, in light and dark and at a phone's width; and its pictures."""

from __future__ import annotations

import base64
import csv
import dataclasses
import gzip
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from coinfer_ray.errors import InputError
from coinfer_ray.report import interactive
from coinfer_ray.report.interactive import area_names, render, write_interactive
from coinfer_ray.report.looks import looks_of
from coinfer_ray.report.model import Cell, Column, Figure, Grid, Page, Section, Series, TableView
from coinfer_ray.report.stills import write_stills
from tests.browser import CHROMIUM, Browser
from tests.pages import DEVICES, LINKS, METHODS, every_kind

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "page.html"
    write_interactive(every_kind(), out)
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def wide(browser: Browser, page_file: Path) -> Browser:
    browser.open(page_file)
    return browser


def points(browser: Browser, figure: str) -> int:
    """How many points plotly has drawn in a figure's visible panels."""
    found = browser.run(
        f"[...document.querySelectorAll('#{figure} .panel:not([hidden]) .scatterlayer .point, "
        f"#{figure} .panel:not([hidden]) .barlayer .point')].length"
    )
    assert isinstance(found, int)
    return found


def click(browser: Browser, selector: str) -> None:
    """Click what can be seen; an error where nothing is there."""
    browser.run(f"document.querySelector({selector!r}).click()")
    browser.settle()


def column(browser: Browser, name: str) -> list[str]:
    """The cells of a visible column of the table, from above."""
    found = browser.run(
        f"""(() => {{
          const table = document.querySelector("table");
          const place = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent === {name!r});
          return [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[place].textContent);
        }})()"""
    )
    assert isinstance(found, list)
    return found


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2 of ``#rrggbb``."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# Texts that a reader sees: their sizes, and pairs of one figure that lie over each other.
TEXTS = """(() => {
  const seen = (node) => node.getClientRects().length && getComputedStyle(node).visibility !== "hidden";
  const small = [], outside = [], over = [];
  for (const node of document.querySelectorAll("body *")) {
    if (!seen(node) || node.closest(".unseen, script, style, noscript")) continue;
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own) continue;
    if (parseFloat(getComputedStyle(node).fontSize) < 12) small.push(node.textContent);
    const box = node.getBoundingClientRect();
    if (!node.closest(".scroll") && (box.left < -0.5 || box.right > innerWidth + 0.5)) outside.push(node.textContent);
  }
  for (const plot of document.querySelectorAll(".panel:not([hidden]) .plot")) {
    const texts = [...plot.querySelectorAll("text")].filter((text) => text.textContent && seen(text));
    const boxes = texts.map((text) => text.getBoundingClientRect());
    for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 4) over.push(texts[j].textContent + " / " + texts[i].textContent);
    }
  }
  return { small, outside, over, wide: document.documentElement.scrollWidth - innerWidth };
})()"""


# ------------------------------------------------------------------------------------------------------------- browser


@needs_chromium
@pytest.mark.parametrize(("width", "phone", "dark"), [(360, True, False), (360, True, True), (1280, False, True)])
def test_texts_can_be_read_at_any_width(browser: Browser, page_file: Path, width: int, phone: bool, dark: bool) -> None:
    browser.open(page_file, width=width, dark=dark, phone=phone)
    assert browser.run(TEXTS) == {"small": [], "outside": [], "over": [], "wide": 0}
    assert browser.faults == []
    # A phone's filters stay folded until they are asked for.
    assert browser.run("document.querySelector('.filters').open") is not phone
    assert browser.run("document.querySelector('.hint').hidden") is not phone
    paper = interactive._COLOURS["paper"][dark]
    rgb = ", ".join(str(int(paper[i : i + 2], 16)) for i in (1, 3, 5))
    assert browser.run("getComputedStyle(document.body).backgroundColor") == f"rgb({rgb})"


@needs_chromium
def test_the_page_is_drawn_whole_without_a_fault_and_without_the_network(wide: Browser) -> None:
    assert wide.faults == []
    assert [address for address in wide.requests if not address.startswith(("file:", "data:", "blob:"))] == []
    assert wide.run("document.querySelectorAll('.panel .main-svg').length") > 0
    assert points(wide, "links") == 3 * 4 * 6
    assert points(wide, "accuracy") == 9
    assert wide.run("[...document.querySelectorAll('#rates h4')].map((head) => head.textContent)") == list(DEVICES)
    assert wide.run("document.querySelectorAll('#wins .hm image, #wins .heatmaplayer image').length") > 0


@needs_chromium
def test_filters_take_points_panels_rows_and_columns_away(wide: Browser) -> None:
    everything = {name: points(wide, name) for name in ("rates", "links", "accuracy")}
    click(wide, '.chip[data-filter="device"][data-value="tk1"]')
    assert points(wide, "links") == everything["links"] / 3
    assert wide.run("document.querySelectorAll('#rates .panel:not([hidden])').length") == 1
    assert set(column(wide, "device")) == {"tk1"}
    assert points(wide, "accuracy") == everything["accuracy"]  # names no device
    click(wide, '.chip[data-filter="link"][data-value="3g"]')
    click(wide, '.chip[data-filter="link"][data-value="wifi"]')
    assert points(wide, "links") == everything["links"] / 6
    assert column(wide, "link") == ["3g", "wifi"]
    click(wide, '.chip[data-filter="method"][data-value="coinfer"]')
    assert points(wide, "links") == 2
    shown = "[...document.querySelectorAll('thead th:not([hidden])')].map((head) => head.textContent)"
    assert wide.run(shown) == ["device", "link", "coinfer"]
    assert wide.run("document.querySelector('.filters summary').textContent") == (
        "Show device tk1 · link 3g, wifi · method coinfer"
    )
    away = "[...document.querySelectorAll('#links .key.away')].map((key) => key.textContent)"
    assert wide.run(away) == [name for name in METHODS if name not in ("JALAD", "Bottleneck", "coinfer")]
    # No area of coinfer in the matrix: its axes stay, for the matrix is of every method.
    assert wide.run("document.querySelector('#wins .nothing').hidden") is True
    click(wide, "#everything")
    assert {name: points(wide, name) for name in everything} == everything
    assert len(column(wide, "device")) == 12 and len(wide.run(shown)) == 10
    assert wide.faults == []


@needs_chromium
def test_a_legend_entry_takes_its_series_away(wide: Browser) -> None:
    before, other = points(wide, "links"), points(wide, "accuracy")
    entry = "#links button.key[data-label='Neurosurgeon']"
    click(wide, entry)
    assert points(wide, "links") == before - 12 and points(wide, "accuracy") == other
    assert wide.run(f'document.querySelector("{entry}").getAttribute("aria-pressed")') == "false"
    click(wide, entry)
    assert points(wide, "links") == before


@needs_chromium
def test_a_table_sorts_by_numbers_and_words_from_the_keyboard(wide: Browser) -> None:
    wide.run("[...document.querySelectorAll('th button')].find((one) => one.textContent === 'coinfer').focus()")
    for key, order in (("Enter", 1), (" ", -1)):
        wide.press(key)
        cells = column(wide, "coinfer")
        assert cells[-1] == "-"  # what has no value stays last either way
        values = [float(cell.replace(",", "")) for cell in cells[:-1]]
        assert values == sorted(values, reverse=order < 0) and len(set(values)) == 11
        sort = wide.run("document.activeElement.parentElement.getAttribute('aria-sort')")
        assert sort == ("ascending" if order > 0 else "descending")
    wide.run("[...document.querySelectorAll('th button')].find((one) => one.textContent === 'device').focus()")
    wide.press("Enter")
    assert column(wide, "device") == [device for device in DEVICES for _ in LINKS]
    assert wide.run("document.querySelectorAll('[aria-sort]').length") == 1


@needs_chromium
def test_the_toggle_changes_the_colours_of_page_and_figures(wide: Browser) -> None:
    ask = (
        "[getComputedStyle(document.body).backgroundColor, "
        "document.querySelector('#accuracy .barlayer .point path').style.fill, "
        "document.querySelector('#rates .xtick text').style.fill]"
    )
    light = wide.run(ask)
    click(wide, "#theme")
    dark = wide.run(ask)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(one != other for one, other in zip(light[::2], dark[::2], strict=True))
    click(wide, "#theme")
    assert wide.run(ask) == light


@needs_chromium
def test_figures_answer_to_the_keyboard(wide: Browser) -> None:
    plot = "document.querySelector('#links .plot')"
    wide.run(f"{plot}.focus()")
    wide.press("ArrowRight")
    assert "All_Local" in wide.run("document.querySelector('#links .hoverlayer').textContent")
    first = wide.run("document.querySelector('#links .unseen').textContent")
    wide.press("ArrowRight")
    second = wide.run("document.querySelector('#links .unseen').textContent")
    assert "3g" in first and "4g" in second
    wide.press("ArrowDown")
    assert "All_Server" in wide.run("document.querySelector('#links .unseen').textContent")
    size = f"(() => {{ const range = {plot}.layout.xaxis.range; return range[1] - range[0]; }})()"
    before = wide.run(size)
    wide.press("+")
    assert wide.run(size) == pytest.approx(0.7 * before)
    wide.press("0")
    assert wide.run(size) == pytest.approx(before)


@needs_chromium
def test_every_control_has_a_name_and_takes_the_focus(wide: Browser) -> None:
    nameless = (
        "[...document.querySelectorAll('button, select')].filter((one) => !(one.ariaLabel || one.textContent).trim())"
    )
    assert wide.run(f"{nameless}.length") == 0
    wide.run("document.getElementById('theme').focus()")
    for tag in ("SUMMARY", "BUTTON"):
        wide.press("Tab")
        assert wide.run("document.activeElement.tagName") == tag
    assert wide.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


# ---------------------------------------------------------------------------------------------------------------- page


def test_the_page_is_one_file_that_names_no_other(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert page_file.stat().st_size < interactive.MAX_BYTES
    assert re.findall(r'(?:src|href|srcset)="(?!data:|#)[^"]*"|@import|url\((?!#)', text) == []
    (library,) = re.findall(r'id="library">(.*?)</script>', text)
    assert gzip.decompress(base64.b64decode(library)).startswith(b"/**\n* plotly.js")
    assert "</script><b>bold</b>" not in text and "a &lt;name&gt; &amp; &quot;more&quot;" in text
    assert render(every_kind()) == text
    write_interactive(every_kind(), page_file)  # its own page is brought up to date


def test_a_foreign_file_and_a_page_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "page.html"
    out.write_text("a thesis")
    with pytest.raises(InputError, match="is there and is not a page"):
        write_interactive(every_kind(), out)
    monkeypatch.setattr(interactive, "MAX_BYTES", 1_000_000)
    with pytest.raises(InputError, match=r"more than the 1 MB of a page"):
        write_interactive(every_kind(), tmp_path / "other.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"] and out.read_text() == "a thesis"


def test_methods_differ_by_colour_dash_and_shape_on_either_ground() -> None:
    looks = looks_of(every_kind())
    methods = [looks[name] for name in METHODS]
    assert [look.strong for look in methods] == [False] * 7 + [True]
    for name in ("light", "dark", "shape"):
        assert len({getattr(look, name) for look in methods}) == len(methods)
    assert len({(look.dash, look.shape) for look in methods}) == len(methods)
    for dark in (False, True):
        paper = interactive._COLOURS["paper"][dark]
        for look in looks.values():
            assert contrast(paper, look.dark if dark else look.light) >= (1.7 if look not in methods else 3)
        for name in ("ink", "soft", "accent"):
            assert contrast(paper, interactive._COLOURS[name][dark]) >= 4.5
    # The parts of a latency part by lightness alone.
    tones = sorted(luminance(looks[name].light) for name in ("device", "uplink", "server"))
    assert all((above + 0.05) / (below + 0.05) > 1.15 for below, above in pairwise(tones))


def test_areas_are_named_where_there_is_room() -> None:
    z = [["a"] * 6 + ["b"] * 4 for _ in range(5)] + [["c"] + ["b"] * 9]
    names = {word: (x, y, span) for word, x, y, span in area_names(Grid(range(10), range(6), z))}
    assert names.keys() == {"a", "b"}  # c is too small
    assert z[int(names["a"][1])][int(names["a"][0])] == "a" and 0 < names["a"][2] <= 0.6


def test_models_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match="2 entries for 1 points"):
        Series("a", [1], [1, 2])
    with pytest.raises(ValueError, match="2 entries for 1 points"):
        Series("a", [1], [1], filters={"link": ["3g", "4g"]})
    with pytest.raises(ValueError, match="not 2 rows of 1"):
        Grid([1], [1, 2], [[1], [2, 3]])
    with pytest.raises(ValueError, match="no file stem"):
        Figure("A b", "", "", "", "line", "", "", series=[Series("a", [1], [1])])
    with pytest.raises(ValueError, match="heat needs grids"):
        Figure("a", "", "", "", "heat", "", "", series=[Series("a", [1], [1])])
    with pytest.raises(ValueError, match="not 1 cells"):
        TableView("t", "", "", [Column("a")], [["x", "y"]])
    with pytest.raises(ValueError, match="no column b"):
        TableView("t", "", "", [Column("a")], [["x"]], {"device": "b"})
    one = Figure("a", "", "", "", "line", "", "", series=[Series("a", [1], [1])])
    with pytest.raises(ValueError, match="two figures of one name"):
        Page("", "", [Section("", "", [one, one])], {})


def test_filters_are_gathered_from_all_parts() -> None:
    filters = every_kind().filters()
    assert list(filters.items()) == [
        ("device", list(DEVICES)),
        ("link", list(LINKS)),
        ("method", list(METHODS)),
        ("bound", ["0.01", "0.02", "0.05"]),
    ]
    table = TableView("t", "", "", [Column("n", True)], [[1e5], [0.02], [None], [Cell("x")]], {"n": "n"})
    assert Page("", "", [Section("", "", [table])], {}).filters() == {"n": ["100,000", "0.02", "-", "x"]}


# -------------------------------------------------------------------------------------------------------------- stills


def test_every_figure_lies_beside_as_picture_and_numbers(tmp_path: Path) -> None:
    page = every_kind()
    kept = [figure for figure in page.figures() if figure.name in ("links", "accuracy", "wins")]
    page = dataclasses.replace(page, sections=[Section("", "", kept)])
    folder = tmp_path / "figures"
    paths = write_stills(page, folder)
    assert sorted(folder.iterdir()) == sorted(paths) and len(paths) == 9
    for figure in kept:
        assert (folder / f"{figure.name}.png").read_bytes().startswith(b"\x89PNG")
        svg = (folder / f"{figure.name}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(svg)
        assert all(word in svg for word in (figure.title, *figure.labels, *figure.panels))
        assert ("not verified" in svg) == figure.has_unverified
    rows = list(csv.DictReader((folder / "links.csv").open(encoding="utf-8", newline="")))
    assert list(rows[0]) == ["panel", "series", "latency (ms)", "y", "verified", "device", "link", "method"]
    assert len(rows) == 72
    hollow = [row for row in rows if row["verified"] == "false"]
    assert {(row["series"], row["link"]) for row in hollow} == {("coinfer", "5g")} and len(hollow) == 3
    wins = list(csv.reader((folder / "wins.csv").open(encoding="utf-8", newline="")))
    grid = kept[-1].grids[0]
    assert len(wins) == 1 + 33 * 25 and wins[1][4] == grid.z[0][0]
    before = {path: path.read_bytes() for path in paths}
    write_stills(page, folder)  # its own figures are brought up to date, to the byte
    assert {path: path.read_bytes() for path in paths} == before
    (folder / "wins.csv").write_text("mine")
    with pytest.raises(InputError, match=r"wins\.csv is there and is not a figure"):
        write_stills(page, folder)
    with pytest.raises(InputError, match="cannot be made a folder"):
        write_stills(page, folder / "wins.csv")
