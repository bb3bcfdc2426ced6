"""Bundles: measured where nothing of coinfer is, killed and resumed, brought back, and fitted as the command does."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.layer_times import LayerTimes
from coinfer_ray.profile import bundle as module
from coinfer_ray.profile import measure
from coinfer_ray.profile import profile as command
from coinfer_ray.profile.bundle import fit_measured, write_bundle
from coinfer_ray.profile.measure import Prepared
from coinfer_ray.profile.profile import planned_of, profile
from coinfer_ray.profile.work import Work
from coinfer_ray.scenarios.read import device_of

MODELS = ["regnet_x_400mf"]
TIMES = LayerTimes(conv_flop=2e-11, grouped_flop=9e-11, element=5e-10, weight=2e-10, layer=8e-6)
with_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")), reason="ONNX Runtime is missing"
)

# What a board has: Python, numpy, ONNX Runtime. Times are short, for they are no matter here.
BOARD = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("coinfer_ray", "coinfer_kernels", "onnx", "torch", "ray", "scipy", "yaml"):
            raise AssertionError(f"a board has no {name}")

sys.meta_path.insert(0, Absent())
sys.path.insert(0, sys.argv.pop(1))
import measure
measure.WARM_UP_S, measure.MEASURE_S, measure.FEWEST_CALLS, measure.EVICT_BYTES = 0.0, 0.0, 2, 8
sys.exit(measure.main())
"""


def board(bundle: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-B", "-c", BOARD, str(bundle), *arguments]


def exact_seconds(work: Work) -> float:
    return sum(TIMES.seconds(layer, layer.in_channels, layer.out_channels) for layer in work.layers) + 3e-5


def machine(patched: pytest.MonkeyPatch) -> None:
    """A quiet machine that takes exactly the times of ``TIMES`` for models that hold the names of their work."""
    names = {work.name.encode(): exact_seconds(work) for work in planned_of(MODELS, ["alexnet"]).everything}
    writer = SimpleNamespace(model_of=lambda work: SimpleNamespace(content=work.name.encode(), weights={}))
    patched.setattr(module, "_writer", lambda: writer)
    patched.setattr(measure, "version", lambda: "fake 1")
    patched.setattr(measure, "prepare", lambda model, weights, threads: Prepared(lambda: names[model], lambda: 0))
    patched.setattr(measure, "time_calls", lambda work: (work.call(), 0.01))
    patched.setattr(measure, "load_average", lambda: 0.25)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, ``board``, and what that machine measured of it, ``measured.json``."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        machine(patched)
        write_bundle(folder / "board", models=MODELS, networks=["alexnet"], quiet=True)
        assert "coinfer profile --measured measured.json" in measure.measure_bundle(
            folder / "board", folder / "measured.json", 1, None
        )
    return folder


@pytest.fixture
def measured(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was measured, on that machine."""
    machine(monkeypatch)
    return Path(shutil.copy(made / "measured.json", tmp_path))


@pytest.fixture
def written(made: Path, measured: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, beside it."""
    return Path(shutil.copytree(made / "board", tmp_path / "board"))


def test_the_plan_says_what_each_file_is(written: Path) -> None:
    plan = json.loads((written / "plan.json").read_text())
    everything = planned_of(MODELS, ["alexnet"]).everything
    assert sorted(piece["number"] for piece in plan["pieces"]) == list(range(len(everything)))
    for piece in plan["pieces"]:
        work = everything[piece["number"]]
        assert (piece["name"], piece["part"], piece["flops"]) == (work.name, work.part, work.flops)
        assert piece["terms"] == work.terms.tolist()
        assert piece["input"] == list(work.input_shape)
        assert (written / piece["file"]).read_bytes() == work.name.encode()
    assert {each.name for each in written.iterdir()} == {"plan.json", "models", "measure.py"}
    assert (written / "measure.py").read_text() == Path(measure.__file__).read_text()


def test_the_script_is_python_of_3_9_and_imports_numpy_and_onnxruntime_alone() -> None:
    tree = ast.parse(Path(measure.__file__).read_text(), feature_version=(3, 9))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime"}
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    for node in ast.walk(tree):  # keywords that came with 3.10
        if isinstance(node, ast.Call):
            assert not {"strict", "slots", "kw_only"} & {each.arg for each in node.keywords}


def test_what_comes_back_is_fitted_as_the_command_fits_it(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fit_measured(measured, tmp_path / "there.json")
    runner = SimpleNamespace(
        version=lambda: "fake 1", prepare=lambda work, threads: Prepared(lambda: exact_seconds(work), lambda: 0)
    )
    monkeypatch.setattr(command, "backend_of", lambda name: runner)
    here = profile(tmp_path / "here.json", models=MODELS, networks=["alexnet"], quiet=True)
    assert (tmp_path / "there.json").read_text() == (tmp_path / "here.json").read_text()
    assert (found.done, found.planned, found.warnings) == (here.done, here.planned, here.warnings)
    assert vars(device_of(str(tmp_path / "there.json"), cost_model="layers").times) == pytest.approx(vars(TIMES))


def test_an_own_network_comes_back_with_its_graph(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = load_graph("alexnet", 64).to_json()
    graph["layers"][0]["kernel_area"] = 49  # not the network that ships
    own = tmp_path / "own.json"
    own.write_text(json.dumps(graph))
    write_bundle(tmp_path / "own", models=MODELS, networks=[str(own)], quiet=True)
    own.unlink()
    names = {work.name.encode(): 1e-3 for work in planned_of(MODELS, ["alexnet"]).everything}
    monkeypatch.setattr(measure, "prepare", lambda model, weights, threads: Prepared(lambda: names[model], lambda: 0))
    measure.measure_bundle(tmp_path / "own", tmp_path / "own-measured.json", 1, None)
    found = fit_measured(tmp_path / "own-measured.json", tmp_path / "own.yaml", name="pi")
    (entry,) = found.document["network_seconds"]
    assert entry["fingerprint"] != load_graph("alexnet", 64).fingerprint
    assert found.document["name"] == "pi"


def test_time_that_is_up_leaves_the_rest_for_later(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, clock = tmp_path / "some.json", iter(range(10_000))
    with monkeypatch.context() as patched:
        patched.setattr(measure.time, "monotonic", lambda: float(next(clock)))
        assert "the same line again measures more" in measure.measure_bundle(written, out, 1, 2.0)
    first = json.loads(out.read_text())["measured"]
    assert 20 < len(first) < 200
    measure.measure_bundle(written, out, 1, None)
    rest = json.loads(out.read_text())["measured"]
    assert list(rest)[: len(first)] == list(first)
    assert len(rest) == len(planned_of(MODELS, ["alexnet"]).everything)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it.update(format=2), "is of format 2, coinfer .* reads 1; write the bundle again"),
        (lambda it: it.update(kind="records"), "is nothing that measure.py of a bundle wrote"),
        (lambda it: it.update(bundle="0" * 16), "its work is not what coinfer .* plans for it here"),
        (lambda it: it["made"].update(seed=1), "its work is not what coinfer .* plans for it here"),
        (lambda it: it["made"].update(seed=-1), r"made\.seed: -1 must be a whole number from 0 on"),
        (lambda it: it["made"].pop("graphs"), r"made\.graphs: is missing or broken"),
        (lambda it: it["made"].update(graphs=[{"model": "alexnet"}]), r"made\.graphs\[0\]"),
        (
            lambda it: it["made"].update(graphs=[{"model": "antigravity:fly", "input_px": 64}]),
            r"made\.graphs\[0\]: antigravity:fly at 64 px does not ship with coinfer",
        ),
        (lambda it: it.update(threads=0), "threads: 0 must be a whole number from 1 on"),
        (lambda it: it.update(load_by_others=None), "load_by_others: None must be a number"),
        (lambda it: it["measured"].update({"7": [-1e-3, 0.1]}), r"measured: 7 \(\S+\): -0.001 s .* must be above 0"),
        (lambda it: it["measured"].update({"7": [1e-3, -1]}), r"measured: 7 \(\S+\): 0.001 s and a spread of -1"),
        (lambda it: it["measured"].update({"7": [float("nan"), 0]}), r"\[NaN, 0\] must be seconds and their spread"),
        (lambda it: it["measured"].update({"7": "fast"}), "must be seconds and their spread"),
        (lambda it: it["measured"].update({"99999": [1, 0]}), "measured: '99999' is no piece of its bundle"),
        (lambda it: it["measured"].clear(), "0 layers and 0 halves are measured"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(
    measured: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    document = json.loads(measured.read_text())
    change(document)
    measured.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as raised:
        fit_measured(measured, tmp_path / "pi.yaml")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "pi.yaml").exists()


def test_a_file_cut_short_is_one_line(
    written: Path, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured.write_text(measured.read_text()[:-40])
    assert main(["profile", "--measured", str(measured), "--out", str(tmp_path / "pi.yaml")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"coinfer: {measured}: is not whole; copy what measure.py wrote again"
    ]
    with pytest.raises(measure.Unusable, match=r"nothing that measure\.py wrote whole"):
        measure.measure_bundle(written, measured, 1, None)


def test_results_of_another_run_and_broken_bundles_are_one_line(written: Path, measured: Path, tmp_path: Path) -> None:
    out, other = measured, tmp_path / "other"
    write_bundle(other, models=MODELS, networks=["alexnet"], seed=5, quiet=True)
    with pytest.raises(measure.Unusable, match=r"bundle is .* there and .* here; give another --out"):
        measure.measure_bundle(other, out, 1, None)
    with pytest.raises(measure.Unusable, match="threads is 1 there and 2 here; give another --out"):
        measure.measure_bundle(written, out, 2, None)
    next((written / "models").iterdir()).write_bytes(b"cut")
    with pytest.raises(measure.Unusable, match=r"is not the file of plan\.json; copy the whole bundle again"):
        measure.measure_bundle(written, tmp_path / "new.json", 1, None)
    (written / "plan.json").unlink()
    with pytest.raises(measure.Unusable, match=r"plan\.json: cannot be read"):
        measure.measure_bundle(written, out, 1, None)


def test_nothing_but_an_earlier_bundle_is_replaced(written: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    again = write_bundle(written, models=MODELS, quiet=True)
    assert again.pieces == len(planned_of(MODELS, []).everything) == len(list((written / "models").iterdir()))
    assert again.bytes == sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    assert sorted(tmp_path.iterdir()) == before
    (written / "measured.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds measured\.json beside an earlier bundle; move it away"):
        write_bundle(written, models=MODELS, quiet=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    write_bundle(mine, models=MODELS, quiet=True)  # an empty folder is no loss
    shutil.rmtree(mine)
    mine.mkdir()
    (mine / "thesis.tex").write_text("text")
    with pytest.raises(InputError, match="is there and is no earlier bundle"):
        write_bundle(mine, models=MODELS, quiet=True)
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is a file; give the name of a folder"):
        write_bundle(mine / "thesis.tex", models=MODELS, quiet=True)
    with pytest.raises(InputError, match="is no folder; create it"):
        write_bundle(tmp_path / "no" / "board", models=MODELS, quiet=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "b", "--threads", "4"], "profile: --threads means nothing beside --bundle"),
        (["--bundle", "b", "--out", "a.yaml"], "profile: --out means nothing beside --bundle"),
        (
            ["--measured", "m.json", "--out", "a.yaml", "--network", "alexnet"],
            "--network means nothing beside --measured",
        ),
        (["--measured", "m.json"], "out: is missing; give --out FILE.yaml"),
        (["--measured", "m.json", "--out", "a.yaml"], "m.json: cannot be read (No such file or directory)"),
        ([], "out: is missing; give --out FILE.yaml"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profile", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


@with_onnx
def test_a_model_and_its_weights_are_what_a_file_with_them_holds() -> None:
    import onnx
    from onnx import numpy_helper

    from coinfer_ray.profile.onnx_layers import model_of

    work = planned_of(MODELS, []).everything
    for each in [piece for piece in work if piece.part == "half"][:3]:
        model = model_of(each)
        expected = onnx.load_from_string(model.content)
        for name, shape in model.weights.items():
            values = np.full(shape, 1 / np.prod(shape[1:], initial=1.0), dtype=np.float32)
            expected.graph.initializer.append(numpy_helper.from_array(values, name))
        found = onnx.load_from_string(measure.with_weights(model.content, model.weights))
        assert len(found.graph.initializer) == len(model.weights) > 1
        assert found == expected


@with_onnx
def test_a_board_measures_is_killed_goes_on_and_its_times_are_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "board", tmp_path / "measured.json"
    assert main(["profile", "--bundle", str(folder), "--model", MODELS[0], "--json"]) == 0
    pieces = json.loads(capsys.readouterr().out)["pieces"]
    line = board(folder, "--out", str(out))
    for how, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        before = measured_in(out)
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=os.environ) as running:
            while len(measured_in(out)) < len(before) + 10:
                assert running.poll() is None, running.stderr and running.stderr.read()
                time.sleep(0.01)
            running.send_signal(how)
            assert running.wait(60) == status
            said = running.stderr.read() if running.stderr else ""
        assert len(measured_in(out)) < pieces
        assert ("the same line again goes on" in said) == (status == 130)
        assert "Traceback" not in said
    kept = measured_in(out)
    ended = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"{pieces} of {pieces} measured. Take {out} to where coinfer is installed")
    results = json.loads(out.read_text())
    assert {key: results["measured"][key] for key in kept} == kept
    assert main(["profile", "--measured", str(out), "--out", str(tmp_path / "pi.json"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    took = iter(results["measured"][str(number)] for number in planned_of(MODELS, []).order)
    monkeypatch.setattr(measure, "time_calls", lambda work: tuple(next(took)))
    monkeypatch.setattr(measure, "load_average", lambda: results["load_by_others"])
    profile(tmp_path / "here.json", models=MODELS, quiet=True)
    assert json.loads((tmp_path / "pi.json").read_text()) == json.loads((tmp_path / "here.json").read_text())
    assert document["layer_seconds"] == json.loads((tmp_path / "here.json").read_text())["layer_seconds"]
    assert document["measured"]["backend"].startswith("onnxruntime")


def measured_in(out: Path) -> dict[str, Any]:
    """What a file holds at any moment, which is whole at any moment."""
    return json.loads(out.read_text())["measured"] if out.exists() else {}
