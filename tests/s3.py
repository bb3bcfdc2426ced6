"""A real S3 server on loopback, for tests: moto's, in a process of its own; and the sweep that is written there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BUCKET = "coinfer-test"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "of-nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
}

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


@contextmanager
def s3_server() -> Iterator[Any]:
    """A server with one empty bucket; yields boto3's client of it, whose ``meta.endpoint_url`` is its address."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command, env={**os.environ, **CREDENTIALS}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, process)
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=BUCKET)
        yield client
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)


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
