"""Sweeps in an object store: on a real S3 server, killed, resumed, damaged; leases; what cannot work is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from coinfer_ray import open_sweep, sweep
from coinfer_ray.atlas import load_atlas
from coinfer_ray.errors import InputError
from coinfer_ray.report import read_sweep
from coinfer_ray.runtime import lease, object_store
from coinfer_ray.runtime.address import as_address
from coinfer_ray.runtime.executors import LocalExecutor
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.runtime.object_store import ObjectStore
from coinfer_ray.runtime.outputs import check_replaceable
from coinfer_ray.runtime.places import local_copy, open_store
from coinfer_ray.runtime.status import run_status
from coinfer_ray.runtime.stores import Folder, Store
from coinfer_ray.sweeps.manifest import MANIFEST_FILE, Manifest
from coinfer_ray.sweeps.progress import sweep_progress
from tests.s3 import BUCKET, CREDENTIALS, s3_server
from tests.synthetic import write_synthetic_records

pytest.importorskip("moto.server", reason="moto[s3], flask and flask-cors (the extra `dev`) are not installed")

GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "tk1"],
    "server": ["p100"],
    "link": ["3g", "4g", "wifi", {"rate_mbps": [0.1, 1, 10]}],
    "max_loss": [0.1, 0.2],
    "confidence": [None],
}
SCENARIOS = 24
QUICK: dict[str, Any] = {
    "solver": "paper",
    "solver_options": {"max_evaluations": 1000},
    "executor": "local",
    "quiet": True,
    "chunk": 2,
}
COINFER = "import sys; from coinfer_ray.cli import main; sys.exit(main())"
STUCK = """
import sys, time
from itertools import islice
from coinfer_ray import sweep
from coinfer_ray.runtime.executors import LocalExecutor

class Stuck(LocalExecutor):
    def run(self, start, shared, tasks):
        yield from super().run(start, shared, islice(tasks, 3))
        time.sleep(600)

sweep({grid!r}, {out!r}, records={records!r}, **{{**{quick!r}, "executor": Stuck()}})
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server() as client, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", client.meta.endpoint_url)
        yield client


@pytest.fixture
def prefix(s3: Any, request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').rstrip(']')}/out"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet")


@pytest.fixture(scope="module")
def expected(records: Path) -> pa.Table:
    return sweep(GRID, records=records, **QUICK).to_table()


def key(address: str, name: str) -> str:
    return f"{address.removeprefix(f's3://{BUCKET}/')}/{name}"


def keys(s3: Any, address: str) -> set[str]:
    beginning = key(address, "")
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=beginning).get("Contents", [])
    return {each["Key"].removeprefix(beginning) for each in listed} - {""}


def coinfer(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COINFER, *arguments]
    return subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_killed_sweep_goes_on_and_is_row_for_row_a_local_one(
    s3: Any, prefix: str, records: Path, expected: pa.Table
) -> None:
    script = STUCK.format(grid=GRID, out=prefix, records=str(records), quick=QUICK)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 100
        while MANIFEST_FILE not in keys(s3, prefix) or "model=alexnet/chunk-000002.parquet" not in keys(s3, prefix):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.01)
        held = coinfer("status", prefix)
        assert f"sweep, at work: process {process.pid} on " in held.stdout, held.stderr
        with pytest.raises(InputError, match=f"is in use by process {process.pid} on .* wait for it"):
            sweep(GRID, prefix, records=records, **QUICK)
        process.kill()
    before = Manifest.read(prefix).files
    assert 0 < len(before) < SCENARIOS / 2
    assert any(name.startswith(lease.PREFIX) for name in keys(s3, prefix))  # the kill left it
    status = run_status(prefix)
    assert (status.kind, status.holder) == ("sweep", None)
    assert sweep_progress(prefix).rows == sum(each.rows for each in before.values())
    with pytest.raises(InputError, match=r"is not finished \(\d+ rows so far\)"):
        open_sweep(prefix)

    given: list[Any] = []

    class Counting(LocalExecutor):
        def run(self, start: Any, shared: Any, tasks: Any) -> Any:
            def counted() -> Iterator[Any]:
                for task in tasks:
                    given.append(task[0])
                    yield task

            return super().run(start, shared, counted())

    answers = sweep(GRID, prefix, records=records, **{**QUICK, "executor": Counting()})
    assert len(given) == SCENARIOS / 2 - len(before)
    assert answers.to_table().equals(expected)
    assert not any(name.startswith(".") for name in keys(s3, prefix))
    opened = open_sweep(prefix, check=True)
    assert opened.to_table(expected.schema.names).equals(expected)
    assert sweep_progress(prefix).complete
    assert {row.latency_s for row in read_sweep(prefix).rows} == set(expected["latency_s"].to_pylist())


def test_the_objects_are_the_files_of_a_local_sweep_to_the_bit(
    s3: Any, prefix: str, records: Path, tmp_path: Path
) -> None:
    sweep(GRID, prefix, records=records, **QUICK)
    sweep(GRID, tmp_path, records=records, **QUICK)
    files = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    files.pop(".coinfer.lock")
    assert keys(s3, prefix) == set(files)
    for name, path in files.items():
        assert s3.get_object(Bucket=BUCKET, Key=key(prefix, name))["Body"].read() == path.read_bytes(), name


def test_a_flipped_byte_is_found_and_done_anew(s3: Any, prefix: str, records: Path, expected: pa.Table) -> None:
    sweep(GRID, prefix, records=records, **QUICK)
    whole = coinfer("sweep", "--check", "--out", prefix)
    assert whole.returncode == 0 and f"all 12 files ({SCENARIOS} rows) are as they were written" in whole.stdout
    name = key(prefix, "model=alexnet/chunk-000003.parquet")
    content = bytearray(s3.get_object(Bucket=BUCKET, Key=name)["Body"].read())
    content[len(content) // 2] ^= 1
    s3.put_object(Bucket=BUCKET, Key=name, Body=bytes(content))
    found = coinfer("sweep", "--check", "--out", prefix)
    assert found.returncode == 2
    assert found.stderr.startswith(f"coinfer: sweep: s3://{BUCKET}/{name} is not as it was written (of 12 files)")
    s3.delete_object(Bucket=BUCKET, Key=key(prefix, "model=alexnet/chunk-000005.parquet"))
    with pytest.raises(InputError, match=r"chunk-000005\.parquet is missing; run its sweep again"):
        open_sweep(prefix)
    assert list(Manifest.read(prefix).damaged()) == [f"model=alexnet/chunk-00000{n}.parquet" for n in (3, 5)]
    assert sweep(GRID, prefix, records=records, **QUICK).to_table().equals(expected)
    open_sweep(prefix, check=True)


def test_shards_and_the_command_line(s3: Any, prefix: str, records: Path, expected: pa.Table, tmp_path: Path) -> None:
    parts = [f"{prefix}-{number}" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        sweep(GRID, part, records=records, shard=(number, 2), **QUICK)
    both = open_sweep(parts)
    assert len(both) == SCENARIOS
    assert both.to_table(expected.schema.names).sort_by("scenario").equals(expected.combine_chunks())
    page = tmp_path / "page.html"
    shown = coinfer("report", parts[0], "--out", str(page))
    assert shown.returncode == 0 and page.is_file(), shown.stderr
    asked = ("sweep", str(tmp_path / "grid.yaml"), "--records", str(records), "--solver", "atlas", "--out", prefix)
    (tmp_path / "grid.yaml").write_text(str(GRID).replace("None", "null"))
    dry = coinfer(*asked, "--dry-run")
    assert dry.returncode == 0 and f"{SCENARIOS} scenarios in 1 files" in dry.stdout, dry.stderr
    assert keys(s3, prefix) == set()
    done = coinfer(*asked, "--executor", "local")
    assert done.returncode == 0 and f"{SCENARIOS} scenarios in {prefix}, {SCENARIOS} of them" in done.stdout, (
        done.stderr
    )
    atlases = {name for name in keys(s3, prefix) if name.startswith("_atlas-")}
    assert atlases == {"_atlas-alexnet-000.atlas", "_atlas-alexnet-001.atlas"}
    assert load_atlas(f"{prefix}/_atlas-alexnet-000.atlas").info.model == "alexnet"


def test_workers_of_another_process_write_to_the_store(prefix: str, records: Path, expected: pa.Table) -> None:
    answers = sweep(GRID, prefix, records=records, workers=2, **{**QUICK, "executor": "processes"})
    assert answers.to_table().equals(expected)


def test_records_and_atlases_are_read_from_an_address(
    s3: Any, prefix: str, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("COINFER_CACHE_DIR", str(tmp_path / "cache"))
        for name in ("records.parquet", "folder/a.parquet"):
            s3.upload_file(str(records), BUCKET, key(prefix, name))
        copy = local_copy(f"{prefix}/records.parquet", "records")
        assert copy.read_bytes() == records.read_bytes() and copy.name == "records.parquet"
        assert local_copy(Path(f"{prefix}/records.parquet"), "records") == copy  # whose two slashes pathlib made one
        s3.put_object(Bucket=BUCKET, Key=key(prefix, "records.parquet"), Body=b"changed")
        assert local_copy(f"{prefix}/records.parquet", "records").read_bytes() == b"changed"
        folder = local_copy(f"{prefix}/folder", "records")
        assert [path.name for path in folder.iterdir()] == ["a.parquet"]
        with pytest.raises(InputError, match=r"records: s3://.*/none\.parquet does not exist"):
            local_copy(f"{prefix}/none.parquet", "records")

    s3.upload_file(str(records), BUCKET, key(prefix, "records.parquet"))
    asked = ("--device-gflops", "3", "--server-gflops", "1000", "--rate-mbps", "1", "--json")
    here, there = (
        coinfer("optimize", "--records", place, "--optimizer", "paper", *asked)
        for place in (str(records), f"{prefix}/records.parquet")
    )
    assert here.returncode == there.returncode == 0, there.stderr
    ours, theirs = json.loads(here.stdout), json.loads(there.stdout)
    assert ours.keys() == theirs.keys() and ours["latency_s"] == theirs["latency_s"]
    nothing = coinfer("optimize", "--records", f"{prefix}/no.npz", *asked)
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1) and "does not exist" in nothing.stderr


NOBODY = "127.0.0.1:1"  # refuses every connection


@pytest.mark.parametrize(
    ("address", "settings", "message"),
    [
        ("s3://no-such-bucket/x", {}, "there is no bucket no-such-bucket; "),
        (f"s3://{BUCKET}/x?endpoint_override={NOBODY}&scheme=http", {}, r"cannot be reached \(.*\); check the network"),
        (f"s3://{BUCKET}/x", {"AWS_ENDPOINT_URL": f"http://{NOBODY}"}, r"cannot be reached \(.*\); check the network"),
        (f"s3://key:secret@{BUCKET}/x", {}, "holds credentials, and addresses end up in logs; set AWS_ACCESS_KEY_ID"),
        (f"s3://{BUCKET}/x?endpoint=a", {}, "parameter: 'endpoint' is unknown; did you mean endpoint_override"),
        (f"s3://{BUCKET}/x?scheme=ftp", {}, "scheme ftp is neither http nor https"),
        ("s3:///x", {}, "names no bucket; give s3://BUCKET/PREFIX"),
        ("gs://x/y?retry_limit_seconds=0", {}, "retry_limit_seconds 0 is no number of seconds, 1 or more"),
        ("ftp://host/x", {}, "no store is reached by ftp://; known are s3://, gs://, "),
        ("file://relative", {}, "names no folder; give file:///path/of/the/folder"),
    ],
)
@pytest.mark.parametrize("write", [True, False])
def test_what_cannot_work_is_one_line(
    s3: Any,
    records: Path,
    address: str,
    settings: dict[str, str],
    message: str,
    write: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message) as raised:
        sweep(GRID, address, records=records, **QUICK) if write else open_sweep(address)
    assert "\n" not in str(raised.value) and "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("AWS Error ACCESS_DENIED during PutObject operation: Access Denied", r"permission denied.*AWS_ACCESS_KEY_ID"),
        ("AWS Error INVALID_ACCESS_KEY_ID during HeadObject operation: No response body.", "no credentials"),
        ("google::cloud::Status(UNAVAILABLE: Could not create a OAuth2 access token)", "no credentials"),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 28, Timeout", "cannot be reached"),
        ("AWS Error UNKNOWN (HTTP status 418) during x operation: I am a teapot (Request ID: 1)", "I am a teapot$"),
    ],
)
def test_a_refusal_is_told(told: str, message: str, s3: Any, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(prefix)

    def refuse() -> None:
        raise OSError(f"When doing: {told}")

    with pytest.raises(InputError, match=message):
        store._call(refuse)


def test_a_store_that_has_answered_is_waited_for(s3: Any, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(object_store.time, "sleep", paused.append)
    store, failures = ObjectStore(prefix), ["NETWORK_CONNECTION"] * 3
    assert store.sizes(["x"]) == {}

    def act() -> str:
        if failures:
            raise OSError(failures.pop())
        return "answer"

    assert store._call(act) == "answer"
    assert paused == list(object_store.PAUSES_S[:3])
    failures += ["ACCESS_DENIED"]
    with pytest.raises(InputError, match="permission denied"):  # waiting gives nobody a permission
        store._call(act)
    assert len(paused) == 3


@pytest.fixture(params=["folder", "s3", "renaming"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Folder(tmp_path / "out")
    request.getfixturevalue("s3")
    made = ObjectStore(request.getfixturevalue("prefix"))
    if request.param == "renaming":  # what is done in HDFS, on a file system that is here
        from pyarrow.fs import LocalFileSystem

        made._fs, made._base, made.kind = LocalFileSystem(), str(tmp_path / "out"), "hdfs"
    return made


def test_stores_are_alike(store: Store) -> None:
    assert not store.has_run() and store.held_by() is None
    with pytest.raises(InputError, match=r"no _run\.json there; give the output folder of a run"):
        store.read_run()
    with store.run("sweep", {"seed": 1}):
        assert store.held_by() == store.holder() and (store.holder() or "").startswith(f"process {os.getpid()} on ")
        store.write("part=a/chunk-0.parquet", b"one")
        store.write("_side", memoryview(b"two"))
        store.write("_side", b"123456789")
        with pytest.raises(InputError, match="is in use by process"), store.run("sweep", {"seed": 1}):
            raise AssertionError
    assert store.held_by() is None
    assert store.read("_side") == b"123456789" and store.sizes(["_side", "none"]) == {"_side": 9}
    assert set(store.results()) == {"part=a/chunk-0.parquet"}
    assert store.crc32("_side") == 0xCBF43926 and store.crc32("none") is None
    with pytest.raises(FileNotFoundError):
        store.read("none")
    with (
        pytest.raises(InputError, match="belongs to another run: seed is 1 there and 2 here"),
        store.run("sweep", {"seed": 2}),
    ):
        raise AssertionError
    with store.run("sweep", {"seed": 1}), store.working_folder("_atlas-") as folder:
        (folder / "_atlas-x.parts").mkdir()
        (folder / "_atlas-x.parts" / "0").write_bytes(b"part")
        (folder / "_atlas-y").write_bytes(b"whole")
    with store.run("sweep", {"seed": 1}), store.working_folder("_atlas-") as folder:
        assert (folder / "_atlas-x.parts" / "0").read_bytes() == b"part"
        (folder / "_atlas-x.parts" / "0").unlink()
    names = ["_atlas-x.parts/0", "_atlas-y", "_side"]
    assert store.sizes(names) == {"_atlas-y": 5, "_side": 9}
    store.remove("_side")
    store.remove("_side")
    assert store.sizes(names) == {"_atlas-y": 5}


def test_a_refused_run_leaves_nothing(store: Store) -> None:
    with pytest.raises(InputError, match="no such network"), store.run("sweep", {}):
        raise InputError("no such network")
    assert not store.has_run()
    if isinstance(store, ObjectStore):
        store.put("thesis.txt", b"mine")
        with pytest.raises(InputError, match=r"holds files but no _run\.json"), store.run("sweep", {}):
            raise AssertionError
        assert not store.locks() and store.read("thesis.txt") == b"mine"


def test_a_lock_of_another_machine_ends_with_its_lease(s3: Any, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(prefix)
    lock = b'{"pid": 7, "host": "node-7", "token": "abc", "kernel": "another", "started": "1"}'
    store.put(f"{lease.PREFIX}abc", lock)
    told = r"in use by process 7 on node-7 \(abc\), last heard of \d+ s ago"
    with pytest.raises(InputError, match=told), store.run("sweep", {}):
        raise AssertionError
    assert set(store.locks()) == {f"{lease.PREFIX}abc"}
    time.sleep(1.1)  # the store's times are whole seconds
    monkeypatch.setattr(lease, "LEASE_S", 0.5)
    with store.run("sweep", {}):
        assert len(store.locks()) == 1 and "process 7" not in (store.holder() or "")


def test_a_holder_that_could_not_renew_writes_no_more(s3: Any, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(prefix)
    with store.run("sweep", {}):
        monkeypatch.setattr(lease, "LEASE_S", -1.0)
        with pytest.raises(InputError, match="could not be renewed for -1 s, another run may have begun"):
            store.write("x", b"")
    assert store.sizes(["x"]) == {}


def test_a_lock_is_renewed(s3: Any, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.02)
    store = ObjectStore(prefix)
    puts: list[str] = []
    monkeypatch.setattr(store, "put", lambda name, content: puts.append(name))
    with lease.leased(store):
        deadline = time.monotonic() + 20
        while len(puts) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(puts) >= 4 and len(set(puts)) == 1


def test_a_process_that_ended_is_dead_and_this_one_is_not() -> None:
    assert not lease.Holder.this().is_dead
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        holder = lease.Holder(other.pid, "here", "t", lease._kernel(), lease._started(other.pid))
        assert not holder.is_dead
        other.kill()
    assert holder.is_dead == (lease._kernel() is not None)
    assert not lease.Holder(other.pid, "there", "t", "another kernel", "1").is_dead


def test_what_is_an_address() -> None:
    assert as_address("s3://bucket/a") == as_address(Path("s3://bucket/a")) == "s3://bucket/a"
    assert as_address("answers/") is None and as_address("/a:/b") is None and as_address(Path("x:/y")) is None
    assert str(open_store("file:///tmp/a%20b")) == "/tmp/a b"
    assert local_copy("file:///tmp/records.parquet", "records") == Path("/tmp/records.parquet")


def test_a_worker_that_the_store_refuses_sends_its_rows(
    s3: Any, prefix: str, records: Path, expected: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = ObjectStore.write

    def refuse(self: ObjectStore, name: str, content: Any) -> None:
        if self._lease is None:
            raise InputError("permission denied")
        written(self, name, content)

    monkeypatch.setattr(ObjectStore, "write", refuse)
    assert sweep(GRID, prefix, records=records, **QUICK).to_table().equals(expected)

    def unreachable(address: str) -> None:
        raise InputError("cannot be reached")

    monkeypatch.setattr("coinfer_ray.sweeps.chunks.open_store", unreachable)
    assert sweep(GRID, f"{prefix}-2", records=records, **QUICK).to_table().equals(expected)


def test_other_commands_write_to_paths_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = "out: s3://bucket/x is an address, and only `coinfer sweep` writes to one; give a path"
    with pytest.raises(InputError, match=told):
        check_replaceable(Path("s3://bucket/x"), "page")
    with pytest.raises(InputError, match=told), run_folder(Path("s3://bucket/x"), "collect", {}):
        raise AssertionError
    assert not list(tmp_path.iterdir())


def test_file_addresses_are_folders(records: Path, expected: pa.Table, tmp_path: Path) -> None:
    out = f"file://{tmp_path}/out"
    assert sweep(GRID, out, records=records, **QUICK).to_table().equals(expected)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [".coinfer.lock", "_manifest.json", "_run.json", "_strategies.parquet", "model=alexnet"]
    )
    assert len(open_sweep(out, check=True)) == SCENARIOS
