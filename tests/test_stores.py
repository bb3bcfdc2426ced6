"""Object stores and leases, on a real S3 server; addresses; what cannot work is one line."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coinfer_ray import open_sweep, sweep
from coinfer_ray.atlas import load_atlas
from coinfer_ray.errors import InputError
from coinfer_ray.predictor.obtain import obtain_predictor
from coinfer_ray.runtime import lease, object_store
from coinfer_ray.runtime.address import as_address
from coinfer_ray.runtime.files import LOCK_FILE, run_folder
from coinfer_ray.runtime.object_store import ObjectStore
from coinfer_ray.runtime.outputs import check_replaceable
from coinfer_ray.runtime.places import local_copy, open_store, remove_unused
from coinfer_ray.runtime.stores import Folder, Seen, Store
from tests.s3 import BUCKET, GRID, QUICK
from tests.synthetic import write_synthetic_records


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet")


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
        assert len(store.locks()) == 1 and "process 7 on" not in (store.holder() or "")


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
    assert as_address("S3://bucket/A") == as_address(Path("S3://bucket/A")) == "s3://bucket/A"
    for address in ("s3://bucket/pre#fix", "file:///tmp/a#b", "file:///tmp/a?b"):
        with pytest.raises(InputError, match="holds a "):
            open_store(address)
    assert as_address("answers/") is None and as_address("/a:/b") is None and as_address(Path("x:/y")) is None
    assert str(open_store("file:///tmp/a%20b")) == "/tmp/a b"
    assert local_copy("file:///tmp/records.parquet", "records") == Path("/tmp/records.parquet")


def test_other_commands_write_to_paths_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = "out: s3://bucket/x is an address, and only `coinfer sweep --out s3://bucket/x` writes to one; give a path"
    with pytest.raises(InputError, match=told):
        check_replaceable(Path("s3://bucket/x"), "page")
    with pytest.raises(InputError, match=told), run_folder(Path("s3://bucket/x"), "collect", {}):
        raise AssertionError
    assert not list(tmp_path.iterdir())


class WriteOnly:
    """A store that lets its user write and list, and gives back something else for what is read."""

    def __init__(self) -> None:
        self.there: dict[str, bytes] = {}

    def locks(self) -> dict[str, Seen]:
        return {name: Seen(len(content), 0.0) for name, content in self.there.items()}

    def put(self, name: str, content: bytes) -> None:
        self.there[name] = content

    def read(self, name: str) -> bytes:
        return b"<Error>AccessDenied</Error>"

    def remove(self, name: str) -> None:
        self.there.pop(name, None)

    def __str__(self) -> str:
        return "store"


def test_a_driver_does_not_take_its_own_lock_for_a_foreign_one() -> None:
    store = WriteOnly()
    with lease.leased(store) as own:
        assert list(store.there) == [own.name]
        with pytest.raises(InputError, match=r"is no lock of ours; remove it"), lease.leased(store):
            pass
        assert list(store.there) == [own.name]
    assert store.there == {}


def make_copy(root: Path, name: str, days: float, size: int) -> Path:
    """A copy of so many bytes, last used so many days ago."""
    folder = root / name
    folder.mkdir()
    (folder / "file").write_bytes(bytes(size))
    (folder / LOCK_FILE).touch()
    os.utime(folder / LOCK_FILE, (time.time() - days * 86_400,) * 2)
    return folder


def test_copies_are_removed_that_were_used_longest_ago_and_none_that_is_in_use(tmp_path: Path) -> None:
    for digit, days in {"1": 1, "2": 2, "3": 3, "4": 4, "5": 100}.items():
        make_copy(tmp_path, digit.rjust(24, "0"), days, 1000)
    (tmp_path / "mine").mkdir()
    with (tmp_path / "4".rjust(24, "0") / LOCK_FILE).open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        remove_unused(tmp_path, kept_bytes=2500, kept_days=50)
        assert sorted(path.name.lstrip("0") for path in tmp_path.iterdir()) == ["1", "2", "4", "mine"]
    remove_unused(tmp_path, kept_bytes=2500, kept_days=50)
    assert sorted(path.name.lstrip("0") for path in tmp_path.iterdir()) == ["1", "2", "mine"]
    remove_unused(tmp_path, kept_days=1.5)
    assert sorted(path.name.lstrip("0") for path in tmp_path.iterdir()) == ["1", "mine"]


def test_a_copy_in_use_takes_no_room_from_the_others(tmp_path: Path) -> None:
    large = make_copy(tmp_path, "a" * 24, 0, 10_000)
    kept = [make_copy(tmp_path, str(days) * 24, days, 1000) for days in (1, 2)]
    oldest = make_copy(tmp_path, "3" * 24, 3, 1000)
    with (large / LOCK_FILE).open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        remove_unused(tmp_path, kept_bytes=2500)
        assert sorted(tmp_path.iterdir()) == sorted([large, *kept]), "the large copy counts"
    assert not oldest.exists()
    remove_unused(tmp_path, kept_bytes=2500)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_copy_without_a_lock_grows_no_younger_by_being_looked_at(tmp_path: Path) -> None:
    folder = make_copy(tmp_path, "1" * 24, 0, 1000)
    (folder / LOCK_FILE).unlink()
    os.utime(folder, (time.time() - 10 * 86_400,) * 2)
    remove_unused(tmp_path, kept_days=20)
    assert folder.exists()
    remove_unused(tmp_path, kept_days=5)
    assert not folder.exists()


def test_what_a_killed_remover_left_is_removed(tmp_path: Path) -> None:
    """Also under the number of a process that lives again, and where its lock is gone already; none that is at it."""
    of_this_number = f".coinfer-{'1' * 24}.{os.getpid()}"
    make_copy(tmp_path, of_this_number, 0, 1000)
    make_copy(tmp_path, "1" * 24, 100, 1000)
    half = make_copy(tmp_path, f".coinfer-{'2' * 24}.1", 0, 1000)
    (half / LOCK_FILE).unlink()
    at_it = make_copy(tmp_path, f".coinfer-{'3' * 24}.2", 0, 1000)
    (tmp_path / ".coinfer-mine").mkdir()
    with (at_it / LOCK_FILE).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_unused(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([at_it.name, ".coinfer-mine"])
    remove_unused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".coinfer-mine"]


def test_messages_name_what_was_given_and_not_its_copy(
    s3: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINFER_CACHE_DIR", str(tmp_path))
    open_store(prefix).put("broken.parquet", b"PAR1 no more")
    for read in (lambda place: obtain_predictor(place, model="alexnet"), load_atlas):
        with pytest.raises(InputError) as caught:
            read(f"{prefix}/broken.parquet")
        assert f"{prefix}/broken.parquet" in str(caught.value) and str(tmp_path) not in str(caught.value)
