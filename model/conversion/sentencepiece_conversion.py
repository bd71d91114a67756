"""Conversion of the vocabulary of a Hugging Face checkpoint to a SentencePiece model.

`spiece.model` is one already. `tokenizer.json` of a unigram model holds the same pieces and scores. Settings that
SentencePiece does not support are rejected rather than dropped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.errors import PresetError, short_repr
from model.tokenizer import FNetTokenizer

_SENTENCEPIECE, _TOKENIZER, _OPTIONS = "spiece.model", "tokenizer.json", "tokenizer_config.json"
_MAX_JSON_BYTES = 64 << 20


def read_vocabulary(directory: Path) -> bytes | None:
    """Return the vocabulary of a checkpoint as a serialized SentencePiece model, or None without one.

    Raises:
        PresetError: The vocabulary is damaged, lacks a special token, or has unsupported settings.
    """
    if not any((directory / file).is_file() for file in (_SENTENCEPIECE, _TOKENIZER)):
        return None
    _check_options(_read(directory / _OPTIONS) if (directory / _OPTIONS).is_file() else {})
    if (directory / _SENTENCEPIECE).is_file():
        file, proto = _SENTENCEPIECE, (directory / _SENTENCEPIECE).read_bytes()
    else:
        file = _TOKENIZER
        try:
            proto = _sentencepiece(_read(directory / file))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, PresetError):
                raise
            problem = f"not a unigram tokenizer of transformers: {type(error).__name__} {error}"
            raise PresetError(f"{file}: {problem}") from error
    try:
        FNetTokenizer(proto)
    except PresetError as error:
        raise PresetError(f"{file}: {str(error).partition(': ')[2]}") from error
    return proto


def _check_options(options: dict[str, Any]) -> None:
    for field, supported in (("do_lower_case", False), ("keep_accents", True)):
        if options.get(field, supported) is not supported:
            problem = f"{field} is {short_repr(options[field])}, which SentencePiece vocabularies do not support"
            raise PresetError(f"{_OPTIONS}: {problem}; expected {str(supported).lower()}")


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise PresetError(f"{path.name}: larger than {_MAX_JSON_BYTES:,} bytes")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, PresetError):
            raise
        raise PresetError(f"{path.name}: not readable as JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict):
        raise PresetError(f"{path.name}: expected a JSON object, not {type(document).__name__}")
    return document


def _sentencepiece(document: dict[str, Any]) -> bytes:
    """Return a SentencePiece model with the pieces, scores and normalization of a `tokenizer.json`."""
    from sentencepiece import sentencepiece_model_pb2  # noqa: PLC0415 - imports protobuf

    protos: Any = sentencepiece_model_pb2  # its classes are created at import
    model = document["model"]
    # Older files do not state their type.
    if model.get("type", "Unigram") != "Unigram" or model.get("byte_fallback"):
        kind = "one with byte_fallback" if model.get("byte_fallback") else short_repr(model["type"])
        raise PresetError(
            f"{_TOKENIZER}: the model is {kind}, expected 'Unigram' without byte_fallback; provide spiece.model instead"
        )
    pieces = [(str(piece), float(score)) for piece, score in model["vocab"]]
    added = {int(token["id"]): token for token in document.get("added_tokens") or []}
    for token_id in sorted(added):
        if token_id == len(pieces):
            pieces.append((str(added[token_id]["content"]), 0.0))
    kinds = protos.ModelProto.SentencePiece
    proto = protos.ModelProto()
    for token_id, (piece, score) in enumerate(pieces):
        kind = kinds.NORMAL
        if token_id == model["unk_id"]:
            kind = kinds.UNKNOWN
        elif token_id in added:
            # SentencePiece never matches control pieces in a text, and always matches user-defined pieces.
            kind = kinds.CONTROL if added[token_id].get("special") else kinds.USER_DEFINED
        proto.pieces.add(piece=piece, score=score, type=kind)
    names = [piece for piece, _ in pieces]
    proto.trainer_spec.model_type = protos.TrainerSpec.UNIGRAM
    proto.trainer_spec.vocab_size = len(pieces)
    proto.trainer_spec.unk_id = int(model["unk_id"])
    proto.trainer_spec.unk_piece = names[int(model["unk_id"])]
    for field, piece in (("bos", "<s>"), ("eos", "</s>"), ("pad", "<pad>")):
        setattr(proto.trainer_spec, f"{field}_id", names.index(piece) if piece in names else -1)
        setattr(proto.trainer_spec, f"{field}_piece", piece)
    charsmap = _charsmap(document.get("normalizer"))
    proto.normalizer_spec.name = "precompiled" if charsmap else "identity"
    proto.normalizer_spec.precompiled_charsmap = charsmap
    proto.normalizer_spec.add_dummy_prefix = _adds_prefix(document.get("pre_tokenizer"))
    proto.normalizer_spec.remove_extra_whitespaces = True
    proto.normalizer_spec.escape_whitespaces = True
    return bytes(proto.SerializeToString())


def _flat(step: Any, inner: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer or pre-tokenizer, whose sequences may be nested."""
    if step is None:
        return
    if step["type"] == "Sequence":
        for child in step[inner]:
            yield from _flat(child, inner)
    else:
        yield step


def _charsmap(normalizer: Any) -> bytes:
    charsmap = b""
    for step in _flat(normalizer, "normalizers"):
        match step["type"]:
            case "Precompiled":
                charsmap = base64.b64decode(step["precompiled_charsmap"] or "")
            # keras-hub does not replace quotation marks, and SentencePiece merges spaces.
            case "Replace" | "Strip":
                pass
            case kind:
                problem = f"the normalizer is {short_repr(kind)}, which SentencePiece vocabularies do not support"
                raise PresetError(f"{_TOKENIZER}: {problem}")
    return charsmap


def _adds_prefix(pre_tokenizer: Any) -> bool:
    for step in _flat(pre_tokenizer, "pretokenizers"):
        if step["type"] == "Metaspace":
            return bool(step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True))
        if step["type"] != "WhitespaceSplit":
            problem = (
                f"the pre-tokenizer is {short_repr(step['type'])}, which SentencePiece vocabularies do not support"
            )
            raise PresetError(f"{_TOKENIZER}: {problem}")
    return True
