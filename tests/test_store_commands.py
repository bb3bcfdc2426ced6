"""The command line on an object store: damage, shards, reports, records and atlases, on a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from coinfer_ray import open_sweep, sweep
from coinfer_ray.atlas import load_atlas
from coinfer_ray.errors import InputError
from coinfer_ray.runtime.places import local_copy
from coinfer_ray.sweeps.manifest import Manifest
from tests.s3 import BUCKET, GRID, QUICK, SCENARIOS, coinfer, key, keys
from tests.synthetic import write_synthetic_records


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet")


@pytest.fixture(scope="module")
def expected(records: Path) -> pa.Table:
    return sweep(GRID, records=records, **QUICK).to_table()


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
    shown = coinfer("report", *parts, "--json", "--out", str(page))
    assert len(json.loads(shown.stdout)["rows"]) == SCENARIOS
    assert shown.returncode == 0 and page.is_file(), shown.stderr
    asked = ("sweep", str(tmp_path / "grid.yaml"), "--records", str(records), "--solver", "atlas", "--out", prefix)
    (tmp_path / "grid.yaml").write_text(str(GRID).replace("None", "null"))
    dry = coinfer(*asked, "--dry-run")
    assert dry.returncode == 0 and f"{SCENARIOS} scenarios in 1 file of" in dry.stdout, dry.stderr
    assert keys(s3, prefix) == set()
    done = coinfer(*asked, "--executor", "local")
    assert done.returncode == 0 and f"{SCENARIOS} scenarios in {prefix}, {SCENARIOS} of them" in done.stdout, (
        done.stderr
    )
    atlases = {name for name in keys(s3, prefix) if name.startswith("_atlas-")}
    assert atlases == {"_atlas-alexnet-000.atlas", "_atlas-alexnet-001.atlas"}
    assert load_atlas(f"{prefix}/_atlas-alexnet-000.atlas").info.model == "alexnet"


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
