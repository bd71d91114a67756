"""`fnet-service encode`: a row in, a vector out, whatever the file, however often it is stopped."""

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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from service.bulk.chunks import ChunkResult, ChunkStore, JobError, split_rows
from service.bulk.encoders import EncoderFingerprint, LocalEncoder, RemoteEncoder
from service.bulk.readers import Format, InputError, Reader, format_of
from service.bulk.rows import Row
from service.client import AsyncClient
from service.core.engine import Engine
from service.core.inputs import Text
from tests.support.bundled import POISON, VOCABULARY
from tests.support.forked import Command
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.service.conftest import Service

COMMAND = Path(sysconfig.get_path("scripts")) / "fnet-service"
# Of text; as much is a part.
SHARD_BYTES = 1 << 20
TEXTS = ["a cat sat down", "", "interest rates rose again", "Zürich 東京 🦆", "a cat sat down", " spaces  within "]

Encode = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def encode(tiny_preset: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """Run the command in a directory of the test's own; fails unless it ends with `code`."""
    sent, out, err = (tmp_path_factory.mktemp("streams") / name for name in ("in", "out", "err"))

    def run(*arguments: str, code: int = 0, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
        sent.write_bytes(stdin)
        environ = environment(tiny_preset, **environ)
        command = Command(["encode", *arguments], tmp_path, environ, stdin=sent, stdout=out, stderr=err)
        ended = command.wait()
        said = err.read_bytes()
        assert ended == code, said.decode()
        assert b"Traceback" not in said
        return subprocess.CompletedProcess(arguments, ended, out.read_bytes(), said)

    return run


def environment(preset: Path, **more: str) -> dict[str, str]:
    """Return an environment in which the tiny preset is encoded with."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
    return {**inherited, "FNET_PRESET": str(preset), "FNET_MAX_BATCH_TOKENS": "64", **more}


def rows(name: str, format_: Format | None = None, field: str = "text") -> list[Row]:
    """Read all rows of an input."""
    with Reader.open(name, format_, field) as reader:
        return list(reader)


def array(path: Path) -> npt.NDArray[Any]:
    """Read an array."""
    found: npt.NDArray[Any] = np.load(path)
    return found


def expected(service: Service, **request: Any) -> dict[str, Any]:
    """Return what `/v1/encode` gives."""
    answer = service.encode(**request)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


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
def test_a_name_says_the_format(name: str, format_: Format) -> None:
    """Compressed or not; what says nothing is text."""
    assert format_of(name) == format_


# Whatever is not a line's end in a file; a text may hold all others.
line_texts = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20).filter(
    lambda text: not text.endswith("\r")
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(line_texts, max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    mark=st.booleans(),
    packed=st.booleans(),
)
def test_a_line_is_a_row(
    tmp_path: Path,
    texts: list[str],
    end: str,
    *,
    last: bool,
    mark: bool,
    packed: bool,
) -> None:
    """Empty ones, too; with either end, a last one or none, and a byte order mark or none."""
    if texts and texts[0].startswith("\ufeff"):
        return  # where a mark is, no text can tell
    content = end.join(texts) + (end if texts and (last or not texts[-1]) else "")
    data = (b"\xef\xbb\xbf" if mark and content else b"") + content.encode()
    file = tmp_path / ("a.txt.gz" if packed else "a.txt")
    file.write_bytes(gzip.compress(data) if packed else data)
    assert [row.text for row in rows(str(file))] == [Text(text) for text in texts]


def test_what_is_gzipped_is_known_by_its_content(tmp_path: Path) -> None:
    """Whatever it is called."""
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"one\ntwo\n"))
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"id,text\n1,three\n"))
    assert [row.text for row in rows(str(tmp_path / "a.txt"))] == [Text("one"), Text("two")]
    assert [row.text for row in rows(str(tmp_path / "a.csv"))] == [Text("three")]
    (tmp_path / "b.txt").write_bytes(b"\x1f")  # one of the bytes that it begins with is a text
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
def test_a_line_of_json_is_a_row_or_a_fault(tmp_path: Path, values: list[Any]) -> None:
    """An object with one of both fields; blank lines between are none, and every other line keeps its number."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n \n".join(json.dumps(value).encode() for value in values))
    found = rows(str(file))
    assert [(row.number, row.line) for row in found] == [(number, 2 * number + 1) for number in range(len(values))]
    for row, value in zip(found, values, strict=True):
        match value:
            case {"text": str(text)}:
                assert row.text == Text(text)
            case {"token_ids": ids}:
                assert row.token_ids == ids
            case {"text": pair} if "\ud800" not in repr(pair):
                assert row.text == Text(*pair)
            case _:
                assert row.fault


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"texts": "a"}', "expected one of 'text' and 'token_ids', found neither"),
        (b'{"text": "a", "token_ids": [1]}', "found both"),
        (b'{"text": "a", "token_ids": []}', "found both"),
        (b'{"text": 7}', "text: expected a text or a pair of texts"),
        (b'{"token_ids": [1.5]}', "token_ids: expected a list of whole numbers"),
        (b'{"token_ids": [true]}', "token_ids: expected a list of whole numbers"),
        (b'{"token_ids": [1], "segment_ids": 0}', "segment_ids: expected a list of whole numbers"),
    ],
)
def test_a_fault_says_what_is_wrong(tmp_path: Path, line: bytes, fault: str) -> None:
    """And the rows around it are read."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "two"}\n')
    first, wrong, last = rows(str(file))
    assert (first.text, last.text) == (Text("one"), Text("two"))
    assert fault in (wrong.fault or "")


def test_a_column_is_read(tmp_path: Path) -> None:
    """Of CSV and TSV with its quotes and line ends, and of Parquet with texts, pairs or ids."""
    (tmp_path / "a.csv").write_bytes(b'id,body\n1,one\n2,"two\n lines, ""quoted"""\n3\n')
    first, second, third = rows(str(tmp_path / "a.csv"), field="body")
    assert (first.text, second.text) == (Text("one"), Text('two\n lines, "quoted"'))
    assert third.fault
    (tmp_path / "a.tsv").write_text("body\tid\nx, y\t1\n")
    assert [row.text for row in rows(str(tmp_path / "a.tsv"), field="body")] == [Text("x, y")]
    parquet.write_table(arrow.table({"body": ["a", None, "b"]}), tmp_path / "a.parquet")
    found = rows(str(tmp_path / "a.parquet"), field="body")
    assert [row.text for row in found] == [Text("a"), None, Text("b")]
    assert found[1].fault
    parquet.write_table(arrow.table({"token_ids": [[1, 2], [3]]}), tmp_path / "ids.parquet")
    assert [row.token_ids for row in rows(str(tmp_path / "ids.parquet"))] == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.txt", None, "No such file"),
        ("a.csv", b"id,title\n1,x\n", "no column 'text'; there are 'id', 'title'"),
        ("a.csv", b"", "no column 'text'; there are none"),
        ("a.parquet", b"PAR1", "not readable as Parquet"),
        ("a.txt.gz", b"no gzip", "gzip"),
    ],
)
def test_what_is_no_input_is_told(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    """In one line that names the file."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        rows(str(tmp_path / name))
    assert expected in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_beyond_all_bounds_is_a_fault(tmp_path: Path) -> None:
    """It is not read into memory, and the next one is a row again."""
    (tmp_path / "a.txt").write_bytes(b"one\n" + b"x" * (20 << 20) + b"\ntwo")
    first, long, last = rows(str(tmp_path / "a.txt"))
    assert (first.text, last.text) == (Text("one"), Text("two"))
    assert "more than" in (long.fault or "")


# === Parts ===


@given(sizes=st.lists(st.integers(0, 300_000), max_size=40), sequences=st.booleans(), max_rows=st.integers(1, 50))
@settings(deadline=None)
def test_shards_follow_from_the_rows(sizes: list[int], sequences: bool, max_rows: int) -> None:  # noqa: FBT001 - drawn
    """In order, none lost or doubled, bounded in size, and the same each time."""
    made = [Row(number, number + 1, text=Text("x" * size)) for number, size in enumerate(sizes)]
    chunks = list(split_rows(made, sequences=sequences, max_rows=max_rows))
    assert [row for chunk in chunks for row in chunk.rows] == made
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert sum(row.size for row in chunk.rows[:-1]) < (1 << 20)
        assert len(chunk.rows) <= max_rows
    again = split_rows(iter(made), sequences=sequences, max_rows=max_rows)
    assert [chunk.digest for chunk in again] == [chunk.digest for chunk in chunks]


def part(digest: str = "d") -> ChunkResult:
    """Return a small part."""
    return ChunkResult(
        digest=digest,
        rows=np.arange(2),
        lengths=np.array([3, 0], np.int32),
        outputs={"pooled_output": np.ones((2, 4), np.float32)},
        faults={1: (2, "wrong: ü")},
    )


def test_parts_are_kept(tmp_path: Path) -> None:
    """What was added is there for whoever goes on, in order."""
    parts = ChunkStore(tmp_path / "out.part")
    parts.begin({"a": 1}, restart=False)
    parts.add(part("one"))
    parts.add(part("two"))
    parts.release()
    again = ChunkStore(tmp_path / "out.part")
    again.begin({"a": 1}, restart=False)
    first, second = again
    assert (first.digest, second.digest, first.faults) == ("one", "two", {1: (2, "wrong: ü")})
    assert np.array_equal(first.outputs["pooled_output"], part().outputs["pooled_output"])
    with pytest.raises(JobError, match="another run is at it"):
        ChunkStore(tmp_path / "out.part").begin({"a": 1}, restart=True)
    again.release()
    with pytest.raises(JobError, match="another a; --restart"):
        ChunkStore(tmp_path / "out.part").begin({"a": 2}, restart=False)
    other = ChunkStore(tmp_path / "out.part")
    other.begin({"a": 2}, restart=True)
    assert list(other) == []
    other.release()


def test_a_damaged_part_is_told(tmp_path: Path) -> None:
    """It is not taken for a result."""
    parts = ChunkStore(tmp_path / "out.part")
    parts.begin({}, restart=False)
    parts.add(part())
    (file,) = (tmp_path / "out.part").glob("*.npz")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(JobError, match="damaged"):
        parts.read(0)
    parts.release()


def test_parts_of_nobody_knows_what_are_not_taken(tmp_path: Path) -> None:
    """A removal that was killed may leave parts behind and not whose they were."""
    parts = ChunkStore(tmp_path / "out.part")
    parts.begin({"a": 1}, restart=False)
    parts.add(part())
    parts.release()
    (tmp_path / "out.part" / "job.json").unlink()
    other = ChunkStore(tmp_path / "out.part")
    other.begin({"a": 2}, restart=False)
    assert (other.count, list(other)) == (0, [])
    other.release()


def test_a_job_without_parts_binds_nobody(tmp_path: Path) -> None:
    """A run that failed at once has done nothing that could be thrown away; another may begin with other options."""
    parts = ChunkStore(tmp_path / "out.part")
    parts.begin({"a": 1}, restart=False)
    parts.release()
    for _ in range(2):
        other = ChunkStore(tmp_path / "out.part")
        other.begin({"a": 2}, restart=False)
        other.release()
    assert json.loads((tmp_path / "out.part" / "job.json").read_text()) == {"a": 2}


def test_a_damaged_description_is_told(tmp_path: Path) -> None:
    """In one line, as of any part."""
    (tmp_path / "job.json").write_bytes(b"")
    (tmp_path / "00000000.npz").write_bytes(b"")
    with pytest.raises(JobError, match=r"job\.json is damaged; --restart"):
        ChunkStore(tmp_path).begin({}, restart=False)


@pytest.fixture
def describe(make_engine: Callable[..., Engine]) -> Callable[..., EncoderFingerprint]:
    """Load a preset with the options of an engine, and tell what its vectors depend on."""

    def run(preset: Path, **options: Any) -> EncoderFingerprint:
        return asyncio.run(LocalEncoder(make_engine(preset, **options)).describe())

    return run


def edit(file: Path, *keys: str, value: Any) -> None:
    """Set a value somewhere in a JSON document."""
    document = json.loads(file.read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    file.write_text(json.dumps(document))


def differing(one: EncoderFingerprint, other: EncoderFingerprint) -> set[str]:
    """Return the names of the fields in which two differ."""
    first, second = dataclasses.asdict(one), dataclasses.asdict(other)
    return {name for name in first if first[name] != second[name]}


@pytest.fixture
def short_preset(smallest_preset: Path, tiny_preset: Path, tmp_path: Path) -> Path:
    """A preset of the test's own, with a tokenizer and a single row length."""
    directory = Path(shutil.copytree(smallest_preset, tmp_path / "short_en"))
    for name in ("tokenizer.json", "preprocessor.json"):
        shutil.copy(tiny_preset / name, directory / name)
    shutil.copytree(tiny_preset / "assets", directory / "assets")
    return directory


def test_every_option_that_changes_bits_belongs_to_a_job(
    describe: Callable[..., EncoderFingerprint], short_preset: Path
) -> None:
    """Parts made with another are of another job."""
    begun = describe(short_preset)
    assert begun == describe(short_preset)
    assert differing(begun, describe(short_preset, load_weights=False)) == {"load_weights", "digest"}
    assert differing(begun, describe(short_preset, batch_invariant=False)) == {"batch_invariant"}
    assert differing(begun, describe(short_preset, max_batch_tokens=32)) == {"max_batch_tokens"}
    assert "dtype" in differing(begun, describe(short_preset, dtype="bfloat16"))
    assert differing(begun, describe(short_preset, pooling="mean")) == {"pooling"}


def test_everything_of_a_preset_that_changes_bits_belongs_to_a_job(
    describe: Callable[..., EncoderFingerprint], short_preset: Path
) -> None:
    """Its vocabulary, how it cuts and pads, and sizes that its weights do not tell."""
    begun = describe(short_preset)
    edit(short_preset / "metadata.json", "fnet_service", "padding", value=12)
    assert differing(begun, describe(short_preset)) == {"padding"}
    edit(short_preset / "metadata.json", "fnet_service", "padding", value=16)
    edit(short_preset / "preprocessor.json", "config", "truncate", value="waterfall")
    assert differing(begun, describe(short_preset)) == {"tokenizer"}
    edit(short_preset / "preprocessor.json", "config", "truncate", value="round_robin")
    assert describe(short_preset) == begun
    # A field that SentencePiece does not know, of one byte.
    with (short_preset / "assets" / "tokenizer" / "vocabulary.spm").open("ab") as vocabulary:
        vocabulary.write(b"\xc2\x0c\x01x")
    assert differing(begun, describe(short_preset)) == {"tokenizer"}
    random = describe(short_preset, load_weights=False)
    edit(short_preset / "config.json", "config", "num_layers", value=1)
    assert differing(random, describe(short_preset, load_weights=False)) == {"architecture"}


# === The command ===


def test_every_format_has_the_vectors_of_the_service(encode: Encode, service: Service, tmp_path: Path) -> None:
    """To the last bit, a row for a row."""
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    outputs = ["pooled_output", "mean_output", "sequence_output"]
    encode_options = expected(service, texts=TEXTS, outputs=outputs, normalize=True)
    pooled = np.array(encode_options["pooled_output"], np.float32)
    sequences = [np.array(each, np.float32) for each in encode_options["sequence_output"]]
    every = [each for name in outputs for each in ("--outputs", name)]
    encode("in.txt", "-o", "out.npy", "--normalize")
    found = array(tmp_path / "out.npy")
    assert found.dtype == np.float32
    assert np.array_equal(found, pooled)
    encode("in.txt", "-o", "out.npz", "--normalize", *every)
    with np.load(tmp_path / "out.npz") as archive:
        assert np.array_equal(archive["pooled_output"], pooled)
        assert np.array_equal(archive["mean_output"], np.array(encode_options["mean_output"], np.float32))
        assert np.array_equal(archive["sequence_output"], np.concatenate(sequences))
        assert archive["lengths"].tolist() == [len(each) for each in sequences]
    encode("in.txt", "-o", "out.jsonl", "--normalize", *every)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(len(TEXTS)))
    assert np.array_equal(np.array([line["pooled_output"] for line in lines], np.float32), pooled)
    assert np.array_equal(np.array(lines[3]["sequence_output"], np.float32), sequences[3])
    encode("in.txt", "-o", "out.parquet", "--normalize", *every)
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert np.array_equal(np.array([row["pooled_output"] for row in table], np.float32), pooled)
    assert np.array_equal(np.array(table[2]["sequence_output"], np.float32), sequences[2])
    assert not list(tmp_path.glob("*.part"))


def test_a_pipe_gives_lines(encode: Encode, service: Service) -> None:
    """From standard input to standard output, ids as well as texts; the summary goes to standard error."""
    sent = [{"text": "a cat"}, {"token_ids": [4, 99, 5], "segment_ids": [0, 1, 1]}, {"text": ["a", "pair"]}]
    ran = encode("-", "--input-format", "jsonl", stdin="\n".join(map(json.dumps, sent)).encode())
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    ids = expected(service, token_ids=[[4, 99, 5]], segment_ids=[[0, 1, 1]], outputs=["pooled_output"])
    texts = expected(service, texts=["a cat", ["a", "pair"]], outputs=["pooled_output"])
    assert [line["row"] for line in lines] == [0, 1, 2]
    assert lines[1]["pooled_output"] == ids["pooled_output"][0]
    assert [lines[0]["pooled_output"], lines[2]["pooled_output"]] == texts["pooled_output"]
    assert b"3 rows" in ran.stderr


def test_a_pipe_may_be_gzipped(encode: Encode) -> None:
    """Like a file; the lines are the same."""
    text = "\n".join(TEXTS).encode()
    assert encode("-", stdin=gzip.compress(text)).stdout == encode("-", stdin=text).stdout != b""


def test_a_fault_ends_the_run_or_is_skipped(encode: Encode, tmp_path: Path) -> None:
    """With its line and the reason; a skipped row keeps its place, and is listed."""
    long = " ".join(["word"] * 100)
    given_rows = [{"text": "good"}, {"text": long}, {"token_ids": [4, VOCABULARY]}, {"text": "better"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, given_rows)))
    failed = encode("in.jsonl", "-o", "out.npy", code=1)
    assert failed.stderr.decode().startswith(
        'fnet-service: in.jsonl: line 2: text: 102 tokens exceed the maximum of 64; set "truncate": true;'
    )
    assert not (tmp_path / "out.npy").exists()
    ran = encode("in.jsonl", "-o", "out.npy", "--on-error", "skip")
    assert b"2 rows at fault, listed in out.npy.skipped.jsonl" in ran.stderr
    assert np.isnan(array(tmp_path / "out.npy")).any(axis=1).tolist() == [False, True, True, False]
    listed = [json.loads(line) for line in (tmp_path / "out.npy.skipped.jsonl").read_text().splitlines()]
    assert [(each["row"], each["line"]) for each in listed] == [(1, 2), (2, 3)]
    assert listed[1]["reason"] == f"token_ids[1]: token id {VOCABULARY} is outside [0, {VOCABULARY})"
    assert b"line 1" in encode("in.jsonl", "-o", "out.parquet", "--field", "body", code=1).stderr
    encode("in.jsonl", "-o", "out.parquet", "--on-error", "skip", "--truncate")
    found = parquet.read_table(tmp_path / "out.parquet").column("pooled_output").to_pylist()
    assert [each is None for each in found] == [False, False, True, False]
    ran = encode("in.jsonl", "--on-error", "skip")
    assert ["error" in json.loads(line) for line in ran.stdout.splitlines()] == [False, True, True, False]


def test_a_row_that_overflows_is_found(encode: Encode, tmp_path: Path) -> None:
    """The network says only that something did: the row is named, and those beside it have their vectors."""
    given_rows = [{"token_ids": [4, number, 5]} for number in (7, 8, POISON, 9)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, given_rows)))
    failed = encode("in.jsonl", "-o", "out.npy", code=1)
    assert b"in.jsonl: line 3: the network's output for this input is not finite;" in failed.stderr
    encode("in.jsonl", "-o", "out.npy", "--on-error", "skip")
    assert np.isnan(array(tmp_path / "out.npy")).any(axis=1).tolist() == [False, False, True, False]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A file of many rows, all different."""
    random = np.random.default_rng(3)
    lines = [
        " ".join(f"word{number}" for number in random.integers(0, 999, size)) for size in random.integers(1, 9, 1200)
    ]
    file = tmp_path / "many.txt"
    # Blanks make no tokens, and a part of every 250 rows or so.
    blanks = " " * (SHARD_BYTES // 250)
    file.write_text("\n".join(f"{number}{blanks}{line}" for number, line in enumerate(lines)))
    return file


def stopped(preset: Path, directory: Path, number: signal.Signals, after: int) -> tuple[int | None, str]:
    """Run the command until so many parts are kept, then send a signal; returns its exit code and what it said.

    The rows come through a pipe that never ends, so that there is always something left to stop.
    """
    pipe, said = directory / "pipe", directory / "said"
    os.mkfifo(pipe)
    command = Command(["encode", "-", "-o", "out.npy"], directory, environment(preset), stdin=pipe, stderr=said)
    with pipe.open("wb") as stdin:
        # A part is kept when the one behind it is begun.
        stdin.write((directory / "many.txt").read_bytes()[: (after + 2) * SHARD_BYTES])
        stdin.flush()
        deadline = time.monotonic() + TIMEOUT
        while len(list((directory / "out.npy.part").glob("*.npz"))) < after and command.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        command.send_signal(number)
        code = command.wait()
    pipe.unlink()
    return code, said.read_text()


def test_a_run_that_was_stopped_goes_on(encode: Encode, tiny_preset: Path, tmp_path: Path, many: Path) -> None:
    """Killed, interrupted and terminated: no row is lost or doubled, and the file is the same to the byte."""
    encode("many.txt", "-o", "whole.npy")
    assert stopped(tiny_preset, tmp_path, signal.SIGKILL, 1)[0] == -signal.SIGKILL
    code, said = stopped(tiny_preset, tmp_path, signal.SIGINT, 2)
    assert (code, "the same command goes on where this one was" in said) == (130, True)
    assert not (tmp_path / "out.npy").exists()
    ran = encode("many.txt", "-o", "out.npy")
    assert b"rows were done before" in ran.stderr
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    encode: Encode, tiny_preset: Path, tmp_path: Path, many: Path
) -> None:
    """At moments that nobody chose: while it loads, encodes, keeps a part, puts the file together or clears up."""
    began = time.monotonic()
    encode("many.txt", "-o", "whole.npy")
    seconds = time.monotonic() - began
    random = np.random.default_rng(5)
    for _ in range(4):
        command = Command(["encode", "many.txt", "-o", "out.npy"], tmp_path, environment(tiny_preset))
        command.wait(random.uniform(0.1, 1.1) * seconds)
        command.send_signal(signal.SIGKILL)
        assert command.wait() is not None
    encode("many.txt", "-o", "out.npy", "--force")
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_another_job_does_not_go_on_with_the_parts(
    encode: Encode, tiny_preset: Path, tmp_path: Path, many: Path
) -> None:
    """Other options and another input are told; `--restart` begins anew."""
    stopped(tiny_preset, tmp_path, signal.SIGKILL, 1)
    message = encode("many.txt", "-o", "out.npy", "--normalize", code=1).stderr.decode()
    assert "out.npy.part was begun with another normalize; --restart throws it away" in message
    message = encode("many.txt", "-o", "out.npy", code=1, FNET_LOAD_WEIGHTS="false").stderr.decode()
    assert "out.npy.part was begun with another digest, load_weights; --restart throws it away" in message
    job = json.loads((tmp_path / "out.npy.part" / "job.json").read_text())
    assert (job["backend"], job["dtype"], job["preset"]) == ("jax", "float32", "tiny_en")
    many.write_text("another first line\n" + many.read_text())
    message = encode("many.txt", "-o", "out.npy", code=1).stderr.decode()
    assert "the input is not what was begun with, at line 1 or behind it; --restart begins anew" in message
    (tmp_path / "many.txt").write_text("one\ntwo\n")
    encode("many.txt", "-o", "out.npy", "--restart")
    assert array(tmp_path / "out.npy").shape == (2, 32)


def test_a_corpus_is_shared(encode: Encode, tmp_path: Path) -> None:
    """Every n-th row of a file, or every n-th file; what is there already is not done again."""
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    encode("in.txt", "-o", "all.npz")
    for first in range(2):
        encode("in.txt", "-o", f"{first}.npz", "--shard", f"{first}/2")
    whole = np.load(tmp_path / "all.npz")
    for first in range(2):
        with np.load(tmp_path / f"{first}.npz") as share:
            assert share["rows"].tolist() == list(range(first, len(TEXTS), 2))
            assert np.array_equal(share["pooled_output"], whole["pooled_output"][first::2])
    for name in ("x.txt", "y.txt", "z.jsonl.gz"):
        content = b'{"text": "z"}' if "jsonl" in name else b"a\nb\n"
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    inputs = ("x.txt", "y.txt", "z.jsonl.gz")
    encode(*inputs, "-o", "out", "--shard", "1/2")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["y.txt.parquet"]
    ran = encode(*inputs, "-o", "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "x.txt.parquet",
        "y.txt.parquet",
        "z.jsonl.parquet",
    ]
    assert b"y.txt.parquet: there already" in ran.stderr


def test_a_service_is_asked(
    encode: Encode,
    service: Service,
    tiny_preset: Path,
    tmp_path: Path,
    serving: Callable[..., AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its key, never shown; the same vectors, faults and circumstances as in this process."""

    async def described(url: str) -> EncoderFingerprint:
        async with AsyncClient(url, "sesame") as client:
            return await RemoteEncoder(client).describe()

    values: list[dict[str, Any]] = [{"text": text} for text in TEXTS]
    values += [{"token_ids": [4, 5]}, {"token_ids": []}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, values)))
    skip = ("in.jsonl", "--on-error", "skip", "-o")
    encode(*skip, "near.npy")
    settings = {"FNET_PRESET": str(tiny_preset), "FNET_MAX_BATCH_TOKENS": "64", "FNET_API_KEYS": "sesame"}
    with monkeypatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with serving(str(COMMAND), "serve") as address:
            completed = encode("in.jsonl", "-o", "far.npy", "--url", f"http://{address}", code=1)
            assert b"unauthorized" in completed.stderr
            completed = encode(*skip, "far.npy", "--url", f"http://{address}", SERVICE_API_KEY="sesame")
            assert b"sesame" not in completed.stderr
            far = asyncio.run(described(f"http://{address}"))
    assert differing(far, service.run(LocalEncoder(service.engine).describe())) == {"tokenizer"}
    assert (tmp_path / "far.npy").read_bytes() == (tmp_path / "near.npy").read_bytes()
    names = ("far.npy.skipped.jsonl", "near.npy.skipped.jsonl")
    assert len({(tmp_path / name).read_text() for name in names}) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["in.txt", "-o", "out.bin"], "out.bin ends in none of .npy, .npz, .jsonl, .parquet"),
        (["in.txt", "-o", "there.npy"], "there.npy is there already; --force writes over it"),
        (["in.txt", "-o", "out.npy", "--outputs", "sequence_output"], ".npy holds one vector a row"),
        (["in.txt", "in.txt", "-o", "out/"], "would be written twice"),
        (["in.txt", "other.txt"], "several inputs need a directory"),
        (["folder", "-o", "out.npy"], "folder: is a directory; name the files in it: folder/* -o OUT/"),
        (["in.txt", "folder", "-o", "out/"], "folder: is a directory; name the files in it: folder/* -o OUT/"),
        (["in.txt", "--output-format", "npy"], "npy needs a file"),
        (["in.txt", "--shard", "2/2"], "not i/n"),
        (["in.txt", "--padding", "some"], "neither none nor max_length nor a length"),
        (["in.txt", "--url", "http://x", "--dtype", "bfloat16"], "the service's own"),
        (["in.txt", "--dtype", "float16"], "--dtype: 'float16' is not valid; expected float32"),
        (["in.txt", "--url", "127.0.0.1:8000"], "expected the form http://host:port"),
        (["in.txt", "--url", "http://127.0.0.1:99999"], "--url: http://127.0.0.1:99999: "),
        (["there.npy", "-o", "there.npy", "--force"], "there.npy is the input itself"),
    ],
)
def test_what_was_asked_wrongly_is_told(encode: Encode, tmp_path: Path, arguments: list[str], expected: str) -> None:
    """With exit code 2, before anything is loaded."""
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.npy").write_text("precious")
    assert expected in encode(*arguments, code=2).stderr.decode()
    assert (tmp_path / "there.npy").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("in.txt", b"a\n", ["--padding", "600"], "padding: 600 tokens exceed the maximum of 64"),
        ("in.txt.gz", gzip.compress(bytes(range(256)) * 400)[:-900] + b"\xff" * 900, [], "in.txt.gz: "),
        ("in.txt", b"a\n", ["--url", "http://127.0.0.1:9"], "unreachable"),
    ],
)
def test_what_ends_a_run_is_one_line(
    encode: Encode, tmp_path: Path, name: str, content: bytes, options: list[str], expected: str
) -> None:
    """Wherever in it that happens."""
    (tmp_path / name).write_bytes(content)
    said = encode(name, "-o", "out.npy", *options, code=1).stderr.decode()
    assert expected in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("read", [True, False], ids=["a reader", "a full pipe"])
def test_lines_are_written_and_a_stop_is_heard_while_standard_input_is_open(tiny_preset: Path, *, read: bool) -> None:
    """Whoever reads has the first rows before the last are there; whoever presses Ctrl-C at a terminal is let go.

    So is a command whose output nobody takes.
    """
    command = [str(COMMAND), "encode", "-"]
    with subprocess.Popen(
        command, env=environment(tiny_preset), stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # As many requests as are under way, and one more.
        process.stdin.write(b"a\n" * 64 * (LocalEncoder.max_concurrency + 1))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["row"] == 0
        if read:
            # A terminal goes on taking what is written.
            threading.Thread(target=process.stdout.read, daemon=True).start()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
        assert process.stderr.read() == b"fnet-service: stopped\n"


def test_memory_does_not_grow_with_the_rows(tiny_preset: Path, tmp_path: Path) -> None:
    """Neither while they are encoded nor while the file is put together: 50,000 rows more are 32 MB of vectors."""

    def most(count: int) -> int:
        """Return the most bytes that were resident while so many rows were encoded."""
        (tmp_path / "in.txt").write_text("a b c\n" * count)
        command = [str(COMMAND), "encode", "in.txt", "-o", f"{count}.npz", "--outputs", "sequence_output"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(tiny_preset), stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss << 10

    assert most(60_000) - most(10_000) < (16 << 20)


def test_a_row_of_a_table_may_be_at_fault(encode: Encode, tmp_path: Path) -> None:
    """A stray quotation mark costs its row and no other."""
    (tmp_path / "in.csv").write_text('id,text\n1,one\n2,"bad"quote\n3,three\n')
    ran = encode("in.csv", "--on-error", "skip")
    assert ["error" in json.loads(line) for line in ran.stdout.splitlines()] == [False, True, False]
    assert encode("in.csv", code=1).stderr.startswith(b"fnet-service: in.csv: line 3: not CSV: ")


def test_a_service_with_tighter_limits_is_asked_for_less(
    encode: Encode,
    tiny_preset: Path,
    tmp_path: Path,
    serving: Callable[..., AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests are halved until they are taken; a row at fault is still the one that is named, and no other."""
    lines = [f"word {number}\n" for number in range(100)]
    lines[47] = "word " * 100 + "\n"
    (tmp_path / "in.txt").write_text("".join(lines))
    encode("in.txt", "-o", "near.npy", "--on-error", "skip")
    assert np.flatnonzero(np.isnan(array(tmp_path / "near.npy")).any(axis=1)).tolist() == [47]
    limits = {"FNET_MAX_SEQUENCES": "20", "FNET_MAX_QUEUE_TOKENS": "64", "FNET_MAX_BODY_BYTES": "900"}
    with monkeypatch.context() as patch:
        for name, value in {"FNET_PRESET": str(tiny_preset), "FNET_MAX_BATCH_TOKENS": "64", **limits}.items():
            patch.setenv(name, value)
        with serving(str(COMMAND), "serve") as address:
            encode("in.txt", "-o", "far.npy", "--on-error", "skip", "--url", f"http://{address}")
    assert (tmp_path / "far.npy").read_bytes() == (tmp_path / "near.npy").read_bytes()


def test_a_file_without_rows_gives_none(encode: Encode, tmp_path: Path) -> None:
    """An array of no vectors, and not an error."""
    (tmp_path / "in.txt").write_bytes(b"")
    for form in ("npy", "parquet"):
        encode("in.txt", "-o", f"out.{form}")
    assert array(tmp_path / "out.npy").shape == (0, 32)
    assert parquet.read_table(tmp_path / "out.parquet").num_rows == 0


def test_an_archive_is_read_by_numpy_alone(encode: Encode, tmp_path: Path) -> None:
    """Nothing in it is pickled, and its bytes depend on no clock."""
    (tmp_path / "in.txt").write_text("a\n")
    encode("in.txt", "-o", "one.npz")
    encode("in.txt", "-o", "two.npz")
    content = (tmp_path / "one.npz").read_bytes()
    assert content == (tmp_path / "two.npz").read_bytes()
    assert np.load(io.BytesIO(content), allow_pickle=False)["lengths"].tolist() == [3]
