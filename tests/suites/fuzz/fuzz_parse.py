"""Coverage-guided fuzzing of the parsers of all protocols: a parsed request, or a client error.

    make fuzz [SECONDS=60]

The first byte of an input selects the protocol. Any other exception, or a run of more than a second, is a finding;
atheris then writes the input to a file and ends with an exit code other than 0.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore] # in an environment of its own

with atheris.instrument_imports(include=["service"]):
    from service.core.errors import ServiceError
    from service.protocols import native, oip, openai, tei

_MOST = 64
_SECONDS = 1.0


def _oip(body: bytes) -> None:
    """Use one byte as the size of the JSON."""
    length = str(body[0] * 8) if body and body[0] else None
    oip.parse(body[1:], length, _MOST)


TARGETS = (
    lambda body: native.parse(body, "application/json", _MOST),
    lambda body: native.parse(body, "application/x-npz", _MOST),
    lambda body: openai.parse(body, _MOST),
    lambda body: tei.parse_embed(body, _MOST),
    lambda body: tei.parse_embed_all(body, _MOST),
    _oip,
)
FIELDS = [
    *("texts", "token_ids", "segment_ids", "outputs", "normalize", "truncate", "padding", "encoding_format"),
    *("model", "input", "dimensions", "user", "inputs", "truncation_direction", "prompt_name", "parameters"),
    *("id", "name", "shape", "datatype", "data", "binary_data_size", "binary_data_output", "timeout"),
]
WORDS = ["float", "base64", "pooled_output", "sequence_output", "INT32", "INT64", "BYTES", "Left", "none", "max_length"]
SEEDS = (
    b'\x00{"texts": ["a", ["b", "c"]], "outputs": ["pooled_output"], "normalize": true, "padding": 8}',
    b'\x00{"token_ids": [[4, 5], [6]], "segment_ids": [[0, 1], [0]], "encoding_format": "base64"}',
    b'\x02{"model": "m", "input": ["a", "b"], "encoding_format": "float", "dimensions": 8, "user": "u"}',
    b'\x02{"model": "m", "input": [[1, 2], [3]]}',
    b'\x03{"inputs": ["a", "b"], "normalize": true, "truncate": true, "truncation_direction": "Right"}',
    b'\x04{"inputs": [[1, 2], [3]]}',
    b'\x05\x00{"id": "1", "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}',
    (
        b'\x05\x10{"inputs": [{"name": "token_ids", "shape": [1, 2], "datatype": "INT32", '
        b'"parameters": {"binary_data_size": 8}}]}      \x01\x00\x00\x00\x02\x00\x00\x00'
    ),
)


def _structured(data: bytes) -> bytes:
    """Return a body with known fields and any values, because random bytes are rarely JSON."""
    choose = atheris.FuzzedDataProvider(data)

    def value(depth: int) -> object:
        kind = choose.ConsumeIntInRange(0, 9)
        if kind < 3 and depth:
            return [value(depth - 1) for _ in range(choose.ConsumeIntInRange(0, 4))]
        if kind == 3 and depth:
            return {choose.PickValueInList(FIELDS): value(depth - 1) for _ in range(choose.ConsumeIntInRange(0, 6))}
        return (
            choose.ConsumeIntInRange(-2, 70_000),
            choose.ConsumeFloat(),
            choose.ConsumeUnicode(12),
            choose.PickValueInList(WORDS),
            choose.ConsumeBool(),
            None,
            choose.ConsumeInt(10),
        )[kind % 7]

    fields = {choose.PickValueInList(FIELDS): value(4) for _ in range(choose.ConsumeIntInRange(1, 6))}
    return json.dumps(fields).encode("utf-8", "surrogatepass")


def one(data: bytes) -> None:
    """Run one input."""
    if not data:
        return
    body = _structured(data[1:]) if data[0] & 128 else data[1:]
    began = time.perf_counter()
    with contextlib.suppress(ServiceError):
        TARGETS[(data[0] & 127) % len(TARGETS)](body)
    if time.perf_counter() - began > _SECONDS:
        raise TimeoutError(f"{len(data)} bytes took {time.perf_counter() - began:.1f} s")


def main() -> None:
    """Run the fuzzer; the first directory argument gets the seeds and the corpus."""
    for number, seed in enumerate(SEEDS):
        for directory in (Path(argument) for argument in sys.argv[1:] if Path(argument).is_dir()):
            (directory / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
