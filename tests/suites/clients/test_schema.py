"""Generated requests verify all routes against the OpenAPI description."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


# A generated X-Request-Timeout may be too short, which gives a 504.
EXPECTED = "[checks.not_a_server_error]\nexpected-statuses = ['2xx', '3xx', '4xx', '504']\n"


def test_responses_match_the_openapi_description(server: Any, tmp_path: Path) -> None:
    """No response is a 500, has an undocumented status, or violates its schema."""
    (tmp_path / "schemathesis.toml").write_text(EXPECTED)
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(tmp_path / "schemathesis.toml"),
        "run",
        f"{server.url}/openapi.json",
        "--checks",
        ",".join(CHECKS),
        "--max-examples",
        "25",
        "--seed",
        "1",
        "--generation-deterministic",
        "--continue-on-failure",
        "--no-color",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:]
