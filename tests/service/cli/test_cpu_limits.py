"""CPU limits: control groups of both versions are read, and the affinity is limited and restored."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli import cpu_limits

V2 = "30 24 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
V1 = "84 83 0:29 {root} /sys/fs/cgroup/cpu ro,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHER = "22 1 254:0 / / rw,relatime - ext4 /dev/root rw"

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")


def system(directory: Path, group: str, mounts: list[str], files: dict[str, str]) -> Path:
    """Write `proc` and `sys` files that describe a control group, and return their directory."""
    contents = {"proc/self/cgroup": group, "proc/self/mountinfo": "\n".join([OTHER, *mounts]) + "\n", **files}
    for name, content in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return directory


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report an affinity of 16 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))


@pytest.mark.parametrize(
    ("limit", "count"),
    [("max 100000", 16), ("100000 100000", 1), ("150000 100000", 2), ("5000 100000", 1), ("6400000 100000", 16)],
)
def test_version_2_quota(tmp_path: Path, limit: str, count: int) -> None:
    """The quota is rounded up to processors, and limited by the affinity."""
    files = {"sys/fs/cgroup/cpu.max": limit + "\n"}
    assert cpu_limits.usable_cpus(system(tmp_path, "0::/\n", [V2.format(root="/")], files)) == count


def test_ancestor_groups_limit_too(tmp_path: Path) -> None:
    """The lowest quota of the group and its ancestors applies."""
    top = "sys/fs/cgroup"
    files = {f"{top}/a/b/c/cpu.max": "max 100000", f"{top}/a/b/cpu.max": "300000 100000", f"{top}/a/cpu.max": "4 1"}
    assert cpu_limits.usable_cpus(system(tmp_path, "0::/a/b/c\n", [V2.format(root="/")], files)) == 3


@pytest.mark.parametrize(("quota", "count"), [("-1", 16), ("200000", 2), ("250000", 3)])
@pytest.mark.parametrize("root", ["/docker/5a", "/"], ids=["container", "host"])
def test_version_1_quota(tmp_path: Path, root: str, quota: str, count: int) -> None:
    """The mount starts at the group of the container or of the host; a negative quota is no limit."""
    group = Path("sys/fs/cgroup/cpu") / ("" if root != "/" else "docker/5a")
    files = {f"{group}/cpu.cfs_quota_us": quota, f"{group}/cpu.cfs_period_us": "100000"}
    lines = "9:name=systemd:/docker/5a\n3:cpu,cpuacct:/docker/5a\n0::/docker/5a\n"
    assert cpu_limits.usable_cpus(system(tmp_path, lines, [V1.format(root=root)], files)) == count


def test_mount_root_outside_the_group_path(tmp_path: Path) -> None:
    """Older container engines mount the group itself and show its path on the host."""
    files = {"sys/fs/cgroup/cpu.max": "200000 100000"}
    group = "0::/../../kubepods/pod1/5a\n"
    assert cpu_limits.usable_cpus(system(tmp_path, group, [V2.format(root="/kubepods/pod1/5a")], files)) == 2


@pytest.mark.parametrize("content", ["", "much", "1", "0 0", "100000 0"])
def test_invalid_or_missing_quota_is_no_limit(tmp_path: Path, content: str) -> None:
    """Invalid quotas and missing control groups are no limit."""
    files = {"sys/fs/cgroup/cpu.max": content}
    assert cpu_limits.usable_cpus(system(tmp_path, "0::/\n", [V2.format(root="/")], files)) == 16
    assert cpu_limits.usable_cpus(tmp_path / "nothing") == 16


def test_affinity_is_limited_then_restored_for_all_threads() -> None:
    """Threads that start while the affinity is limited also get the previous affinity back."""
    script = """
import os, sys, tempfile, threading
from pathlib import Path
from service.cli import cpu_limits

system = Path(tempfile.mkdtemp())
for name, content in {
    "proc/self/cgroup": "0::/\\n",
    "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\\n",
    "sys/fs/cgroup/cpu.max": "100000 100000\\n",
}.items():
    (system / name).parent.mkdir(parents=True, exist_ok=True)
    (system / name).write_text(content)
all_cpus = os.sched_getaffinity(0)
restore_affinity = cpu_limits.limit_affinity(system)
assert len(os.sched_getaffinity(0)) == 1
restored, affinities = threading.Event(), []
worker = threading.Thread(target=lambda: (restored.wait(), affinities.append(os.sched_getaffinity(0))))
worker.start()
restore_affinity()
restored.set()
worker.join()
assert os.sched_getaffinity(0) == all_cpus == affinities[0]
os.sched_setaffinity(0, {min(all_cpus)})
restore_affinity()
assert os.sched_getaffinity(0) == {min(all_cpus)}, "a second call has no effect"
"""
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert completed.returncode == 0, completed.stderr


def test_affinity_is_unchanged_without_a_limit(tmp_path: Path) -> None:
    """The affinity stays the same before and after restoring."""
    cpu_limits.limit_affinity(tmp_path)()
    assert os.sched_getaffinity(0) == set(range(16))
