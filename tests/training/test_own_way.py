"""A user's own network the whole way, from collected to reported, and refused where it is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import coinfer_ray as coinfer
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.source import ModelSource, resolve_model
from coinfer_ray.models.zoo import build
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.records.store import RecordsInfo, read_records, write_records
from coinfer_ray.runtime.executors import LocalExecutor, make_executor
from coinfer_ray.training.base import read_base
from coinfer_ray.training.collect import collect
from coinfer_ray.training.data import load_data
from coinfer_ray.training.recipes import recipe_for
from coinfer_ray.training.verify import Claim, verify
from tests.test_walls import WITHOUT_TORCH
from tests.training import own_networks
from tests.training.own_networks import Small, Strided

OWN = "tests.training.own_networks:Small"
SCENARIO = {"device": "rpi3b+", "server": "p100", "link": "3g", "max_loss": 0.2}
WHERE = ["--device", "rpi3b+", "--server", "p100", "--link", "3g", "--max-loss", "0.2"]
FEW = ["--fine-tune-images", "128", "--end-to-end-images", "128", "--executor", "local"]
ENOUGH = 14  # strategies: the least for a predictor of two prunable sets, a cut and eight codec parameters, and one


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A user's folder with their network in ``nets.py`` and what commands made of it, and what these printed."""
    place = tmp_path_factory.mktemp("user")
    shutil.copy(own_networks.__file__, place / "nets.py")
    collected = ["--model", "nets:Small", "--data", "digits", "--out", "records", "--candidates", str(ENOUGH)]
    optimized = ["optimize", "--model", "nets:Small", "--records", "predictor.npz", *WHERE, "--json"]
    printed = command_lines(
        place,
        ["collect", *collected, "--base-images", "4000", "--prunable-images", "1000", *FEW],
        ["fit", "records", "--out", "predictor.npz"],
        ["models", "nets:Small", "--input-px", "8", "--json"],
        optimized,
        ["verify", "PRINTED", "--data", "digits", "--records", "records", "--json"],
    )
    return place, [json.loads(text) for text in printed[2:]]


@pytest.fixture(scope="module")
def folder(user: tuple[Path, list[Any]]) -> Path:
    return user[0]


def command_lines(place: Path, *commands: list[str], torch_there: bool = True) -> list[str]:
    """What ``coinfer`` prints to each of ``commands``, run in ``place``, which no path holds: an installed command's
    does not either. PRINTED is a file of what the command before printed. All must end well."""
    code = WITHOUT_TORCH.partition("from coinfer_ray.cli")[0].format() if not torch_there else "import sys\n"
    code += f"""
sys.path.remove("")
import contextlib, io, pathlib
from coinfer_ray.cli import main
for number, command in enumerate({commands!r}):
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        status = main(["printed.json" if word == "PRINTED" else word for word in command])
    assert status == 0, command
    pathlib.Path("printed.json").write_text(written.getvalue())
    print(written.getvalue(), end=chr(0))
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.split(chr(0))[:-1]


def test_its_records_carry_their_graph_and_how_images_are_normalised(folder: Path) -> None:
    records, data = read_records(folder / "records"), load_data("digits")
    graph = load_graph(Small, 8)
    assert (records.model, records.input_px) == ("nets:Small", 8)  # the images' own side
    assert records.graph.fingerprint == graph.fingerprint == records.settings["graph_fingerprint"]
    assert records.settings["normalisation"] == {"mean": data.mean.tolist(), "std": data.std.tolist()}
    assert records.base_accuracy() > 0.5  # of ten classes; it is trained to tell them apart
    base = read_base(folder / "records" / "_base.safetensors")
    assert base.weights.keys() == Small().state_dict().keys()
    predictor = Predictor.load(folder / "predictor.npz")
    assert predictor.layer_graph == records.graph
    assert predictor.provenance()["graph_fingerprint"] == graph.fingerprint


def test_an_answer_is_found_trained_and_compared_from_the_users_folder(user: tuple[Path, list[Any]]) -> None:
    graph, answer, found = user[1]
    assert LayerGraph.from_json(graph).fingerprint == answer["graph_fingerprint"] == load_graph(Small, 8).fingerprint
    assert found["model"] == answer["model"] == "nets:Small"
    assert found["trainings"][0]["status"] == "ok"
    assert found["base_validation_accuracy"] == answer["base_accuracy"]


def test_a_search_only_installation_answers_for_it(user: tuple[Path, list[Any]], tmp_path: Path) -> None:
    folder, (graph, expected, _) = user
    for name in ("records", "predictor.npz"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    (tmp_path / "grid.yaml").write_text(
        "model: [graph.json]\ndevice: [rpi3b+, tk1]\nserver: [p100]\nlink: [3g, 4g]\nmax_loss: [0.2]\n"
    )
    scenario = [*WHERE, "--json"]
    *answers, rows, _, _ = command_lines(
        tmp_path,
        ["optimize", "--records", "predictor.npz", *scenario],
        ["optimize", "--model", "nets:Small", "--records", "records", *scenario],
        ["optimize", "--model", "graph.json", "--records", "predictor.npz", *scenario],
        ["compare", "--records", "predictor.npz", *scenario],
        ["sweep", "grid.yaml", "--out", "answers", "--records", "predictor.npz", "--executor", "local"],
        ["report", "answers", "--out", "page.html"],
        torch_there=False,
    )
    for answer in map(json.loads, answers):
        assert {**answer, "seconds": 0} == {**expected, "seconds": 0}
    assert [row["method"] for row in json.loads(rows)] == ["all_local", "all_server", "neurosurgeon", "coinfer"]
    assert "graph.json" in (tmp_path / "page.html").read_text()


def test_a_predictor_answers_for_no_other_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("other:Net", "alexnet"):
        assert main(["optimize", "--model", model, "--records", str(folder / "predictor.npz"), *WHERE]) == 2
        assert f"of nets:Small, not of {model}" in capsys.readouterr().err


def test_a_module_with_weights_is_measured_and_not_trained(tmp_path: Path, folder: Path) -> None:
    base = read_base(folder / "records" / "_base.safetensors")
    network = Small()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in base.weights.items()})
    network.head.weight.data += 1e-6  # what no bfloat16 holds stays as it is
    with make_executor("processes", workers=1) as executor:
        summary = collect(network, "digits", tmp_path / "out", 1, executor=executor, quiet=True)
    kept, records = read_base(tmp_path / "out" / "_base.safetensors"), read_records(tmp_path / "out")
    assert all((kept.weights[name] == tensor.numpy()).all() for name, tensor in network.state_dict().items())
    assert records.settings["base_training"]["images"] == 0
    assert "base_prunable" not in records.settings
    assert summary.base_validation_accuracy == pytest.approx(base.validation_accuracy, abs=0.02)
    assert records.model == OWN


def test_in_python_a_module_is_a_model(folder: Path) -> None:
    network, path = Small(), folder / "predictor.npz"
    answer = coinfer.optimize(network, records=path, confidence=None, **SCENARIO)  # type: ignore[arg-type]
    assert answer.model == "nets:Small"
    rows = coinfer.compare(Small, records=path, confidence=None, **SCENARIO)  # type: ignore[arg-type]
    assert min(row["latency_s"] for row in rows) == answer.latency_s
    grid = {"model": [network], "device": ["rpi3b+"], "server": ["p100"], "link": ["3g"], "max_loss": [0.2]}
    table = coinfer.sweep(grid, records=path, confidence=0.9, executor="local", quiet=True).to_table()
    assert table["model"].to_pylist() == [OWN]
    claim = Claim(answer.strategy, answer.model, answer.input_px, graph_fingerprint=answer.graph_fingerprint)
    with LocalExecutor() as executor:
        found = verify(claim, "digits", executor=executor, records=folder / "records", model=network, quiet=True)
    assert found.measured_validation_accuracy is not None


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere:Net", "there is no module 'nowhere' for nowhere:Net"),
        ("tests.training.own_networks:Smal", "'Smal' is unknown; did you mean Small"),
        ("tests.training.own_networks:NUMBER", "is a int, not callable"),
        ("tests.training.own_networks:gives_a_dict", "gives a dict, not an nn.Module"),
        ("tests.training.own_networks:breaks", "(num_classes=10) fails (ValueError: no licence for 10 classes)"),
        ("tests.training.own_networks.Small", "write tests.training.own_networks:Small"),
        ("own networks:Small", "write package.module:callable"),
        ("tests/none.json", "cannot be read"),
        ("tests.training.own_networks:five_classes", "gives 5 class scores, digits (scikit-learn) has 10 classes"),
        ("alexnett", "did you mean alexnet"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(
    model: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", model, "--data", "digits", "--out", str(tmp_path / "out"), "--candidates", "1", *FEW]
    assert main(["collect", *arguments, "--input-px", "8"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert len(lines) == 1
    assert not (tmp_path / "out").exists()


def test_an_import_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_networks.py").write_text("import nowhere_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"cannot be imported \(ModuleNotFoundError: .*nowhere_at_all"):
        build("broken_networks:Net", 10)


@pytest.mark.parametrize("document", ["[]", "{}", '{"format": 9}', "no JSON"])
def test_a_file_that_is_no_graph_is_refused(document: str, tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(document)
    with pytest.raises(InputError, match=r"net\.json is no"):
        resolve_model(path)


def test_a_graph_that_does_not_hold_together_is_refused(tmp_path: Path) -> None:
    graph = load_graph(Small, 8)
    document = json.loads(json.dumps(graph.to_json()))
    path = tmp_path / "net.json"
    path.write_text(json.dumps(document))
    assert resolve_model(path).given == graph
    document["layers"][3]["inputs"] = [7]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="layer 4 is out of order"):
        resolve_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.bias"), r"missing head\.bias\)"),
        (lambda state: state.update({"tail.bias": torch.zeros(3)}), r"unexpected tail\.bias"),
        (
            lambda state: state.update({"head.bias": torch.zeros(5)}),
            r"of other shapes head\.bias \(5,\) instead of \(10,",
        ),
        (lambda state: [state.pop(name) for name in list(state)[:5]], r"missing stem\.weight, .* and 2 more"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_that_do_not_fit_are_named(change: Any, message: str, suffix: str, tmp_path: Path) -> None:
    state = Small().state_dict()
    change(state)
    path = tmp_path / f"weights.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save({"state_dict": state}, path)
    with LocalExecutor() as executor, pytest.raises(InputError, match=message):
        collect(OWN, "digits", tmp_path / "out", 1, executor=executor, weights=path)
    assert not (tmp_path / "out").exists()


def test_a_pickled_network_is_not_run(tmp_path: Path) -> None:
    torch.save(Small(), tmp_path / "whole.pt")
    with LocalExecutor() as executor, pytest.raises(InputError, match=r"holds no plain state dict"):
        collect(OWN, "digits", tmp_path / "out", 1, executor=executor, weights=tmp_path / "whole.pt")


def test_an_untrained_module_is_refused_at_chance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with LocalExecutor() as executor, pytest.raises(InputError, match=r"no better than guessing .*a class instead"):
        collect(Small(), "digits", tmp_path / "out", 1, executor=executor, quiet=True)


def test_records_of_another_graph_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "tests.training.own_networks:Strided"
    assert main(["optimize", "--model", wrong, "--records", str(folder / "predictor.npz"), *WHERE]) == 2
    assert "with another layer graph than" in capsys.readouterr().err
    with LocalExecutor() as executor, pytest.raises(InputError, match=r"records: are of nets:Small with another"):
        verify(
            Claim(coinfer.Strategy({"conv1": 0.0, "fc1": 0.0}, 0), "nets:Small", 8),
            "digits",
            executor=executor,
            records=folder / "records",
            model=Strided,
        )


# ------------------------------------------------------------------------------------------------------- smaller parts


def test_what_is_named_keeps_its_name_and_travels() -> None:
    import pickle

    assert resolve_model("alexnet") == ModelSource("alexnet", "name")
    assert resolve_model(Small()).name == resolve_model(Small).name == OWN
    torch.manual_seed(1)
    source = resolve_model(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(build(again, 10).state_dict()["1.weight"], source.given[1].weight)
    there = pickle.loads(pickle.dumps(ModelSource("script:f", "object", lambda: nn.Linear(2, 3))))
    assert build(there, 10).out_features == 3  # type: ignore[union-attr]


def test_the_network_of_the_page_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "own_network")
    graph = load_graph("nets:Small", 8, classes=7)
    assert (graph.model, graph.classes, len(graph.prunable_sets)) == ("nets:Small", 7, 2)


def test_graphs_are_told_apart_by_what_they_are_and_not_by_their_name() -> None:
    small = load_graph(Small, 8)
    assert small.fingerprint == load_graph(lambda: Small(), 8).fingerprint
    others = [load_graph(Strided, 8), load_graph(Small, 8, classes=7)]
    assert len({graph.fingerprint for graph in (small, *others)}) == 3


def test_records_of_before_read_by_name_alone(tmp_path: Path) -> None:
    info = RecordsInfo("alexnet", 64, ("conv1",), {}, {})
    assert "graph" not in info.to_json()
    row = {"candidate": 0, "status": "ok", "sparsity": [0.0], "partition_point": 0, "codec": [1.0] * 8}
    write_records(tmp_path / "r.parquet", [row], info)
    assert read_records(tmp_path / "r.parquet").graph == load_graph("alexnet", 64)


def test_matrices_of_an_own_network_keep_their_rank() -> None:
    graph = load_graph("alexnet", 64)
    assert recipe_for(graph).prunable.rank == 128  # type: ignore[union-attr]
    assert recipe_for(graph, own=True).prunable.rank is None  # type: ignore[union-attr]
