"""The files in `cluster/`, as far as they can be checked without a cloud."""

from __future__ import annotations

import itertools
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import raycae
from raycae.execution.resources import Autoscaler

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHED = ["gpu.yaml", "on-prem.yaml"]
COMMANDS = [
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
]


def loaded(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return content


@pytest.mark.parametrize("name", [*LAUNCHED, "kuberay.yaml", "slurm.sh"])
def test_the_header_says_what_it_costs_and_how_it_starts_and_stops(name: str) -> None:
    """Oracle: the issue's list, by word."""
    lines = (CLUSTER / name).read_text().splitlines()
    header = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    words = {
        "kuberay.yaml": ["kubectl apply", "kubectl delete"],
        "slurm.sh": ["sbatch", "scancel"],
    }.get(
        name, [f"ray up cluster/{name}", f"ray submit cluster/{name}", f"ray down cluster/{name}"]
    )
    words.append("osts ")
    assert [word for word in words if word not in header] == []


@pytest.mark.parametrize("name", LAUNCHED)
def test_paths_and_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the disk and bash. Every path that is mounted exists, the token apart, which a person
    makes; every command can be parsed."""
    monkeypatch.chdir(ROOT)
    mounts = loaded(name)["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert [path for path in mounts.values() if not Path(path).exists()] == []
    for key in COMMANDS:
        for command in loaded(name).get(key, []):
            assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0, command


def test_machines_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: Ray's own schema and defaults: two workers, wanted all the time."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    config = prepare_config(loaded("on-prem.yaml"))
    validate_config(config)
    (kind,) = config["available_node_types"].values()
    assert (kind["min_workers"], kind["max_workers"]) == (2, 2)


def test_slurm_script_can_be_parsed() -> None:
    """Oracle: bash. It is run, under Slurm, in test_slurm.py."""
    assert subprocess.run(["bash", "-n", CLUSTER / "slurm.sh"]).returncode == 0


@pytest.mark.parametrize("name", LAUNCHED)
def test_what_is_mounted_is_the_whole_package(name: str, tmp_path: Path) -> None:
    """Oracle: what hatchling builds from the mounted paths alone: a wheel of this version with the
    spaces in it, as `pip install` on a node does; `constraints.txt` is there and used."""
    for there, here in loaded(name)["file_mounts"].items():
        if there.startswith("~/raycae-src/"):
            to = tmp_path / there.removeprefix("~/raycae-src/")
            source = ROOT / here
            (shutil.copytree if source.is_dir() else shutil.copy)(source, to)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "built"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (wheel,) = (tmp_path / "built").glob("*.whl")
    assert wheel.name.startswith(f"raycae-{raycae.__version__}-")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"raycae/search.py", "raycae/search_spaces/ex3.yaml"} <= set(names)
    (install,) = [c for c in loaded(name)["setup_commands"] if "pip install" in c]
    assert "-c ~/raycae-src/constraints.txt" in install
    assert (tmp_path / "constraints.txt").exists()


@pytest.mark.parametrize("name", LAUNCHED)
def test_nobody_without_the_token_is_let_in(name: str) -> None:
    """Oracle: the text. Ray asks for the token on every node; nothing listens beyond the cluster
    but ssh."""
    commands = str(loaded(name))
    assert "RAY_AUTH_MODE=token" in commands
    assert "--dashboard-host=127.0.0.1" in commands
    assert "0.0.0.0" not in commands


def test_versions_are_the_projects() -> None:
    """Oracle: the package's version, and the one that constraints.txt pins of Ray."""
    pinned = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.M))
    assert pinned["ray"] == version("ray")
    kuberay = (CLUSTER / "kuberay.yaml").read_text()
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    assert loaded("kuberay.yaml")["spec"]["rayVersion"] == pinned["ray"]
    assert f"FROM rayproject/ray:{pinned['ray']}-" in dockerfile
    for text in (kuberay, dockerfile):
        assert set(re.findall(r"raycae:([\d.]+\d)", text)) == {raycae.__version__}


def test_kuberay() -> None:
    """Oracle: the fields that KubeRay publishes; a field that it does not have is found."""
    schema = yaml.safe_load((ROOT / "tests" / "kuberay_schema.yaml").read_text())
    cluster = loaded("kuberay.yaml")
    jsonschema.validate(cluster, schema)
    cluster["spec"]["workerGroupSpecs"][0]["maxReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(cluster, schema)
    assert "has not been run" in (CLUSTER / "kuberay.yaml").read_text()


@pytest.fixture
def amazon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An EC2 and an IAM in this process that know nobody; keys are laid down in a home apart."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws import utils

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with mock_aws():
        utils.resource_cache.cache_clear()
        utils.client_cache.cache_clear()
        iam = boto3.client("iam")
        for role in ("raycae-head", "raycae-worker"):
            iam.create_instance_profile(InstanceProfileName=role)
        yield
    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()


def bootstrapped(file: Path) -> dict[str, Any]:
    """A launcher file, held against Ray's schema, as `ray up` has it when it is about to start the
    head."""
    from ray.autoscaler._private.commands import _bootstrap_config

    config: dict[str, Any] = _bootstrap_config(yaml.safe_load(file.read_text()), True)
    return config


@pytest.mark.usefixtures("amazon")
def test_amazon_up_to_the_machines() -> None:
    """Oracle: an emulated EC2 and IAM. Every instance type exists, with the GPUs that the file
    counts on; network, key and firewall can be made; nobody gets another role than the file's;
    every worker is spot, and the head, which has no CPU for trials, is not. What a search makes of
    that: eight places at most with one GPU each."""
    import boto3

    config = bootstrapped(CLUSTER / "gpu.yaml")
    types = config["available_node_types"]
    gpus = {name: kind["resources"].get("GPU", 0) for name, kind in types.items()}
    assert gpus == {"head": 0, "t4": 1, "a10g": 1, "l4": 1, "four-a10g": 4}
    assert types["head"]["resources"]["CPU"] == 0
    for name, kind in types.items():
        node = kind["node_config"]
        role = "raycae-head" if name == "head" else "raycae-worker"
        assert node["IamInstanceProfile"] == {"Name": role}
        assert ("InstanceMarketOptions" in node) == (name != "head")
        assert kind.get("min_workers", 0) == 0
        assert node["SubnetIds"]
        assert node["SecurityGroupIds"]
        assert node["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/ami/x86_64/")
    assert not config["provider"]["cache_stopped_nodes"]
    assert [role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"]] == []
    autoscaler = Autoscaler.from_cluster_file(config)
    assert autoscaler.count_slots(cpus=1, gpus=1) == 6 * 1 + 2 * 4
    assert autoscaler.count_slots(cpus=1, gpus=8) == 0


@pytest.mark.usefixtures("amazon")
def test_an_instance_type_that_does_not_exist(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the launcher's own words name it and the region, and it ends before anything is
    started."""
    file = tmp_path / "gpu.yaml"
    file.write_text((CLUSTER / "gpu.yaml").read_text().replace("g6.xlarge", "g6.huge"))
    # Whatever a test before this one in the same process has made of Ray's loggers.
    rays = logging.getLogger("ray")
    monkeypatch.setattr(rays, "propagate", True)
    with (
        caplog.at_level(logging.WARNING, logger="ray"),
        pytest.raises(jsonschema.ValidationError, match="'resources' is a required property"),
    ):
        bootstrapped(file)
    assert "Instance type g6.huge is not available in AWS region: us-west-2." in caplog.text


def test_policies_give_no_more_than_is_used() -> None:
    """Oracle: by hand. No wildcard of actions; what ends machines, or passes a role on, names
    which; both name the bucket of the cluster file."""
    import json

    for name in ("policy-head.json", "policy-worker.json"):
        policy = json.loads((CLUSTER / name).read_text())
        for statement in policy["Statement"]:
            actions = statement["Action"]
            for action in [actions] if isinstance(actions, str) else actions:
                assert "*" not in action
                if action in ("ec2:TerminateInstances", "iam:PassRole", "s3:PutObject"):
                    narrow = statement["Resource"] != "*" or "Condition" in statement
                    assert narrow, action
    assert "CHANGE-ME" in (CLUSTER / "policy-worker.json").read_text()
    assert "s3://CHANGE-ME/studies" in (CLUSTER / "gpu.yaml").read_text()
