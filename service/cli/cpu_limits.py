"""How many processors this process may use: a container's limit is a share of time, which libraries do not look at.

They count the processors that they may run on, start a thread on each, and use up a period's share in a moment; then
the kernel halts all of them until the next period.
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
    """Run on no more processors than `usable_cpus` says, until what is returned is called.

    In between libraries are to be loaded and to count. They go on with as many threads after it, which may then run
    anywhere again: several containers on one machine would else end up on the same few processors while others idle.

    Args:
        system: As for `usable_cpus`.

    Returns:
        What lets all threads run where this process could before. Calling it again does nothing.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    count = usable_cpus(system)
    if count >= len(allowed):
        return lambda: None
    # Threads inherit it, and so does what they start.
    os.sched_setaffinity(0, random.sample(sorted(allowed), count))
    log.info("processors limited", usable_cpus=count, of=len(allowed))
    narrowed = True

    def restore_affinity() -> None:
        nonlocal narrowed
        if narrowed:
            narrowed = False
            for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - names are wanted
                with suppress(OSError):  # a thread may just have ended
                    os.sched_setaffinity(int(thread), allowed)

    return restore_affinity


def usable_cpus(system: Path = Path("/")) -> int:
    """Return how many processors this process may use at once, a part of one counted whole.

    The least of what its affinity and its control groups leave, as Linux describes them: `cpu.max` (version 2),
    `cpu.cfs_quota_us` and `cpu.cfs_period_us` (version 1), of its own group and of all those around it.

    Args:
        system: Where `proc` and `sys` are.
    """
    limits = [share for directory in _groups(system) if (share := _share(directory)) is not None]
    return max(1, math.ceil(min([_affinity(), *limits])))


def _affinity() -> int:
    """Return how many processors the process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(system: Path) -> Iterator[Path]:
    """Yield the directories of the control groups that limit this process's time, from its own outwards."""
    own = dict[str, str]()
    for line in _lines(system / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        # Version 2 names no controllers.
        own |= dict.fromkeys(controllers.split(","), path)
    for line in _lines(system / "proc/self/mountinfo"):
        # 36 35 0:30 ROOT MOUNT_POINT options … - TYPE source options
        before, _, after = line.partition(" - ")
        (root, mount), (kind, _, options) = before.split()[3:5], after.split()[:3]
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            top = system / mount.lstrip("/")
            group = PurePosixPath(own.get("" if kind == "cgroup2" else "cpu", "/"))
            # In a container the mount may begin at the container's own group, of whose path it then knows nothing.
            inner = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
            yield from (top / part for part in (inner, *inner.parents) if ".." not in part.parts)


def _share(group: Path) -> float | None:
    """Return how many processors a group may use, `None` where it is not limited or says nothing."""
    quota_and_period = " ".join(_lines(group / "cpu.max")).split()
    if not quota_and_period:
        quota_and_period = [*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us")]
    try:
        quota, period = map(int, quota_and_period)
    except ValueError:  # `max`, or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
