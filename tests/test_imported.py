"""Times that others measured, from a table to a device file, and the splits that follow from them.

The tables are made up for these tests, with what real ones show: early layers slow for their operations, linear layers
that wait for their weights. None is of a real board.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coinfer_ray
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.methods.compare import compare
from coinfer_ray.models.library import load_graph
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.layer_times import FREE
from coinfer_ray.problem.network_times import NetworkTimes, times_for
from coinfer_ray.profile.imported import import_times
from coinfer_ray.scenarios.read import device_of, server_of
from tests.synthetic import trusted

GRAPH = load_graph("alexnet", 64)
NAMES = [layer.name for layer in GRAPH.layers]
# (last layer of the block, milliseconds on the board, on the box beside it)
MADE_UP = [(2, 4.0, 0.30), (3, 0.9, 0.02), (5, 6.5, 0.20), (6, 0.5, 0.02), (8, 2.0, 0.10), (10, 2.4, 0.12)]
MADE_UP += [(13, 1.9, 0.10), (14, 0.05, 0.02), (17, 11.0, 0.15), (20, 30.0, 0.30), (21, 0.2, 0.03)]


def table(rows: list[str], head: str = "network,side,layer,ms") -> str:
    return "\n".join([head, *rows]) + "\n"


def blocks(side: str) -> list[str]:
    firsts = [0, *(last for last, *_ in MADE_UP)]
    return [
        f"alexnet,{side},{NAMES[first]}..{NAMES[last - 1]},{(board, box)[side == 'box']}"
        for first, (last, board, box) in zip(firsts, MADE_UP, strict=False)
    ]


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "times.csv"
    path.write_text(table([*blocks("board"), *blocks("box")]))
    return path


@pytest.fixture(scope="module")
def predictor(synthetic_predictor: Predictor) -> Predictor:
    return trusted(synthetic_predictor)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_blocks_come_out_as_they_were_measured(csv: Path, tmp_path: Path, suffix: str) -> None:
    document = import_times(csv, tmp_path / f"board.{suffix}", side="board", name="pi")
    side = device_of(str(tmp_path / f"board.{suffix}"))
    assert side.name == document["name"] == "pi"
    times = times_for(side.times, GRAPH)
    assert isinstance(times, NetworkTimes)
    assert times.call_s == 0
    first = 0
    for last, board, _ in MADE_UP:
        own = [times.seconds(layer, layer.in_channels, layer.out_channels) for layer in GRAPH.layers[first:last]]
        assert sum(own) == pytest.approx(board / 1e3, rel=1e-9)
        first = last
    assert min(map(min, times.rows)) >= 0
    assert 0 < document["held_out_error"]["block"] < 20
    import_times(csv, tmp_path / f"board.{suffix}", side="board", name="again")  # one's own file is brought up to date


RATES = (0.5, 2, 8, 30, 120, 500, 3000)


def by_layer() -> dict[str, tuple[float, float]]:
    """Milliseconds of each layer that takes any, on the board and on the box: its block's in equal parts."""
    found, first = {}, 0
    for last, board, box in MADE_UP:
        own = [layer.name for layer in GRAPH.layers[first:last] if layer.kind not in FREE]
        found |= {name: (board / len(own), box / len(own)) for name in own}
        first = last
    return found


@pytest.fixture
def imported(tmp_path: Path) -> dict[str, Any]:
    """A device and a server whose layers' times are imported one by one."""
    rows = [
        f"alexnet,{side},{name},{ms[side == 'box']}" for side in ("board", "box") for name, ms in by_layer().items()
    ]
    (tmp_path / "times.csv").write_text(table(rows))
    for side in ("board", "box"):
        import_times(tmp_path / "times.csv", tmp_path / f"{side}.yaml", side=side)
    return {"device": str(tmp_path / "board.yaml"), "server": str(tmp_path / "box.yaml")}


@pytest.mark.parametrize("rate_mbps", RATES)
def test_the_split_is_the_measured_best(imported: dict[str, Any], predictor: Predictor, rate_mbps: float) -> None:
    measured = {}
    for cut in GRAPH.cut_points:  # from the table alone
        device = sum(by_layer().get(name, (0, 0))[0] for name in NAMES[:cut])
        server = sum(by_layer().get(name, (0, 0))[1] for name in NAMES[cut:])
        sent = GRAPH.input_elements if cut == 0 else GRAPH.layers[cut - 1].output_elements if cut < len(NAMES) else 0
        measured[cut] = (device + server) / 1e3 + 32 * sent / (rate_mbps * 1e6)
    shared: dict[str, Any] = {**imported, "rate_mbps": rate_mbps, "records": predictor, "cost_model": "profile"}
    row = compare("alexnet", methods=["neurosurgeon"], **shared)[0]
    assert row["latency_s"] == pytest.approx(min(measured.values()), rel=1e-9)
    assert measured[row["partition_point"]] == pytest.approx(min(measured.values()), rel=1e-9)
    answer = coinfer_ray.optimize("alexnet", max_loss=0.0, **shared)
    assert answer.latency_s <= row["latency_s"] * (1 + 1e-3)


def test_the_splits_are_not_those_by_operations(imported: dict[str, Any]) -> None:
    """What importing is for: one speed, even that of the whole network, splits elsewhere at some rate."""
    speeds = [GRAPH.flops / (sum(row[column] for row in MADE_UP) / 1e3) / 1e9 for column in (1, 2)]
    counted: dict[str, Any] = {"device_gflops": speeds[0], "server_gflops": speeds[1]}
    points = []
    for rate in np.geomspace(0.05, 5000, 40):
        first, second = (
            compare("alexnet", methods=["neurosurgeon"], rate_mbps=rate, input_px=64, **sides)[0]
            for sides in (imported, counted)
        )
        points.append((first["partition_point"], second["partition_point"]))
    assert any(first != second for first, second in points)


def test_other_words_units_numbers_and_a_block_of_what_is_folded_away(tmp_path: Path) -> None:
    """Scission's names of columns; layers by number; activations that a table times by themselves."""
    counted = [layer for layer in GRAPH.layers if layer.kind not in FREE]
    rows = [f"alexnet,pi,{layer.index},{layer.index},{0.001 * layer.index}" for layer in counted]
    rows.append("alexnet,pi,2,2,0.0005")
    (tmp_path / "a.csv").write_text(
        "\ufeff" + table(rows, "Model, Platform, input_layer, output_layer, second_prediction")
    )
    import_times(tmp_path / "a.csv", tmp_path / "a.yaml")
    times = times_for(server_of(str(tmp_path / "a.yaml")).times, GRAPH)
    assert isinstance(times, NetworkTimes)
    for layer in GRAPH.layers:
        expected = 0.0005 if layer.index == 2 else 0.001 * layer.index if layer in counted else 0
        assert times.seconds(layer, layer.in_channels, layer.out_channels) == pytest.approx(expected, rel=1e-9)


GOOD = blocks("board")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            r"times\.csv: the first line must name the columns network, layer and seconds \(or ms, or us\)",
        ),
        (table([], "network,layer"), r"needs one column of times; name it seconds, ms, us"),
        (table([], "network,layer,ms,seconds"), r"needs one column of times"),
        (table([], "network,model,layer,ms"), r"two columns are called network"),
        (table([], "network,layer,ms,colour"), r"column: 'colour' is unknown"),
        (table([]), r"has no rows; give one for each layer"),
        (table([*GOOD, "alexnet,board,conv1"]), r"line 13: has 3 cells, the first line has 4"),
        (table(["alexnot,board,conv1,1"]), r"alexnot"),
        (table(["alexnet,board,convl,1"]), r"line 2: layer: 'convl' is unknown; did you mean conv"),
        (table(["alexnet,board,99,1"]), r"line 2: layer: '99' is unknown"),
        (table(["alexnet,board,,1"]), r"line 2: layer is empty"),
        (table([f"alexnet,board,{NAMES[4]}..{NAMES[2]},1"]), rf"line 2: {NAMES[4]} comes after {NAMES[2]} in alexnet"),
        (table([*GOOD, "alexnet,board,conv1,1"]), r"line 13: conv1 is in line 2 already"),
        (table(GOOD[1:]), r"alexnet: no row holds conv1; give the times of all layers"),
        (table(GOOD[2:]), r"no row holds conv1 and 1 more"),
        (table([GOOD[0].replace("4.0", "1e308"), *GOOD[1:]]), r"line 2: ms: '1e308' must be 0, or between"),
        (table([GOOD[0].replace("4.0", "1e-300"), *GOOD[1:]]), r"line 2: ms: '1e-300' must be 0, or between"),
        (
            table([GOOD[0].replace("4.0", "-4"), *GOOD[1:]]),
            r"line 2: ms: '-4' must be 0, or between 1e-12 and 1e[+]06 s",
        ),
        (table([GOOD[0].replace("4.0", "fast"), *GOOD[1:]]), r"line 2: ms: 'fast' must be 0, or between"),
        (table([f"alexnet,board,{NAMES[0]}..{NAMES[-1]},60"]), r"1 row says how long a layer takes, 5 are needed"),
        (table([*GOOD, *blocks("box")]), r"holds the times of board, box; pick one by --side"),
        (
            table([f"{row},0" for row in GOOD], "network,side,layer,ms,input_px"),
            r"line 2: input_px: '0' must be",
        ),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "times.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        import_times(tmp_path / "times.csv", tmp_path / "out.yaml")
    assert not (tmp_path / "out.yaml").exists()


def test_the_command(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "board.yaml"
    assert main(["devices", "--import", str(csv), "--side", "board", "--out", str(out)]) == 0
    total = sum(board for _, board, _ in MADE_UP)
    assert f"alexnet at 64 px, {total:,.4g} ms in all" in capsys.readouterr().out
    command = ["compare", "--model", "alexnet", "--device", str(out), "--server", "p100", "--link", "4g", "--json"]
    assert main([*command, "--methods", "all_local"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["latency_s"] == pytest.approx(total / 1e3)
    for arguments, message in (
        (["--import", str(csv)], "out: no file is given"),
        (["--out", str(out)], "import: --out goes with a table"),
        (["--import", str(tmp_path / "none.csv"), "--out", str(out)], "none.csv: cannot be read"),
        (["--import", str(csv), "--side", "bored", "--out", str(out)], "side: 'bored' is unknown; did you mean board"),
        (["--import", str(csv), "--out", str(tmp_path / "a.txt")], "must end in .yaml or .json"),
    ):
        assert main(["devices", *arguments]) == 2
        assert message in capsys.readouterr().err
    mine = tmp_path / "mine.yaml"
    mine.write_text("thesis: true")
    assert main(["devices", "--import", str(csv), "--side", "board", "--out", str(mine)]) == 2
    assert mine.read_text() == "thesis: true"
