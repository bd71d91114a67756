"""Encoders of rows: an engine in this process, or a remote service."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt

from model.encoder import Encoding, Output, TokenSequence
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

# Bulk requests have no practical deadline; the user stops a job that hangs.
_TIMEOUT_SECONDS = 86_400.0


class EncoderError(Exception):
    """The encoder cannot encode any row. The message is one line."""


class RequestTooLargeError(EncoderError):
    """A request exceeds the limits of the service; a smaller one may not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options of each row; see the fields of `/v1/encode`.

    Attributes:
        outputs: Names of the outputs, at least one.
        normalize: Whether pooled and mean outputs are L2-normalized.
        truncate: Whether sequences that are too long are truncated.
        padding: Padding of texts; None selects the preset's.
    """

    outputs: tuple[Output, ...]
    normalize: bool
    truncate: bool
    padding: Padding | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFingerprint:
    """Everything besides the rows and the options that affects the bits of the outputs.

    Attributes:
        preset: Name of the preset.
        preset_version: Version of the preset.
        digest: Digest of the weights, None if they are random.
        load_weights: Whether the weights are loaded from the preset instead of random.
        architecture: Sizes of the network, which random weights do not determine.
        tokenizer: Digest of the tokenizer, None without a tokenizer and for a remote service.
        padding: Default padding of texts.
        dtype: Operands of the matrix products.
        backend: The library that runs the network.
        devices: Kinds of the devices.
        max_batch_tokens: Tokens of the longest row, which affects the choice of kernels.
        batch_invariant: Whether outputs are bit-identical regardless of batch composition, as measured.
        version: Version of this package, or of the service.
        hidden_dim: Length of a vector.
        pooling: The output that is a text's embedding.
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
    """Outputs of a row.

    Attributes:
        tokens: Number of tokens.
        outputs: `[hidden]` float32 by name; the sequence output is `[tokens, hidden]`.
    """

    tokens: int
    outputs: Mapping[Output, Array]


class Encoder(Protocol):
    """Interface of an encoder; each call encodes rows of one kind."""

    max_concurrency: int
    """Maximum number of concurrent requests."""

    async def describe(self) -> EncoderFingerprint:
        """Return the fingerprint of the encoder."""
        ...

    async def texts(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows that are texts, all or none.

        Raises:
            InvalidInputError: Some rows are invalid; the location of each problem has an index of `rows`.
            NonFiniteOutputError: The output of an unknown row is not finite.
            RequestTooLargeError: The rows exceed the limits of one request.
            EncoderError: The encoder cannot encode any row.
        """
        ...

    async def ids(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows of token ids; like `texts`."""
        ...


async def encode(encoder: Encoder, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings | str]:
    """Encode rows of any kind.

    Args:
        encoder: The encoder.
        rows: The rows.
        encode_options: Options of each row.

    Returns:
        Embeddings of each row, or the reason why it is invalid.

    Raises:
        EncoderError: The encoder cannot encode any row.
    """
    results: dict[int, RowEmbeddings | str] = {row.number: row.error for row in rows if row.error is not None}
    results |= await _encode_kind(encoder.texts, [row for row in rows if row.text is not None], encode_options)
    results |= await _encode_kind(encoder.ids, [row for row in rows if row.token_ids is not None], encode_options)
    return [results[row.number] for row in rows]


async def _encode_kind(
    encode_rows: Callable[[Sequence[Row], EncodeOptions], Awaitable[list[RowEmbeddings]]],
    rows: Sequence[Row],
    encode_options: EncodeOptions,
) -> dict[int, RowEmbeddings | str]:
    """Encode rows of one kind, and split requests that are too large or fail.

    Returns:
        Embeddings of each row by row number, or the reason why it is invalid.
    """
    if not rows:
        return {}
    try:
        vectors = await encode_rows(rows, encode_options)
    except InvalidInputError as error:
        # Indices count the rows of this request. A problem without a location concerns all rows together.
        if all(problem.loc for problem in error.problems):
            errors = _errors_by_row(error.problems, rows)
            return {
                **errors,
                **await _encode_kind(encode_rows, [row for row in rows if row.number not in errors], encode_options),
            }
        reason = str(error)
    except (RequestTooLargeError, NonFiniteOutputError) as error:
        reason = str(error)
    else:
        return {row.number: embeddings for row, embeddings in zip(rows, vectors, strict=True)}
    if len(rows) == 1:
        return {rows[0].number: reason}
    half = len(rows) // 2
    return {
        **await _encode_kind(encode_rows, rows[:half], encode_options),
        **await _encode_kind(encode_rows, rows[half:], encode_options),
    }


def _errors_by_row(problems: Sequence[Problem], rows: Sequence[Row]) -> dict[int, str]:
    """Return the reason for each invalid row.

    Raises:
        EncoderError: The problem concerns an option, not a row.
    """
    errors: dict[int, str] = {}
    for problem in problems:
        match problem.loc:
            case ("texts" | "token_ids" | "segment_ids" as field, int(index), *rest) if index < len(rows):
                loc = "".join(f"[{part}]" for part in rest)
                errors.setdefault(rows[index].number, f"{'text' if field == 'texts' else field}{loc}: {problem.msg}")
            case _:
                raise EncoderError(str(problem))
    if not errors:
        raise EncoderError("the service rejected rows without naming them; see its log")
    return errors


class LocalEncoder:
    """Implements `Encoder` with an engine in this process.

    Args:
        engine: An engine that is ready, with an unlimited queue.
    """

    # A few requests in advance keep the device busy.
    max_concurrency = 16

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def describe(self) -> EncoderFingerprint:
        """Return the fingerprint of the engine."""
        with _translate_errors():
            loaded = self._engine.require_ready()
            preset = loaded.preset
            return EncoderFingerprint(
                preset=preset.name,
                preset_version=preset.version,
                digest=f"sha256:{loaded.digest}" if loaded.digest else None,
                load_weights=self._engine.options.load_weights,
                architecture=asdict(preset.architecture),
                tokenizer=await self._engine.run_in_worker(_tokenizer_digest, preset),
                padding=preset.padding,
                dtype=self._engine.options.dtype,
                backend=self._engine.options.backend,
                devices=_device_kinds(loaded.encoder.devices),
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
        """Encode rows of token ids."""
        with _translate_errors():
            preset = self._engine.require_ready().preset
            tokens = await self._engine.run_in_worker(
                from_ids, *_token_ids(rows), preset, truncate=encode_options.truncate
            )
            return await self._encode(tokens, encode_options)

    async def _encode(self, tokens: list[TokenSequence], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        encodings, _ = await self._engine.encode(tokens, _TIMEOUT_SECONDS, frozenset(encode_options.outputs))
        return [
            RowEmbeddings(
                len(sequence.token_ids),
                {name: _output(encoding, name, encode_options) for name in encode_options.outputs},
            )
            for sequence, encoding in zip(tokens, encodings, strict=True)
        ]


class RemoteEncoder:
    """Implements `Encoder` with a remote service.

    Args:
        client: Client of the service.
    """

    # One request is computed, one is rendered, the others are in transit.
    max_concurrency = 6

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def describe(self) -> EncoderFingerprint:
        """Return the fingerprint that the service reports."""
        with _translate_errors():
            info = await self._client.info()
        try:
            copied = ("preset", "preset_version", "digest", "architecture", "padding", "dtype", "backend")
            return EncoderFingerprint(
                **{name: info[name] for name in (*copied, "batch_invariant", "version", "hidden_dim", "pooling")},
                load_weights=info["digest"] is not None,
                tokenizer=None,
                devices=_device_kinds(info["devices"]),
                max_batch_tokens=info["limits"]["max_batch_tokens"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise EncoderError(f"/v1/info is not that of an FNet Encode service ({error}); check --url") from error

    async def texts(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows that are texts."""
        texts = [row.text for row in rows if row.text is not None]
        inputs = [text.text if text.pair is None else (text.text, text.pair) for text in texts]
        return await self._request(encode_options, texts=inputs, padding=encode_options.padding)

    async def ids(self, rows: Sequence[Row], encode_options: EncodeOptions) -> list[RowEmbeddings]:
        """Encode rows of token ids."""
        ids, segments = _token_ids(rows)
        return await self._request(encode_options, token_ids=ids, segment_ids=segments)

    async def _request(self, encode_options: EncodeOptions, **inputs: Any) -> list[RowEmbeddings]:
        with _translate_errors():
            encoded = await self._client.encode(
                outputs=encode_options.outputs,
                normalize=encode_options.normalize,
                truncate=encode_options.truncate,
                **inputs,
            )
        rows: list[dict[Output, Array]] = [{} for _ in encoded.lengths]
        for name in encode_options.outputs:
            for row, output in zip(rows, getattr(encoded, name), strict=True):
                row[name] = output
        return [RowEmbeddings(int(tokens), row) for tokens, row in zip(encoded.lengths, rows, strict=True)]


def _tokenizer_digest(preset: Preset) -> str | None:
    """Return the digest of the vocabulary and the truncation strategy, None without a tokenizer."""
    if not preset.has_tokenizer:
        return None
    try:
        vocabulary = (preset.directory / VOCABULARY_FILE).read_bytes()
    except OSError as error:
        raise EncoderError(f"{preset.directory / VOCABULARY_FILE}: {error.strerror}") from error
    return f"sha256:{hashlib.sha256(vocabulary).hexdigest()}, {preset.truncate}"


def _device_kinds(devices: Sequence[str]) -> list[str]:
    """Return the distinct kinds of devices named `platform:index kind`; their number does not affect the outputs."""
    return sorted({f"{name.partition(':')[0]} {name.partition(' ')[2]}" for name in devices})


def _token_ids(rows: Sequence[Row]) -> tuple[list[list[int]], list[list[int]]]:
    ids = [row.token_ids or [] for row in rows]
    return ids, [row.segment_ids if row.segment_ids is not None else [0] * len(row.token_ids or ()) for row in rows]


def _output(encoding: Encoding, name: Output, encode_options: EncodeOptions) -> Array:
    output = encoding.arrays[name]
    return normalized(output) if encode_options.normalize and name != "sequence_output" else output


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Pass errors of rows through, and translate all other errors to `EncoderError`."""
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
    """Wait until a started engine is ready.

    Raises:
        EncoderError: The engine failed.
    """
    while engine.state in ("loading", "compiling"):  # noqa: ASYNC110 - a thread sets the state
        await asyncio.sleep(0.05)
    if engine.state != "ready":
        raise EncoderError(f"preset {engine.options.preset!r}: cannot be loaded; see the line above")
