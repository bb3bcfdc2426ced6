"""Every example runs, ends well, and stays short. The one of Ray Tune is the real library's own run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"optuna_sampler": "optuna", "pymoo_algorithm": "pymoo", "ray_tune_search": "ray"}
WORST = {"minimize": 0.8, "ask_tell": 1e-6, "optuna_sampler": 0.05, "pymoo_algorithm": -14.9, "ray_tune_search": 2.0}


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_runs_and_is_short(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) < 30
    root = str(EXAMPLES.parent)
    paths = os.pathsep.join([root, f"{root}/kernels", *filter(None, sys.path)])
    run = subprocess.run(
        [sys.executable, str(path)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    best = float(re.search(r"(?:best|cost =) (-?[\d.e-]+)", run.stdout).group(1))
    assert best <= WORST[name]
