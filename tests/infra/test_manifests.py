"""Every manifest of infra/ fits its schema and what holds for all of them; nothing here needs a cluster."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.helpers import ROOT
from tests.helpers.manifests import (
    INFRA,
    OVERLAYS,
    WITHOUT_SCHEMA,
    Manifest,
    built,
    check,
    containers,
    documents,
    files,
    mutants,
    pods,
)

PLACES = ["base", "monitoring", *(f"overlays/{name}" for name in OVERLAYS)]
TREE = (
    "Dockerfile base/raycluster.yaml base/rayjob-ingest.yaml base/rayjob-prepare.yaml base/rayjob-train.yaml "
    "base/rayjob-embed.yaml base/rayjob-evaluate.yaml base/rayjob-study.yaml base/refresh.yaml base/vacuum.yaml "
    "base/serviceaccount.yaml base/networkpolicy.yaml base/kueue.yaml overlays/cpu overlays/gpu-spot overlays/minio "
    "monitoring/podmonitor.yaml monitoring/rules.yaml monitoring/rules-test.yaml monitoring/dashboard.json "
    "orchestrators.md README.md"
)
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|(password|secret|token|access_key)[a-z_]*[:=] *[\"']?[A-Za-z0-9+/]{16}",
    re.I,
)


def one(place: str, kind: str, name: str) -> Manifest:
    (found,) = (each for each in built(place) if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def key(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def test_the_tree() -> None:
    assert not [name for name in TREE.split() if not (INFRA / name).exists()]
    assert (ROOT / ".dockerignore").exists()


@pytest.mark.parametrize("file", files(), ids=lambda file: file.relative_to(INFRA).as_posix())
def test_a_file_fits_its_schema(file: Path) -> None:
    for manifest in documents(file.read_text()):
        check(manifest)


@pytest.mark.parametrize("place", PLACES)
def test_what_kustomize_builds_fits_its_schema(place: str) -> None:
    for manifest in built(place):
        check(manifest)


def test_mutated_copies_fail() -> None:
    jobs = {f"RayJob/{name}" for name in ("ingest", "prepare", "embed", "evaluate", "study", "refresh")}  # as train
    passed, tried = [], 0
    for manifest in built("base"):
        if key(manifest) in jobs or manifest["kind"] in WITHOUT_SCHEMA:
            continue
        for fault, copy in mutants(manifest):
            tried += 1
            try:
                check(copy)
            except (jsonschema.ValidationError, AttributeError):  # kubernetes_validate reads the kind before it looks
                continue
            passed.append(f"{key(manifest)}: {fault}")
    assert tried > 400
    assert not passed


def all_manifests() -> Iterator[tuple[str, Manifest]]:
    for place in PLACES:
        yield from ((f"{place}: {key(each)}", each) for each in built(place))


def test_images_have_versions() -> None:
    images = {(name, c["image"]) for name, each in all_manifests() for _, c in containers(each) if "image" in c}
    assert images
    for name, image in images:
        assert re.search(r":[^:/]*\d+\.\d+|:RELEASE\.\d{4}", image), f"{name}: {image} has no version"
        assert not image.endswith(":latest")


def test_every_container_is_locked_up() -> None:
    for name, manifest in all_manifests():
        for place, container in containers(manifest):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, f"{name}{place}"
            assert context["readOnlyRootFilesystem"] is True, f"{name}{place}"
            assert context["capabilities"] == {"drop": ["ALL"]}, f"{name}{place}"
        for place, pod in pods(manifest):
            assert pod["securityContext"]["runAsNonRoot"] is True, f"{name}{place}"
            assert pod["securityContext"]["runAsUser"] > 0, f"{name}{place}"
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, f"{name}{place}"
            assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
            assert not [each for each in pod.get("volumes", []) if "hostPath" in each]


def test_every_container_asks_for_what_it_may_take() -> None:
    for name, manifest in all_manifests():
        for place, container in containers(manifest):
            resources = container["resources"]
            assert {"cpu", "memory", "ephemeral-storage"} <= resources["requests"].keys(), f"{name}{place}"
            assert resources["requests"] == resources["limits"], f"{name}{place}"


def test_volumes_fit_what_a_pod_asks_for() -> None:
    """A pod whose files outgrow its ephemeral storage is evicted, and memory in /dev/shm counts as the container's."""
    for name, manifest in all_manifests():
        for place, pod in pods(manifest):
            asked = {
                r: sum(_bytes(c["resources"]["requests"][r]) for c in pod["containers"])
                for r in ("memory", "ephemeral-storage")
            }
            sizes = {"memory": 0, "ephemeral-storage": 0}
            for volume in pod.get("volumes", []):
                if empty := volume.get("emptyDir"):
                    medium = "memory" if empty.get("medium") == "Memory" else "ephemeral-storage"
                    sizes[medium] += _bytes(empty["sizeLimit"])
            assert all(sizes[medium] <= asked[medium] for medium in sizes), f"{name}{place}: {sizes} of {asked}"


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30}[unit]


def test_what_is_mounted_is_there() -> None:
    for name, manifest in all_manifests():
        for place, pod in pods(manifest):
            there = {each["name"] for each in pod.get("volumes", [])}
            there |= {each["metadata"]["name"] for each in manifest["spec"].get("volumeClaimTemplates", [])}
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                assert {each["name"] for each in container.get("volumeMounts", [])} <= there, f"{name}{place}"


def test_no_keys() -> None:
    for file in [*INFRA.rglob("*"), ROOT / ".dockerignore"]:
        if file.is_file():
            found = SECRETS.search(file.read_text())
            assert not found, f"{file}: {found and found[0]}"
    for name, manifest in all_manifests():
        assert manifest["kind"] != "Secret", f"{name}: secrets are made outside"
        for place, container in containers(manifest):
            for variable in container.get("env", []):
                if re.search("KEY|SECRET|TOKEN|PASSWORD", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], f"{name}{place}: {variable['name']}"


def pinned(package: str) -> str:
    (found,) = re.findall(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    return str(found)


def test_rays_version_is_that_of_the_package() -> None:
    ray, found = pinned("ray"), 0
    for name, manifest in all_manifests():
        text = json.dumps(manifest)
        for version in re.findall(r'"rayVersion": "([^"]+)"', text) + re.findall(r"-ray(\d+\.\d+\.\d+)", text):
            assert version == ray, name
            found += 1
    assert found > 50


@pytest.mark.parametrize("place", [place for place in PLACES if place != "monitoring"])
def test_the_clusters_of_jobs(place: str) -> None:
    jobs = [each for each in built(place) if each["kind"] == "RayJob"]
    names = {"ingest", "prepare", "train", "embed", "evaluate", "study", "refresh"}
    assert {job["metadata"]["name"] for job in jobs} == names
    for job in jobs:
        name, spec = job["metadata"]["name"], job["spec"]
        assert spec["suspend"] is True, "a template"
        assert spec["shutdownAfterJobFinishes"] is True
        assert 60 <= spec["ttlSecondsAfterFinished"] <= 600, "in which the driver's exit code is read"
        assert spec["submissionMode"] == "K8sJobMode"
        assert spec["backoffLimit"] == 0
        assert spec["activeDeadlineSeconds"] > 0
        assert "kueue.x-k8s.io/queue-name" not in job["metadata"].get("labels", {}), "Kueue would start the template"
        cluster = spec["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
        head = cluster["headGroupSpec"]
        assert head["rayStartParams"]["num-cpus"] == "0"
        assert head["template"]["spec"]["restartPolicy"] == "Never"
        for group in [head, *cluster["workerGroupSpecs"]]:
            assert group["template"]["spec"]["serviceAccountName"] == name
            (keys,) = (each for each in group["template"]["spec"]["volumes"] if each["name"] == "keys")
            assert keys["secret"]["secretName"] == ("user-keys" if name in ("ingest", "refresh") else "no-keys")
            (container,) = group["template"]["spec"]["containers"]
            mounts = {each["mountPath"] for each in container["volumeMounts"]}
            assert {"/dev/shm", group["rayStartParams"]["object-spilling-directory"]} <= mounts
            assert "object-store-keys" not in json.dumps(group) or place == "overlays/minio"
        for group in cluster["workerGroupSpecs"]:
            assert group["template"]["spec"]["automountServiceAccountToken"] is False
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_night_of_kubernetes() -> None:
    night = one("base", "CronJob", "refresh")["spec"]
    job = night["jobTemplate"]["spec"]
    assert night["concurrencyPolicy"] == "Forbid"
    assert night["timeZone"]
    assert night["startingDeadlineSeconds"] > 0
    runs = [one("base", "RayJob", name)["spec"]["activeDeadlineSeconds"] for name in ("ingest", "refresh")]
    assert max(runs) < job["activeDeadlineSeconds"] < 24 * 3600, "a night that hangs must end before the next"
    first, second = job["podFailurePolicy"]["rules"]
    assert first == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert second["action"] == "FailJob"
    assert second["onExitCodes"] == {"operator": "In", "values": [2, 3, 5]}, "4 and 1 are tried again"


def test_quotas_hold_a_cluster_and_cover_what_pods_ask_for() -> None:
    (group,) = one("overlays/cpu", "ClusterQueue", "ray-ggsm")["spec"]["resourceGroups"]
    quotas = {each["name"]: each["nominalQuota"] for each in group["flavors"][0]["resources"]}
    assert set(quotas) == set(group["coveredResources"])
    for job in (each for each in built("overlays/cpu") if each["kind"] == "RayJob"):
        assert (
            job["metadata"]["annotations"]["ray-ggsm/queue"]
            == one("overlays/cpu", "LocalQueue", "nights")["metadata"]["name"]
        )
        cluster = job["spec"]["rayClusterSpec"]
        assert cluster["enableInTreeAutoscaling"] is False
        needed: dict[str, int] = {}
        for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
            (container,) = group["template"]["spec"]["containers"]
            for resource, quantity in container["resources"]["requests"].items():
                amount = int(quantity) << 30 if quantity.isdigit() else _bytes(quantity)
                needed[resource] = needed.get(resource, 0) + amount * group.get("replicas", 1)
        for resource, amount in needed.items():
            assert amount <= (int(quotas[resource]) << 30 if resource == "cpu" else _bytes(quotas[resource]))


def test_accounts_are_there_and_have_least_rights() -> None:
    accounts = {each["metadata"]["name"] for each in built("base") if each["kind"] == "ServiceAccount"}
    used = {
        pod["serviceAccountName"] for _, each in all_manifests() for _, pod in pods(each) if "serviceAccountName" in pod
    }
    assert used == accounts, "each is there, and none is there for nothing"
    rules = [rule for each in built("base") if each["kind"] == "Role" for rule in each["rules"]]
    assert rules == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "list", "create"]}]
    assert not [each for each in built("base") if each["kind"].startswith("ClusterRole")]


def test_every_pod_is_let_through_by_the_policy() -> None:
    (policy,) = (each["spec"] for each in built("base") if key(each) == "NetworkPolicy/ray-ggsm")
    wanted = policy["podSelector"]["matchLabels"].items()

    def templates(node: Any) -> Iterator[Manifest]:
        if isinstance(node, dict):
            if "containers" in node.get("spec", {}):
                yield node
            for value in node.values():
                yield from templates(value)
        elif isinstance(node, list):
            for value in node:
                yield from templates(value)

    for name, manifest in all_manifests():
        for template in templates(manifest):
            assert wanted <= template["metadata"]["labels"].items(), name
