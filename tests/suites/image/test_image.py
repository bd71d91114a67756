"""The container image in a Docker engine, with restricted privileges, resource limits and signals.

`make test-image` runs these tests with the engine of DOCKER_HOST. BUILD_ARGS are passed to `docker build`.
COMPOSE_OVERRIDE is an additional file for `docker compose`, for machines with other images than those of the compose
file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.timeouts import TIMEOUT

ROOT = Path(__file__).parents[3]
DOCKER = shutil.which("docker") or "docker"
MAKE = shutil.which("make") or "make"
IMAGE = "fnet-encode-test"
TAG = f"{IMAGE}:local"
MEGABYTE = 1_000_000
# Restrictions of a hardened deployment.
LIMITS = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "1500m", "--cpus", "1"]
TEXTS = ["a cat sat down", "Interest rates rose by a quarter of a point.", "x " * 300]


def report(figure: str) -> None:
    """Print a figure."""
    print(f"\n    {figure}", flush=True)  # noqa: T201 - the suite reports figures


def docker(*arguments: str, check: bool = True, environ: Mapping[str, str] = MappingProxyType({})) -> str:
    """Run the Docker client, which must succeed if `check` is set, and return its output."""
    completed = subprocess.run(
        [DOCKER, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, **environ},
        cwd=ROOT,
    )
    assert completed.returncode == 0 or not check, completed.stdout + completed.stderr
    return completed.stdout + completed.stderr if not check else completed.stdout.strip()


class Container:
    """A running container of the image.

    Attributes:
        name: Name of the container.
        started: Start on the monotonic clock, in seconds.
    """

    def __init__(self, *options: str, command: tuple[str, ...] = ()) -> None:
        self.name = f"fnet-test-{uuid.uuid4().hex[:8]}"
        self.started = time.monotonic()
        docker("run", "--detach", "--name", self.name, "--publish", "127.0.0.1::8000", *options, TAG, *command)

    @property
    def url(self) -> str:
        """URL of the service."""
        return f"http://{docker('port', self.name, '8000/tcp').splitlines()[0]}"

    def inspect(self, path: str) -> Any:
        """Return a field of the description by `docker inspect`."""
        return json.loads(docker("inspect", "--format", f"{{{{json {path}}}}}", self.name))

    def logs(self) -> str:
        """Return the log."""
        return docker("logs", self.name, check=False)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of an event."""
        events = [json.loads(line) for line in self.logs().splitlines() if line.startswith("{")]
        return [event for event in events if event["event"] == name]

    def inside(self, *command: str) -> str:
        """Run a command in the container."""
        return docker("exec", self.name, *command)

    def wait_until(self, condition: Callable[[], Any], seconds: float = TIMEOUT) -> None:
        """Wait until a condition is true; fail on a timeout or if the container ends."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.logs()
            assert self.inspect(".State.Running"), self.logs()
            time.sleep(0.05)

    def ready(self) -> float:
        """Wait until the service is ready, and return the seconds since the start."""
        url = self.url

        def is_ready() -> bool:
            try:
                return httpx.get(f"{url}/health/ready", timeout=TIMEOUT).status_code == 200
            except httpx.TransportError:
                return False

        self.wait_until(is_ready)
        return time.monotonic() - self.started

    def stop(self) -> tuple[int, float]:
        """Stop the container, and return its exit code and the seconds that it took."""
        started = time.monotonic()
        docker("stop", "--time", "40", self.name)
        return int(self.inspect(".State.ExitCode")), time.monotonic() - started

    def remove(self) -> None:
        """Remove the container and its volumes."""
        docker("rm", "--force", "--volumes", self.name, check=False)


@pytest.fixture(scope="session", autouse=True)
def image() -> str:
    """Build the image and its bill of materials with `make image`."""
    started = time.monotonic()
    completed = subprocess.run(
        [MAKE, "--no-print-directory", "image", f"IMAGE={IMAGE}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
    report(f"built in {time.monotonic() - started:.0f} s")
    return TAG


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Container]]:
    """Start a container under the limits; arguments are more options of `docker run`."""
    started: list[Container] = []

    def start(*options: str, command: tuple[str, ...] = ()) -> Container:
        started.append(Container(*LIMITS, *options, command=command))
        return started[-1]

    yield start
    for container in started:
        container.remove()


@pytest.fixture(scope="module")
def running(start: Callable[..., Container]) -> Container:
    """Start a container and wait until it is ready."""
    container = start()
    report(f"ready in {container.ready():.1f} s with one CPU, 1500 MB, a read-only root and no cache")
    return container


def in_image(*command: str) -> str:
    """Run a command in a new container of the image."""
    return docker("run", "--rm", "--network", "none", "--entrypoint", command[0], TAG, *command[1:])


def pooled(url: str) -> np.ndarray[Any, Any]:
    """Return the pooled and mean outputs of the texts."""
    outputs = ["pooled_output", "mean_output"]
    body = {"texts": TEXTS, "outputs": outputs, "truncate": True}
    response = httpx.post(f"{url}/v1/encode", json=body, timeout=TIMEOUT)
    assert response.status_code == 200, response.text
    return np.array([response.json()[output] for output in outputs], np.float32)


# === Contents ===


def test_image_size_is_bounded() -> None:
    """The uncompressed image has at most 900 MB."""
    size = int(docker("image", "inspect", "--format", "{{.Size}}", TAG)) / MEGABYTE
    report(f"{size:.0f} MB")
    assert size <= 900


def test_image_configuration() -> None:
    """The image has the OCI labels, a user other than root, and the command as its entry point."""
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", TAG))
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == "FNet Encode"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] in docker("run", "--rm", TAG, "--version")
    assert re.fullmatch("[0-9a-f]{40}|unknown", labels["revision"])
    assert config["User"] == "10001:10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["fnet-service"], ["serve"])
    assert list(config["ExposedPorts"]) == ["8000/tcp"]


def test_image_has_no_build_tools() -> None:
    """The image has no compiler, no cache of pip and no tests of libraries, but their license files."""
    output = in_image("sh", "-c", "command -v gcc cc make git curl; ls /root/.cache /source /wheels 2>/dev/null; true")
    assert output == ""
    script = "find /opt/fnet -type d -name tests -o -name '*.pxd' -o -name 'hatchling*' -o -name 'pip-*'"
    assert in_image("sh", "-c", script) == ""
    assert int(in_image("sh", "-c", "find /opt/fnet -iname 'licen[cs]e*' | wc -l")) > 40
    bytecode = int(in_image("sh", "-c", "find /opt/fnet -name '*.pyc' -print0 | xargs -0 cat | wc -c")) / MEGABYTE
    report(f"{bytecode:.0f} MB of bytecode")
    assert bytecode < 40


def test_bill_of_materials_is_complete() -> None:
    """Each distribution has hash and license, and the packages of the base image are listed."""
    bill = json.loads((ROOT / "dist/sbom.cdx.json").read_text("utf-8"))
    assert json.loads(in_image("cat", "/usr/share/fnet-encode/sbom.cdx.json")) == bill
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "fnet-encode"
    python = [component for component in bill["components"] if component.get("purl", "").startswith("pkg:pypi/")]
    script = "import importlib.metadata as m; print(*{d.name + '=' + d.version for d in m.distributions()})"
    installed = set(in_image("python", "-c", script).split())
    assert {f"{component['name']}={component['version']}" for component in python} == {
        package for package in installed if not package.startswith("fnet-encode=")
    }
    locked = (ROOT / "requirements/serve.txt").read_text("utf-8")
    for component in python:
        (digest,) = component["hashes"]
        assert f"--hash=sha256:{digest['content']}" in locked, component["name"]
        assert component["licenses"], component["name"]
    debian = [component for component in bill["components"] if component.get("purl", "").startswith("pkg:deb/")]
    listed = in_image("dpkg-query", "--show", "--showformat=${Package}=${Version} ").split()
    assert {f"{component['name']}={component['version']}" for component in debian} == set(listed)
    report(f"bill of materials: {len(python)} Python distributions, {len(debian)} packages of the base image")


# === Operation ===


def test_outputs_do_not_depend_on_cpus_or_machine(running: Container, start: Callable[..., Container]) -> None:
    """One and two CPUs give the same bits; a local process, whose JAX may differ, is close."""
    two = start("--cpus", "2")
    two.ready()
    outputs = pooled(running.url)
    assert np.array_equal(outputs, pooled(two.url))
    two.remove()
    expected = _pooled_by_local_process()
    difference = np.abs(outputs - expected).max()
    report(f"bits equal to a local process: {np.array_equal(outputs, expected)}, maximum difference {difference:.1e}")
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def _pooled_by_local_process() -> np.ndarray[Any, Any]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
    command = [
        str(Path(sysconfig.get_path("scripts")) / "fnet-service"),
        "serve",
        "--port",
        "0",
        "--log-format",
        "json",
    ]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = ""
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {"event": ""}
            url = event["url"] if event["event"] == "listening" else url
            if event["event"] == "ready":
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        outputs = pooled(url)
        process.terminate()
    return outputs


def test_container_runs_without_privileges(running: Container) -> None:
    """The process is not root, has no capability, and works without a writable cache."""
    status = running.inside("cat", "/proc/1/status")
    assert re.search(r"^Uid:\s+10001\s+10001\s+10001", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert "read-only" in docker("exec", running.name, "touch", "/var/cache/fnet/x", check=False).lower()
    assert "Traceback" not in running.logs()


def test_container_becomes_healthy(running: Container) -> None:
    """The health check uses the command of the image."""
    running.wait_until(lambda: running.inspect(".State.Health.Status") == "healthy")
    assert json.loads(running.inside("fnet-service", "health"))["state"] == "ready"


def test_threads_follow_the_cpu_limit(running: Container) -> None:
    """One CPU gives one thread of each kind, which the kernel seldom throttles."""
    processors = os.cpu_count() or 1
    if processors > 1:
        (line,) = running.events("CPU affinity limited")
        assert line["usable_cpus"] == 1
    names = running.inside("sh", "-c", "cat /proc/1/task/*/comm").split()
    assert names.count("tf_XLAEigen") == 1
    periods, throttled = _throttled(running)
    body = {"texts": TEXTS[:2], "outputs": ["pooled_output"]}
    with httpx.Client(base_url=running.url, timeout=TIMEOUT) as client:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert client.post("/v1/encode", json=body).status_code == 200
    more_periods, more_throttled = _throttled(running)
    report(f"one client, 5 s: throttled in {more_throttled - throttled} of {more_periods - periods} periods")
    assert more_throttled - throttled < (more_periods - periods) / 2


def _throttled(container: Container) -> tuple[int, int]:
    files = "cat /sys/fs/cgroup/cpu.stat /sys/fs/cgroup/cpu/cpu.stat 2>/dev/null"
    statistics = dict(line.split() for line in container.inside("sh", "-c", f"{files}; true").splitlines())
    return int(statistics["nr_periods"]), int(statistics["nr_throttled"])


def test_memory_is_bounded(running: Container) -> None:
    """Hundreds of long texts from concurrent clients stay below the memory limit."""
    body = {"token_ids": [[7 + n] * 512 for n in range(32)], "outputs": ["sequence_output"]}
    with ThreadPoolExecutor(8) as clients:
        statuses = list(
            clients.map(
                lambda _: httpx.post(f"{running.url}/v1/encode", json=body, timeout=TIMEOUT).status_code, range(8)
            )
        )
    assert set(statuses) == {200}
    values = re.findall(r"^Vm(?:HWM|RSS):\s+(\d+) kB$", running.inside("cat", "/proc/1/status"), re.MULTILINE)
    peak, now = (int(value) / 1000 for value in values)
    report(f"memory: {now:.0f} MB, peak {peak:.0f} MB")
    assert not running.inspect(".State.OOMKilled")
    assert peak < 1400


def test_sigterm_completes_accepted_requests(start: Callable[..., Container]) -> None:
    """Requests in flight get their responses, and the exit code is 0."""
    container = start()
    container.ready()
    body = {"token_ids": [[7 + n] * 512 for n in range(96)], "outputs": ["pooled_output"]}
    with ThreadPoolExecutor(1) as threads, httpx.Client(base_url=container.url, timeout=TIMEOUT) as client:
        in_flight = threads.submit(httpx.post, f"{container.url}/v1/encode", json=body, timeout=TIMEOUT)
        container.wait_until(lambda: "fnet_queue_requests 1.0" in client.get("/metrics").text)
        code, seconds = container.stop()
        assert in_flight.result(TIMEOUT).status_code == 200
    report(f"stopped with work in flight: exit code {code} after {seconds:.1f} s")
    assert code == 0


def test_sigterm_during_start_ends_the_process(start: Callable[..., Container]) -> None:
    """The process ends before the engine kills it."""
    container = start()
    time.sleep(1.0)
    code, seconds = container.stop()
    report(f"stopped a second after its start: exit code {code} after {seconds:.1f} s")
    assert code == 0
    assert seconds < 20


def test_volume_keeps_the_cache(start: Callable[..., Container]) -> None:
    """The user of the image owns the volume, and the next start uses its compiled programs."""
    volume = f"fnet-test-{uuid.uuid4().hex[:8]}"
    options = ("--volume", f"{volume}:/var/cache/fnet")
    try:
        first = start(*options)
        cold = first.ready()
        assert int(first.inside("sh", "-c", "find /var/cache/fnet/xla -type f | wc -l")) > 0
        first.remove()
        second = start(*options)
        report(f"ready in {cold:.1f} s with an empty cache, and in {second.ready():.1f} s with a full one")
        second.remove()
    finally:
        docker("volume", "rm", "--force", volume, check=False)


def test_preset_is_mounted(start: Callable[..., Container]) -> None:
    """The container also runs as another user."""
    bundled = ROOT / "model/bundled/fnet_mini_en"
    options = ("--user", "4711:4711", "--volume", f"{bundled}:/presets/mine:ro", "--env", "FNET_PRESET=/presets/mine")
    container = start(*options)
    container.ready()
    assert httpx.get(f"{container.url}/v1/info", timeout=TIMEOUT).json()["preset"] == "fnet_mini_en"
    container.remove()


def test_bad_setting_ends_the_container() -> None:
    """The error is one line with exit code 2; empty settings count as unset."""
    completed = subprocess.run(
        [DOCKER, "run", "--rm", "--env", "FNET_API_KEYS=", "--env", "FNET_DTYPE=float16", TAG],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert completed.returncode == 2
    assert completed.stderr.splitlines()[-1].startswith("fnet-service: FNET_DTYPE: ")


# === Commands of docs/docker.md ===


@pytest.mark.parametrize(
    "command", re.findall(r"```sh\n(.*?)```", (ROOT / "docs/docker.md").read_text("utf-8"), re.DOTALL)
)
def test_documented_commands_work(command: str, tmp_path: Path) -> None:
    """Commands that start the service make it ready; commands of compose are only validated."""
    command = command.strip().replace("fnet-encode:local", TAG).replace("make image", f"make image IMAGE={IMAGE}")
    if "docker compose" in command:
        (tmp_path / "api_keys").touch()
        command = re.sub(r"\b(up|run --rm fetch)\b.*", "config --quiet", command).replace(
            "./api_keys", f"{tmp_path}/api_keys"
        )
    if "-p 127.0.0.1:8000:8000" not in command:
        subprocess.run(["/bin/sh", "-ec", command], cwd=ROOT, check=True, timeout=900, capture_output=True)
        return
    name = f"fnet-test-{uuid.uuid4().hex[:8]}"
    (tmp_path / "my_fnet").symlink_to(ROOT / "model/bundled/fnet_mini_en")
    command = command.replace("docker run", f"docker run --detach --name {name}").replace("$PWD", str(tmp_path))
    command = command.replace("127.0.0.1:8000:8000", "127.0.0.1::8000").replace("fnet-cache", name)
    try:
        subprocess.run(["/bin/sh", "-ec", command], cwd=ROOT, check=True, timeout=TIMEOUT, capture_output=True)
        end = time.monotonic() + TIMEOUT
        while "ready" not in docker("exec", name, "fnet-service", "health", check=False).split('"'):
            assert time.monotonic() < end, docker("logs", name, check=False)
            time.sleep(0.2)
    finally:
        docker("rm", "--force", "--volumes", name, check=False)
        docker("volume", "rm", "--force", name, check=False)


# === Compose ===


def test_compose_starts_all_services(tmp_path: Path) -> None:
    """All containers become healthy, keys from the environment are required, and Prometheus scrapes the service."""
    override = ["-f", file] if (file := os.environ.get("COMPOSE_OVERRIDE")) else []
    compose = ["compose", "-p", "fnet-test", "-f", "docker-compose.yml", *override]
    environ = {
        "TAG": "test",
        "PORT": "0",
        "PROMETHEUS_PORT": "0",
        "GRAFANA_PORT": "0",
        "FNET_API_KEYS": "sesame",
        "CPUS": "1",
        "PRESETS": str(tmp_path),
    }
    docker("tag", TAG, "fnet-encode:test")
    try:
        docker(*compose, "up", "--detach", "--no-build", "--wait", environ=environ)
        service, prometheus = (
            f"http://{docker(*compose, 'port', name, port, environ=environ)}"
            for name, port in (("fnet-encode", "8000"), ("prometheus", "9090"))
        )
        assert httpx.get(f"{service}/v1/info", timeout=TIMEOUT).status_code == 401
        allowed = httpx.get(f"{service}/v1/info", headers={"X-API-Key": "sesame"}, timeout=TIMEOUT)
        assert allowed.status_code == 200
        end = time.monotonic() + TIMEOUT
        while True:
            targets = httpx.get(f"{prometheus}/api/v1/targets", timeout=TIMEOUT).json()["data"]["activeTargets"]
            up = {target["labels"]["job"] for target in targets if target["health"] == "up"}
            if any("fnet-encode:8000" in target["scrapeUrl"] and target["health"] == "up" for target in targets):
                break
            assert time.monotonic() < end, targets
            time.sleep(0.5)
        rules = httpx.get(f"{prometheus}/api/v1/rules", timeout=TIMEOUT).json()["data"]["groups"]
        assert sum(len(group["rules"]) for group in rules) > 0
        report(f"Prometheus: {', '.join(sorted(up))} up, {sum(len(group['rules']) for group in rules)} rules")
    finally:
        docker(*compose, "down", "--volumes", "--timeout", "40", check=False, environ=environ)
        docker("rmi", "fnet-encode:test", check=False)
