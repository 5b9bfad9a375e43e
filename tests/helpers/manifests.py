"""The manifests of infra/, as they stand and as kustomize builds them, and the schemas that they have to fit."""

import copy
import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers import ROOT

INFRA = ROOT / "infra"
CRDS = ROOT.parent / "shared" / "infra" / "kuberay-crds"
"""KubeRay's, beside the checkout."""
KUBERNETES = "1.34"
OVERLAYS = sorted(place.name for place in (INFRA / "overlays").iterdir())
WITHOUT_SCHEMA = {"ResourceFlavor", "ClusterQueue", "LocalQueue", "PodMonitor", "PrometheusRule"}
"""Kinds of Kueue and of the Prometheus operator, whose schemas are not at hand."""
Manifest = dict[str, Any]
FITTING: set[str] = set()
"""Manifests that were found to fit: overlays share most of them, and a check takes a while."""


def documents(text: str) -> list[Manifest]:
    """All manifests of a YAML stream."""
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


def files() -> list[Path]:
    """The files that hold manifests."""
    patches = {"every-rayjob.yaml", "gpu-workers.yaml", "kustomization.yaml", "rules-test.yaml"}
    return [file for file in sorted(INFRA.rglob("*.yaml")) if file.name not in patches]


@functools.cache
def built(place: str) -> tuple[Manifest, ...]:
    """What kustomize makes of a folder of infra/; skips where there is no kustomize."""
    command = next((c for c in (["kubectl", "kustomize"], ["kustomize", "build"]) if shutil.which(c[0])), None)
    if command is None:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run([*command, str(INFRA / place)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(documents(done.stdout))


def check(manifest: Manifest) -> None:
    """Raise `jsonschema.ValidationError` unless a manifest fits the schema of its kind; skip where that is missing."""
    if (text := json.dumps(manifest)) in FITTING:
        return
    if manifest["apiVersion"].startswith("ray.io/"):
        ray_schema(manifest["kind"]).validate(manifest)
    elif manifest["kind"] not in WITHOUT_SCHEMA:
        _kubernetes_validate().validate(manifest, KUBERNETES, strict=True)
    FITTING.add(text)


@functools.cache
def _kubernetes_validate() -> Any:
    """The library, which here reads each of its schemas once and not for every manifest."""
    found = pytest.importorskip("kubernetes_validate")
    found.utils.schema_contents = functools.cache(found.utils.schema_contents)
    return found


@functools.cache
def ray_schema(kind: str) -> jsonschema.Draft202012Validator:
    """The validator of one of KubeRay's kinds, which refuses unknown keys."""
    if not CRDS.is_dir():
        pytest.skip("KubeRay's CRDs are not beside the checkout (../shared/infra/kuberay-crds)")
    found = yaml.load((CRDS / f"ray.io_{kind.lower()}s.yaml").read_text(), yaml.CSafeLoader)
    (version,) = (each for each in found["spec"]["versions"] if each["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {
        "type": "object",
        "required": ["name"],
        "properties": {name: {} for name in ("name", "namespace", "labels", "annotations", "ownerReferences")},
        "additionalProperties": False,
    }
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return jsonschema.Draft202012Validator(schema)


def closed(schema: Any) -> Any:
    """An OpenAPI schema as JSON schema: keys that it does not name are refused."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def containers(node: Any, path: str = "") -> Iterator[tuple[str, Manifest]]:
    """Every container of a manifest with its place: those of pods, and KubeRay's autoscaler."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers"):
                yield from ((f"{path}/{key}/{each['name']}", each) for each in value)
            elif key == "autoscalerOptions":
                yield f"{path}/{key}", value
            else:
                yield from containers(value, f"{path}/{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from containers(value, f"{path}/{number}")


def pods(node: Any, path: str = "") -> Iterator[tuple[str, Manifest]]:
    """Every pod's spec of a manifest with its place."""
    return ((place, found) for place, found in _mappings(node, path) if "containers" in found)


def mutants(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Copies of a manifest, each with one fault: an unknown key, a wrong type or a missing key."""
    for place, node in _mappings(manifest):
        # labels, data and resources have keys of the user's own, and capacities are of any name
        if re.search(
            r"/(labels|annotations|matchLabels|data|limits|requests|hard|rayStartParams|nodeSelector)$", place
        ):
            continue
        yield f"{place}/unknown", _with(manifest, place, {**node, "unknownKey": "x"})
    yield "kind", {**manifest, "kind": 7}
    yield "metadata", {**manifest, "metadata": "none"}
    for place, container in containers(manifest):
        if "name" in container:
            nameless = {key: value for key, value in container.items() if key != "name"}
            yield f"{place} without a name", _replaced(manifest, container, nameless)
            yield f"{place} with a number as image", _replaced(manifest, container, {**container, "image": 5})


def _mappings(node: Any, place: str = "") -> Iterator[tuple[str, Manifest]]:
    if isinstance(node, dict):
        yield place, node
        for key, value in node.items():
            yield from _mappings(value, f"{place}/{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _mappings(value, f"{place}/{number}")


def _with(manifest: Manifest, place: str, value: Any) -> Manifest:
    if not place:
        return dict(value)
    made: Any = copy.deepcopy(manifest)
    node, names = made, place.strip("/").split("/")
    for number, name in enumerate(names):
        key: Any = int(name) if isinstance(node, list) else name
        if number == len(names) - 1:
            node[key] = value
        else:
            node = node[key]
    return dict(made)


def _replaced(node: Any, old: Manifest, new: Manifest) -> Any:
    """A copy of a manifest with `new` wherever it has the very object `old`."""
    if node is old:
        return new
    if isinstance(node, dict):
        return {key: _replaced(value, old, new) for key, value in node.items()}
    return [_replaced(each, old, new) for each in node] if isinstance(node, list) else node
