"""The compose file and the Dockerfile, as far as no Docker engine is needed; `make test-image` tries the rest."""

from __future__ import annotations

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OVERRIDES = sorted((ROOT / "deploy/compose").glob("*.yml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
# Where the image listens and keeps things is the image's own business.
FIXED = {"host", "port", "cache_dir"}


def test_every_setting_passes_through() -> None:
    """From the shell or from .env, under its own name."""
    expected = {variable(name) for name in Settings.model_fields if name not in FIXED}
    assert set(SERVICES["fnet-encode"]["environment"]) == expected
    assert set(SERVICES["fetch"]["environment"]) == expected


@pytest.mark.parametrize("name", SERVICES)
def test_containers_may_do_little(name: str) -> None:
    """No capability, nothing written but volumes, nothing gained, and bounds for those that stay."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if "profiles" not in service:
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert [port for port in service["ports"] if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_other_images_are_pinned(name: str) -> None:
    """To a release."""
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_an_override_changes_services_that_exist() -> None:
    """Such as keys from a file, and a GPU."""
    assert OVERRIDES
    for file in OVERRIDES:
        assert set(yaml.safe_load(file.read_text("utf-8"))["services"]) <= set(SERVICES)


@pytest.mark.parametrize("path", re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE))
def test_what_the_dockerfile_copies_is_there(path: str) -> None:
    """And is let through by .dockerignore, which lets through nothing else."""
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"]
    for name in path.split():
        name = name.replace("${EXTRA}", "serve").rstrip("/")  # noqa: PLW2901 - the same name, as the disk has it
        assert (ROOT / name).exists()
        assert any(fnmatch(name, each) or name.startswith(f"{each}/") for each in let_through)


def test_compose_takes_the_file() -> None:
    """All of them, where Docker's compose is at hand; no engine is asked."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed here")
    for more in [[], *([str(each)] for each in OVERRIDES)]:
        files = [part for file in [str(ROOT / "docker-compose.yml"), *more] for part in ("-f", file)]
        ran = subprocess.run([docker, "compose", *files, "config", "-q"], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
