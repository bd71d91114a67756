"""Bulk encoding: formats of inputs and outputs, invalid rows, and resumption of interrupted jobs."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as arrow
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from service.bulk.chunks import ChunkResult, ChunkStore, JobError, split_rows
from service.bulk.encoders import EncoderFingerprint, LocalEncoder, RemoteEncoder
from service.bulk.readers import Format, InputError, Reader, format_of
from service.bulk.rows import Row
from service.cli.main import main
from service.client import AsyncClient
from service.core.engine import Engine
from service.core.inputs import Text
from tests.support.bundled import POISON, VOCABULARY
from tests.support.forked import Command
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.service.conftest import Service

COMMAND = Path(sysconfig.get_path("scripts")) / "fnet-service"
# Maximum text of a chunk.
CHUNK_BYTES = 1 << 20
TEXTS = ["a cat sat down", "", "interest rates rose again", "Zürich 東京 🦆", "a cat sat down", " spaces  within "]

Encode = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def encode(tiny_preset: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """Run the command in a directory of the test, and require an exit code."""
    sent, out, err = (tmp_path_factory.mktemp("streams") / name for name in ("in", "out", "err"))

    def run(*arguments: str, code: int = 0, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
        sent.write_bytes(stdin)
        environ = environment(tiny_preset, **environ)
        command = Command(["encode", *arguments], tmp_path, environ, stdin=sent, stdout=out, stderr=err)
        exit_code = command.wait()
        errors = err.read_bytes()
        assert exit_code == code, errors.decode()
        assert b"Traceback" not in errors
        return subprocess.CompletedProcess(arguments, exit_code, out.read_bytes(), errors)

    return run


def environment(preset: Path, **more: str) -> dict[str, str]:
    """Return an environment that selects a preset and a small batch."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
    return {**inherited, "FNET_PRESET": str(preset), "FNET_MAX_BATCH_TOKENS": "64", **more}


def rows(name: str, format_: Format | None = None, field: str = "text") -> list[Row]:
    """Read all rows of an input."""
    with Reader.open(name, format_, field) as reader:
        return list(reader)


def array(path: Path) -> npt.NDArray[Any]:
    """Read an array."""
    loaded: npt.NDArray[Any] = np.load(path)
    return loaded


def expected(service: Service, **request: Any) -> dict[str, Any]:
    """Return the response of `/v1/encode`."""
    response = service.encode(**request)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


# === Reading ===


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.txt", "text"),
        ("a", "text"),
        ("a.md", "text"),
        ("a.jsonl", "jsonl"),
        ("a.JSONL", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.csv", "csv"),
        ("a.tsv", "tsv"),
        ("a.parquet", "parquet"),
        ("-", "text"),
    ],
)
def test_format_follows_from_the_suffix(name: str, format_: Format) -> None:
    """The suffix `.gz` is ignored, and an unknown suffix is text."""
    assert format_of(name) == format_


# A line contains every character but a line break.
line_texts = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20).filter(
    lambda text: not text.endswith("\r")
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(line_texts, max_size=8),
    line_break=st.sampled_from(["\n", "\r\n"]),
    final_break=st.booleans(),
    byte_order_mark=st.booleans(),
    gzipped=st.booleans(),
)
def test_each_line_is_a_row(
    tmp_path: Path,
    texts: list[str],
    line_break: str,
    *,
    final_break: bool,
    byte_order_mark: bool,
    gzipped: bool,
) -> None:
    """Empty lines are rows; line breaks, a final line break and a byte order mark are accepted."""
    if texts and texts[0].startswith("\ufeff"):
        return  # a leading U+FEFF is read as a byte order mark
    content = line_break.join(texts) + (line_break if texts and (final_break or not texts[-1]) else "")
    data = (b"\xef\xbb\xbf" if byte_order_mark and content else b"") + content.encode()
    file = tmp_path / ("a.txt.gz" if gzipped else "a.txt")
    file.write_bytes(gzip.compress(data) if gzipped else data)
    assert [row.text for row in rows(str(file))] == [Text(text) for text in texts]


def test_gzip_is_detected_by_content(tmp_path: Path) -> None:
    """The magic number decides, regardless of the suffix."""
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"one\ntwo\n"))
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"id,text\n1,three\n"))
    assert [row.text for row in rows(str(tmp_path / "a.txt"))] == [Text("one"), Text("two")]
    assert [row.text for row in rows(str(tmp_path / "a.csv"))] == [Text("three")]
    (tmp_path / "b.txt").write_bytes(b"\x1f")  # the first byte of the magic number alone is text
    assert [row.text for row in rows(str(tmp_path / "b.txt"))] == [Text("\x1f")]


@given(
    values=st.lists(
        st.fixed_dictionaries({"text": st.text(st.characters(codec="utf-8"), max_size=12)})
        | st.fixed_dictionaries({"text": st.tuples(st.text(max_size=5), st.text(max_size=5))})
        | st.fixed_dictionaries({"token_ids": st.lists(st.integers(-5, 1 << 40), max_size=5)})
        | st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3)),
        max_size=6,
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_json_line_is_a_row_or_an_error(tmp_path: Path, values: list[Any]) -> None:
    """Blank lines are skipped, and all other lines keep their line numbers."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n \n".join(json.dumps(value).encode() for value in values))
    parsed = rows(str(file))
    assert [(row.number, row.line) for row in parsed] == [(number, 2 * number + 1) for number in range(len(values))]
    for row, value in zip(parsed, values, strict=True):
        match value:
            case {"text": str(text)}:
                assert row.text == Text(text)
            case {"token_ids": ids}:
                assert row.token_ids == ids
            case {"text": pair} if "\ud800" not in repr(pair):
                assert row.text == Text(*pair)
            case _:
                assert row.error


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"texts": "a"}', "expected one of 'text' and 'token_ids', received neither"),
        (b'{"text": "a", "token_ids": [1]}', "received both"),
        (b'{"text": "a", "token_ids": []}', "received both"),
        (b'{"text": 7}', "text: expected a text or a pair of texts"),
        (b'{"token_ids": [1.5]}', "token_ids: expected a list of integers"),
        (b'{"token_ids": [true]}', "token_ids: expected a list of integers"),
        (b'{"token_ids": [1], "segment_ids": 0}', "segment_ids: expected a list of integers"),
    ],
)
def test_error_names_the_reason(tmp_path: Path, line: bytes, error: str) -> None:
    """The rows before and after an invalid one are read."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "two"}\n')
    first, invalid, last = rows(str(file))
    assert (first.text, last.text) == (Text("one"), Text("two"))
    assert error in (invalid.error or "")


def test_column_is_read(tmp_path: Path) -> None:
    """CSV and TSV have quotes and line breaks; Parquet has texts, pairs or token ids."""
    (tmp_path / "a.csv").write_bytes(b'id,body\n1,one\n2,"two\n lines, ""quoted"""\n3\n')
    first, second, third = rows(str(tmp_path / "a.csv"), field="body")
    assert (first.text, second.text) == (Text("one"), Text('two\n lines, "quoted"'))
    assert third.error
    (tmp_path / "a.tsv").write_text("body\tid\nx, y\t1\n")
    assert [row.text for row in rows(str(tmp_path / "a.tsv"), field="body")] == [Text("x, y")]
    parquet.write_table(arrow.table({"body": ["a", None, "b"]}), tmp_path / "a.parquet")
    parsed = rows(str(tmp_path / "a.parquet"), field="body")
    assert [row.text for row in parsed] == [Text("a"), None, Text("b")]
    assert parsed[1].error
    parquet.write_table(arrow.table({"token_ids": [[1, 2], [3]]}), tmp_path / "ids.parquet")
    assert [row.token_ids for row in rows(str(tmp_path / "ids.parquet"))] == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.txt", None, "No such file"),
        ("a.csv", b"id,title\n1,x\n", "no column 'text'; use --field with one of: 'id', 'title'"),
        ("a.csv", b"", "no column 'text'; use --field with one of: none"),
        ("a.parquet", b"PAR1", "not readable as Parquet"),
        ("a.txt.gz", b"no gzip", "gzip"),
    ],
)
def test_unreadable_input_is_one_line(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    """The message names the file and the reason."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        rows(str(tmp_path / name))
    assert expected in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_oversized_line_is_an_error(tmp_path: Path) -> None:
    """The line is not read into memory, and the next line is a row."""
    (tmp_path / "a.txt").write_bytes(b"one\n" + b"x" * (20 << 20) + b"\ntwo")
    first, long_line, last = rows(str(tmp_path / "a.txt"))
    assert (first.text, last.text) == (Text("one"), Text("two"))
    assert "exceeds" in (long_line.error or "")


# === Chunks ===


@given(sizes=st.lists(st.integers(0, 300_000), max_size=40), sequences=st.booleans(), max_rows=st.integers(1, 50))
@settings(deadline=None)
def test_chunks_depend_only_on_the_rows(sizes: list[int], sequences: bool, max_rows: int) -> None:  # noqa: FBT001 - drawn
    """Chunks contain all rows in order, are bounded in size, and are the same each time."""
    generated = [Row(number, number + 1, text=Text("x" * size)) for number, size in enumerate(sizes)]
    chunks = list(split_rows(generated, sequences=sequences, max_rows=max_rows))
    assert [row for chunk in chunks for row in chunk.rows] == generated
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert sum(row.size for row in chunk.rows[:-1]) < (1 << 20)
        assert len(chunk.rows) <= max_rows
    repeated = split_rows(iter(generated), sequences=sequences, max_rows=max_rows)
    assert [chunk.digest for chunk in repeated] == [chunk.digest for chunk in chunks]


def chunk_result(digest: str = "d") -> ChunkResult:
    """Return the results of a small chunk."""
    return ChunkResult(
        digest=digest,
        rows=np.arange(2),
        lengths=np.array([3, 0], np.int32),
        outputs={"pooled_output": np.ones((2, 4), np.float32)},
        errors={1: (2, "invalid: ü")},
    )


def test_chunks_are_stored(tmp_path: Path) -> None:
    """Stored chunks are read in order by a later run with the same options."""
    store = ChunkStore(tmp_path / "out.part")
    store.open({"a": 1}, restart=False)
    store.add(chunk_result("one"))
    store.add(chunk_result("two"))
    store.release()
    resumed = ChunkStore(tmp_path / "out.part")
    resumed.open({"a": 1}, restart=False)
    first, second = resumed
    assert (first.digest, second.digest, first.errors) == ("one", "two", {1: (2, "invalid: ü")})
    assert np.array_equal(first.outputs["pooled_output"], chunk_result().outputs["pooled_output"])
    with pytest.raises(JobError, match="is locked by another process"):
        ChunkStore(tmp_path / "out.part").open({"a": 1}, restart=True)
    resumed.release()
    with pytest.raises(JobError, match="different a; use --restart"):
        ChunkStore(tmp_path / "out.part").open({"a": 2}, restart=False)
    other = ChunkStore(tmp_path / "out.part")
    other.open({"a": 2}, restart=True)
    assert list(other) == []
    other.release()


def test_damaged_chunk_is_an_error(tmp_path: Path) -> None:
    """A damaged file is not read as a result."""
    store = ChunkStore(tmp_path / "out.part")
    store.open({}, restart=False)
    store.add(chunk_result())
    (file,) = (tmp_path / "out.part").glob("*.npz")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(JobError, match="damaged"):
        store.read(0)
    store.release()


def test_chunks_without_a_job_are_discarded(tmp_path: Path) -> None:
    """An interrupted removal may leave chunks without their job."""
    store = ChunkStore(tmp_path / "out.part")
    store.open({"a": 1}, restart=False)
    store.add(chunk_result())
    store.release()
    (tmp_path / "out.part" / "job.json").unlink()
    other = ChunkStore(tmp_path / "out.part")
    other.open({"a": 2}, restart=False)
    assert (other.count, list(other)) == (0, [])
    other.release()


def test_job_without_chunks_is_replaced(tmp_path: Path) -> None:
    """A run with other options may use the directory if no chunk is stored."""
    store = ChunkStore(tmp_path / "out.part")
    store.open({"a": 1}, restart=False)
    store.release()
    for _ in range(2):
        other = ChunkStore(tmp_path / "out.part")
        other.open({"a": 2}, restart=False)
        other.release()
    assert json.loads((tmp_path / "out.part" / "job.json").read_text()) == {"a": 2}


def test_damaged_job_file_is_an_error(tmp_path: Path) -> None:
    """The message is one line."""
    (tmp_path / "job.json").write_bytes(b"")
    (tmp_path / "00000000.npz").write_bytes(b"")
    with pytest.raises(JobError, match=r"job\.json is damaged; use --restart"):
        ChunkStore(tmp_path).open({}, restart=False)


@pytest.fixture
def describe(make_engine: Callable[..., Engine]) -> Callable[..., EncoderFingerprint]:
    """Return a function that loads a preset with engine options and returns its fingerprint."""

    def run(preset: Path, **options: Any) -> EncoderFingerprint:
        return asyncio.run(LocalEncoder(make_engine(preset, **options)).describe())

    return run


def edit(file: Path, *keys: str, value: Any) -> None:
    """Set a value somewhere in a JSON document."""
    document = json.loads(file.read_text())
    target = document
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    file.write_text(json.dumps(document))


def differing(one: EncoderFingerprint, other: EncoderFingerprint) -> set[str]:
    """Return the names of the fields in which two fingerprints differ."""
    first, second = dataclasses.asdict(one), dataclasses.asdict(other)
    return {name for name in first if first[name] != second[name]}


@pytest.fixture
def short_preset(smallest_preset: Path, tiny_preset: Path, tmp_path: Path) -> Path:
    """Copy a preset with a tokenizer and a single row length."""
    directory = Path(shutil.copytree(smallest_preset, tmp_path / "short_en"))
    for name in ("tokenizer.json", "preprocessor.json"):
        shutil.copy(tiny_preset / name, directory / name)
    shutil.copytree(tiny_preset / "assets", directory / "assets")
    return directory


def test_fingerprint_has_every_option_that_changes_bits(
    describe: Callable[..., EncoderFingerprint], short_preset: Path
) -> None:
    """Each option that changes the bits of outputs changes the fingerprint."""
    fingerprint = describe(short_preset)
    assert fingerprint == describe(short_preset)
    assert differing(fingerprint, describe(short_preset, load_weights=False)) == {"load_weights", "digest"}
    assert differing(fingerprint, describe(short_preset, batch_invariant=False)) == {"batch_invariant"}
    assert differing(fingerprint, describe(short_preset, max_batch_tokens=32)) == {"max_batch_tokens"}
    assert "dtype" in differing(fingerprint, describe(short_preset, dtype="bfloat16"))
    assert differing(fingerprint, describe(short_preset, pooling="mean")) == {"pooling"}


def test_fingerprint_has_all_of_the_preset_that_changes_bits(
    describe: Callable[..., EncoderFingerprint], short_preset: Path
) -> None:
    """Vocabulary, truncation, padding and sizes change the fingerprint."""
    fingerprint = describe(short_preset)
    edit(short_preset / "metadata.json", "fnet_service", "padding", value=12)
    assert differing(fingerprint, describe(short_preset)) == {"padding"}
    edit(short_preset / "metadata.json", "fnet_service", "padding", value=16)
    edit(short_preset / "preprocessor.json", "config", "truncate", value="waterfall")
    assert differing(fingerprint, describe(short_preset)) == {"tokenizer"}
    edit(short_preset / "preprocessor.json", "config", "truncate", value="round_robin")
    assert describe(short_preset) == fingerprint
    # A field that SentencePiece does not know, of one byte.
    with (short_preset / "assets" / "tokenizer" / "vocabulary.spm").open("ab") as vocabulary:
        vocabulary.write(b"\xc2\x0c\x01x")
    assert differing(fingerprint, describe(short_preset)) == {"tokenizer"}
    random = describe(short_preset, load_weights=False)
    edit(short_preset / "config.json", "config", "num_layers", value=1)
    assert differing(random, describe(short_preset, load_weights=False)) == {"architecture"}


# === The command ===


def test_every_format_has_the_vectors_of_the_service(encode: Encode, service: Service, tmp_path: Path) -> None:
    """All formats have the bits of `/v1/encode`, row by row."""
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    outputs = ["pooled_output", "mean_output", "sequence_output"]
    response = expected(service, texts=TEXTS, outputs=outputs, normalize=True)
    pooled = np.array(response["pooled_output"], np.float32)
    sequences = [np.array(output, np.float32) for output in response["sequence_output"]]
    all_outputs = [word for name in outputs for word in ("--outputs", name)]
    encode("in.txt", "-o", "out.npy", "--normalize")
    loaded = array(tmp_path / "out.npy")
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, pooled)
    encode("in.txt", "-o", "out.npz", "--normalize", *all_outputs)
    with np.load(tmp_path / "out.npz") as archive:
        assert np.array_equal(archive["pooled_output"], pooled)
        assert np.array_equal(archive["mean_output"], np.array(response["mean_output"], np.float32))
        assert np.array_equal(archive["sequence_output"], np.concatenate(sequences))
        assert archive["lengths"].tolist() == [len(sequence) for sequence in sequences]
    encode("in.txt", "-o", "out.jsonl", "--normalize", *all_outputs)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(len(TEXTS)))
    assert np.array_equal(np.array([line["pooled_output"] for line in lines], np.float32), pooled)
    assert np.array_equal(np.array(lines[3]["sequence_output"], np.float32), sequences[3])
    encode("in.txt", "-o", "out.parquet", "--normalize", *all_outputs)
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert np.array_equal(np.array([row["pooled_output"] for row in table], np.float32), pooled)
    assert np.array_equal(np.array(table[2]["sequence_output"], np.float32), sequences[2])
    assert not list(tmp_path.glob("*.part"))


def test_standard_streams(encode: Encode, service: Service) -> None:
    """Texts and token ids from standard input become JSON lines, and the summary goes to standard error."""
    objects = [{"text": "a cat"}, {"token_ids": [4, 99, 5], "segment_ids": [0, 1, 1]}, {"text": ["a", "pair"]}]
    completed = encode("-", "--input-format", "jsonl", stdin="\n".join(map(json.dumps, objects)).encode())
    lines = [json.loads(line) for line in completed.stdout.splitlines()]
    ids = expected(service, token_ids=[[4, 99, 5]], segment_ids=[[0, 1, 1]], outputs=["pooled_output"])
    texts = expected(service, texts=["a cat", ["a", "pair"]], outputs=["pooled_output"])
    assert [line["row"] for line in lines] == [0, 1, 2]
    assert lines[1]["pooled_output"] == ids["pooled_output"][0]
    assert [lines[0]["pooled_output"], lines[2]["pooled_output"]] == texts["pooled_output"]
    assert b"3 rows" in completed.stderr


def test_standard_input_may_be_gzipped(encode: Encode) -> None:
    """The output equals that of the plain input."""
    text = "\n".join(TEXTS).encode()
    assert encode("-", stdin=gzip.compress(text)).stdout == encode("-", stdin=text).stdout != b""


def test_invalid_row_ends_the_run_or_is_skipped(encode: Encode, tmp_path: Path) -> None:
    """The error has the line and the reason; a skipped row is listed and keeps its index."""
    long = " ".join(["word"] * 100)
    objects = [{"text": "good"}, {"text": long}, {"token_ids": [4, VOCABULARY]}, {"text": "better"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, objects)))
    failed = encode("in.jsonl", "-o", "out.npy", code=1)
    assert failed.stderr.decode().startswith(
        'fnet-service: in.jsonl: line 2: text: 102 tokens exceed the maximum of 64; set "truncate": true;'
    )
    assert not (tmp_path / "out.npy").exists()
    completed = encode("in.jsonl", "-o", "out.npy", "--on-error", "skip")
    assert b"2 invalid rows, listed in out.npy.skipped.jsonl" in completed.stderr
    assert np.isnan(array(tmp_path / "out.npy")).any(axis=1).tolist() == [False, True, True, False]
    listed = [json.loads(line) for line in (tmp_path / "out.npy.skipped.jsonl").read_text().splitlines()]
    assert [(record["row"], record["line"]) for record in listed] == [(1, 2), (2, 3)]
    assert listed[1]["reason"] == f"token_ids[1]: token id {VOCABULARY} is outside [0, {VOCABULARY})"
    assert b"line 1" in encode("in.jsonl", "-o", "out.parquet", "--field", "body", code=1).stderr
    encode("in.jsonl", "-o", "out.parquet", "--on-error", "skip", "--truncate")
    vectors = parquet.read_table(tmp_path / "out.parquet").column("pooled_output").to_pylist()
    assert [vector is None for vector in vectors] == [False, False, True, False]
    completed = encode("in.jsonl", "--on-error", "skip")
    assert ["error" in json.loads(line) for line in completed.stdout.splitlines()] == [False, True, True, False]


def test_row_with_non_finite_output_is_named(encode: Encode, tmp_path: Path) -> None:
    """The network reports only that an output is not finite; the other rows have their vectors."""
    objects = [{"token_ids": [4, number, 5]} for number in (7, 8, POISON, 9)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, objects)))
    failed = encode("in.jsonl", "-o", "out.npy", code=1)
    assert b"in.jsonl: line 3: the output for this input is not finite (NaN or infinity);" in failed.stderr
    encode("in.jsonl", "-o", "out.npy", "--on-error", "skip")
    assert np.isnan(array(tmp_path / "out.npy")).any(axis=1).tolist() == [False, False, True, False]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Write a file of many different rows."""
    random = np.random.default_rng(3)
    lines = [
        " ".join(f"word{number}" for number in random.integers(0, 999, size)) for size in random.integers(1, 9, 1200)
    ]
    file = tmp_path / "many.txt"
    # Spaces add text without tokens, so that about 250 rows make a chunk.
    spaces = " " * (CHUNK_BYTES // 250)
    file.write_text("\n".join(f"{number}{spaces}{line}" for number, line in enumerate(lines)))
    return file


def run_until_signal(preset: Path, directory: Path, number: signal.Signals, after: int) -> tuple[int | None, str]:
    """Run the command until it has stored some chunks, send a signal, and return exit code and standard error.

    The rows come through a pipe that stays open, so the run cannot finish before the signal.
    """
    pipe, errors = directory / "pipe", directory / "errors"
    os.mkfifo(pipe)
    command = Command(["encode", "-", "-o", "out.npy"], directory, environment(preset), stdin=pipe, stderr=errors)
    with pipe.open("wb") as stdin:
        # A chunk is stored after the next one has started.
        stdin.write((directory / "many.txt").read_bytes()[: (after + 2) * CHUNK_BYTES])
        stdin.flush()
        deadline = time.monotonic() + TIMEOUT
        while len(list((directory / "out.npy.part").glob("*.npz"))) < after and command.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        command.send_signal(number)
        code = command.wait()
    pipe.unlink()
    return code, errors.read_text()


def test_stopped_run_resumes(encode: Encode, tiny_preset: Path, tmp_path: Path, many: Path) -> None:
    """After SIGKILL and SIGINT no row is lost or duplicated, and the file has the same bytes."""
    encode("many.txt", "-o", "complete.npy")
    assert run_until_signal(tiny_preset, tmp_path, signal.SIGKILL, 1)[0] == -signal.SIGKILL
    code, errors = run_until_signal(tiny_preset, tmp_path, signal.SIGINT, 2)
    assert (code, "the same command resumes it" in errors) == (130, True)
    assert not (tmp_path / "out.npy").exists()
    completed = encode("many.txt", "-o", "out.npy")
    assert b"rows resumed" in completed.stderr
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "complete.npy").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_repeatedly_killed_run_ends_with_the_same_bytes(
    encode: Encode, tiny_preset: Path, tmp_path: Path, many: Path
) -> None:
    """Signals arrive while the run loads, encodes, stores a chunk, writes the file or removes the chunks."""
    started = time.monotonic()
    encode("many.txt", "-o", "complete.npy")
    seconds = time.monotonic() - started
    random = np.random.default_rng(5)
    for _ in range(4):
        command = Command(["encode", "many.txt", "-o", "out.npy"], tmp_path, environment(tiny_preset))
        command.wait(random.uniform(0.1, 1.1) * seconds)
        command.send_signal(signal.SIGKILL)
        assert command.wait() is not None
    encode("many.txt", "-o", "out.npy", "--force")
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "complete.npy").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_chunks_of_another_job_are_not_resumed(encode: Encode, tiny_preset: Path, tmp_path: Path, many: Path) -> None:
    """Other options and another input are errors, and `--restart` discards the chunks."""
    run_until_signal(tiny_preset, tmp_path, signal.SIGKILL, 1)
    message = encode("many.txt", "-o", "out.npy", "--normalize", code=1).stderr.decode()
    assert "out.npy.part was created with a different normalize; use --restart to discard it" in message
    message = encode("many.txt", "-o", "out.npy", code=1, FNET_LOAD_WEIGHTS="false").stderr.decode()
    assert "out.npy.part was created with a different digest, load_weights; use --restart to discard it" in message
    job = json.loads((tmp_path / "out.npy.part" / "job.json").read_text())
    assert (job["backend"], job["dtype"], job["preset"]) == ("jax", "float32", "tiny_en")
    many.write_text("another first line\n" + many.read_text())
    message = encode("many.txt", "-o", "out.npy", code=1).stderr.decode()
    assert "the input differs from the stored chunks from line 1 on; use --restart to discard them" in message
    (tmp_path / "many.txt").write_text("one\ntwo\n")
    encode("many.txt", "-o", "out.npy", "--restart")
    assert array(tmp_path / "out.npy").shape == (2, 32)


def test_shards_partition_rows_and_files(encode: Encode, tmp_path: Path) -> None:
    """A shard is every n-th row of one file or every n-th file, and existing outputs are skipped."""
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    encode("in.txt", "-o", "all.npz")
    for first in range(2):
        encode("in.txt", "-o", f"{first}.npz", "--shard", f"{first}/2")
    complete = np.load(tmp_path / "all.npz")
    for first in range(2):
        with np.load(tmp_path / f"{first}.npz") as share:
            assert share["rows"].tolist() == list(range(first, len(TEXTS), 2))
            assert np.array_equal(share["pooled_output"], complete["pooled_output"][first::2])
    for name in ("x.txt", "y.txt", "z.jsonl.gz"):
        content = b'{"text": "z"}' if "jsonl" in name else b"a\nb\n"
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    inputs = ("x.txt", "y.txt", "z.jsonl.gz")
    encode(*inputs, "-o", "out", "--shard", "1/2")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["y.txt.parquet"]
    completed = encode(*inputs, "-o", "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "x.txt.parquet",
        "y.txt.parquet",
        "z.jsonl.parquet",
    ]
    assert b"y.txt.parquet: already exists" in completed.stderr


def test_remote_service_encodes(
    encode: Encode,
    service: Service,
    tiny_preset: Path,
    tmp_path: Path,
    serving: Callable[..., AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Vectors, errors and fingerprint equal the local ones, and the key is not printed."""

    async def described(url: str) -> EncoderFingerprint:
        async with AsyncClient(url, "sesame") as client:
            return await RemoteEncoder(client).describe()

    values: list[dict[str, Any]] = [{"text": text} for text in TEXTS]
    values += [{"token_ids": [4, 5]}, {"token_ids": []}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, values)))
    skip = ("in.jsonl", "--on-error", "skip", "-o")
    encode(*skip, "local.npy")
    settings = {"FNET_PRESET": str(tiny_preset), "FNET_MAX_BATCH_TOKENS": "64", "FNET_API_KEYS": "sesame"}
    with monkeypatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with serving(str(COMMAND), "serve") as address:
            completed = encode("in.jsonl", "-o", "remote.npy", "--url", f"http://{address}", code=1)
            assert b"unauthorized" in completed.stderr
            completed = encode(*skip, "remote.npy", "--url", f"http://{address}", FNET_API_KEY="sesame")
            assert b"sesame" not in completed.stderr
            remote = asyncio.run(described(f"http://{address}"))
    assert differing(remote, service.run(LocalEncoder(service.engine).describe())) == {"tokenizer"}
    assert (tmp_path / "remote.npy").read_bytes() == (tmp_path / "local.npy").read_bytes()
    names = ("remote.npy.skipped.jsonl", "local.npy.skipped.jsonl")
    assert len({(tmp_path / name).read_text() for name in names}) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["in.txt", "-o", "out.bin"], "out.bin: unknown suffix; use .npy, .npz, .jsonl, .parquet"),
        (["in.txt", "-o", "existing.npy"], "existing.npy already exists; use --force to overwrite it"),
        (["in.txt", "-o", "out.npy", "--outputs", "sequence_output"], ".npy holds one vector per row"),
        (["in.txt", "in.txt", "-o", "out/"], "is the output of several inputs"),
        (["in.txt", "other.txt"], "several inputs need a directory"),
        (["folder", "-o", "out.npy"], "folder: is a directory; name its files: folder/* -o OUT/"),
        (["in.txt", "folder", "-o", "out/"], "folder: is a directory; name its files: folder/* -o OUT/"),
        (["in.txt", "--output-format", "npy"], "npy needs an output file"),
        (["in.txt", "--shard", "2/2"], "expected i/n"),
        (["in.txt", "--padding", "some"], "expected none, max_length or a positive number"),
        (["in.txt", "--url", "http://x", "--dtype", "bfloat16"], "cannot be combined with --url"),
        (["in.txt", "--dtype", "float16"], "--dtype: 'float16' is not valid; expected float32"),
        (["in.txt", "--url", "127.0.0.1:8000"], "expected http://host:port"),
        (["in.txt", "--url", "http://127.0.0.1:99999"], "--url: http://127.0.0.1:99999: "),
        (["existing.npy", "-o", "existing.npy", "--force"], "existing.npy is the input itself"),
    ],
)
def test_usage_errors(encode: Encode, tmp_path: Path, arguments: list[str], expected: str) -> None:
    """The exit code is 2, and existing files stay unchanged."""
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "existing.npy").write_text("precious")
    assert expected in encode(*arguments, code=2).stderr.decode()
    assert (tmp_path / "existing.npy").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("in.txt", b"a\n", ["--padding", "600"], "padding: 600 tokens exceed the maximum of 64"),
        ("in.txt.gz", gzip.compress(bytes(range(256)) * 400)[:-900] + b"\xff" * 900, [], "in.txt.gz: "),
        ("in.txt", b"a\n", ["--url", "http://127.0.0.1:9"], "unreachable"),
    ],
)
def test_failure_of_a_run_is_one_line(
    encode: Encode, tmp_path: Path, name: str, content: bytes, options: list[str], expected: str
) -> None:
    """Options, damaged inputs and unreachable services end the run with one line."""
    (tmp_path / name).write_bytes(content)
    errors = encode(name, "-o", "out.npy", *options, code=1).stderr.decode()
    assert expected in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("read", [True, False], ids=["reader", "full-pipe"])
def test_streaming_and_interruption_with_open_standard_input(tiny_preset: Path, *, read: bool) -> None:
    """The first rows arrive before the input ends, and SIGINT ends the command even if its output pipe is full."""
    command = [str(COMMAND), "encode", "-"]
    with subprocess.Popen(
        command, env=environment(tiny_preset), stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # One request more than run concurrently.
        process.stdin.write(b"a\n" * 64 * (LocalEncoder.max_concurrency + 1))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["row"] == 0
        if read:
            # Like a terminal, a thread keeps reading the output.
            threading.Thread(target=process.stdout.read, daemon=True).start()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
        assert process.stderr.read() == b"fnet-service: stopped\n"


def test_memory_does_not_grow_with_the_rows(tiny_preset: Path, tmp_path: Path) -> None:
    """Peak memory is bounded while encoding and writing: 50,000 more rows are 32 MB of vectors."""

    def peak_bytes(count: int) -> int:
        """Return the peak resident bytes of encoding so many rows."""
        (tmp_path / "in.txt").write_text("a b c\n" * count)
        command = [str(COMMAND), "encode", "in.txt", "-o", f"{count}.npz", "--outputs", "sequence_output"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(tiny_preset), stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss << 10

    assert peak_bytes(60_000) - peak_bytes(10_000) < (16 << 20)


def test_malformed_csv_row_is_an_error(encode: Encode, tmp_path: Path) -> None:
    """A stray quotation mark affects only its row."""
    (tmp_path / "in.csv").write_text('id,text\n1,one\n2,"bad"quote\n3,three\n')
    completed = encode("in.csv", "--on-error", "skip")
    assert ["error" in json.loads(line) for line in completed.stdout.splitlines()] == [False, True, False]
    assert encode("in.csv", code=1).stderr.startswith(b"fnet-service: in.csv: line 3: not CSV: ")


def test_requests_shrink_to_the_limits_of_the_service(
    encode: Encode,
    tiny_preset: Path,
    tmp_path: Path,
    serving: Callable[..., AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests are halved until the service accepts them, and only the invalid row is an error."""
    lines = [f"word {number}\n" for number in range(100)]
    lines[47] = "word " * 100 + "\n"
    (tmp_path / "in.txt").write_text("".join(lines))
    encode("in.txt", "-o", "local.npy", "--on-error", "skip")
    assert np.flatnonzero(np.isnan(array(tmp_path / "local.npy")).any(axis=1)).tolist() == [47]
    limits = {"FNET_MAX_SEQUENCES": "20", "FNET_MAX_QUEUE_TOKENS": "64", "FNET_MAX_BODY_BYTES": "900"}
    with monkeypatch.context() as patch:
        for name, value in {"FNET_PRESET": str(tiny_preset), "FNET_MAX_BATCH_TOKENS": "64", **limits}.items():
            patch.setenv(name, value)
        with serving(str(COMMAND), "serve") as address:
            encode("in.txt", "-o", "remote.npy", "--on-error", "skip", "--url", f"http://{address}")
    assert (tmp_path / "remote.npy").read_bytes() == (tmp_path / "local.npy").read_bytes()


def test_empty_file_gives_an_empty_output(encode: Encode, tmp_path: Path) -> None:
    """The output has no vectors."""
    (tmp_path / "in.txt").write_bytes(b"")
    for suffix in ("npy", "parquet"):
        encode("in.txt", "-o", f"out.{suffix}")
    assert array(tmp_path / "out.npy").shape == (0, 32)
    assert parquet.read_table(tmp_path / "out.parquet").num_rows == 0


def test_archive_needs_no_pickle(encode: Encode, tmp_path: Path) -> None:
    """The archive has no pickled objects, and its bytes do not depend on the clock."""
    (tmp_path / "in.txt").write_text("a\n")
    encode("in.txt", "-o", "one.npz")
    encode("in.txt", "-o", "two.npz")
    content = (tmp_path / "one.npz").read_bytes()
    assert content == (tmp_path / "two.npz").read_bytes()
    assert np.load(io.BytesIO(content), allow_pickle=False)["lengths"].tolist() == [3]


@pytest.mark.parametrize("arguments", [["in.parquet", "-o", "out.npy"], ["in.txt", "-o", "out.parquet"]])
def test_parquet_without_its_library_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """The message names the extra to install."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("service.cli.encode.find_spec", lambda _name: None)
    for name in ("in.parquet", "in.txt"):
        Path(name).write_text("a text")
    ran = CliRunner().invoke(main, ["encode", *arguments])
    assert ran.exit_code == 2
    assert "pip install 'fnet-encode[parquet]'" in ran.stderr
