"""Shared by all tests: where real images lie, and a small data set to train on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from coinfer_ray.predictor.predictor import Predictor

REPOSITORY = Path(__file__).resolve().parents[1]
DATA_VARIABLE = "COINFER_TEST_DATA"
CIFAR10 = Path(os.environ.get(DATA_VARIABLE, REPOSITORY.parent / "shared" / "cifar10"))
# Fits and compiled kernels of the tests stay with the checkout, and out of the user's own cache.
os.environ.setdefault("COINFER_CACHE_DIR", str(REPOSITORY / ".cache"))


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """The folder with CIFAR-10 as train.parquet and test.parquet: $COINFER_TEST_DATA, or shared/cifar10 beside the
    checkout."""
    if not (CIFAR10 / "train.parquet").is_file():
        pytest.skip(f"no CIFAR-10 Parquet files; set {DATA_VARIABLE} to their folder")
    return CIFAR10


@pytest.fixture(scope="session")
def few_images(request: pytest.FixtureRequest) -> Path:
    """A thousand real images for ``load_data``: of CIFAR-10 where it is at hand, else the embedded digits."""
    if (CIFAR10 / "train.parquet").is_file():
        found: Path = request.getfixturevalue("few_of_cifar10")
        return found
    return Path("digits")


@pytest.fixture(scope="session")
def few_of_cifar10(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 training and 200 test images of CIFAR-10 in the same layout: decoded in a second."""
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("few-images")
    for split, count in (("train", 1_000), ("test", 200)):
        pq.write_table(pq.read_table(cifar10 / f"{split}.parquet").slice(0, count), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def synthetic_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of AlexNet that nobody trained: read only."""
    from tests.synthetic import write_synthetic_records

    return write_synthetic_records(tmp_path_factory.mktemp("synthetic") / "alexnet.parquet")


@pytest.fixture(scope="session")
def synthetic_predictor(synthetic_records: Path) -> Predictor:
    """The predictor that these records get by themselves. Choosing it is the most that a fit can cost: once."""
    from coinfer_ray.predictor.obtain import obtain_predictor
    from tests.synthetic import trusted

    return trusted(obtain_predictor(synthetic_records, model="alexnet"))


@pytest.fixture(scope="session")
def s3_client() -> Iterator[Any]:
    """boto3's client of a real S3 server on this machine, with a bucket."""
    for name in ("moto.server", "flask_cors"):
        pytest.importorskip(name, reason="moto[s3], flask and flask-cors (the extra `dev`) are not installed")
    from tests.s3 import s3_server

    with s3_server() as client:
        yield client


@pytest.fixture
def s3(s3_client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """That client, its server being what ``s3://`` leads to."""
    from tests.s3 import CREDENTIALS

    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_client.meta.endpoint_url}.items():
        monkeypatch.setenv(name, value)
    return s3_client


@pytest.fixture
def prefix(s3: Any, request: pytest.FixtureRequest) -> str:
    """An address that no other test writes to."""
    from tests.s3 import BUCKET

    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').rstrip(']')}/out"
