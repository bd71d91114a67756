"""Commands of the Kubernetes manifests, run locally with other paths."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow.parquet
import yaml

from tests.support.timeouts import TIMEOUT

KUBERNETES = Path(__file__).parents[3] / "deploy/kubernetes"
FILES = 6


def run(command: list[str], **environ: str) -> str:
    """Run a command of this environment, and return its output."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        env={**os.environ, "PATH": path, **environ},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
    ).stdout


def container(path: str, kind: str) -> dict[str, Any]:
    """Return the first container of a pod."""
    pod = yaml.safe_load((KUBERNETES / path).read_text("utf-8"))["spec"]["template"]["spec"]
    return dict(pod[kind][0])


def test_pods_of_the_job_encode_every_file_once(tmp_path: Path) -> None:
    """Each index encodes its share, and all shares together have all files."""
    (tmp_path / "in").mkdir()
    for number in range(FILES):
        lines = [json.dumps({"text": f"text {number} {line}"}) for line in range(3)]
        (tmp_path / "in" / f"part-{number}.jsonl").write_text("\n".join(lines) + "\n")
    encode = container("jobs/encode.yaml", "containers")
    command = [*encode["command"], *(word.replace("/data", str(tmp_path)) for word in encode["args"])]
    completions = yaml.safe_load((KUBERNETES / "jobs/encode.yaml").read_text("utf-8"))["spec"]["completions"]
    outputs: set[str] = set()
    for index in range(completions):
        run(command, JOB_COMPLETION_INDEX=str(index))
        done = {file.name for file in (tmp_path / "out").iterdir()}
        assert done > outputs
        outputs = done
    assert len(outputs) == FILES
    assert {pyarrow.parquet.read_metadata(tmp_path / "out" / name).num_rows for name in outputs} == {3}


def test_init_container_fetches_the_preset_once(tmp_path: Path) -> None:
    """A second run changes no file; the bundled preset replaces that of a hub."""
    fetch = container("components/preset/deployment.yaml", "initContainers")
    assert shutil.which(fetch["command"][0])
    words = [*fetch["command"], *fetch["args"]]
    command = [word.replace("f_net_base_en", "fnet_mini_en").replace("/presets", str(tmp_path)) for word in words]
    printed = run(command, FNET_CACHE_DIR=str(tmp_path / ".cache"))
    assert printed.strip() == str(tmp_path / "fnet_mini_en")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "fnet_mini_en").iterdir()}
    assert "config.json" in {file.name for file in files}
    run(command, FNET_CACHE_DIR=str(tmp_path / ".cache"))
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "fnet_mini_en").iterdir()}
