"""Write the CycloneDX bill of materials of an image: its packages with archive hashes and licenses.

usage: sbom.py ENVIRONMENT REPORT DPKG OUT

ENVIRONMENT is the virtual environment of the service. REPORT is the report of its `pip install --report`. DPKG is the
package database of the base image. The program must run in the image, because it records this interpreter's version.
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
    """Return the normalized name of a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()


def environment(directory: Path) -> dict[str, Any]:
    """Return the bill of an environment: components with versions and licenses, and their dependencies."""
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


def stated_license(directory: Path, name: str) -> str | None:
    """Return the license text of a distribution's metadata, for distributions without a license identifier."""
    for metadata in directory.glob("lib/python*/site-packages/*.dist-info/METADATA"):
        if canonical(metadata.parent.name.split("-")[0]) == canonical(name):
            found = re.search(r"^License(?:-Expression)?: (.+)$", metadata.read_text("utf-8"), re.MULTILINE)
            files = sorted(path.name for path in metadata.parent.rglob("LICEN[CS]E*"))
            return found[1] if found else f"see {', '.join(files)}" if files else None
    return None


def system(dpkg: Path) -> Iterator[dict[str, Any]]:
    """Yield the components of the base image."""
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
    """Write the bill of materials."""
    bill = environment(directory)
    hashes = archives(report)
    for component in bill["components"]:
        name = canonical(component["name"])
        if name in hashes:
            component["hashes"] = [{"alg": "SHA-256", "content": hashes[name]}]
        if not component.get("licenses") and (license_name := stated_license(directory, name)):
            component["licenses"] = [{"license": {"name": license_name}}]
    # The service is the subject of the bill, not one of its components.
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
