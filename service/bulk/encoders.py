"""What turns rows into vectors: an engine in this process, or a service somewhere else."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt

from model.encoder import Encoding, Output, Tokens
from model.presets.preset import VOCABULARY_FILE, Padding, Preset
from service import __version__
from service.bulk.rows import Row
from service.client import AsyncClient, EncodeError
from service.core.engine import Engine, normalized
from service.core.errors import (
    BodyTooLargeError,
    InvalidInputError,
    NonFiniteOutputError,
    Problem,
    ServiceError,
    TooManySequencesError,
)
from service.core.inputs import from_ids

OUTPUTS: tuple[Output, ...] = get_args(Output)
Array = npt.NDArray[np.float32]

# Nothing in bulk is ever late; what hangs is for its user to stop.
_TIMEOUT_SECONDS = 86_400.0


class EncoderError(Exception):
    """Nothing more can be encoded. The message is one line."""


class RequestTooLargeError(EncoderError):
    """So many rows are not taken at once; fewer may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """What is wanted of each row; see the fields of `/v1/encode`.

    Attributes:
        outputs: Which, at least one.
        normalize: Whether pooled and mean rows have a Euclidean length of 1.
        truncate: Whether what is too long is cut.
        padding: Of texts; the preset's where it is nothing.
    """

    outputs: tuple[Output, ...]
    normalize: bool
    truncate: bool
    padding: Padding | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFingerprint:
    """What vectors depend on beside their rows and what is wanted, to the last bit.

    Attributes:
        preset: The preset's name.
        preset_version: Its version.
        digest: Of its weights, where they are loaded.
        load_weights: Whether they are; else they are random.
        architecture: The network's sizes: without weights nothing else tells it.
        tokenizer: Digest of what makes ids of texts, where there is one; a service does not tell.
        padding: Of texts for which none is wanted.
        dtype: Of the matrix products.
        backend: The library that runs the network: each has last bits of its own.
        devices: Kinds of what it runs on.
        max_batch_tokens: Tokens of the longest row: which routines are picked, and so the last bits, follows from it.
        batch_invariant: Whether those do not depend on company, as measured.
        version: The version of this package, or of the service.
        hidden_dim: The length of a vector.
        pooling: Which output is a text's embedding.
    """

    preset: str
    preset_version: str
    digest: str | None
    load_weights: bool
    architecture: Mapping[str, Any]
    tokenizer: str | None
    padding: Padding
    dtype: str
    backend: str
    devices: Sequence[str]
    max_batch_tokens: int
    batch_invariant: bool
    version: str
    hidden_dim: int
    pooling: str


@dataclass(frozen=True, slots=True)
class RowEmbeddings:
    """What a row gave.

    Attributes:
        tokens: How many it has.
        outputs: `[hidden]` float32 each, and `[tokens, hidden]` the sequence output.
    """

    tokens: int
    outputs: Mapping[Output, Array]


class Encoder(Protocol):
    """Encodes rows of one kind at a time."""

    max_concurrency: int
    """Requests to have under way."""

    async def describe(self) -> EncoderFingerprint:
        """Return what vectors depend on beside their rows."""
        ...

    async def texts(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows that are texts, all or none.

        Raises:
            InvalidInputError: Some cannot be taken; the last part of each place is an index of `rows`.
            NonFiniteOutputError: One of them overflows, and which one is not known.
            TooMuchError: So many are not taken at once.
            EncoderError: Nothing more can be encoded.
        """
        ...

    async def ids(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows of ids; like `texts`."""
        ...


async def encode(encoder: Encoder, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings | str]:
    """Encode rows of any kind.

    Returns:
        For each its vectors, or what is wrong with it.

    Raises:
        EncoderError: Nothing more can be encoded.
    """
    found: dict[int, RowEmbeddings | str] = {row.number: row.fault for row in rows if row.fault is not None}
    found |= await _of_one_kind(encoder.texts, [row for row in rows if row.text is not None], encode_options)
    found |= await _of_one_kind(encoder.ids, [row for row in rows if row.token_ids is not None], encode_options)
    return [found[row.number] for row in rows]


async def _of_one_kind(
    work: Callable[[Sequence[Row], EncodeOptions], Awaitable[list[RowEmbeddings]]],
    rows: Sequence[Row],
    encode_options: EncodeOptions,
) -> dict[int, RowEmbeddings | str]:
    """Encode rows without those at fault, in as many parts as it takes to find them or to keep to limits.

    Returns:
        By each row's number its vectors, or what is wrong with it.
    """
    if not rows:
        return {}
    try:
        vectors = await work(rows, encode_options)
    except InvalidInputError as error:
        # A place is counted among the rows of this very request. None is named where all together are too much.
        if all(problem.loc for problem in error.problems):
            faults = _by_row(error.problems, rows)
            return {
                **faults,
                **await _of_one_kind(work, [row for row in rows if row.number not in faults], encode_options),
            }
        reason = str(error)
    except (RequestTooLargeError, NonFiniteOutputError) as error:
        reason = str(error)
    else:
        return {row.number: each for row, each in zip(rows, vectors, strict=True)}
    if len(rows) == 1:
        return {rows[0].number: reason}
    half = len(rows) // 2
    return {
        **await _of_one_kind(work, rows[:half], encode_options),
        **await _of_one_kind(work, rows[half:], encode_options),
    }


def _by_row(problems: Sequence[Problem], rows: Sequence[Row]) -> dict[int, str]:
    """Return what is wrong with each row that is at fault.

    Raises:
        EncoderError: No row is: what was asked of all of them is wrong.
    """
    found: dict[int, str] = {}
    for problem in problems:
        match problem.loc:
            case ("texts" | "token_ids" | "segment_ids" as field, int(index), *rest) if index < len(rows):
                loc = "".join(f"[{part}]" for part in rest)
                found.setdefault(rows[index].number, f"{'text' if field == 'texts' else field}{loc}: {problem.msg}")
            case _:
                raise EncoderError(str(problem))
    if not found:
        raise EncoderError("rows were refused, and no place was named")
    return found


class LocalEncoder:
    """Implements `Encoder` by an engine in this process.

    Args:
        engine: One that is ready, and whose queue takes whatever comes.
    """

    # The device must find the next batch waiting; a few requests in advance are enough.
    max_concurrency = 16

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def describe(self) -> EncoderFingerprint:
        """Return what vectors depend on."""
        with _translate_errors():
            loaded = self._engine.require_ready()
            preset = loaded.preset
            return EncoderFingerprint(
                preset=preset.name,
                preset_version=preset.version,
                digest=f"sha256:{loaded.digest}" if loaded.digest else None,
                load_weights=self._engine.options.load_weights,
                architecture=asdict(preset.architecture),
                tokenizer=await self._engine.run_in_worker(_digest_of_tokenizer, preset),
                padding=preset.padding,
                dtype=self._engine.options.dtype,
                backend=self._engine.options.backend,
                devices=_kinds(loaded.encoder.devices),
                max_batch_tokens=loaded.test.row_lengths[-1],
                batch_invariant=loaded.test.batch_invariant,
                version=__version__,
                hidden_dim=preset.architecture.hidden_dim,
                pooling=self._engine.pooling,
            )

    async def texts(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows that are texts."""
        texts = [row.text for row in rows if row.text is not None]
        with _translate_errors():
            tokens = await self._engine.tokenize(
                texts, truncate=encode_options.truncate, padding=encode_options.padding
            )
            return await self._encode(tokens, encode_options)

    async def ids(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows of ids."""
        with _translate_errors():
            preset = self._engine.require_ready().preset
            tokens = await self._engine.run_in_worker(
                from_ids, *_ids_of(rows), preset, truncate=encode_options.truncate
            )
            return await self._encode(tokens, encode_options)

    async def _encode(self, tokens: list[Tokens], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        encodings, _ = await self._engine.encode(tokens, _TIMEOUT_SECONDS, frozenset(encode_options.outputs))
        return [
            RowEmbeddings(
                len(each.token_ids), {name: _output(encoding, name, encode_options) for name in encode_options.outputs}
            )
            for each, encoding in zip(tokens, encodings, strict=True)
        ]


class RemoteEncoder:
    """Implements `Encoder` by a service.

    Args:
        client: Of the service.
    """

    # One that is computed, one that is rendered, and those on their way.
    max_concurrency = 6

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def describe(self) -> EncoderFingerprint:
        """Return what vectors depend on, as the service tells it."""
        with _translate_errors():
            info = await self._client.info()
        try:
            same = ("preset", "preset_version", "digest", "architecture", "padding", "dtype", "backend")
            return EncoderFingerprint(
                **{name: info[name] for name in (*same, "batch_invariant", "version", "hidden_dim", "pooling")},
                load_weights=info["digest"] is not None,
                tokenizer=None,
                devices=_kinds(info["devices"]),
                max_batch_tokens=info["limits"]["max_batch_tokens"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise EncoderError(
                f"what answers there is not this service: its description is another: {error}"
            ) from error

    async def texts(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows that are texts."""
        texts = [row.text for row in rows if row.text is not None]
        sent = [each.text if each.pair is None else (each.text, each.pair) for each in texts]
        return await self._ask(encode_options, texts=sent, padding=encode_options.padding)

    async def ids(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows of ids."""
        ids, segments = _ids_of(rows)
        return await self._ask(encode_options, token_ids=ids, segment_ids=segments)

    async def _ask(self, encode_options: EncodeOptions, **what: Any) -> list[RowEmbeddings]:
        with _translate_errors():
            found = await self._client.encode(
                outputs=encode_options.outputs,
                normalize=encode_options.normalize,
                truncate=encode_options.truncate,
                **what,
            )
        rows: list[dict[Output, Array]] = [{} for _ in found.lengths]
        for name in encode_options.outputs:
            for row, output in zip(rows, getattr(found, name), strict=True):
                row[name] = output
        return [RowEmbeddings(int(tokens), row) for tokens, row in zip(found.lengths, rows, strict=True)]


def _digest_of_tokenizer(preset: Preset) -> str | None:
    """Return what tells a tokenizer from any other: its vocabulary, and how it cuts pairs."""
    if not preset.has_tokenizer:
        return None
    try:
        vocabulary = (preset.directory / VOCABULARY_FILE).read_bytes()
    except OSError as error:
        raise EncoderError(f"{preset.directory / VOCABULARY_FILE}: {error.strerror}") from error
    return f"sha256:{hashlib.sha256(vocabulary).hexdigest()}, {preset.truncate}"


def _kinds(devices: Sequence[str]) -> list[str]:
    """Return the kinds of devices, each called `platform:index kind`; how many there are changes no bits."""
    return sorted({f"{name.partition(':')[0]} {name.partition(' ')[2]}" for name in devices})


def _ids_of(rows: Sequence[Row]) -> tuple[list[list[int]], list[list[int]]]:
    ids = [row.token_ids or [] for row in rows]
    return ids, [row.segment_ids if row.segment_ids is not None else [0] * len(row.token_ids or ()) for row in rows]


def _output(encoding: Encoding, name: Output, encode_options: EncodeOptions) -> Array:
    output = encoding.arrays[name]
    return normalized(output) if encode_options.normalize and name != "sequence_output" else output


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Let rows that are wrong be told as such, and whatever else happens as the end of the job."""
    try:
        yield
    except (InvalidInputError, NonFiniteOutputError):
        raise
    except ServiceError as error:
        raise EncoderError(str(error)) from error
    except EncodeError as error:
        if error.code == InvalidInputError.code and error.problems:
            raise InvalidInputError.of(error.problems) from error
        if error.code in (TooManySequencesError.code, BodyTooLargeError.code):
            raise RequestTooLargeError(error.detail) from error
        if error.code == NonFiniteOutputError.code:
            raise NonFiniteOutputError(error.detail) from error
        raise EncoderError(str(error)) from error


async def wait_ready(engine: Engine) -> None:
    """Wait until an engine that was started serves.

    Raises:
        EncoderError: It never will.
    """
    while engine.state in ("loading", "compiling"):  # noqa: ASYNC110 - it is a thread that says so
        await asyncio.sleep(0.05)
    if engine.state != "ready":
        raise EncoderError(f"preset {engine.options.preset!r}: cannot be used; the line above says why")
