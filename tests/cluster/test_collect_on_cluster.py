"""Candidates trained by the workers of a cluster of two nodes."""

from __future__ import annotations

from pathlib import Path

from coinfer_ray.records import store
from tests.cluster.nodes import TwoNodes

DRIVER = Path(__file__).resolve().parents[1] / "training" / "collect_driver.py"
CODE = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_collection_runs_on_a_cluster_of_two_nodes(two_nodes: TwoNodes, few_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    two_nodes.environment["RAY_ADDRESS"] = two_nodes.address
    try:
        two_nodes.drive(CODE, DRIVER, few_images, out, 4, "ray")
    finally:
        del two_nodes.environment["RAY_ADDRESS"]
    records = store.read_records(out)
    assert records.table["candidate"].to_pylist() == [0, 1, 2, 3]
