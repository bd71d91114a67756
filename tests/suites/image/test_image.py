"""The image, built and run in a Docker engine as one would in earnest: small rights, small limits, real signals.

`make test-image` runs it against the engine of DOCKER_HOST. BUILD_ARGS go to `docker build`; COMPOSE_OVERRIDE is one
more file for `docker compose`, for machines that have other images than the compose file names.
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
IMAGE = "fnet-encode-tried"
TAG = f"{IMAGE}:local"
MEGABYTE = 1_000_000
# What a careful person gives it.
LIMITS = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "1500m", "--cpus", "1"]
TEXTS = ["a cat sat down", "Interest rates rose by a quarter of a point.", "x " * 300]


def tell(what: str) -> None:
    """Print a figure where a person sees it."""
    print(f"\n    {what}", flush=True)  # noqa: T201 - figures are half of what this is run for


def docker(*arguments: str, check: bool = True, environ: Mapping[str, str] = MappingProxyType({})) -> str:
    """Run the client, which has to succeed unless told otherwise, and return what it writes."""
    ran = subprocess.run(
        [DOCKER, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, **environ},
        cwd=ROOT,
    )
    assert ran.returncode == 0 or not check, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr if not check else ran.stdout.strip()


class Container:
    """A running container of the image.

    Attributes:
        name: Its name.
        began: When it was started, on the monotonic clock.
    """

    def __init__(self, *options: str, command: tuple[str, ...] = ()) -> None:
        self.name = f"fnet-tried-{uuid.uuid4().hex[:8]}"
        self.began = time.monotonic()
        docker("run", "--detach", "--name", self.name, "--publish", "127.0.0.1::8000", *options, TAG, *command)

    @property
    def url(self) -> str:
        """Where its service is reached."""
        return f"http://{docker('port', self.name, '8000/tcp').splitlines()[0]}"

    def inspect(self, path: str) -> Any:
        """Return what the engine knows of it."""
        return json.loads(docker("inspect", "--format", f"{{{{json {path}}}}}", self.name))

    def logs(self) -> str:
        """Return all it wrote."""
        return docker("logs", self.name, check=False)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return its log lines of one event."""
        found = [json.loads(line) for line in self.logs().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == name]

    def inside(self, *command: str) -> str:
        """Run a command in it."""
        return docker("exec", self.name, *command)

    def wait_until(self, condition: Callable[[], Any], seconds: float = TIMEOUT) -> None:
        """Return once a condition holds; the container must not end before, nor the wait last for ever."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.logs()
            assert self.inspect(".State.Running"), self.logs()
            time.sleep(0.05)

    def ready(self) -> float:
        """Wait until it is ready and return the seconds that took from its start."""
        url = self.url

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/health/ready", timeout=TIMEOUT).status_code == 200
            except httpx.TransportError:
                return False

        self.wait_until(answers)
        return time.monotonic() - self.began

    def stop(self) -> tuple[int, float]:
        """Stop it as an operator does, and return its exit code and the seconds it took."""
        began = time.monotonic()
        docker("stop", "--time", "40", self.name)
        return int(self.inspect(".State.ExitCode")), time.monotonic() - began

    def remove(self) -> None:
        """Leave nothing behind."""
        docker("rm", "--force", "--volumes", self.name, check=False)


@pytest.fixture(scope="session", autouse=True)
def image() -> str:
    """The image, made by the project's own target, and its bill of materials."""
    began = time.monotonic()
    ran = subprocess.run(
        [MAKE, "--no-print-directory", "image", f"IMAGE={IMAGE}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    tell(f"made in {time.monotonic() - began:.0f} s")
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
    """A container that is ready."""
    container = start()
    tell(f"ready in {container.ready():.1f} s with one processor, 1500 MB, a read-only root and no cache")
    return container


def in_image(*command: str) -> str:
    """Run a command in a fresh container of the image."""
    return docker("run", "--rm", "--network", "none", "--entrypoint", command[0], TAG, *command[1:])


def pooled(url: str) -> np.ndarray[Any, Any]:
    """Return what a service makes of the texts."""
    outputs = ["pooled_output", "mean_output"]
    body = {"texts": TEXTS, "outputs": outputs, "truncate": True}
    answer = httpx.post(f"{url}/v1/encode", json=body, timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    return np.array([answer.json()[output] for output in outputs], np.float32)


# === What is in it ===


def test_it_is_small() -> None:
    """900 MB at most, in float32 on JAX; what an index serves compressed is far less."""
    size = int(docker("image", "inspect", "--format", "{{.Size}}", TAG)) / MEGABYTE
    tell(f"{size:.0f} MB")
    assert size <= 900


def test_it_says_what_it_is() -> None:
    """By the labels of the Open Container Initiative; nobody's root, and nothing between engine and process."""
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", TAG))
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == "FNet Encode"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] in docker("run", "--rm", TAG, "--version")
    assert re.fullmatch("[0-9a-f]{40}|unknown", labels["revision"])
    assert config["User"] == "10001:10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["fnet-service"], ["serve"])
    assert list(config["ExposedPorts"]) == ["8000/tcp"]


def test_it_holds_nothing_that_builds() -> None:
    """Neither a compiler nor its inputs, no cache of pip, no tests of libraries; licences are there."""
    found = in_image("sh", "-c", "command -v gcc cc make git curl; ls /root/.cache /source /wheels 2>/dev/null; true")
    assert found == ""
    script = "find /opt/fnet -type d -name tests -o -name '*.pxd' -o -name 'hatchling*' -o -name 'pip-*'"
    assert in_image("sh", "-c", script) == ""
    assert int(in_image("sh", "-c", "find /opt/fnet -iname 'licen[cs]e*' | wc -l")) > 40
    bytecode = int(in_image("sh", "-c", "find /opt/fnet -name '*.pyc' -print0 | xargs -0 cat | wc -c")) / MEGABYTE
    tell(f"{bytecode:.0f} MB of bytecode")
    assert bytecode < 40


def test_the_bill_of_materials_names_everything() -> None:
    """Every distribution with the hash of its archive and its licence, and the base image's packages."""
    bill = json.loads((ROOT / "dist/sbom.cdx.json").read_text("utf-8"))
    assert json.loads(in_image("cat", "/usr/share/fnet-encode/sbom.cdx.json")) == bill
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "fnet-encode"
    python = [each for each in bill["components"] if each.get("purl", "").startswith("pkg:pypi/")]
    script = "import importlib.metadata as m; print(*{d.name + '=' + d.version for d in m.distributions()})"
    installed = set(in_image("python", "-c", script).split())
    assert {f"{each['name']}={each['version']}" for each in python} == {
        each for each in installed if not each.startswith("fnet-encode=")
    }
    locked = (ROOT / "requirements/serve.txt").read_text("utf-8")
    for component in python:
        (digest,) = component["hashes"]
        assert f"--hash=sha256:{digest['content']}" in locked, component["name"]
        assert component["licenses"], component["name"]
    debian = [each for each in bill["components"] if each.get("purl", "").startswith("pkg:deb/")]
    listed = in_image("dpkg-query", "--show", "--showformat=${Package}=${Version} ").split()
    assert {f"{each['name']}={each['version']}" for each in debian} == set(listed)
    tell(f"bill of materials: {len(python)} of Python's distributions, {len(debian)} of the base image's packages")


# === How it runs ===


def test_it_encodes_as_anywhere(running: Container, start: Callable[..., Container]) -> None:
    """The same bits with one processor as with two; a process of this machine, whose JAX may be another, is as near."""
    two = start("--cpus", "2")
    two.ready()
    ours = pooled(running.url)
    assert np.array_equal(ours, pooled(two.url))
    two.remove()
    theirs = _pooled_by_a_process_here()
    off = np.abs(ours - theirs).max()
    tell(f"bits equal to those of a process here: {np.array_equal(ours, theirs)}, at most {off:.1e} off")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def _pooled_by_a_process_here() -> np.ndarray[Any, Any]:
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
        found = pooled(url)
        process.terminate()
    return found


def test_it_is_nobody_and_writes_nothing(running: Container) -> None:
    """Not root, no capability, and a cache that cannot be written costs the cache alone."""
    status = running.inside("cat", "/proc/1/status")
    assert re.search(r"^Uid:\s+10001\s+10001\s+10001", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert "read-only" in docker("exec", running.name, "touch", "/var/cache/fnet/x", check=False).lower()
    assert "Traceback" not in running.logs()


def test_it_turns_healthy(running: Container) -> None:
    """By its own command, which needs no other program."""
    running.wait_until(lambda: running.inspect(".State.Health.Status") == "healthy")
    assert json.loads(running.inside("fnet-service", "health"))["state"] == "ready"


def test_threads_follow_the_limit(running: Container) -> None:
    """One processor is one thread of each kind; under load the kernel seldom halts it."""
    processors = os.cpu_count() or 1
    if processors > 1:
        (line,) = running.events("processors limited")
        assert line["processors"] == 1
    names = running.inside("sh", "-c", "cat /proc/1/task/*/comm").split()
    assert names.count("tf_XLAEigen") == 1
    periods, halted = _throttled(running)
    body = {"texts": TEXTS[:2], "outputs": ["pooled_output"]}
    with httpx.Client(base_url=running.url, timeout=TIMEOUT) as client:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert client.post("/v1/encode", json=body).status_code == 200
    more_periods, more_halted = _throttled(running)
    tell(f"one client, 5 s: halted in {more_halted - halted} of {more_periods - periods} periods")
    assert more_halted - halted < (more_periods - periods) / 2


def _throttled(container: Container) -> tuple[int, int]:
    files = "cat /sys/fs/cgroup/cpu.stat /sys/fs/cgroup/cpu/cpu.stat 2>/dev/null"
    found = dict(line.split() for line in container.inside("sh", "-c", f"{files}; true").splitlines())
    return int(found["nr_periods"]), int(found["nr_throttled"])


def test_its_memory_has_a_bound(running: Container) -> None:
    """After long texts by the hundred, from many clients at once, it is far from the limit."""
    body = {"token_ids": [[7 + n] * 512 for n in range(32)], "outputs": ["sequence_output"]}
    with ThreadPoolExecutor(8) as clients:
        answers = list(
            clients.map(
                lambda _: httpx.post(f"{running.url}/v1/encode", json=body, timeout=TIMEOUT).status_code, range(8)
            )
        )
    assert set(answers) == {200}
    found = re.findall(r"^Vm(?:HWM|RSS):\s+(\d+) kB$", running.inside("cat", "/proc/1/status"), re.MULTILINE)
    peak, now = (int(each) / 1000 for each in found)
    tell(f"memory: {now:.0f} MB, at most {peak:.0f} MB")
    assert not running.inspect(".State.OOMKilled")
    assert peak < 1400


def test_a_stop_lets_accepted_work_finish(start: Callable[..., Container]) -> None:
    """SIGTERM as process 1: what is in flight is answered, and the exit code is 0."""
    container = start()
    container.ready()
    body = {"token_ids": [[7 + n] * 512 for n in range(96)], "outputs": ["pooled_output"]}
    with ThreadPoolExecutor(1) as threads, httpx.Client(base_url=container.url, timeout=TIMEOUT) as client:
        in_flight = threads.submit(httpx.post, f"{container.url}/v1/encode", json=body, timeout=TIMEOUT)
        container.wait_until(lambda: "fnet_queue_requests 1.0" in client.get("/metrics").text)
        code, seconds = container.stop()
        assert in_flight.result(TIMEOUT).status_code == 200
    tell(f"stopped with work in flight: exit code {code} after {seconds:.1f} s")
    assert code == 0


def test_it_may_be_stopped_while_it_begins(start: Callable[..., Container]) -> None:
    """Nobody waits for a process that ignores what it does not handle yet."""
    container = start()
    time.sleep(1.0)
    code, seconds = container.stop()
    tell(f"stopped a second after its start: exit code {code} after {seconds:.1f} s")
    assert code == 0
    assert seconds < 20


def test_a_cache_is_kept_in_a_volume(start: Callable[..., Container]) -> None:
    """A volume belongs to the image's user, and the next start finds compiled programs in it."""
    volume = f"fnet-tried-{uuid.uuid4().hex[:8]}"
    options = ("--volume", f"{volume}:/var/cache/fnet")
    try:
        first = start(*options)
        cold = first.ready()
        assert int(first.inside("sh", "-c", "find /var/cache/fnet/xla -type f | wc -l")) > 0
        first.remove()
        second = start(*options)
        tell(f"ready in {cold:.1f} s with an empty cache, and in {second.ready():.1f} s with a full one")
        second.remove()
    finally:
        docker("volume", "rm", "--force", volume, check=False)


def test_a_preset_may_be_mounted(start: Callable[..., Container]) -> None:
    """And the container may run as any user."""
    bundled = ROOT / "model/bundled/fnet_mini_en"
    options = ("--user", "4711:4711", "--volume", f"{bundled}:/presets/mine:ro", "--env", "FNET_PRESET=/presets/mine")
    container = start(*options)
    container.ready()
    assert httpx.get(f"{container.url}/v1/info", timeout=TIMEOUT).json()["preset"] == "fnet_mini_en"
    container.remove()


def test_a_bad_setting_ends_it() -> None:
    """With one line and exit code 2; empty settings, as compose files leave them, are none."""
    ran = subprocess.run(
        [DOCKER, "run", "--rm", "--env", "FNET_API_KEYS=", "--env", "FNET_DTYPE=float16", TAG],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith("fnet-service: FNET_DTYPE: ")


# === What docs/docker.md says ===


@pytest.mark.parametrize(
    "command", re.findall(r"```sh\n(.*?)```", (ROOT / "docs/docker.md").read_text("utf-8"), re.DOTALL)
)
def test_every_command_is_taken(command: str, tmp_path: Path) -> None:
    """Those that start the service bring it up; those of compose are taken as they are, and not carried out."""
    command = command.strip().replace("fnet-encode:local", TAG).replace("make image", f"make image IMAGE={IMAGE}")
    if "docker compose" in command:
        (tmp_path / "api_keys").touch()
        command = re.sub(r"\b(up|run --rm fetch)\b.*", "config --quiet", command).replace(
            "./api_keys", f"{tmp_path}/api_keys"
        )
    if "-p 127.0.0.1:8000:8000" not in command:
        subprocess.run(["/bin/sh", "-ec", command], cwd=ROOT, check=True, timeout=900, capture_output=True)
        return
    name = f"fnet-tried-{uuid.uuid4().hex[:8]}"
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


# === With its neighbours ===


def test_compose_brings_up_all_of_it(tmp_path: Path) -> None:
    """All containers turn healthy, a key from a file is asked for, and Prometheus finds the service, with its rules."""
    override = ["-f", file] if (file := os.environ.get("COMPOSE_OVERRIDE")) else []
    compose = ["compose", "-p", "fnet-tried", "-f", "docker-compose.yml", *override]
    environ = {
        "TAG": "tried",
        "PORT": "0",
        "PROMETHEUS_PORT": "0",
        "GRAFANA_PORT": "0",
        "FNET_API_KEYS": "sesame",
        "CPUS": "1",
        "PRESETS": str(tmp_path),
    }
    docker("tag", TAG, "fnet-encode:tried")
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
            up = {each["labels"]["job"] for each in targets if each["health"] == "up"}
            if any("fnet-encode:8000" in each["scrapeUrl"] and each["health"] == "up" for each in targets):
                break
            assert time.monotonic() < end, targets
            time.sleep(0.5)
        rules = httpx.get(f"{prometheus}/api/v1/rules", timeout=TIMEOUT).json()["data"]["groups"]
        assert sum(len(group["rules"]) for group in rules) > 0
        tell(f"Prometheus: {', '.join(sorted(up))} up, {sum(len(group['rules']) for group in rules)} rules")
    finally:
        docker(*compose, "down", "--volumes", "--timeout", "40", check=False, environ=environ)
        docker("rmi", "fnet-encode:tried", check=False)
