"""kubectl puts the manifests together, and every supported release of Kubernetes would take them."""

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
# From the first that has all that is used, to the newest whose schemas are there.
VERSIONS = ["1.29.0", "1.31.0", "1.33.0", "1.35.0", "1.37.0"]
# Described by no schema of Kubernetes' own.
CUSTOM = {"InferenceService", "PodMonitor", "PrometheusRule", "ScaledObject", "ServiceMonitor", "ServingRuntime"}
TREES = ["base", "overlays/cpu", "overlays/gpu", "overlays/kserve"]
COMPONENTS = sorted(each.name for each in (KUBERNETES / "components").iterdir())
# Both autoscalers own the replicas: one or the other.
COMBINATIONS = [
    names
    for count in (1, 2)
    for names in itertools.combinations(COMPONENTS, count)
    if not {"hpa", "keda"} <= set(names)
]
Resource = dict[str, Any]


def kustomized(directory: Path) -> list[Resource]:
    """Return the resources of a directory, as kubectl would apply them."""
    command = [KUBECTL, "kustomize", str(directory)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return list(yaml.safe_load_all(ran.stdout))


def with_components(directory: Path, names: tuple[str, ...]) -> list[Resource]:
    """Return the base with components, in their order, by way of an overlay in a directory."""
    directory.mkdir()

    def path(name: str) -> str:
        return os.path.relpath(KUBERNETES / name, directory)

    overlay = {"resources": [path("base")], "components": [path(f"components/{name}") for name in names]}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return kustomized(directory)


def one(resources: list[Resource], kind: str, name: str = "fnet-encode") -> Resource:
    """Return the one resource of a kind and name."""
    (found,) = [each for each in resources if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods(resources: list[Resource]) -> Iterator[Resource]:
    """Give the description of every pod."""
    for each in resources:
        if each["kind"] in ("Deployment", "Job"):
            yield each["spec"]["template"]["spec"]


def checked(resources: list[Resource]) -> None:
    """Hold resources to the schemas, unknown fields refused."""
    assert resources
    for each in resources:
        if each["kind"] in CUSTOM:
            with pytest.raises(kubernetes_validate.SchemaNotFoundError):
                kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("tree", TREES)
def test_kubernetes_takes_it(tree: str) -> None:
    """Every resource of the base and of each overlay, in each release, without an unknown field."""
    checked(kustomized(KUBERNETES / tree))


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_components_can_be_combined(names: tuple[str, ...], tmp_path: Path) -> None:
    """Each alone, and any two of them but the autoscalers."""
    checked(with_components(tmp_path / "overlay", names))


def test_an_unknown_field_is_found() -> None:
    """So that the tests above mean something."""
    deployment = one(kustomized(KUBERNETES / "base"), "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 50
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def test_the_job_is_taken() -> None:
    """It stands for itself."""
    checked([yaml.safe_load((KUBERNETES / "jobs/encode.yaml").read_text("utf-8"))])


@pytest.mark.parametrize("tree", TREES[:-1])
def test_selectors_choose_the_pods_and_nothing_else(tree: str) -> None:
    """Of the Service, the budget, the policies: an empty one would take the Job's pods, too."""
    resources = kustomized(KUBERNETES / tree)
    labels = one(resources, "Deployment")["spec"]["template"]["metadata"]["labels"]
    job = yaml.safe_load((KUBERNETES / "jobs/encode.yaml").read_text("utf-8"))["spec"]["template"]["metadata"]["labels"]
    policies = [each["spec"] for each in resources if each["kind"] == "NetworkPolicy"]
    # The one for everything lets nothing through.
    assert [each for each in policies if not each["podSelector"]] == [
        {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ]
    selectors = [
        one(resources, "Deployment")["spec"]["selector"]["matchLabels"],
        one(resources, "Service")["spec"]["selector"],
        one(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(each["podSelector"]["matchLabels"] for each in policies if each["podSelector"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
        assert not selector.items() <= job.items()


@pytest.mark.parametrize("tree", ["overlays/cpu", "overlays/gpu"])
def test_what_is_referred_to_is_there(tree: str) -> None:
    """Settings under the name that carries their digest, volumes, the account, the Service behind the monitor."""
    resources = kustomized(KUBERNETES / tree)
    (pod,) = pods(resources)
    one(resources, "ServiceAccount", pod["serviceAccountName"])
    one(resources, "ConfigMap", pod["containers"][0]["envFrom"][0]["configMapRef"]["name"])
    mounted = {each["name"] for container in pod["containers"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in pod["volumes"]}
    monitor, service = one(resources, "ServiceMonitor"), one(resources, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "fnet-encode"
    assert one(resources, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "fnet-encode"
    assert "replicas" not in one(resources, "Deployment")["spec"]


def test_a_device_is_asked_for() -> None:
    """One a pod, by the image that can use it; and processors do not decide how many pods there are."""
    resources = kustomized(KUBERNETES / "overlays/gpu")
    (pod,) = pods(resources)
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].endswith("-cuda")
    (metric,) = one(resources, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["type"] == "Pods"


def test_the_rules_of_a_device_s_overlay_are_rules(tmp_path: Path) -> None:
    """After its patch, too, and only the bound of memory is another."""
    groups = one(kustomized(KUBERNETES / "overlays/gpu"), "PrometheusRule")["spec"]["groups"]
    plain = one(kustomized(KUBERNETES / "overlays/cpu"), "PrometheusRule")["spec"]["groups"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    subprocess.run([PROMTOOL, "check", "rules", str(tmp_path / "rules.yml")], check=True, timeout=60)
    differ = [
        rule["alert"]
        for group, other in zip(groups, plain, strict=True)
        for rule, same in zip(group["rules"], other["rules"], strict=True)
        if rule != same
    ]
    assert differ == ["FNetMemoryHigh"]


@pytest.mark.parametrize(
    ("names", "tag"),
    [
        (("preset",), r"\d+\.\d+\.\d+"),
        (("preset", "tracing"), r"\d+\.\d+\.\d+-otel"),
        (("tracing", "preset"), r"\d+\.\d+\.\d+-otel"),
    ],
    ids="-".join,
)
def test_an_init_container_uses_the_same_image(names: tuple[str, ...], tag: str, tmp_path: Path) -> None:
    """With the release's tag, in the component that fetches a preset, whatever else has a part in it."""
    (pod,) = pods(with_components(tmp_path / "overlay", names))
    assert re.fullmatch(f"fnet-encode:{tag}", pod["containers"][0]["image"])
    assert pod["initContainers"][0]["image"] == pod["containers"][0]["image"]
    mounts = {
        each["name"] for container in (*pod["initContainers"], *pod["containers"]) for each in container["volumeMounts"]
    }
    assert mounts == {each["name"] for each in pod["volumes"]}


def test_keys_and_a_preset_go_together(tmp_path: Path) -> None:
    """Both add to the same ConfigMap and the same list of volumes."""
    resources = with_components(tmp_path / "overlay", ("keys", "preset"))
    (settings,) = [each["data"] for each in resources if each["kind"] == "ConfigMap"]
    assert {"FNET_API_KEYS_FILE", "FNET_PRESET", "FNET_DRAIN_SECONDS"} <= set(settings)
    (pod,) = pods(resources)
    assert {each["name"] for each in pod["volumes"]} == {"cache", "tmp", "keys", "presets"}


def test_policies_add_up(tmp_path: Path) -> None:
    """Whatever components are chosen: each has a policy of its own name, and none goes without the one that denies."""
    names = ("monitoring", "preset", "tracing")
    policies = [each for each in with_components(tmp_path / "overlay", names) if each["kind"] == "NetworkPolicy"]
    assert sorted(each["metadata"]["name"] for each in policies) == [
        "default-deny",
        "fnet-encode",
        "fnet-encode-hubs",
        "fnet-encode-monitoring",
        "fnet-encode-tracing",
    ]


def test_what_is_beside_kserve_chooses_its_pods_and_nothing_else() -> None:
    """By labels that KServe gives, and not those of the Job; all that Prometheus needs is there."""
    resources = kustomized(KUBERNETES / "overlays/kserve")
    name = one(resources, "InferenceService", "fnet-mini-en")["metadata"]["name"]
    # As its controller makes them for a Deployment of its own.
    labels = {
        "app": f"isvc.{name}-predictor",
        "component": "predictor",
        "serving.kserve.io/inferenceservice": name,
    }
    policies = {each["metadata"]["name"]: each["spec"] for each in resources if each["kind"] == "NetworkPolicy"}
    assert policies.pop("default-deny") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert set(policies) == {name, "fnet-encode-monitoring"}
    selectors = [
        one(resources, "PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
        one(resources, "PodMonitor", name)["spec"]["selector"]["matchLabels"],
        *(each["podSelector"]["matchLabels"] for each in policies.values()),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    port = one(resources, "ServingRuntime")["spec"]["containers"][0]["ports"][0]["name"]
    opened = {each["port"] for policy in policies.values() for rule in policy["ingress"] for each in rule["ports"]}
    assert opened == {port}
    rules = one(resources, "PrometheusRule")["spec"]["groups"]
    assert rules == one(kustomized(KUBERNETES / "overlays/cpu"), "PrometheusRule")["spec"]["groups"]
    assert not [each for each in resources if each["kind"] == "ServiceMonitor"]


def test_every_image_of_kserve_has_its_tag() -> None:
    """Kustomize is told where it stands in a `ServingRuntime`."""
    runtime = one(kustomized(KUBERNETES / "overlays/kserve"), "ServingRuntime")
    service = one(kustomized(KUBERNETES / "overlays/kserve"), "InferenceService", "fnet-mini-en")
    assert re.fullmatch(r"fnet-encode:\d+\.\d+\.\d+", runtime["spec"]["containers"][0]["image"])
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] == runtime["spec"]["supportedModelFormats"][0]["name"]


def test_the_page_s_overlay_works(tmp_path: Path) -> None:
    """As its reader would write it beside a checkout."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    overlay = yaml.safe_load(text)
    overlay["resources"] = [os.path.relpath(ROOT / each, tmp_path) for each in overlay["resources"]]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    resources = kustomized(tmp_path)
    checked(resources)
    (pod,) = pods(resources)
    assert pod["containers"][0]["image"] == "registry.example.com/fnet-encode:0.1.0"
    (settings,) = [each["data"] for each in resources if each["kind"] == "ConfigMap"]
    assert settings["FNET_DTYPE"] == "bfloat16"


def test_the_page_s_commands_name_what_is_there() -> None:
    """Directories that kubectl can put together, a file that it can read."""
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    trees = re.findall(r"(?:-k|kustomize) (\S+)", commands)
    files = re.findall(r"-f (\S+)", commands)
    assert trees
    assert files
    for tree in trees:
        kustomized(ROOT / tree)
    for file in files:
        assert (ROOT / file).is_file()
