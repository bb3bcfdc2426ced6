"""Output files: what is of the same kind is brought up to date, everything else is left as it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.predictor.fit import fit_predictor
from coinfer_ray.runtime.outputs import (
    FIGURE_MARK,
    FRONT_HEAD,
    KINDS,
    PAGE_MARK,
    PICTURE_MARK,
    REPLAY_HEAD,
    ROBUST_HEAD,
    check_replaceable,
)
from tests.synthetic import write_synthetic_records

SHIPPED_GRAPH = Path(__file__).resolve().parents[1] / "coinfer_ray" / "models" / "graphs" / "alexnet-64px.json"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind that is made here as the commands make it, or with what they put into it."""
    folder = tmp_path_factory.mktemp("kinds")
    records = write_synthetic_records(folder / "records.parquet", count=60)
    predictor = folder / "predictor.npz"
    fit_predictor(records, regressor="decision_tree").save(predictor)
    (folder / "page.html").write_text(f"<!doctype html>\n{PAGE_MARK}\n")
    (folder / "picture.svg").write_text(f"<svg><!-- {PICTURE_MARK} --></svg>")
    (folder / "figure.svg").write_text(f"<svg><!-- {FIGURE_MARK} --></svg>")
    (folder / "graph.json").write_bytes(SHIPPED_GRAPH.read_bytes())
    (folder / "device.yaml").write_text("name: board\nlayer_seconds: {}\nheld_out_error: {}\n")
    (folder / "front.csv").write_text(f"{FRONT_HEAD}accuracy\n")
    (folder / "robust.csv").write_text(f"{ROBUST_HEAD}worst_at\n")
    (folder / "replay.csv").write_text(f"{REPLAY_HEAD}strategy\n")
    found = {"records": records, "predictor": predictor}
    for kind in ("atlas", "choices"):
        found[kind] = folder / f"{kind}.parquet"
        table = pa.table({"x": [1]}).replace_schema_metadata({f"coinfer_ray.{kind}": "{}"})
        pq.write_table(table, found[kind], compression="zstd")
    written = ("page", "picture", "figure", "front", "robust", "replay", "graph", "device")
    return found | {name: next(folder.glob(f"{name}.*")) for name in written}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_only_files_of_the_same_kind_are_replaced(files: dict[str, Path], kind: str, tmp_path: Path) -> None:
    assert files.keys() == KINDS.keys()
    for name, path in files.items():
        if name == kind:
            check_replaceable(path, kind)
            continue
        with pytest.raises(InputError, match=f"is there and is not {KINDS[kind][0]}; move it away"):
            check_replaceable(path, kind)
    foreign = {
        "thesis.txt": b"years of work",
        "plain.npz": b"PK\x03\x04 no zip",
        "PAR1": b"PAR1",
        "plain.parquet": b"PAR1\xff\xff\xff\xffPAR1",
        "list.json": b"[1]",
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="is there and is not"):
            check_replaceable(tmp_path / name, kind)
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="is there and is not"):
        check_replaceable(tmp_path / "arrays.npz", kind)


def test_what_is_no_file_is_refused_and_what_is_empty_is_not(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new", "page")
    (tmp_path / "empty").touch()
    check_replaceable(tmp_path / "empty", "page")
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        check_replaceable(tmp_path, "page")
    with pytest.raises(InputError, match="is a device or a pipe"):
        check_replaceable(os.devnull, "page")


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("robust", "choices.parquet", "choices.csv"),
        ("replay", "samples.json", "samples"),
        ("front", "front.PNG", "front.CSV"),
        ("atlas", "atlas.csv", "atlas.parquet"),
        ("page", "page.pdf", "page.htm"),
        ("records", "all.npz", "all.parquet"),
        ("predictor", "predictor.bin", "predictor.npz"),
        ("predictor", "predictor", "predictor.npz"),
    ],
)
def test_nothing_is_called_what_it_is_not(kind: str, wrong: str, right: str, tmp_path: Path) -> None:
    check_replaceable(tmp_path / right, kind)
    with pytest.raises(InputError, match=rf"^out: {wrong} .*, and .* is written; end the name in \.\w+$"):
        check_replaceable(tmp_path / wrong, kind)


def test_an_ending_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "alexnet", "--device", "rpi4b", "--server", "p100", "--rate-mbps", "1:9"]
    assert main(["robust", *given, "--out", str(tmp_path / "x.parquet")]) == 2
    told = capsys.readouterr().err
    assert told == "coinfer: out: x.parquet ends in .parquet, and CSV is written; end the name in .csv\n"
    assert not list(tmp_path.iterdir())


COMMANDS = {
    "report": ("report", "{folder}", "--out", "{thesis}"),
    "report to a folder": ("report", "{folder}", "--out", "{folder}"),
    "fit": ("fit", "{records}", "--out", "{thesis}"),
    "atlas build": ("atlas", "build", "--model", "alexnet", "--out", "{thesis}"),
    "atlas show": ("atlas", "show", "{records}", "--picture", "{thesis}"),
    "collect": (
        *("collect", "--model", "alexnet", "--data", "{folder}", "--out", "{folder}/out"),
        *("--candidates", "1", "--pack", "{thesis}"),
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_at_once(
    command: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    places = {"folder": tmp_path, "thesis": thesis, "records": files["records"]}
    assert main([part.format(**places) for part in COMMANDS[command]]) == 2
    told = capsys.readouterr().err
    assert told.startswith("coinfer: out: ") and told.count("\n") == 1
    assert thesis.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_graphs_are_not_written_over_other_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "regnet_x_400mf-64px.json").write_text(json.dumps({"mine": 1}))
    assert main(["models", "--write", str(tmp_path)]) == 2
    assert "is there and is not a layer graph" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["regnet_x_400mf-64px.json"]


def test_saving_from_python_refuses_too(files: dict[str, Path], tmp_path: Path) -> None:
    from coinfer_ray.predictor.predictor import Predictor

    predictor = Predictor.load(files["predictor"])
    predictor.save(files["predictor"])
    (tmp_path / "weights.npz").write_text("mine")
    with pytest.raises(InputError, match="is not a predictor"):
        predictor.save(tmp_path / "weights.npz")
    assert (tmp_path / "weights.npz").read_text() == "mine"
