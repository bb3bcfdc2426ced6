"""``coinfer profile``: exact fits of exact times, honest errors, resumption; layers against torch and ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.layer_times import FREE, LayerTimes
from coinfer_ray.profile import measure
from coinfer_ray.profile import profile as module
from coinfer_ray.profile.fit import Measurement, fit_times
from coinfer_ray.profile.geometry import Window, window_of
from coinfer_ray.profile.measure import Prepared
from coinfer_ray.profile.profile import profile
from coinfer_ray.profile.work import Work, plan
from coinfer_ray.scenarios.read import device_of

TIMES = LayerTimes(conv_flop=2e-11, grouped_flop=9e-11, element=5e-10, weight=2e-10, layer=8e-6)
CALL_S = 3e-5
GRAPHS = [load_graph("alexnet", 64), load_graph("regnet_x_400mf", 64)]


def exact_seconds(work: Work) -> float:
    return sum(TIMES.seconds(layer, layer.in_channels, layer.out_channels) for layer in work.layers) + CALL_S


def measured(work: list[Work], factor: Callable[[int], float] = lambda number: 1.0) -> list[Measurement]:
    return [
        Measurement(
            each.name, each.part, tuple(each.terms.tolist()), each.flops, exact_seconds(each) * factor(number), 0.0
        )
        for number, each in enumerate(work)
    ]


def test_the_plan_is_the_same_for_a_seed_and_holds_some_of_everything() -> None:
    work = plan(GRAPHS, seed=3)
    assert [each.name for each in work] == [each.name for each in plan(GRAPHS, seed=3)]
    assert [each.name for each in work] != [each.name for each in plan(GRAPHS, seed=4)]
    assert len({each.name for each in work}) == len(work)
    assert {each.part for each in work[: len(work) // 3]} == {"layer", "run", "half"}
    terms = np.array([each.terms for each in work if each.part != "half"])
    assert (terms > 0).any(axis=0).all()
    for each in work:
        assert all(layer.in_channels >= 1 and layer.out_channels >= 1 for layer in each.layers)
        assert any(layer.kind not in FREE for layer in each.layers)
        assert all(layer.in_channels % (layer.group_width or 1) == 0 for layer in each.layers)


def test_exact_times_are_fitted_exactly() -> None:
    fitted = fit_times(measured(plan(GRAPHS)))
    assert vars(fitted.times) == pytest.approx(vars(TIMES), rel=1e-6)
    assert fitted.call_s == pytest.approx(CALL_S, rel=1e-6)
    assert fitted.layer_error < 1e-8
    assert fitted.half_error < 1e-8
    assert fitted.half_error_of_speed > 0.2


def test_the_errors_are_those_of_what_was_left_out() -> None:
    work = plan(GRAPHS)
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(0, 0.2, len(work)))
    fitted = fit_times(measured(work, lambda number: float(noise[number])))
    assert 0.1 < fitted.layer_error < 0.3
    assert min(vars(fitted.times).values()) >= 0
    slow = fit_times(measured(work, lambda number: 2.0 if work[number].part == "half" else 1.0))
    assert slow.layer_error < 1e-8
    assert slow.half_error == pytest.approx(0.5, abs=1e-6)  # halves take no part in the fit


def test_too_few_measurements_are_refused() -> None:
    work = [each for each in plan(GRAPHS) if each.part == "layer"][:30]
    with pytest.raises(
        InputError, match=r"profile: 30 layers and 0 halves are measured, 20 and 4 are needed; allow more"
    ):
        fit_times(measured(work))


def test_median_and_spread_after_a_warm_up() -> None:
    now = [0.0]
    takes = iter([9.0, *([1.0, 2.0, 3.0, 4.0, 5.0] * 50)])  # the first call, slow, is warming up

    def call() -> None:
        now[0] += next(takes)

    def touch() -> None:
        now[0] += 100.0  # is not counted

    median, spread = measure.time_calls(Prepared(call, touch), lambda: now[0])
    assert median == 2.0
    assert spread == pytest.approx((3.5 - 1.5) / 2)  # of 1, 2, 3, 4, 5, 1, 2


@pytest.mark.parametrize(
    ("name", "window"),
    [("conv1", Window(11, 4, 2)), ("conv2", Window(5, 1, 2)), ("pool1", Window(3, 2, 0)), ("conv3", Window(3, 1, 1))],
)
def test_windows_of_alexnet(name: str, window: Window) -> None:
    graph = load_graph("alexnet", 224)
    (layer,) = (layer for layer in graph.layers if layer.name == name)
    assert window_of(layer) == window


def test_windows_give_the_sizes() -> None:
    for graph in (*GRAPHS, load_graph("regnet_x_400mf", 224)):
        for layer in graph.layers:
            if layer.kind in ("conv", "max_pool"):
                own = window_of(layer)
                assert (layer.in_height + 2 * own.padding - own.side) // own.stride + 1 == layer.out_height


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine that takes exactly the times of ``TIMES``; returns the names of what was run on it."""
    ran: list[str] = []

    def prepare(work: Work, threads: int) -> Prepared:
        ran.append(work.name)
        return Prepared(lambda: exact_seconds(work), lambda: None)

    def timed(work: Prepared) -> tuple[float, float]:
        return work.call(), 0.01

    monkeypatch.setattr(module, "backend_of", lambda name: SimpleNamespace(version=lambda: "fake 1", prepare=prepare))
    monkeypatch.setattr(measure, "time_calls", timed)
    return ran


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_the_file_is_a_device(fake: list[str], tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"board.{suffix}"
    found = profile(out, name="board", quiet=True)
    assert found.done == found.planned == len(fake)
    assert list(tmp_path.iterdir()) == [out]
    document = (json.loads if suffix == "json" else yaml.safe_load)(out.read_text())
    assert document == found.document
    assert document["measured"]["backend"] == "fake 1"
    device = device_of(str(out))
    assert device.name == "board"
    assert vars(device.times) == pytest.approx(vars(TIMES), rel=1e-6)
    assert device_of(str(out), cost_model="flops").flops_per_s == pytest.approx(document["gflops"] * 1e9)
    profile(out, name="board", quiet=True)  # one's own file is brought up to date


def test_it_goes_on_where_it_was_stopped(fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real = tmp_path / "board.yaml", measure.time_calls

    def killed(work: Prepared) -> tuple[float, float]:
        if len(fake) > 40:
            raise KeyboardInterrupt
        return real(work)

    monkeypatch.setattr(measure, "time_calls", killed)
    with pytest.raises(KeyboardInterrupt):
        profile(out, quiet=True)
    assert not out.exists()
    monkeypatch.setattr(measure, "time_calls", real)
    with pytest.raises(InputError, match="threads"):
        profile(out, threads=2, quiet=True)
    kept, broken = 40, tmp_path / "board.yaml.parts" / "measured-000007.json"
    broken.write_text(broken.read_text()[:30])
    fake.clear()
    found = profile(out, quiet=True)
    assert len(fake) == found.planned - kept + 1
    assert vars(found.fitted.times) == pytest.approx(vars(TIMES), rel=1e-6)


def test_time_that_is_up_says_so(fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(measure.time, "monotonic", lambda: float(next(clock)))
    found = profile(tmp_path / "a.yaml", minutes=1.4, quiet=True)
    assert found.done < found.planned
    assert any(f"{found.done} of {found.planned} pieces of work were measured" in each for each in found.warnings)
    with pytest.raises(InputError, match="allow more --minutes"):
        profile(tmp_path / "b.yaml", minutes=0.2, quiet=True)


def test_a_busy_machine_is_told_of(fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    assert profile(tmp_path / "a.yaml", quiet=True).warnings == ()
    monkeypatch.setattr(measure.os, "getloadavg", lambda: (3.0, 0.1, 0.1))
    (warning,) = profile(tmp_path / "b.yaml", quiet=True).warnings
    assert warning.startswith("the machine was busy with other work (load 3.0")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    for call, message in (
        (lambda: profile(tmp_path / "a.txt"), r"out: .*a\.txt must end in \.yaml or \.json"),
        (lambda: profile(tmp_path / "a.yaml", minutes=0), "profile: 0 minutes on 1 thread; both must be above 0"),
        (lambda: profile(tmp_path / "a.yaml", backend="tflite"), "backend: 'tflite' is unknown"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=message):
            call()
    mine = tmp_path / "mine.yaml"
    mine.write_text("thesis: true")
    with pytest.raises(InputError, match="is not a device file that `coinfer profile` wrote"):
        profile(mine)
    assert mine.read_text() == "thesis: true"


def test_without_anything_to_measure_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxruntime", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("onnx_layers", "torch_layers"):
        monkeypatch.delitem(sys.modules, f"coinfer_ray.profile.{name}", raising=False)
        monkeypatch.delattr(f"coinfer_ray.profile.{name}", raising=False)
    with pytest.raises(
        InputError, match=r"neither ONNX Runtime nor torch is installed; pip install 'coinfer-ray\[device\]'"
    ):
        profile(tmp_path / "a.yaml")
    with pytest.raises(InputError, match="backend: ONNX Runtime is missing"):
        profile(tmp_path / "a.yaml", backend="onnxruntime")


BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is missing"))
    for name in ("onnxruntime", "torch")
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_piece_of_work_runs_and_gives_what_its_last_layer_says(backend: str) -> None:
    runner = module.backend_of(backend)  # type: ignore[arg-type]
    small = [each for each in plan(GRAPHS) if each.terms[3] < 3e6]
    assert {each.part for each in small} == {"layer", "run", "half"}
    for each in small:
        last = each.layers[-1]
        result = runner.prepare(each, 1).call()
        shape = np.shape(result[0] if backend == "onnxruntime" else result)
        assert np.prod(shape) == last.out_channels * last.out_height * last.out_width, each.name


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "torch")), reason="one of them is missing"
)
def test_both_backends_measure_the_same_network() -> None:
    """The whole network's layers: the same number of them, of the same FLOPs, in ONNX as in torch's counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from coinfer_ray.profile import torch_layers

    for graph in GRAPHS:
        whole = Work("whole", "half", graph.layers)
        with FlopCounterMode(display=False) as counter:
            torch_layers.prepare(whole, 1).call()
        products = sum(
            layer.flops - (2 * layer.output_elements if layer.kind == "conv" else -layer.out_channels)
            for layer in graph.layers
            if layer.kind in ("conv", "fc")
        )
        assert counter.get_total_flops() == products
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_command_measures_this_machine(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "WARM_UP_S", 0.0)
    monkeypatch.setattr(measure, "MEASURE_S", 0.0)
    monkeypatch.setattr(measure, "FEWEST_CALLS", 2)
    monkeypatch.setattr(measure, "EVICT_BYTES", 8)
    out = tmp_path / "me.json"
    command = [
        "profile",
        "--out",
        str(out),
        "--backend",
        backend,
        "--model",
        "regnet_x_400mf",
        "--minutes",
        "2",
        "--json",
    ]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["layer_seconds"] == json.loads(out.read_text())["layer_seconds"]
    assert document["measured"]["backend"].startswith(backend)
    times = device_of(str(out)).times
    assert times is not None
    assert min(vars(times).values()) >= 0
    assert 1e-13 < times.conv_flop < 1e-8
