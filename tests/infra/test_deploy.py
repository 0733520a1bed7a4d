"""The files under infra/deploy against their schemas, and against each other."""

import copy
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "infra" / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".json")
RAY = json.loads(Path(__file__).with_name("ray_io_v1.schema.json").read_text())
KUBERNETES = "1.33"
LOOPBACK = "127.0.0.1:"


def documents() -> list[Any]:
    found = []
    for path in sorted(DEPLOY.glob("kubernetes/*.yaml")):
        for number, document in enumerate(yaml.safe_load_all(path.read_text())):
            found.append(pytest.param(document, id=f"{path.stem}-{number}"))
    return found


def clusters(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"].get("rayClusterSpec", document["spec"])


def groups(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    cluster = clusters(document)
    yield "head", cluster["headGroupSpec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group


def pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if document["apiVersion"].startswith("ray.io"):
        yield from (group["template"]["spec"] for _, group in groups(document))
    elif "template" in document.get("spec", {}):
        yield document["spec"]["template"]["spec"]


@pytest.mark.parametrize("document", documents())
def test_manifests_are_what_kubernetes_and_kuberay_take(document: dict[str, Any]) -> None:
    if not document["apiVersion"].startswith("ray.io"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document, RAY)
    for spec in pods(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_wrong_manifest_is_refused() -> None:
    (cluster,) = yaml.safe_load_all((DEPLOY / "kubernetes" / "raycluster.yaml").read_text())
    wrong = copy.deepcopy(cluster)
    wrong["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(wrong, RAY)
    (container,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    container["volumeMount"] = []
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
    spec = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**pod, "spec": spec}, KUBERNETES, strict=True)


@pytest.mark.parametrize("document", documents())
def test_no_container_runs_as_root_or_gains_rights(document: dict[str, Any]) -> None:
    for pod in pods(document):
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= {volume["name"] for volume in pod.get("volumes", [])}


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_ray_asks_for_its_token_scales_and_ends(name: str) -> None:
    (document,) = yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())
    cluster = clusters(document)
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    assert cluster["rayVersion"] == version("ray")
    assert cluster["enableInTreeAutoscaling"]
    found = dict(groups(document))
    assert set(found) == {"head", "cpu", "gpu"}
    assert found["head"]["rayStartParams"]["num-cpus"] == "0"
    (gpu,) = found["gpu"]["template"]["spec"]["containers"]
    assert int(gpu["resources"]["limits"]["nvidia.com/gpu"]) > 0
    (cpu,) = found["cpu"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"]
    if name == "rayjob":
        assert document["spec"]["shutdownAfterJobFinishes"]
        assert document["spec"]["activeDeadlineSeconds"] > 0


def test_what_a_job_runs_is_a_command_of_ours() -> None:
    from flows.cli import app

    (job,) = yaml.safe_load_all((DEPLOY / "kubernetes" / "rayjob.yaml").read_text())
    python, module, package, *tokens = shlex.split(job["spec"]["entrypoint"])
    assert (python, module, package) == ("python", "-m", "flows")
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert command.__name__ == "curate_and_pretrain"
    assert "run.executor=ray" in bound.arguments["choices"].overrides


def test_the_cloud_cluster_is_what_ray_takes() -> None:
    described = yaml.safe_load((DEPLOY / "cloud" / "ray-aws.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(described)))
    for command in (*described["head_start_ray_commands"], *described["worker_start_ray_commands"]):
        assert command == "ray stop" or "RAY_AUTH_MODE=token" in command


def test_the_services_are_what_compose_takes_and_closed_to_others() -> None:
    text = (DEPLOY / "compose" / "compose.yaml").read_text()
    described = yaml.safe_load(text)
    names = PyCompose.from_yaml(yaml.safe_dump(described)).service_names()
    assert {"database", "prefect", "worker", "minio", "ray-head", "prometheus", "grafana"} <= set(
        names
    )
    for service in described["services"].values():
        assert all(port.startswith(LOOPBACK) for port in service.get("ports", []))
        assert ":latest" not in service["image"]
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert source in described["volumes"] or (DEPLOY / "compose" / source).exists(), mount
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == set(re.findall(r"^(\w+)=$", read("compose/example.env"), re.M))
    values = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert not re.findall(r"\$\{\w+\}", values), "a secret that is not asked for would be empty"


def read(name: str) -> str:
    return (DEPLOY / name).read_text()


def test_the_image_is_built_of_the_lock_and_runs_as_nobody() -> None:
    lines = [line.strip() for line in read("containers/Containerfile").splitlines()]
    copied = [
        line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line
    ]
    assert all((ROOT / source).exists() for sources in copied for source in sources)
    assert {"flows", "curation", "pretrain", "indexes", "infra"} <= {
        source for sources in copied for source in sources
    }
    assert any("--require-hashes -r requirements.lock" in line for line in lines)
    stages = [line.split()[-1] for line in lines if line.startswith("FROM")]
    assert stages == ["packages", "cpu", "cuda"]
    last = [line for line in lines if line.startswith("USER")][-1]
    assert last.split()[1] == "10001"
    assert not any(line.startswith(("ADD", "ARG")) for line in lines)


def test_the_slurm_script_parses_and_says_how_it_is_used() -> None:
    script = DEPLOY / "slurm" / "run.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    run = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "say what to run" in run.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_file_says_which_command_uses_it(path: Path) -> None:
    relative, text = str(path.relative_to(ROOT)), path.read_text()
    head = [line for line in text.splitlines()[:20] if line.startswith("#")]
    told = any("infra/deploy/" in line or "docker compose" in line for line in head)
    assert told or path.name == "example.env", f"{relative} does not say which command uses it"
    for named in re.findall(r"infra/deploy/[\w./-]+", text):
        assert (ROOT / named.rstrip(".")).exists(), f"{relative} names {named}, which is not there"


def test_every_threat_names_a_test_that_is_there() -> None:
    text = (ROOT / "infra" / "README.md").read_text().partition("## Threats")[2]
    lines = [line for line in text.splitlines() if line.startswith("| ") and "| test |" not in line]
    named = [re.search(r"`(tests/[\w/]+\.py)::(\w+)` \|$", line) for line in lines]
    assert len(lines) > 10 and all(named), lines
    for found in filter(None, named):
        assert f"def {found[2]}(" in (ROOT / found[1]).read_text(), found[0]
