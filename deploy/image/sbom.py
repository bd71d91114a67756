"""Write the bill of materials of an image as CycloneDX: what is in it, of which archives, under which licences.

usage: sbom.py ENVIRONMENT REPORT DPKG OUT

ENVIRONMENT is the virtual environment of the service, REPORT what `pip install --report` wrote when it was filled,
DPKG where the base image lists its packages. Python's version is this interpreter's: it is to run in the image.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "fnet-encode"
_DPKG_FIELDS = "${Package}\t${Version}\t${Architecture}\n"


def canonical(name: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def environment(directory: Path) -> dict[str, Any]:
    """Return the bill of an environment: components with versions and licences, and what needs what."""
    command = [
        "cyclonedx_py",
        "environment",
        "--output-reproducible",
        "--of",
        "JSON",
        str(directory / "bin" / "python"),
    ]
    written = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if written.returncode:
        sys.exit(f"sbom: {' '.join(command)}: {written.stderr.strip()}")
    bill: dict[str, Any] = json.loads(written.stdout)
    return bill


def archives(report: Path) -> dict[str, str]:
    """Return the SHA-256 of the archive that each distribution was installed from."""
    installed = json.loads(report.read_text("utf-8"))["install"]
    return {
        canonical(each["metadata"]["name"]): each["download_info"]["archive_info"]["hashes"]["sha256"]
        for each in installed
    }


def stated_licence(directory: Path, name: str) -> str | None:
    """Return the licence that a distribution's metadata states in words, for those that name it in no list."""
    for metadata in directory.glob("lib/python*/site-packages/*.dist-info/METADATA"):
        if canonical(metadata.parent.name.split("-")[0]) == canonical(name):
            found = re.search(r"^License(?:-Expression)?: (.+)$", metadata.read_text("utf-8"), re.MULTILINE)
            files = sorted(path.name for path in metadata.parent.rglob("LICEN[CS]E*"))
            return found[1] if found else f"see {', '.join(files)}" if files else None
    return None


def system(dpkg: Path) -> Iterator[dict[str, Any]]:
    """Yield the components that the base image brings."""
    version = platform.python_version()
    yield {
        "type": "platform",
        "bom-ref": f"python=={version}",
        "name": "python",
        "version": version,
        "purl": f"pkg:generic/python@{version}",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
    }
    release = platform.freedesktop_os_release()
    listed = subprocess.run(
        ["dpkg-query", f"--admindir={dpkg}", "--show", f"--showformat={_DPKG_FIELDS}"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines():
        package, version, architecture = line.split("\t")
        distribution = f"{release['ID']}-{release['VERSION_ID']}"
        purl = f"pkg:deb/{release['ID']}/{package}@{version}?arch={architecture}&distro={distribution}"
        yield {"type": "library", "bom-ref": purl, "name": package, "version": version, "purl": purl}


def main(directory: Path, report: Path, dpkg: Path, out: Path) -> None:
    """Write the bill."""
    bill = environment(directory)
    hashes = archives(report)
    for component in bill["components"]:
        name = canonical(component["name"])
        if name in hashes:
            component["hashes"] = [{"alg": "SHA-256", "content": hashes[name]}]
        if not component.get("licenses") and (licence := stated_licence(directory, name)):
            component["licenses"] = [{"license": {"name": licence}}]
    # What the image is for, rather than one of its materials.
    (own,) = (component for component in bill["components"] if canonical(component["name"]) == NAME)
    own.pop("externalReferences", None)
    bill["metadata"]["component"] = {**own, "type": "application"}
    bill["components"] = [component for component in bill["components"] if component is not own] + list(system(dpkg))
    unknown = [
        each["name"]
        for each in bill["components"]
        if each.get("purl", "").startswith("pkg:pypi/") and "hashes" not in each
    ]
    if unknown:
        sys.exit(f"sbom: {', '.join(unknown)}: installed, but not from the lock file")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 5:  # noqa: PLR2004 - four arguments
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
