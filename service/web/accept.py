"""Content negotiation between two media types (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WEIGHT = re.compile(r"0(\.\d*)?|1(\.0*)?")
# Quoted strings may contain separators and may be unterminated.
_QUOTED = r'"(?:[^"\\]|\\.?)*(?:"|$)'
_ELEMENT = re.compile(rf'(?:[^,"]|{_QUOTED})+')
_PARAMETER = re.compile(rf'(?:[^;"]|{_QUOTED})+')


def prefers(accept: str, offered: str, default: str) -> bool:
    """Return whether the client prefers `offered` to `default`.

    With equal weights, `offered` wins only if the header names it explicitly rather than by a wildcard. If the client
    accepts neither type, the result is False.

    Args:
        accept: Accept header; empty if the request has none.
        offered: Alternative media type, in lower case.
        default: Media type of the response otherwise, in lower case.
    """
    weights = _weights(accept)
    ours, other = _weight(weights, offered), _weight(weights, default)
    return ours > other or (ours == other > 0 and offered in weights)


def _weights(accept: str) -> dict[str, float]:
    """Return the weight of each media range; ignore other parameters and invalid elements."""
    weights: dict[str, float] = {}
    for media_range, weight in _ranges(accept):
        weights[media_range] = max(weight, weights.get(media_range, 0.0))
    return weights


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for element in _ELEMENT.findall(accept):
        media_range, _, rest = element.lower().partition(";")
        parameters = (part.strip() for part in _PARAMETER.findall(rest))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        if _WEIGHT.fullmatch(weight):
            yield media_range.strip(), float(weight)


def _weight(weights: dict[str, float], media_type: str) -> float:
    """Return the weight of the most specific range that matches a media type."""
    kind, _, _ = media_type.partition("/")
    return next((weights[name] for name in (media_type, f"{kind}/*", "*/*") if name in weights), 0.0)
