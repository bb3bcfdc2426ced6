"""Real trainings of claimed strategies, on tiny networks' worth of images: seconds each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from coinfer_ray.cli import main
from coinfer_ray.compression.quantize import Quantizer
from coinfer_ray.errors import InputError
from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Codec, Strategy
from coinfer_ray.records import store
from coinfer_ray.refine.cases import Case
from coinfer_ray.refine.run import RESULT_FILE, refine
from coinfer_ray.runtime.executors import Envelope, LocalExecutor
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.training.base import build_base, load_base
from coinfer_ray.training.candidate import CandidateData, CandidateTrainer
from coinfer_ray.training.collect import collect
from coinfer_ray.training.data import load_data
from coinfer_ray.training.trainer import Preprocess
from coinfer_ray.training.verifier import realised, strategy_number
from coinfer_ray.training.verify import Claim, Verification, verify
from tests.training.collect_driver import SETTINGS

CANDIDATES = 3


@pytest.fixture(scope="module")
def collection(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "records"
    with LocalExecutor(threads=1) as executor:
        collect("alexnet", few_images, out, CANDIDATES, executor=executor, settings=SETTINGS, quiet=True)
    return out


@pytest.fixture(scope="module")
def base(collection: Path) -> Path:
    return collection / "_base.safetensors"


def space() -> SearchSpace:
    return SearchSpace(load_graph("alexnet", 64))


def a_strategy(point: int = 12, **codec: Any) -> Strategy:
    names = [prunable.name for prunable in space().graph.prunable_sets]
    return Strategy(dict.fromkeys(names, 0.25), point, Codec(**codec))


def document(strategy: Strategy, **fields: Any) -> dict[str, Any]:
    return {"model": "alexnet", "input_px": 64, "strategy": strategy.to_json()} | fields


def checked(claim: Claim, data: Path, records: Path, **options: Any) -> Verification:
    with LocalExecutor(threads=1) as executor:
        return verify(claim, data, executor=executor, records=records, quiet=True, **options)


def test_a_record_trained_again_from_its_seed_is_the_same_record(collection: Path, few_images: Path) -> None:
    """The verifier trains as the collection did: same base, settings and images, so the same seed must agree."""
    from coinfer_ray.training.data import load_data
    from coinfer_ray.training.verifier import collect_settings, obtain_base
    from coinfer_ray.training.worker import Task, graph_for, shared_values, start_worker

    records = store.read_records(collection)
    row = records.table.to_pylist()[1]
    splits = load_data(few_images)
    network = obtain_base(None, collection, records.info, splits)
    shared = shared_values(graph_for("alexnet", 64, splits), splits, network, collect_settings(records.info))
    with LocalExecutor(threads=1) as executor:
        task = Task(1, records.strategies[1], None, row["seed"])
        [envelope] = executor.run(start_worker, shared, [(0, task)])
    assert envelope.value is not None
    for name in ("validation_accuracy", "test_accuracy", "device_flop", "server_flop", "uplink_bit"):
        assert envelope.value[name] == row[name]


def test_verification_appends_records_that_join_the_others(collection: Path, few_images: Path, tmp_path: Path) -> None:
    claim = Claim(a_strategy(ratio_1=0.5), "alexnet", 64, predicted_accuracy=0.9, accuracy_floor=0.8)
    folder = tmp_path / "verified"
    found = checked(claim, few_images, collection, seeds=2, append=folder)
    shards = sorted(folder.glob("candidate-*.parquet"))
    assert sorted(map(str, shards)) == sorted(found.shards) and len(shards) == 2
    assert found.floor_met is False  # chance on fifty images
    assert len({row["seed"] for row in found.rows}) == 2
    measured = [row["validation_accuracy"] for row in found.rows]
    assert found.measured_accuracy == pytest.approx(sum(measured) / 2)
    for shard in shards:  # beside the collection's own shards they read as one set
        (collection / shard.name).write_bytes(shard.read_bytes())
    try:
        joined = store.read_records(collection)
        assert len(joined) == CANDIDATES + 2
        assert joined.accuracy()[-2:].tolist() == measured
        assert joined.info.settings_hash == store.read_records(folder).info.settings_hash
    finally:
        for shard in shards:
            (collection / shard.name).unlink()


def test_what_is_measured_is_not_trained_again(
    collection: Path, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Claim(a_strategy(13), "alexnet", 64, predicted_accuracy=0.5)
    first = checked(claim, few_images, collection, append=tmp_path / "out")
    monkeypatch.setattr(LocalExecutor, "run", None)
    again = checked(claim, few_images, collection, append=tmp_path / "out")
    assert again.measured_validation_accuracy == first.measured_validation_accuracy
    assert again.rows[0]["wall_s"] == first.rows[0]["wall_s"]


def test_a_training_whose_worker_failed_is_kept_as_failed_and_trained_again(
    collection: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(LocalExecutor):
        def run(self, start: Any, shared: Any, tasks: Any) -> Any:
            for task_id, _ in tasks:
                yield Envelope(task_id, None, "WorkerDied: 3 workers died over this task", 3, 0.0)

    claim = Claim(a_strategy(15), "alexnet", 64, predicted_accuracy=0.5)
    options: dict[str, Any] = {"records": collection, "append": tmp_path / "out"}
    with Failing(threads=1) as executor:
        lost = verify(claim, few_images, executor=executor, **options)
    assert lost.measured_accuracy is None and lost.rows[0]["status"] == "error"
    assert "1 of 1 training failed, one so: WorkerDied: 3 workers" in capsys.readouterr().err
    (shard,) = (tmp_path / "out").glob("candidate-*.parquet")
    found = checked(claim, few_images, collection, append=tmp_path / "out")
    assert found.measured_accuracy is not None and found.rows[0]["status"] == "ok"
    assert [str(shard)] == list(found.shards)


def test_a_claim_without_a_prediction_gets_the_records_own(few_images: Path, collection: Path) -> None:
    from coinfer_ray.predictor.fit import fit_predictor

    records = store.read_records(collection)
    predictor = fit_predictor(records, regressor="linear_regression")
    strategy = a_strategy(14)
    with LocalExecutor(threads=1) as executor:
        found = verify(
            Claim(strategy, "alexnet", 64),
            few_images,
            executor=executor,
            records=predictor,
            base=collection / "_base.safetensors",
            max_loss=0.5,
            quiet=True,
        )
    expected = float(predictor.predict(space().values(strategy)[None])[0])
    assert found.claim.predicted_accuracy == pytest.approx(expected)
    assert found.claim.accuracy_floor == pytest.approx(records.base_accuracy() - 0.5)
    assert found.floor_met is True
    assert found.to_json()["error"] == pytest.approx(found.measured_accuracy - expected)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot be read as JSON"),
        ("\x00\xff", "cannot be read as JSON"),
        ("[1, 2]", "holds no JSON object"),
        ('{"model": "alexnet", "input_px": 64}', "expected the keys sparsity"),
        (json.dumps({"strategy": a_strategy().to_json(), "input_px": 64}), "lacks 'model'"),
        (json.dumps(document(a_strategy(), accuracy_floor="high")), "is no number"),
        (json.dumps(document(a_strategy())).replace('"partition_point": 12', '"partition_point": 1e999'), "no number"),
    ],
)
def test_files_that_are_no_strategy_end_in_one_line(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "strategy.json"
    path.write_bytes(text.encode("latin-1"))
    assert main(["verify", str(path), "--data", str(tmp_path), "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert complaint in printed.err and len(printed.err.splitlines()) == 1


def test_no_file_at_all_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "none.json"), "--data", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"strategy": a_strategy(99)}, "cannot be cut at 99"),
        ({"strategy": a_strategy(kernel_1=2)}, "codec.kernel_1 is 2; it must be an odd number"),
        ({"strategy": a_strategy(ratio_1=1.5)}, r"codec.ratio_1 is 1.5; it must be above 0 and at most 1"),
        ({"strategy": a_strategy(stride_2=0)}, "codec.stride_2 is 0"),
        ({"strategy": replace(a_strategy(), sparsity={"conv1": 0.1})}, "the prunable sets of alexnet are"),
        ({"input_px": 128}, "are of alexnet at 64 px, the strategy is for alexnet at 128 px"),
        ({"base_accuracy": 0.99}, "was found for a base accuracy of 0.9900"),
    ],
)
def test_claims_that_do_not_fit_the_records(
    change: dict[str, Any], complaint: str, collection: Path, few_images: Path
) -> None:
    claim = replace(Claim(a_strategy(), "alexnet", 64, predicted_accuracy=0.5), **change)
    with pytest.raises(InputError, match=complaint):
        checked(claim, few_images, collection)


def test_what_does_not_belong_to_the_records_is_refused(
    collection: Path, base: Path, few_images: Path, tmp_path: Path
) -> None:
    claim = Claim(a_strategy(), "alexnet", 64, predicted_accuracy=0.5)
    packed = tmp_path / "records.parquet"
    store.pack(collection, packed)
    with pytest.raises(InputError, match=r"base network .* is needed; give --base FILE"):
        checked(claim, few_images, packed)
    with pytest.raises(InputError, match="the records come from a noise-free channel; leave it out"):
        checked(claim, few_images, collection, snr_db=10.0)
    with pytest.raises(InputError, match="seeds: 0 asked for"):
        checked(claim, few_images, collection, seeds=0)
    records = store.read_records(collection)
    other = replace(records, info=replace(records.info, settings={**records.settings, "base_fingerprint": "0" * 16}))
    with pytest.raises(InputError, match="the records started from 0000000000000000"):
        checked(claim, few_images, other, base=base)  # type: ignore[arg-type]
    other = replace(records, info=replace(records.info, settings={**records.settings, "data_fingerprint": "0" * 16}))
    with pytest.raises(InputError, match=r"the records' images .* have 0000000000000000"):
        checked(claim, few_images, other, base=base)  # type: ignore[arg-type]
    settings = {name: value for name, value in records.settings.items() if name != "candidate_training"}
    other = replace(records, info=replace(records.info, settings=settings))
    with pytest.raises(InputError, match="do not say how their candidates were trained"):
        checked(claim, few_images, other, base=base)  # type: ignore[arg-type]
    training = records.settings["candidate_training"]
    older = {**training, "codec": {**training["codec"], "end_to_end_factor": 20.0}}
    other = replace(records, info=replace(records.info, settings={**records.settings, "candidate_training": older}))
    with pytest.raises(InputError, match="were trained by the recipe of another version"):
        checked(claim, few_images, other, base=base)  # type: ignore[arg-type]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds files but no _run\.json"):
        checked(claim, few_images, collection, append=tmp_path / "foreign")


def test_numbers_follow_from_what_is_trained() -> None:
    a, b = a_strategy(12, ratio_1=0.5), a_strategy(12, ratio_1=0.5, width_1=0.5)  # no linear codec at a spatial cut
    assert realised(space(), a) == realised(space(), b)
    numbers = {
        strategy_number(space(), realised(space(), strategy), snr_db)
        for strategy in (a, a_strategy(13, ratio_1=0.5), a_strategy(12))
        for snr_db in (None, 5.0)
    }
    assert len(numbers) == 6
    for level in (0, 3, 17, 63):
        strategy = space().strategy([min(level, n - 1) for n in space().tables.n_levels])  # type: ignore[arg-type]
        assert realised(space(), strategy).sparsity == strategy.sparsity


def test_the_loop_closes_on_real_trainings_and_goes_on_after_a_kill(
    collection: Path, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One link is said by its noise: to records without any it is a rate, and its noise no part of a training.
    links: dict[str, dict[str, Any]] = {"rpi3b+": {"link": "3g"}, "rpi4b": {"bandwidth_mhz": 1.0, "snr_db": 5.0}}
    cases = [
        Case.of(resolve(device=device, server="p100", max_loss=0.3, confidence=None, **link))
        for device, link in links.items()
    ]
    enough = replace(store.read_records(collection))
    options: dict[str, Any] = {"budget": 3, "records": enough, "base": collection / "_base.safetensors", "quiet": True}

    def run(out: Path) -> dict[str, Any]:
        with LocalExecutor(threads=1) as executor:
            return refine(
                "alexnet", cases, few_images, out, executor=executor, optimizer="quantum", **options
            ).to_json()

    whole = run(tmp_path / "whole")
    assert whole["trained"] <= 3
    shards = sorted(path.name for path in (tmp_path / "whole").glob("candidate-*.parquet"))
    assert len(shards) == whole["trained"] > 0
    assert store.read_records(tmp_path / "whole").snr_db is None
    assert json.loads((tmp_path / "whole" / RESULT_FILE).read_text()) == whole
    for scenario in whole["scenarios"]:
        assert scenario["accuracy"] >= scenario["accuracy_floor"]
    # What a kill leaves: the folder, its claim, and some of the shards.
    (tmp_path / "whole" / shards[-1]).unlink()
    (tmp_path / "whole" / RESULT_FILE).unlink()
    assert run(tmp_path / "whole") == whole
    monkeypatch.setattr(LocalExecutor, "run", None)
    assert run(tmp_path / "whole") == whole  # nothing left to train
    options["records"] = replace(enough, table=enough.table.slice(0, 2))
    with pytest.raises(InputError, match="belongs to another run: start_records"):
        run(tmp_path / "whole")


def test_verify_by_the_command_line(
    collection: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "strategy.json"
    path.write_text(json.dumps(document(a_strategy(13), predicted_accuracy=0.7, accuracy_floor=0.6, confidence=0.9)))
    arguments = ["verify", str(path), "--data", str(few_images), "--records", str(collection)]
    arguments += ["--append", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["predicted_accuracy"] == 0.7 and printed["confidence"] == 0.9
    assert printed["floor_met"] == (printed["measured_accuracy"] >= 0.6)
    assert main(arguments) == 0  # the table, from the shard
    shown = capsys.readouterr().out
    assert "predicted" in shown and f"{printed['measured_accuracy']:.4f}" in shown


def test_a_quantised_feature_is_trained_and_its_bits_counted(collection: Path, few_images: Path) -> None:
    claim = Claim(a_strategy(10, ratio_1=0.5, stride_1=2), "alexnet", 64, predicted_accuracy=0.5)
    plain = checked(claim, few_images, collection).to_json()
    coarse = checked(claim, few_images, collection, feature_bits=2).to_json()
    assert 0 < coarse["uplink_bit"] * 16 <= plain["uplink_bit"]  # two bits a value, or fewer where coding leaves fewer
    assert coarse["strategy"]["feature_bits"] == 2 and plain["strategy"]["feature_bits"] == 32
    assert coarse["device_flop"] == plain["device_flop"]
    assert coarse["trainings"][0]["status"] == "ok"
    for options, complaint in (
        ({"feature_bits": 9}, "9 must be within 1..8"),
        ({"feature_bits": 4, "snr_db": 5.0}, "leave --snr-db out"),
    ):
        with pytest.raises(InputError, match=complaint):
            checked(claim, few_images, collection, **options)


@pytest.fixture
def trainer(collection: Path, few_images: Path) -> CandidateTrainer:
    data = load_data(few_images)
    base = load_base(collection / "_base.safetensors", model="alexnet", input_px=64, data=data)
    return CandidateTrainer(
        build_base(base, 10),
        space(),
        CandidateData(data.train, data.validation, data.test, Preprocess.of(data, 64)),
        SETTINGS.candidate,
        device=torch.device("cpu"),
        precision=torch.float32,
    )


def test_a_quantizer_spans_the_features_and_no_more(trainer: CandidateTrainer) -> None:
    network = trainer.train(replace(a_strategy(10), feature_bits=3), snr_db=None, seed=0).network.eval()
    assert isinstance(network.channel, Quantizer)
    with torch.no_grad():  # no codec, so no batch norm that would differ between training and evaluation
        feature = network.device_half(trainer.data.preprocess(torch.from_numpy(trainer.data.train.images[:200])))
        received = network.channel(feature)
    step = float(network.channel.step)
    assert 3 <= len(received.unique()) <= 8
    assert (received - feature).abs().max() <= step / 2 + 1e-5
    assert network.channel.low <= feature.min() and feature.max() <= network.channel.high < 4 * feature.max()


def test_one_training_serves_all_cuts_of_a_network_without_a_codec(trainer: CandidateTrainer) -> None:
    """The floats of its two halves are those of the whole network that was trained, wherever it is cut."""
    on_the_device = a_strategy(len(space().graph.layers))
    whole = trainer.train(on_the_device, snr_db=None, seed=7)
    images = trainer.data.preprocess(torch.from_numpy(trainer.data.validation.images[:50]))
    anew = trainer._trained(on_the_device, None, 7).network.eval()
    with torch.no_grad():
        assert torch.allclose(anew(images), whole.network.eval()(images), atol=1e-5)
    trained = [trainer._last_plain]
    for point in (3, 10, 13):
        few = trainer.train(replace(a_strategy(point), feature_bits=8), snr_db=None, seed=7)
        network = few.network.eval()
        with torch.no_grad():
            halves = network.server_half(network.device_half(images))
            assert torch.allclose(halves, whole.network.eval()(images), atol=1e-5)
        assert few.measured["uplink_bit"] <= 8 * network.device_half(images[:1]).numel()
        assert few.measured["device_flop"] + few.measured["server_flop"] == whole.measured["device_flop"]
        trained.append(trainer._last_plain)
    assert all(one is trained[0] for one in trained)
    other = trainer.train(replace(a_strategy(3), feature_bits=8), snr_db=None, seed=8)
    assert trainer._last_plain is not trained[0] and other.measured["fine_tune_images"] > 0


def test_the_network_as_it_is_is_quantised_and_not_trained(trainer: CandidateTrainer) -> None:
    names = [prunable.name for prunable in space().graph.prunable_sets]
    found = trainer.train(Strategy(dict.fromkeys(names, 0.0), 3, feature_bits=8), snr_db=None, seed=0)
    assert found.measured["fine_tune_images"] == found.measured["end_to_end_images"] == 0
    base = found.measured["base_validation_accuracy"]
    assert found.measured["validation_accuracy"] == pytest.approx(base, abs=0.05)
    assert trainer._last_plain is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--grid", "GRID", "--device", "tk1"], "--device was given as well"),
        (["--grid", "GRID"], "give a grid of alexnet alone"),
        (["--device", "tk1", "--server", "p100"], "link: missing"),
        (["--device", "tk1", "--server", "p100", "--link", "3g", "--records", "some.npz"], "is a predictor"),
    ],
)
def test_searches_that_cannot_begin_end_in_one_line(
    options: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("model: [regnet_x_400mf]\ndevice: [tk1]\nserver: [p100]\nlink: [3g]\nmax_loss: [0.02]\n")
    arguments = ["search", "--model", "alexnet", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    arguments += ["--candidates", "3", "--executor", "local"]
    assert main([*arguments, *(str(grid) if option == "GRID" else option for option in options)]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err and len(printed.err.splitlines()) == 1 and not printed.out
