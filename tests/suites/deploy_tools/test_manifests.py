"""Kubernetes manifests, built by kubectl and validated for every supported release of Kubernetes."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[3]
KUBECTL, PROMTOOL = shutil.which("kubectl") or "", shutil.which("promtool") or ""
KUBERNETES = ROOT / "deploy/kubernetes"
PAGE = (ROOT / "docs/kubernetes.md").read_text("utf-8")
# From the first release with all used fields to the newest with a schema.
VERSIONS = ["1.29.0", "1.31.0", "1.33.0", "1.35.0", "1.37.0"]
# Kinds without a schema in Kubernetes.
CUSTOM = {"InferenceService", "PodMonitor", "PrometheusRule", "ScaledObject", "ServiceMonitor", "ServingRuntime"}
TREES = ["base", "overlays/cpu", "overlays/gpu", "overlays/kserve"]
COMPONENTS = sorted(directory.name for directory in (KUBERNETES / "components").iterdir())
# Both autoscalers set the number of replicas, so they exclude each other.
COMBINATIONS = [
    names
    for count in (1, 2)
    for names in itertools.combinations(COMPONENTS, count)
    if not {"hpa", "keda"} <= set(names)
]
Resource = dict[str, Any]


def kustomize(directory: Path) -> list[Resource]:
    """Return the resources of a directory as kubectl applies them."""
    command = [KUBECTL, "kustomize", str(directory)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (completed.returncode, completed.stderr) == (0, "")
    return list(yaml.safe_load_all(completed.stdout))


def with_components(directory: Path, names: tuple[str, ...]) -> list[Resource]:
    """Return the base with components, built from an overlay in a directory."""
    directory.mkdir()

    def path(name: str) -> str:
        return os.path.relpath(KUBERNETES / name, directory)

    overlay = {"resources": [path("base")], "components": [path(f"components/{name}") for name in names]}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return kustomize(directory)


def one(resources: list[Resource], kind: str, name: str = "fnet-encode") -> Resource:
    """Return the resource of a kind and name."""
    (match,) = [resource for resource in resources if resource["kind"] == kind and resource["metadata"]["name"] == name]
    return match


def pods(resources: list[Resource]) -> Iterator[Resource]:
    """Yield the specification of every pod."""
    for resource in resources:
        if resource["kind"] in ("Deployment", "Job"):
            yield resource["spec"]["template"]["spec"]


def validate(resources: list[Resource]) -> None:
    """Validate resources by the schemas, and reject unknown fields."""
    assert resources
    for resource in resources:
        if resource["kind"] in CUSTOM:
            with pytest.raises(kubernetes_validate.SchemaNotFoundError):
                kubernetes_validate.validate(resource, VERSIONS[-1], strict=True)
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("tree", TREES)
def test_manifests_are_valid(tree: str) -> None:
    """Every resource of base and overlays is valid in each release."""
    validate(kustomize(KUBERNETES / tree))


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_components_can_be_combined(names: tuple[str, ...], tmp_path: Path) -> None:
    """Each component and each pair except the two autoscalers is valid."""
    validate(with_components(tmp_path / "overlay", names))


def test_unknown_field_is_detected() -> None:
    """The validation rejects an unknown field."""
    deployment = one(kustomize(KUBERNETES / "base"), "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 50
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def test_job_is_valid() -> None:
    """The Job does not belong to an overlay."""
    validate([yaml.safe_load((KUBERNETES / "jobs/encode.yaml").read_text("utf-8"))])


@pytest.mark.parametrize("tree", TREES[:-1])
def test_selectors_match_only_the_pods(tree: str) -> None:
    """Service, disruption budget and policies do not match the pods of the Job."""
    resources = kustomize(KUBERNETES / tree)
    labels = one(resources, "Deployment")["spec"]["template"]["metadata"]["labels"]
    job = yaml.safe_load((KUBERNETES / "jobs/encode.yaml").read_text("utf-8"))["spec"]["template"]["metadata"]["labels"]
    policies = [resource["spec"] for resource in resources if resource["kind"] == "NetworkPolicy"]
    # The policy for all pods denies all traffic.
    assert [policy for policy in policies if not policy["podSelector"]] == [
        {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ]
    selectors = [
        one(resources, "Deployment")["spec"]["selector"]["matchLabels"],
        one(resources, "Service")["spec"]["selector"],
        one(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(policy["podSelector"]["matchLabels"] for policy in policies if policy["podSelector"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
        assert not selector.items() <= job.items()


@pytest.mark.parametrize("tree", ["overlays/cpu", "overlays/gpu"])
def test_references_exist(tree: str) -> None:
    """ConfigMap, volumes, service account and the Service of the monitor exist."""
    resources = kustomize(KUBERNETES / tree)
    (pod,) = pods(resources)
    one(resources, "ServiceAccount", pod["serviceAccountName"])
    one(resources, "ConfigMap", pod["containers"][0]["envFrom"][0]["configMapRef"]["name"])
    mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    monitor, service = one(resources, "ServiceMonitor"), one(resources, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "fnet-encode"
    assert one(resources, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "fnet-encode"
    assert "replicas" not in one(resources, "Deployment")["spec"]


def test_gpu_overlay_requests_a_device() -> None:
    """Each pod has one device and the CUDA image, and CPU load does not scale the pods."""
    resources = kustomize(KUBERNETES / "overlays/gpu")
    (pod,) = pods(resources)
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].endswith("-cuda")
    (metric,) = one(resources, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["type"] == "Pods"


def test_rules_of_the_gpu_overlay_are_valid(tmp_path: Path) -> None:
    """The patch changes only the bound of the memory."""
    groups = one(kustomize(KUBERNETES / "overlays/gpu"), "PrometheusRule")["spec"]["groups"]
    expected = one(kustomize(KUBERNETES / "overlays/cpu"), "PrometheusRule")["spec"]["groups"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    subprocess.run([PROMTOOL, "check", "rules", str(tmp_path / "rules.yml")], check=True, timeout=60)
    differing = [
        rule["alert"]
        for group, other in zip(groups, expected, strict=True)
        for rule, same in zip(group["rules"], other["rules"], strict=True)
        if rule != same
    ]
    assert differing == ["FNetMemoryHigh"]


@pytest.mark.parametrize(
    ("names", "tag"),
    [
        (("preset",), r"\d+\.\d+\.\d+"),
        (("preset", "tracing"), r"\d+\.\d+\.\d+-otel"),
        (("tracing", "preset"), r"\d+\.\d+\.\d+-otel"),
    ],
    ids="-".join,
)
def test_init_container_uses_the_same_image(names: tuple[str, ...], tag: str, tmp_path: Path) -> None:
    """The image has the tag of the release in every order of the components."""
    (pod,) = pods(with_components(tmp_path / "overlay", names))
    assert re.fullmatch(f"fnet-encode:{tag}", pod["containers"][0]["image"])
    assert pod["initContainers"][0]["image"] == pod["containers"][0]["image"]
    mounts = {
        mount["name"]
        for container in (*pod["initContainers"], *pod["containers"])
        for mount in container["volumeMounts"]
    }
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_keys_and_preset_can_be_combined(tmp_path: Path) -> None:
    """Both components add to the same ConfigMap and the same list of volumes."""
    resources = with_components(tmp_path / "overlay", ("keys", "preset"))
    (settings,) = [resource["data"] for resource in resources if resource["kind"] == "ConfigMap"]
    assert {"FNET_API_KEYS_FILE", "FNET_PRESET", "FNET_DRAIN_SECONDS"} <= set(settings)
    (pod,) = pods(resources)
    assert {volume["name"] for volume in pod["volumes"]} == {"cache", "tmp", "keys", "presets"}


def test_policies_of_components_are_combined(tmp_path: Path) -> None:
    """Each component adds a policy with its own name to the policy that denies all traffic."""
    names = ("monitoring", "preset", "tracing")
    resources = with_components(tmp_path / "overlay", names)
    policies = [resource for resource in resources if resource["kind"] == "NetworkPolicy"]
    assert sorted(policy["metadata"]["name"] for policy in policies) == [
        "default-deny",
        "fnet-encode",
        "fnet-encode-hubs",
        "fnet-encode-monitoring",
        "fnet-encode-tracing",
    ]


def test_kserve_overlay_matches_only_its_pods() -> None:
    """The selectors use labels that KServe sets, and not those of the Job."""
    resources = kustomize(KUBERNETES / "overlays/kserve")
    name = one(resources, "InferenceService", "fnet-mini-en")["metadata"]["name"]
    # The labels that the controller of KServe gives to the pods.
    labels = {
        "app": f"isvc.{name}-predictor",
        "component": "predictor",
        "serving.kserve.io/inferenceservice": name,
    }
    policies = {
        resource["metadata"]["name"]: resource["spec"] for resource in resources if resource["kind"] == "NetworkPolicy"
    }
    assert policies.pop("default-deny") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert set(policies) == {name, "fnet-encode-monitoring"}
    selectors = [
        one(resources, "PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
        one(resources, "PodMonitor", name)["spec"]["selector"]["matchLabels"],
        *(policy["podSelector"]["matchLabels"] for policy in policies.values()),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    port = one(resources, "ServingRuntime")["spec"]["containers"][0]["ports"][0]["name"]
    opened = {entry["port"] for policy in policies.values() for rule in policy["ingress"] for entry in rule["ports"]}
    assert opened == {port}
    rules = one(resources, "PrometheusRule")["spec"]["groups"]
    assert rules == one(kustomize(KUBERNETES / "overlays/cpu"), "PrometheusRule")["spec"]["groups"]
    assert not [resource for resource in resources if resource["kind"] == "ServiceMonitor"]


def test_kserve_images_have_tags() -> None:
    """Kustomize sets the tag of the image in a `ServingRuntime`."""
    runtime = one(kustomize(KUBERNETES / "overlays/kserve"), "ServingRuntime")
    service = one(kustomize(KUBERNETES / "overlays/kserve"), "InferenceService", "fnet-mini-en")
    assert re.fullmatch(r"fnet-encode:\d+\.\d+\.\d+", runtime["spec"]["containers"][0]["image"])
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] == runtime["spec"]["supportedModelFormats"][0]["name"]


def test_documented_overlay_is_valid(tmp_path: Path) -> None:
    """The overlay of the documentation is valid next to a checkout."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    overlay = yaml.safe_load(text)
    overlay["resources"] = [os.path.relpath(ROOT / path, tmp_path) for path in overlay["resources"]]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    resources = kustomize(tmp_path)
    validate(resources)
    (pod,) = pods(resources)
    assert pod["containers"][0]["image"] == "registry.example.com/fnet-encode:0.1.0"
    (settings,) = [resource["data"] for resource in resources if resource["kind"] == "ConfigMap"]
    assert settings["FNET_DTYPE"] == "bfloat16"


def test_documented_commands_name_existing_files() -> None:
    """The directories build with kubectl, and the files exist."""
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    trees = re.findall(r"(?:-k|kustomize) (\S+)", commands)
    files = re.findall(r"-f (\S+)", commands)
    assert trees
    assert files
    for tree in trees:
        kustomize(ROOT / tree)
    for file in files:
        assert (ROOT / file).is_file()
