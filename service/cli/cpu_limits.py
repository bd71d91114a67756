"""CPU limits of this process, from its affinity and its control groups.

A container's CPU limit is a share of time. Libraries ignore it and start one thread per processor that the affinity
allows. These threads exhaust the quota early in each period, and the kernel then throttles all of them.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import structlog

log = structlog.get_logger("fnet.cpus")


def limit_affinity(system: Path = Path("/")) -> Callable[[], None]:
    """Limit the affinity of this process to `usable_cpus` processors until the returned function is called.

    Libraries that are loaded in between size their thread pools by the limited affinity. Restoring the affinity
    afterwards prevents that several containers on one machine share a few processors while others idle.

    Args:
        system: Directory that contains `proc` and `sys`.

    Returns:
        A function that restores the previous affinity of all threads. A second call has no effect.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    count = usable_cpus(system)
    if count >= len(allowed):
        return lambda: None
    # Threads and child processes inherit the affinity.
    os.sched_setaffinity(0, random.sample(sorted(allowed), count))
    log.info("CPU affinity limited", usable_cpus=count, available_cpus=len(allowed))
    limited = True

    def restore_affinity() -> None:
        nonlocal limited
        if limited:
            limited = False
            for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - the names are the thread ids
                with suppress(OSError):  # the thread may have ended
                    os.sched_setaffinity(int(thread), allowed)

    return restore_affinity


def usable_cpus(system: Path = Path("/")) -> int:
    """Return the number of processors that this process may use, rounded up.

    The result is the minimum over the affinity and the quotas of the process's control group and its ancestors:
    `cpu.max` (version 2), or `cpu.cfs_quota_us` and `cpu.cfs_period_us` (version 1).

    Args:
        system: Directory that contains `proc` and `sys`.
    """
    quotas = [quota for directory in _groups(system) if (quota := _quota(directory)) is not None]
    return max(1, math.ceil(min([_affinity(), *quotas])))


def _affinity() -> int:
    """Return the number of processors in the affinity of this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(system: Path) -> Iterator[Path]:
    """Yield the directories of the control groups of this process, from its own group to the root."""
    group_paths = dict[str, str]()
    for line in _lines(system / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        # A version 2 line has an empty list of controllers.
        group_paths |= dict.fromkeys(controllers.split(","), path)
    for line in _lines(system / "proc/self/mountinfo"):
        # 36 35 0:30 ROOT MOUNT_POINT options … - TYPE source options
        before, _, after = line.partition(" - ")
        (root, mount), (kind, _, options) = before.split()[3:5], after.split()[:3]
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            top = system / mount.lstrip("/")
            group = PurePosixPath(group_paths.get("" if kind == "cgroup2" else "cpu", "/"))
            # In a container the mount may start at the container's own group, so the path is not relative to its root.
            inner = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
            yield from (top / part for part in (inner, *inner.parents) if ".." not in part.parts)


def _quota(group: Path) -> float | None:
    """Return the CPU quota of a control group in processors, or None if it has no limit."""
    quota_and_period = " ".join(_lines(group / "cpu.max")).split()
    if not quota_and_period:
        quota_and_period = [*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us")]
    try:
        quota, period = map(int, quota_and_period)
    except ValueError:  # the value `max`, or missing files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
