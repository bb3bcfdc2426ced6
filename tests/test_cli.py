"""The command line: answers on stdout, one line for what is wrong, exit statuses, a light start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coinfer_ray.cli import main
from coinfer_ray.cli import models as models_command
from coinfer_ray.cli import report as report_command
from coinfer_ray.errors import counted
from coinfer_ray.models.library import load_graph
from coinfer_ray.predictor.fit import fit_predictor
from coinfer_ray.runtime.files import RUN_FILE
from tests.synthetic import BASE_VALIDATION, trusted, write_synthetic_records

COMMANDS = ("models", "collect", "fit", "optimize", "compare", "robust", "sweep", "report")
REPOSITORY = Path(__file__).resolve().parents[1]
SCENARIO = ["--model", "alexnet", "--device", "rpi3b+", "--server", "p100", "--link", "4g"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in process: exit status, stdout, stderr."""
    monkeypatch.delenv("COINFER_DEBUG", raising=False)

    def once(*arguments: str | Path) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return once


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet-64px.parquet", count=60)


@pytest.fixture(scope="module")
def predictor(records: Path) -> Path:
    path = records.with_suffix(".npz")
    trusted(fit_predictor(records, regressor="decision_tree")).save(path)
    return path


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter that finds the checkout."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "kernels")])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def one_line(text: str) -> str:
    assert text.startswith("coinfer: ") and text.endswith("\n") and text.count("\n") == 1, text
    return text


def test_starting_imports_nothing_heavy() -> None:
    heavy = {"numpy", "numba", "torch", "ray", "sklearn", "scipy", "pyarrow", "pydantic", "yaml", "matplotlib", "nni"}
    code = (
        "import sys; from coinfer_ray.cli import main; status = main(['--help']); "
        f"print(sorted({heavy} & set(sys.modules))); sys.exit(status)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_of_every_command_has_examples(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0 and all(f"\n  {command} " in out for command in COMMANDS)
    assert run()[1] == out
    for command in COMMANDS:
        status, out, err = run(command, "--help")
        assert (status, err) == (0, "")
        assert f"  coinfer {command}" in out.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["optimise"], "optimize"),
        (["optimize", "--modell", "alexnet"], "--model"),
        (["optimize"], "--model"),
        (["optimize", "--model", "alexnet", "--cuts", "some"], "--cuts"),
        (["fit"], "coinfer fit --help"),
        (["collect", "--model", "a", "--data", "b", "--out", "c", "--candidates", "0"], "--candidates"),
        (["collect", "--model", "a", "--data", "b", "--out", "c", "--candidates", "2", "--snr-db", "9:x"], "LO:HI"),
        (["models", "alexnett"], "did you mean alexnet"),
        (["optimize", *SCENARIO[:2], "--device", "rpi3", *SCENARIO[4:]], "rpi3b+"),
        (["optimize", *SCENARIO, "--rate-mbps", "3"], "rate_mbps"),
        (["optimize", *SCENARIO[:6], "--rate-mbps", "-3"], "must be > 0"),
        (["optimize", *SCENARIO, "--max-loss", "1.5"], "max_loss: 1.5 must be in (-1, 1)"),
        (["compare", *SCENARIO, "--methods", "all_local,neurosurgion"], "did you mean neurosurgeon"),
        (["compare", *SCENARIO, "--methods", "all_local", "--input-bits", "0"], "input bits"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run: Run, arguments: list[str], expected: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert expected in one_line(err)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (["--objective", "speed"], "'speed' is not one of 'latency', 'energy', 'weighted', 'throughput'."),
        (["--max-loss", "some"], "Invalid value for '--max-loss': must be a number"),
        (["--input-px", "0"], "Invalid value for '--input-px': must be at least 1"),
    ],
)
def test_a_wrong_option_is_told_in_plain_words(run: Run, option: list[str], expected: str) -> None:
    status, _, told = run("optimize", "--model", "alexnet", *option)
    assert status == 2
    assert expected in told
    assert "Value error" not in told and "Input should" not in told


def test_counts_are_one_or_several() -> None:
    assert counted(1, "row") == "1 row"
    assert counted(0, "row") == "0 rows"
    assert counted(1000, "strategy", "strategies") == "1,000 strategies"


def test_an_accuracy_that_no_strategy_has_is_told_with_the_best(run: Run, records: Path) -> None:
    status, out, err = run("optimize", *SCENARIO, "--records", str(records), "--max-loss", "-0.2")
    assert (status, out) == (2, "")
    *notes, line = err.splitlines(keepends=True)  # a fit and a compilation say so, where they happen
    assert all(note.startswith(("predictor: ", "compiling ")) for note in notes)
    assert "no strategy reaches" in one_line(line)
    assert "the best that can be had is" in line


def test_bad_files_are_one_line_and_status_2(run: Run, records: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "alexnet-64px.parquet"
    truncated.write_bytes(records.read_bytes()[:-50])
    grid = tmp_path / "grid.yaml"
    grid.write_text("model: [alexnet]\ndevice: [rpi4b]\nserver: [p100]\nlink: [{rate_mbps: -1}]\nmax_loss: [0.02]\n")
    missing = tmp_path / "missing"
    for arguments, expected in (
        (["fit", truncated], "not a whole Parquet file"),
        (["fit", missing], "does not exist"),
        (["optimize", *SCENARIO, "--records", records, "--input-px", 224], "64 px, not of 224"),
        (["optimize", "--model", "regnet_x_400mf", *SCENARIO[2:], "--records", records], "not of regnet_x_400mf"),
        (["sweep", grid, "--out", tmp_path / "out"], "-1 must be > 0"),
        (["report", missing], RUN_FILE),
        (["report", tmp_path, "--out", missing / "page.html"], "is no folder"),
        (["fit", records, "--out", missing / "predictor.npz"], "is no folder"),
    ):
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), arguments
        assert expected in one_line(err)


def test_models(run: Run) -> None:
    status, out, _ = run("models", "--json")
    listed = {row["model"]: row["input_px"] for row in json.loads(out)}
    assert status == 0 and {"alexnet", "regnet_x_400mf"} <= set(listed) and 224 in listed["alexnet"]
    status, out, _ = run("models", "alexnet", "--input-px", "64", "--json")
    assert json.loads(out) == json.loads(json.dumps(load_graph("alexnet", 64).to_json()))
    for arguments, pixels in ((["models"], "224"), (["models", "alexnet"], "64 px"), (["models", "vgg16"], "224 px")):
        status, out, _ = run(*arguments)
        assert status == 0 and pixels in out and (len(arguments) == 1 or arguments[1] in out)


def test_fit(run: Run, records: Path, tmp_path: Path) -> None:
    saved = tmp_path / "predictor.npz"
    status, out, _ = run("fit", records, "--folds", "3", "--out", saved, "--regressor", "linear_regression", "--json")
    document = json.loads(out)
    assert status == 0 and saved.is_file()
    assert document["predictor"]["regressor"] == "linear_regression" and len(document["regressors"]) == 8
    assert set(document["regressors"][0]["out_of_fold"]) == {"mse", "adjusted_r2", "aic", "bic"}
    assert document["coverage"]["confidence"] == 0.95 and document["predictor"]["noise_floor"] is None
    repeated = write_synthetic_records(tmp_path / "repeated.parquet", count=20, repeats=2, seed=5)
    status, out, err = run("fit", records, repeated, "--folds", "3", "--out", saved)
    assert status == 0 and "out of fold" in out and "random_forest" in out and str(saved) in err
    assert "100 records" in out and "20 strategies trained more than once" in out and "confidence 0.95" in out
    assert "errs no more than that" in out


def test_one_input_size_where_none_is_asked_for(run: Run) -> None:
    """That of the records that ship for the network, the paper's for others, whatever the command."""
    from coinfer_ray.records.store import usual_input_px

    assert (usual_input_px("alexnet"), usual_input_px("vgg16")) == (64, 224)
    _, out, _ = run("models", "alexnet", "--json")
    assert json.loads(out)["input_px"] == 64
    _, out, _ = run("compare", *SCENARIO, "--methods", "all_server", "--json")
    assert json.loads(out)[0]["uplink_bit"] == 3 * 64 * 64 * 32


def test_collect_passes_its_options_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = pytest.importorskip("coinfer_ray.training.collect")
    from coinfer_ray.training.worker import default_settings

    given: dict[str, Any] = {}

    def collected(*arguments: Any, **options: Any) -> Any:
        given.update(options, arguments=arguments)
        return module.CollectSummary(tmp_path, 5, 4, 1, 0.8, 0.79)

    monkeypatch.setattr(module, "collect", collected)
    needed = ["--model", "alexnet", "--data", "images", "--out", tmp_path, "--candidates", "5", "--executor", "local"]
    status, out, _ = run("collect", *needed, "--json")
    assert status == 0 and json.loads(out)["failed_now"] == 1
    assert given["arguments"] == ("alexnet", "images", tmp_path, 5)
    assert given["settings"] == default_settings("alexnet", 64) and given["snr_db"] is None and given["base"] is None
    assert given["input_px"] is None and given["base_images"] is None
    changed = ["--snr-db", "-3:20", "--fine-tune-images", "7", "--validation-images", "9", "--seed", "2"]
    changed += ["--base-images", "70"]
    status, out, _ = run("collect", *needed, *changed, "--base", tmp_path / "base.safetensors", "--input-px", "128")
    assert status == 0 and "4 trained now" in out
    assert (given["snr_db"], given["seed"], given["input_px"]) == ((-3.0, 20.0), 2, 128)
    assert given["base"] == tmp_path / "base.safetensors" and given["settings"].validation_images == 9
    assert given["settings"].candidate.fine_tune.images == 7 and given["base_images"] == 70
    assert given["settings"].candidate.end_to_end == default_settings("alexnet", 64).candidate.end_to_end


def test_optimize(run: Run, predictor: Path) -> None:
    status, out, _ = run("optimize", *SCENARIO, "--records", predictor, "--seed", "3", "--json")
    document = json.loads(out)
    assert status == 0 and document["optimizer"] == "exact" and document["lower_bound_s"] <= document["latency_s"]
    assert document["latency_s"] == pytest.approx(document["device_s"] + document["server_s"] + document["uplink_s"])
    again = json.loads(run("optimize", *SCENARIO, "--records", predictor, "--seed", "3", "--json")[1])
    assert {**again, "seconds": 0} == {**document, "seconds": 0}
    sure = ["optimize", *SCENARIO, "--records", predictor, "--max-loss", "0.1", "--confidence", "0.9"]
    document = json.loads(run(*sure, "--json")[1])
    assert document["confidence"] == 0.9 and document["accuracy_bound"] >= document["accuracy_floor"] - 1e-12
    assert "with a confidence of 0.9" in run(*sure)[1]
    status, _, err = run(*sure[:-1], "90")
    assert status == 2 and "0.95 for 95 %" in one_line(err)
    status, out, _ = run("optimize", *SCENARIO, "--records", predictor, "--optimizer", "paper", "--cuts", "inner")
    assert status == 0 and "cut after" in out and "paper" in out


def test_compare(run: Run, predictor: Path) -> None:
    guess = ["compare", *SCENARIO, "--records", predictor, "--confidence", "0"]
    status, out, _ = run(*guess, "--json")
    rows = {row["method"]: row for row in json.loads(out)}
    assert status == 0 and list(rows) == ["all_local", "all_server", "neurosurgeon", "coinfer"]
    assert rows["coinfer"]["latency_s"] <= min(row["latency_s"] for row in rows.values())
    for row in rows.values():
        assert row["latency_s"] == pytest.approx(row["device_s"] + row["server_s"] + row["uplink_s"])
    assert (rows["all_server"]["cut_after"], rows["all_server"]["partition_point"]) == ("input", 0)
    assert all(row["accuracy_bound"] is None for row in rows.values())
    status, out, _ = run(*guess)
    assert status == 0 and "1.00x" in out and "at least" not in out
    sure = ["compare", *SCENARIO, "--records", predictor, "--max-loss", "0.1"]  # 0.9, where nothing is said
    rows = {row["method"]: row for row in json.loads(run(*sure, "--json")[1])}
    assert rows["all_local"]["accuracy_bound"] == rows["all_local"]["accuracy"] == BASE_VALIDATION
    assert BASE_VALIDATION - 0.1 - 1e-12 <= rows["coinfer"]["accuracy_bound"] < rows["coinfer"]["accuracy"]
    assert "at least" in run(*sure)[1]


def test_energy(run: Run, predictor: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.yaml"
    board.write_text("name: board\ngflops: 3\ncompute_w: 5\nradio_w: 2\nidle_w: 1\n")
    energy = ["--model", "alexnet", "--device", board, "--server", "p100", "--link", "4g", "--objective", "energy"]
    status, out, _ = run("compare", *energy, "--records", predictor, "--json")
    rows = {row["method"]: row for row in json.loads(out)}
    assert status == 0 and rows["coinfer"]["energy_j"] == min(row["energy_j"] for row in rows.values())
    assert rows["all_local"]["energy_j"] == pytest.approx(5 * rows["all_local"]["latency_s"])
    assert "energy J" in run("compare", *energy, "--records", predictor)[1]
    assert " J " in run("optimize", *energy, "--records", predictor)[1]
    status, _, err = run("compare", *SCENARIO, "--objective", "energy", "--records", predictor)
    assert status == 2 and "powers of rpi3b+" in one_line(err)


def test_compare_without_records_runs_at_any_size(run: Run) -> None:
    methods = ["--methods", "all_local,all_server,neurosurgeon", "--cuts", "inner"]
    status, out, _ = run("compare", *SCENARIO, *methods, "--input-px", "224", "--json")
    rows = {row["method"]: row for row in json.loads(out)}
    assert status == 0 and all(row["accuracy"] is None for row in rows.values())
    assert rows["neurosurgeon"]["cut_after"] == "pool1"
    assert rows["all_local"]["latency_s"] / rows["neurosurgeon"]["latency_s"] == pytest.approx(8.46, rel=0.01)
    status, out, _ = run("compare", "--model", "regnet_x_400mf", *SCENARIO[2:], *methods, "--input-px", "128")
    assert status == 0 and "neurosurgeon" in out


def test_sweep_and_report(run: Run, predictor: Path, tmp_path: Path) -> None:
    grid, out_folder, page = tmp_path / "grid.yaml", tmp_path / "answers", tmp_path / "page.html"
    grid.write_text("model: [alexnet]\ndevice: [rpi4b, tk1]\nserver: [p100]\nlink: [3g, wifi]\nmax_loss: [0.05]\n")
    asked = grid.read_text() + "confidence: [null, 0.9]\n"
    sweep = ["sweep", grid, "--out", out_folder, "--executor", "local", "--records", predictor]
    status, out, _ = run(*sweep, "--json")
    assert status == 0
    summary = json.loads(out)
    assert (summary["scenarios"], summary["feasible"]) == (4, 4) and "latency_s" in summary["columns"]
    files = {path.name: path.stat().st_mtime_ns for path in out_folder.glob("*/chunk-*.parquet")}
    assert run(*sweep)[0] == 0
    assert {path.name: path.stat().st_mtime_ns for path in out_folder.glob("*/chunk-*.parquet")} == files
    status, _, err = run(*sweep, "--seed", "7")
    assert status == 2 and "seed" in one_line(err)
    status, out, _ = run("report", out_folder, "--out", page, "--json")
    assert status == 0 and len(json.loads(out)["rows"]) == 4 and page.is_file()
    status, out, _ = run("report", out_folder)
    assert status == 0 and "rpi4b" in out and "coinfer" in out
    grid.write_text(asked)
    sweep[3] = tmp_path / "sure"
    assert json.loads(run(*sweep, "--json")[1])["scenarios"] == 8
    rows = json.loads(run("report", tmp_path / "sure", "--json")[1])["rows"]
    assert [row["confidence"] for row in rows] == [None, 0.9] * 4
    assert [row["accuracy_bound"] is None for row in rows] == [True, False] * 4
    table = run("report", tmp_path / "sure")[1]
    assert "at least" in table and "confidence" in table


def test_missing_extra_names_the_installation(run: Run, records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    status, _, err = run("fit", records)
    assert status == 2 and "pip install 'coinfer-ray[search]'" in one_line(err)
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in [name for name in sys.modules if name.startswith("coinfer_ray.training")]:
        monkeypatch.delitem(sys.modules, module)
    status, _, err = run("collect", "--model", "alexnet", "--data", "x", "--out", "y", "--candidates", "1")
    assert status == 2 and "pip install 'coinfer-ray[train]'" in one_line(err)


def test_without_the_command_lines_own_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith("coinfer_ray.cli.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "typer", None)
    assert main(["--help"]) == 2
    assert "coinfer-ray[search]" in one_line(capsys.readouterr().err)


def test_failures_of_ours_are_status_1_with_the_traceback_on_request(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("no\nreason")

    monkeypatch.setattr("coinfer_ray.models.library.shipped_graphs", broken)
    status, out, err = run("models")
    assert (status, out) == (1, "") and "ZeroDivisionError: no reason" in one_line(err) and "COINFER_DEBUG" in err
    monkeypatch.setenv("COINFER_DEBUG", "1")
    status, _, err = run("models")
    assert status == 1 and "Traceback" in err and "in broken" in err


@pytest.mark.parametrize("command", [models_command.models, report_command.report])
def test_interruption_is_status_130(run: Run, command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("coinfer_ray.models.library.shipped_graphs", interrupted)
    monkeypatch.setattr("coinfer_ray.report.read_sweep", interrupted)
    arguments = ["models"] if command is models_command.models else ["report", tmp_path]
    status, out, err = run(*arguments)
    assert (status, out) == (130, "") and "again to go on" in one_line(err)


def test_stdout_holds_the_answer_alone(run: Run, predictor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coinfer_ray.optimizer import optimize as search

    solve = search.solve

    def talkative(*arguments: Any, **options: Any) -> Any:
        print("a library speaks")
        return solve(*arguments, **options)

    monkeypatch.setattr(search, "solve", talkative)
    status, out, err = run("optimize", *SCENARIO, "--records", predictor, "--json")
    assert status == 0 and json.loads(out) and "a library speaks" in err


def test_search_side_needs_neither_torch_nor_nni_nor_ray(predictor: Path, records: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("model: [alexnet]\ndevice: [tk1]\nserver: [p100]\nlink: [3g]\nmax_loss: [0.05]\n")
    chain = [
        ["models", "regnet_x_400mf"],
        ["fit", records, "--folds", "2"],
        ["optimize", *SCENARIO, "--records", predictor],
        ["compare", *SCENARIO, "--records", predictor],
        ["sweep", grid, "--out", tmp_path / "answers", "--executor", "local", "--records", predictor],
        ["report", tmp_path / "answers", "--out", tmp_path / "page.html"],
    ]
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'torchvision', 'nni', 'ray'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from coinfer_ray.cli import main\n"
        f"for arguments in {[[str(part) for part in command] for command in chain]}: assert main(arguments) == 0\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_version(run: Run) -> None:
    import coinfer_ray

    assert run("--version") == (0, f"{coinfer_ray.__version__}\n", "")


def test_the_packages_names_are_what_they_say() -> None:
    code = (
        "import coinfer_ray, inspect\n"
        "for name in coinfer_ray.__all__: assert inspect.isclass(getattr(coinfer_ray, name)) or "
        "inspect.isfunction(getattr(coinfer_ray, name)), name\n"
        "assert inspect.isfunction(coinfer_ray.sweep) and set(coinfer_ray.__all__) <= set(dir(coinfer_ray))\n"
        "import coinfer_ray.report; assert inspect.isfunction(coinfer_ray.sweep)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
