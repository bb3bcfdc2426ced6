"""The cluster files: the script's refusals, and the RayJob's structure against what KubeRay and Ray accept.

tests/cluster starts both nodes of a real cluster with the script.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTERS = Path(__file__).resolve().parents[1] / "clusters"
SCRIPT = CLUSTERS / "two-nodes.sh"

# Fields of ray.io/v1 (KubeRay 1.6) and of Kubernetes' core/v1, as far as the file uses them: name -> type or fields.
# A list of one element stands for a list of such elements.
RESOURCES = {"cpu": str, "memory": str}
VOLUME = {"name": str, "configMap": {"name": str}, "persistentVolumeClaim": {"claimName": str}}
CONTAINER = {
    "name": str,
    "image": str,
    "env": [{"name": str, "value": str}],
    "ports": [{"name": str, "containerPort": int}],
    "resources": {"requests": RESOURCES, "limits": RESOURCES},
    "securityContext": {"allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]}},
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
POD = {
    "spec": {
        "automountServiceAccountToken": bool,
        "securityContext": {
            "runAsNonRoot": bool,
            "runAsUser": int,
            "runAsGroup": int,
            "fsGroup": int,
            "seccompProfile": {"type": str},
        },
        "containers": [CONTAINER],
        "volumes": [VOLUME],
    }
}
RAY_JOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "submissionMode": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str, "secretName": str},
            "headGroupSpec": {"serviceType": str, "rayStartParams": dict[str, str], "template": POD},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": dict[str, str],
                    "template": POD,
                }
            ],
        },
    },
}
CLAIM = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {"accessModes": [str], "resources": {"requests": {"storage": str}}},
}


def check(document: Any, schema: Any, path: str = "") -> None:
    """Every field known, every value of its type (YAML turns an unquoted number into an int)."""
    if isinstance(schema, dict):
        assert isinstance(document, dict), path
        for name, value in document.items():
            assert name in schema, f"{path}.{name} is no field"
            check(value, schema[name], f"{path}.{name}")
    elif isinstance(schema, list):
        assert isinstance(document, list) and document, path
        for position, value in enumerate(document):
            check(value, schema[0], f"{path}[{position}]")
    elif schema == dict[str, str]:
        assert all(isinstance(part, str) for item in document.items() for part in item), f"{path}: {document}"
    else:
        assert type(document) is schema, f"{path}: {document!r} is no {schema.__name__}"


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all((CLUSTERS / "kuberay-rayjob.yaml").read_text())}


@pytest.fixture(scope="module")
def groups(documents: dict[str, Any]) -> list[Any]:
    cluster = documents["RayJob"]["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_ray_job_has_known_fields_only(documents: dict[str, Any]) -> None:
    assert set(documents) == {"RayJob", "PersistentVolumeClaim"}
    check(documents["RayJob"], RAY_JOB)
    check(documents["PersistentVolumeClaim"], CLAIM)
    assert documents["RayJob"]["apiVersion"] == "ray.io/v1"
    assert documents["RayJob"]["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode")


def test_the_check_can_fail(documents: dict[str, Any]) -> None:
    job = documents["RayJob"]
    with pytest.raises(AssertionError, match=r"\.spec\.entryPoint is no field"):
        check({**job, "spec": {"entryPoint": "x"}}, RAY_JOB)
    with pytest.raises(AssertionError, match="'2' is no int"):
        check({**job, "spec": {"backoffLimit": "2"}}, RAY_JOB)


def test_the_cluster_asks_for_its_token(documents: dict[str, Any]) -> None:
    cluster = documents["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "coinfer-ray-token"}
    assert cluster["rayVersion"] >= "2.52"
    assert "auth_token" in (CLUSTERS / "kuberay-rayjob.yaml").read_text()  # the Secret's key that KubeRay reads


def test_pods_are_bounded_and_unprivileged(groups: list[Any]) -> None:
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] != 0
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] == container["resources"]["limits"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        assert mounted == volumes


def test_a_worker_has_the_cpus_that_ray_is_told_of(groups: list[Any]) -> None:
    for group in groups[1:]:
        assert (
            group["rayStartParams"]["num-cpus"]
            == group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
        )
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_ray_accepts_the_start_parameters(groups: list[Any]) -> None:
    from ray.scripts.scripts import start

    for group in groups:
        arguments = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        start.make_context("start", arguments)  # parses only


def test_the_entry_point_is_a_command_of_ours(documents: dict[str, Any], groups: list[Any]) -> None:
    program, command, grid, *options = shlex.split(documents["RayJob"]["spec"]["entrypoint"])
    assert (program, command) == ("coinfer", "sweep")
    mounts = groups[0]["template"]["spec"]["containers"][0]["volumeMounts"]
    paths = [mount["mountPath"] for mount in mounts]
    assert any(grid.startswith(f"{path}/") for path in paths)
    out = options[options.index("--out") + 1]
    assert any(out.startswith(f"{path}/") for path in paths)


def script(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **settings}
    return subprocess.run([str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False)


def test_the_token_file_is_private_and_kept(tmp_path: Path) -> None:
    token = tmp_path / "new" / "token"
    assert script("token", RAY_AUTH_TOKEN_PATH=str(token)).returncode == 0
    assert token.stat().st_mode & 0o777 == 0o600
    first = token.read_text()
    assert len(first) == 64 and set(first) <= set("0123456789abcdef")
    again = script("token", RAY_AUTH_TOKEN_PATH=str(token))
    assert (again.returncode, token.read_text()) == (2, first)
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "mode", "message"),
    [
        ((), 0o600, "usage: two-nodes.sh token"),
        (("haed",), 0o600, "usage: two-nodes.sh token"),
        (("worker",), 0o600, "worker needs the head's address"),
        (("worker", "--num-cpus=1"), 0o600, "worker needs the head's address"),
        (("head",), None, "no token in"),
        (("head",), 0o644, "has mode 644 and others may read it; chmod 600 it"),
    ],
)
def test_the_script_refuses(tmp_path: Path, arguments: tuple[str, ...], mode: int | None, message: str) -> None:
    token = tmp_path / "token"
    if mode is not None:
        token.write_text("a" * 64)
        token.chmod(mode)
    done = script(*arguments, RAY_AUTH_TOKEN_PATH=str(token), COINFER_CLUSTER_STATE=str(tmp_path / "state"))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_stop_without_a_node(tmp_path: Path) -> None:
    done = script("stop", COINFER_CLUSTER_STATE=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
