"""Output folders: files appear whole, one driver at a time, one run per folder; killed processes for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import (
    LOCK_FILE,
    RUN_FILE,
    claim_folder,
    read_holder,
    read_run,
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
    # The kernel lets go of a killed holder's lock, and its temporaries go with the next holder.
    orphan = tmp_path / ".chunk-000001.parquet.17.abc.tmp"
    orphan.write_text("half")
    (tmp_path / "chunk-000000.parquet").write_text("whole")
    with single_writer(tmp_path):
        assert not orphan.exists()
        assert (read_holder(tmp_path) or "").startswith(f"process {os.getpid()} on ")
    assert visible(tmp_path) == ["chunk-000000.parquet"]


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


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the output folder of a run"):
        read_run(tmp_path)
