"""A container's share of processor time is read as Linux tells it, and libraries count no more processors than that."""

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

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity to narrow")


def system(directory: Path, group: str, mounts: list[str], files: dict[str, str]) -> Path:
    """Make a `proc` and `sys` that tell of a control group."""
    written = {"proc/self/cgroup": group, "proc/self/mountinfo": "\n".join([OTHER, *mounts]) + "\n", **files}
    for name, content in written.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return directory


@pytest.fixture(autouse=True)
def many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has 16, whatever it has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))


@pytest.mark.parametrize(
    ("limit", "count"),
    [("max 100000", 16), ("100000 100000", 1), ("150000 100000", 2), ("5000 100000", 1), ("6400000 100000", 16)],
)
def test_version_2(tmp_path: Path, limit: str, count: int) -> None:
    """A quota a period; a part of a processor is one, and no more than the machine has."""
    files = {"sys/fs/cgroup/cpu.max": limit + "\n"}
    assert cpu_limits.usable_cpus(system(tmp_path, "0::/\n", [V2.format(root="/")], files)) == count


def test_the_groups_around_it_limit_it_too(tmp_path: Path) -> None:
    """As a pod does its containers, or a slice its services."""
    top = "sys/fs/cgroup"
    files = {f"{top}/a/b/c/cpu.max": "max 100000", f"{top}/a/b/cpu.max": "300000 100000", f"{top}/a/cpu.max": "4 1"}
    assert cpu_limits.usable_cpus(system(tmp_path, "0::/a/b/c\n", [V2.format(root="/")], files)) == 3


@pytest.mark.parametrize(("quota", "count"), [("-1", 16), ("200000", 2), ("250000", 3)])
@pytest.mark.parametrize("root", ["/docker/5a", "/"], ids=["container's own", "machine's"])
def test_version_1(tmp_path: Path, root: str, quota: str, count: int) -> None:
    """Its mount begins at the container's own group, or at the machine's; a quota below 0 is no limit."""
    group = Path("sys/fs/cgroup/cpu") / ("" if root != "/" else "docker/5a")
    files = {f"{group}/cpu.cfs_quota_us": quota, f"{group}/cpu.cfs_period_us": "100000"}
    lines = "9:name=systemd:/docker/5a\n3:cpu,cpuacct:/docker/5a\n0::/docker/5a\n"
    assert cpu_limits.usable_cpus(system(tmp_path, lines, [V1.format(root=root)], files)) == count


def test_a_mount_that_knows_nothing_of_the_group(tmp_path: Path) -> None:
    """Older engines show a container the machine's path of its group and mount the group itself."""
    files = {"sys/fs/cgroup/cpu.max": "200000 100000"}
    group = "0::/../../kubepods/pod1/5a\n"
    assert cpu_limits.usable_cpus(system(tmp_path, group, [V2.format(root="/kubepods/pod1/5a")], files)) == 2


@pytest.mark.parametrize("content", ["", "much", "1", "0 0", "100000 0"])
def test_what_says_nothing_limits_nothing(tmp_path: Path, content: str) -> None:
    """Nor does a system without control groups."""
    files = {"sys/fs/cgroup/cpu.max": content}
    assert cpu_limits.usable_cpus(system(tmp_path, "0::/\n", [V2.format(root="/")], files)) == 16
    assert cpu_limits.usable_cpus(tmp_path / "nothing") == 16


def test_libraries_count_no_more_and_threads_may_run_anywhere_after() -> None:
    """What starts in between sees the limit alone; then all threads, those that began then too, are set free."""
    script = """
import os, sys, tempfile, threading
from pathlib import Path
from service.cli import cpu_limits as cpus

system = Path(tempfile.mkdtemp())
for name, content in {
    "proc/self/cgroup": "0::/\\n",
    "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\\n",
    "sys/fs/cgroup/cpu.max": "100000 100000\\n",
}.items():
    (system / name).parent.mkdir(parents=True, exist_ok=True)
    (system / name).write_text(content)
all_of_them = os.sched_getaffinity(0)
restore_affinity = cpus.limit_affinity(system)
assert len(os.sched_getaffinity(0)) == 1
go, thread = threading.Event(), []
worker = threading.Thread(target=lambda: (go.wait(), thread.append(os.sched_getaffinity(0))))
worker.start()
restore_affinity()
go.set()
worker.join()
assert os.sched_getaffinity(0) == all_of_them == thread[0]
os.sched_setaffinity(0, {min(all_of_them)})
restore_affinity()
assert os.sched_getaffinity(0) == {min(all_of_them)}, "it is done once"
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_without_a_limit_nothing_changes(tmp_path: Path) -> None:
    """No processor is given up, and nothing is to be taken back."""
    cpu_limits.limit_affinity(tmp_path)()
    assert os.sched_getaffinity(0) == set(range(16))
