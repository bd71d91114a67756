"""The manifests and the service agree, as their files say it; `make test-deploy` has kubectl put them together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from service import __version__
from service.app import create_app
from service.settings import Settings, variable
from service.web.api_keys import ApiKeys

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
# Seconds between the end of the drain and the kernel's end: the process has to leave, too.
MARGIN = 5


def read(path: str) -> Any:
    """Return what a file of one document holds."""
    return yaml.safe_load((KUBERNETES / path).read_text("utf-8"))


def things(value: Any) -> Iterator[dict[str, Any]]:
    """Give every mapping in a document, outer ones first."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from things(each)
    elif isinstance(value, list):
        for each in value:
            yield from things(each)


FILES = sorted(str(file.relative_to(KUBERNETES)) for file in KUBERNETES.rglob("*.yaml"))
CONTAINERS = [
    (f"{file}:{each['name']}", each)
    for file in FILES
    for each in things(read(file))
    if "image" in each and "name" in each
]
# Wherever pods are described wholly, by the part that says how they end.
PODS = [
    pytest.param(each, id=file)
    for file in FILES
    for each in things(read(file))
    if "terminationGracePeriodSeconds" in each
]
DEPLOYMENT = read("base/deployment.yaml")["spec"]["template"]["spec"]
CONTAINER = DEPLOYMENT["containers"][0]
RUNTIME = read("overlays/kserve/servingruntime.yaml")["spec"]["containers"][0]
KSERVE_PORT = RUNTIME["ports"][0]["name"]
INFERENCE = read("overlays/kserve/inferenceservice.yaml")


def base_settings() -> dict[str, str]:
    """Return the settings of the base."""
    lines = (KUBERNETES / "base/settings.env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def more_settings() -> list[dict[str, str]]:
    """Return the settings that components and overlays add."""
    literals = [each["literals"] for file in FILES for each in things(read(file)) if "literals" in each]
    return [dict(line.split("=", 1) for line in each) for each in literals]


def test_the_base_is_served_as_it_is_set() -> None:
    """Its settings are ones that the service takes."""
    Settings.load(base_settings())


def test_every_setting_is_one() -> None:
    """In settings, components, and the environment of containers."""
    names = {name for each in [base_settings(), *more_settings()] for name in each}
    names |= {each["name"] for file in FILES for each in things(read(file)) if str(each.get("name"))[:5] == "FNET_"}
    assert len(names) > len(base_settings())
    assert names <= {variable(name) for name in Settings.model_fields}


@pytest.mark.parametrize("container", [CONTAINER, RUNTIME], ids=["deployment", "kserve"])
def test_probes_ask_routes_that_are_there(container: dict[str, Any]) -> None:
    """Readiness asks for the state, liveness for the worker."""
    paths = create_app(Settings.load({})).openapi()["paths"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    for probe in probes.values():
        assert "get" in paths[probe["path"]]
        assert probe["port"] in {container["ports"][0]["containerPort"], container["ports"][0].get("name")}
    assert [probes[name]["path"].rsplit("/", 1)[1] for name in probes] == ["ready", "ready", "live"]


def test_a_probe_needs_no_key() -> None:
    """Nor does Prometheus: the settings that would ask for one are off, and a kubelet has none."""
    for each in [base_settings(), *more_settings()]:
        assert not {"FNET_HEALTH_REQUIRES_KEY", "FNET_METRICS_REQUIRE_KEY"} & set(each)
    assert not Settings.load({}).health_requires_key


def test_one_port_from_image_to_service() -> None:
    """The image's own, under one name."""
    ports = {port["containerPort"] for container in (CONTAINER, RUNTIME) for port in container["ports"]}
    assert ports == {Settings.load({}).port}
    assert f"EXPOSE {Settings.load({}).port}\n" in DOCKERFILE
    (port,) = read("base/service.yaml")["spec"]["ports"]
    assert port["targetPort"] == CONTAINER["ports"][0]["name"]
    assert read("components/monitoring/servicemonitor.yaml")["spec"]["endpoints"][0]["port"] == port["name"]
    for file in ("base/networkpolicy.yaml", "components/monitoring/networkpolicy.yaml"):
        assert read(file)["spec"]["ingress"][0]["ports"][0]["port"] == CONTAINER["ports"][0]["name"]
    assert read("overlays/kserve/networkpolicy.yaml")["spec"]["ingress"][0]["ports"][0]["port"] == KSERVE_PORT
    assert read("overlays/kserve/monitoring/podmonitor.yaml")["spec"]["podMetricsEndpoints"][0]["port"] == KSERVE_PORT


def test_there_is_time_to_leave() -> None:
    """Longer than the delay and the drain together, which is as long as a request may take; with KServe, too."""
    environ = {each["name"]: each["value"] for each in RUNTIME["env"]}
    predictor = INFERENCE["spec"]["predictor"]
    for pod, given in ((DEPLOYMENT, base_settings()), (predictor, environ)):
        settings = Settings.load(given)
        assert settings.shutdown_delay > 0
        assert settings.drain_seconds >= settings.request_timeout
        needed = settings.shutdown_delay + settings.drain_seconds + MARGIN
        assert pod["terminationGracePeriodSeconds"] >= needed


@pytest.mark.parametrize("pod", PODS)
def test_pods_may_do_little(pod: dict[str, Any]) -> None:
    """The image's user, no token of the cluster, and no variables that a service's name would make."""
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user is not None
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user[1]), int(user[2]))
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_service_links_do_not_prevent_the_start() -> None:
    """A pod without `enableServiceLinks: false` has variables that look like settings."""
    assert Settings.load({"FNET_ENCODE_SERVICE_HOST": "10.0.0.1"}) == Settings.load({})


@pytest.mark.parametrize("container", [each for _, each in CONTAINERS], ids=[name for name, _ in CONTAINERS])
def test_containers_may_do_little(container: dict[str, Any]) -> None:
    """What the restricted Pod Security Standard asks for, a root that is not written, and bounds."""
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert container["image"].split(":")[0] == "fnet-encode"


def test_what_is_written_is_a_volume() -> None:
    """The image's cache and /tmp."""
    cache = re.search(r"FNET_CACHE_DIR=(\S+)", DOCKERFILE)
    assert cache is not None
    job = read("jobs/encode.yaml")["spec"]["template"]["spec"]["containers"][0]
    for container in (CONTAINER, RUNTIME, job):
        assert {cache[1], "/tmp"} <= {each["mountPath"] for each in container["volumeMounts"]}  # noqa: S108 - of the pod


def test_the_version_is_this_one() -> None:
    """Wherever an image is named by its version, with the extra that it is made with, if any."""
    tags = [each["newTag"] for file in FILES for each in things(read(file)) if "newTag" in each]
    tags += [each["image"].partition(":")[2] for _, each in CONTAINERS if ":" in each["image"]]
    assert tags
    for version, _, extra in (tag.partition("-") for tag in tags):
        assert version == __version__
        assert (ROOT / f"requirements/{extra or 'serve'}.txt").is_file()


def test_the_alert_for_memory_knows_the_limit() -> None:
    """In the base, and where a device's overlay has another."""
    for limit, rules in (
        (CONTAINER["resources"]["limits"]["memory"], "components/monitoring/prometheusrule.yaml"),
        (
            read("overlays/gpu/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"][
                "memory"
            ],
            "overlays/gpu/prometheusrule.yaml",
        ),
    ):
        megabytes = int(limit[:-1]) * {"M": 1, "G": 1000}[limit[-1]]
        assert f"> 0.85 * {megabytes}e6\n" in (KUBERNETES / rules).read_text("utf-8")


def test_both_autoscalers_ask_alike() -> None:
    """The same metric, threshold, and bounds."""
    hpa = read("components/hpa/horizontalpodautoscaler.yaml")["spec"]
    keda = read("components/keda/scaledobject.yaml")["spec"]
    processors, queue = hpa["metrics"]
    assert processors["resource"]["target"]["averageUtilization"] == int(keda["triggers"][0]["metadata"]["value"])
    assert queue["pods"]["metric"]["name"] == "fnet_queue_tokens"
    assert queue["pods"]["target"]["averageValue"] == keda["triggers"][1]["metadata"]["threshold"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    assert int(queue["pods"]["target"]["averageValue"]) < Settings.load({}).max_queue_tokens
    (rule,) = read("components/hpa/prometheus-adapter.yaml")["rules"]["custom"]
    assert rule["name"]["as"] == queue["pods"]["metric"]["name"]


@pytest.mark.parametrize("name", ["hpa", "keda"])
def test_an_autoscaler_owns_the_replicas(name: str) -> None:
    """The Deployment then names no number, which each `apply` would go back to."""
    patches = [yaml.safe_load(each["patch"]) for each in read(f"components/{name}/kustomization.yaml")["patches"]]
    assert patches == [[{"op": "remove", "path": "/spec/replicas"}]]


def test_keys_can_be_exchanged() -> None:
    """The Secret is mounted as a directory, and the setting names a file in it."""
    patch = read("components/keys/deployment.yaml")["spec"]["template"]["spec"]
    (mount,) = patch["containers"][0]["volumeMounts"]
    (settings,) = [each for each in more_settings() if "FNET_API_KEYS_FILE" in each]
    assert Path(settings["FNET_API_KEYS_FILE"]).parent == Path(mount["mountPath"])
    assert "subPath" not in mount


def test_a_secret_that_changed_is_in_force(tmp_path: Path) -> None:
    """As a kubelet exchanges it: a new directory, and a link that is moved to it at once."""
    now = 0.0
    for name, key in (("..1", "first"), ("..2", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "api_keys").write_text(f"{key}\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "api_keys").symlink_to("..data/api_keys")
    ring = ApiKeys((), tmp_path / "api_keys", lambda: now)
    assert ring.is_valid(["first"])
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    now = 5.0
    assert ring.is_valid(["second"])
    assert not ring.is_valid(["first"])


def test_the_preset_that_is_fetched_is_served() -> None:
    """From the same volume, which the service may only read."""
    patch = read("components/preset/deployment.yaml")["spec"]["template"]["spec"]
    (fetch,), (serve,) = patch["initContainers"], patch["containers"]
    (settings,) = [each for each in more_settings() if "FNET_PRESET" in each]
    assert fetch["args"][-2:] == ["--to", settings["FNET_PRESET"]]
    assert serve["volumeMounts"] == [{"name": "presets", "mountPath": "/presets", "readOnly": True}]


@pytest.mark.parametrize(
    ("pod", "label"),
    [
        (DEPLOYMENT, {"app.kubernetes.io/name": "fnet-encode"}),
        (INFERENCE["spec"]["predictor"], {"serving.kserve.io/inferenceservice": INFERENCE["metadata"]["name"]}),
    ],
    ids=["deployment", "kserve"],
)
def test_an_update_spreads_its_pods(pod: dict[str, Any], label: dict[str, str]) -> None:
    """Over zones and nodes, not counting those of the revision before, which are about to leave."""
    constraints = {each["topologyKey"]: each for each in pod["topologySpreadConstraints"]}
    assert set(constraints) == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    for each in constraints.values():
        assert each["labelSelector"] == {"matchLabels": label}
        assert each["matchLabelKeys"] == ["pod-template-hash"]
        assert (each["maxSkew"], each["whenUnsatisfiable"]) == (1, "ScheduleAnyway")


def ways_out(file: str) -> list[tuple[set[int], list[str]]]:
    """Return what a policy lets out: ports, and the namespaces that they are open to; none named is anywhere."""
    key = "kubernetes.io/metadata.name"
    return [
        (
            {port["port"] for port in rule["ports"]},
            [each["namespaceSelector"]["matchLabels"][key] for each in rule.get("to", [])],
        )
        for rule in read(file)["spec"]["egress"]
    ]


def test_nothing_goes_out_but_what_is_set() -> None:
    """Serving the bundled preset needs no egress; each component that does opens its ports, DNS among them."""
    names = ({53}, ["kube-system"])
    assert read("namespace/default-deny.yaml")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert ways_out("base/networkpolicy.yaml") == ways_out("overlays/kserve/networkpolicy.yaml") == []
    assert ways_out("components/preset/networkpolicy.yaml") == [names, ({443}, [])]
    (settings,) = [each for each in more_settings() if "FNET_OTLP_ENDPOINT" in each]
    collector = urlsplit(settings["FNET_OTLP_ENDPOINT"])
    _, namespace, _ = str(collector.hostname).split(".")
    assert ways_out("components/tracing/networkpolicy.yaml") == [names, ({collector.port}, [namespace])]


def test_kserve_s_pods_are_found_by_their_service() -> None:
    """All resources but the InferenceService select the pods by the label that KServe sets."""
    label = {"serving.kserve.io/inferenceservice": INFERENCE["metadata"]["name"]}
    for file, selector in (
        ("poddisruptionbudget.yaml", "selector"),
        ("networkpolicy.yaml", "podSelector"),
        ("monitoring/podmonitor.yaml", "selector"),
    ):
        assert read(f"overlays/kserve/{file}")["spec"][selector] == {"matchLabels": label}


@pytest.mark.parametrize(
    ("ours", "same"),
    [
        ("overlays/kserve/poddisruptionbudget.yaml", "base/poddisruptionbudget.yaml"),
        ("overlays/kserve/networkpolicy.yaml", "base/networkpolicy.yaml"),
    ],
)
def test_kserve_s_pods_are_guarded_alike(ours: str, same: str) -> None:
    """As the base's are, but for their labels and the port's name."""

    def compared(file: str) -> dict[str, Any]:
        spec = {name: value for name, value in read(file)["spec"].items() if not name.lower().endswith("selector")}
        for each in spec.get("ingress", []):
            del each["ports"]
        return spec

    assert compared(ours) == compared(same)


def test_kserve_s_pods_are_scraped_alike() -> None:
    """At the same pace, and as the job that the rules look for."""
    (pods,) = read("overlays/kserve/monitoring/podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    (service,) = read("components/monitoring/servicemonitor.yaml")["spec"]["endpoints"]
    for name in ("path", "interval", "scrapeTimeout"):
        assert pods[name] == service[name]
    (relabeling,) = pods["relabelings"]
    assert relabeling == {"action": "replace", "targetLabel": "job", "replacement": "fnet-encode"}


def test_a_job_s_pods_share_the_work() -> None:
    """As many shares as completions, each by its own index."""
    job = read("jobs/encode.yaml")["spec"]
    (command,) = job["template"]["spec"]["containers"][0]["args"]
    shares = re.search(r'--shard "\$JOB_COMPLETION_INDEX/(\d+)"', command)
    assert shares is not None
    assert job["completionMode"] == "Indexed"
    assert int(shares[1]) == job["completions"]
