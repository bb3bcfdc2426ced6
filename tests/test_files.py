"""Output folders: files appear whole, one driver at a time, one run per folder; killed processes for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import (
    LOCK_FILE,
    RUN_FILE,
    claim_folder,
    read_holder,
    read_run,
    remove_run,
    run_folder,
    single_writer,
    write_whole,
)

HOLD = """
import sys, time
from coinfer_ray.runtime.files import single_writer
with single_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK_FILE)


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "answer.txt"

    def write(temporary: Path) -> None:
        temporary.write_text("half, ")
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert not target.exists()
        with temporary.open("a") as file:
            file.write("and the rest")

    write_whole(target, write)
    assert target.read_text() == "half, and the rest"
    assert visible(tmp_path) == ["answer.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "answer.txt"
    target.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("new, but")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(target, write)
    assert target.read_text() == "old"
    assert visible(tmp_path) == ["answer.txt"]


def test_attempts_never_share_a_temporary(tmp_path: Path) -> None:
    names = set()
    for attempt in range(20):
        write_whole(tmp_path / "x", lambda temporary: (names.add(temporary.name), temporary.write_text("x")))
        assert len(names) == attempt + 1


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with (
                pytest.raises(InputError, match=f"is in use by process {other.pid} on .*; wait for it"),
                single_writer(tmp_path),
            ):
                pass
        finally:
            other.send_signal(signal.SIGKILL)
    # The kernel lets go of a killed holder's lock.
    with single_writer(tmp_path):
        assert (read_holder(tmp_path) or "").startswith(f"process {os.getpid()} on ")


def test_each_hold_is_told_apart(tmp_path: Path) -> None:
    seen = set()
    for _ in range(2):
        with single_writer(tmp_path / "new" / "folder") as folder:
            seen.add(read_holder(folder))
    assert len(seen) == 2
    assert read_holder(tmp_path / "elsewhere") is None


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"out: .*file/below cannot be written"),
        single_writer(tmp_path / "file" / "below"),
    ):
        pass


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    settings = {"model": "alexnet", "grid": {"link": ["3g", {"rate_mbps": (1, 2)}]}, "seed": 0}
    claim_folder(tmp_path, "sweep", settings)
    claim_folder(tmp_path, "sweep", settings)
    assert read_run(tmp_path)["settings"]["grid"]["link"][1] == {"rate_mbps": [1, 2]}
    with pytest.raises(InputError, match="belongs to another run: seed is 0 there and 1 here"):
        claim_folder(tmp_path, "sweep", settings | {"seed": 1})
    with pytest.raises(InputError, match='kind is "sweep" there and "collect" here'):
        claim_folder(tmp_path, "collect", settings)
    other = {"link": ["3g", {"rate_mbps": (1, 3)}]}
    with pytest.raises(InputError, match=r"grid\.link\[1\]\.rate_mbps\[1\] is 2 there and 3 here; give another folder"):
        claim_folder(tmp_path, "sweep", settings | {"grid": other})
    with pytest.raises(InputError, match="extra is null there and true here"):
        claim_folder(tmp_path, "sweep", settings | {"extra": True})


def test_long_settings_stay_one_line(tmp_path: Path) -> None:
    claim_folder(tmp_path, "sweep", {"names": "x" * 500})
    with pytest.raises(InputError) as error:
        claim_folder(tmp_path, "sweep", {"names": ["y\n" * 500]})
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_files_of_nobody_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=f"holds files but no {RUN_FILE}; give an empty or a new folder"):
        claim_folder(tmp_path, "sweep", {})


@pytest.mark.parametrize("content", ["", "{", "[1]", json.dumps({"format": 99})])
def test_a_damaged_run_file(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN_FILE).write_text(content)
    with pytest.raises(InputError, match="give another folder"):
        claim_folder(tmp_path, "sweep", {})


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with what the files hold."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


ORPHAN = ".coinfer-chunk-000001.parquet.17.0123456789ab.tmp"  # as a killed writer leaves it


def test_a_refused_run_touches_nothing(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other-run"
    mine.mkdir()
    for name in (".notes.tmp", ".lock", ORPHAN, "thesis.tex"):
        (mine / name).write_text("years of work")
    with run_folder(other, "sweep", {"seed": 0}):
        (other / "chunk-000000.parquet").write_text("whole")
    for name in (".notes.tmp", ORPHAN):
        (other / name).write_text("half")
    (other / LOCK_FILE).unlink()  # as in a copy of the folder
    before = everything(tmp_path)
    for folder, message in ((mine, "holds files but no"), (other, "seed is 0 there and 1 here")):
        with pytest.raises(InputError, match=message), run_folder(folder, "sweep", {"seed": 1}):
            pass
    assert everything(tmp_path) == before


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    """In a folder that is claimed: of all hidden files the temporaries of killed writers alone."""
    users = [".notes.tmp", ".lock", ".DS_Store", ".coinfer-notes.tmp", ".coinfer-x.1.0123456789ab.tmp.txt"]
    for name in users:
        (tmp_path / name).write_text("the user's")
    with run_folder(tmp_path, "sweep", {}):
        (tmp_path / ORPHAN).write_text("half")
    (tmp_path / (ORPHAN + "x")).mkdir()
    with run_folder(tmp_path, "sweep", {}):
        assert not (tmp_path / ORPHAN).exists()
    assert {path.name for path in tmp_path.iterdir()} == {*users, RUN_FILE, LOCK_FILE, ORPHAN + "x"}
    assert all((tmp_path / name).read_text() == "the user's" for name in users)


def test_a_run_refused_before_its_first_file_leaves_no_trace(tmp_path: Path) -> None:
    """Whether the folder was there before or not; once something is written, the claim stays."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / ".notes.tmp").write_text("the user's")
    before = everything(tmp_path)
    for name in ("there", "not/there/yet"):
        with pytest.raises(InputError, match="no such network"), run_folder(tmp_path / name, "collect", {}):
            raise InputError("no such network")
        assert everything(tmp_path) == before
    with pytest.raises(InputError, match="too late"), run_folder(tmp_path / "there", "collect", {}) as folder:
        (folder / "candidate-000000.parquet").write_text("trained")
        raise InputError("too late")
    assert read_run(tmp_path / "there")["kind"] == "collect"
    with pytest.raises(InputError, match="again"), run_folder(tmp_path / "there", "collect", {}):
        raise InputError("again")
    assert visible(tmp_path / "there") == [".notes.tmp", RUN_FILE, "candidate-000000.parquet"]


def test_removing_a_run_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    for name, extra in (("alone", None), ("shared", "notes.txt")):
        with run_folder(tmp_path / name, "atlas", {}) as folder:
            for part in ("solved-000000.npz", ORPHAN, *([extra] if extra else [])):
                (folder / part).write_text("x")
            remove_run(folder, r"solved-\d{6}\.npz")
    assert everything(tmp_path) == {str(tmp_path / "shared"): None, str(tmp_path / "shared" / "notes.txt"): b"x"}


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the lock's file and locking it, its last holder may remove it: that lock protects nothing."""
    import fcntl

    real, calls = fcntl.flock, []

    def flock(file: object, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / LOCK_FILE).unlink()
        real(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", flock)
    with single_writer(tmp_path), pytest.raises(InputError, match="in use by"), single_writer(tmp_path):
        pass
    assert len(calls) == 4  # the second time it is held it asks once more


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", lambda temporary: temporary.write_text("x"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "x"


def test_a_system_without_flock_is_told_in_one_line(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["fcntl"] = None
from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import run_folder
try:
    with run_folder({str(tmp_path / "out")!r}, "sweep", {{}}):
        pass
except InputError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "has no flock" in found.stdout and found.stdout.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the output folder of a run"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"format": 1, "settings": {}}, "its 'kind' is missing or broken"),
        ({"format": 1, "kind": "sweep", "settings": 5}, "its 'settings' is missing or broken"),
        ({"format": 99, "kind": "sweep", "settings": {}}, "not of format 1"),
        ([1], "not of format 1"),
    ],
)
def test_a_broken_claim_is_refused_by_whoever_reads_or_joins_it(tmp_path: Path, document: Any, complaint: str) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps(document))
    with pytest.raises(InputError, match=complaint):
        read_run(tmp_path)
    with pytest.raises(InputError, match=complaint), run_folder(tmp_path, "sweep", {}):
        pass
    assert json.loads((tmp_path / RUN_FILE).read_text()) == document
