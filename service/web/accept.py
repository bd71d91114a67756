"""Which of two media types a client would rather have (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WEIGHT = re.compile(r"0(\.\d*)?|1(\.0*)?")
# A separator may stand in a quoted string, which may lack its end.
_QUOTED = r'"(?:[^"\\]|\\.?)*(?:"|$)'
_ELEMENT = re.compile(rf'(?:[^,"]|{_QUOTED})+')
_PARAMETER = re.compile(rf'(?:[^;"]|{_QUOTED})+')


def prefers(accept: str, offered: str, default: str) -> bool:
    """Return whether `offered` is wanted more than `default`.

    Of two wanted alike it is the one that is named itself, and not by `*/*` or the like. Whoever accepts neither gets
    the default: it says more than a refusal.

    Args:
        accept: The header; empty where there is none.
        offered: A media type, in small letters.
        default: What is given unasked.
    """
    weights = _weights(accept)
    ours, other = _weight(weights, offered), _weight(weights, default)
    return ours > other or (ours == other > 0 and offered in weights)


def _weights(accept: str) -> dict[str, float]:
    """Return the weight of each media range; parameters are not looked at, and what makes no sense is not there."""
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
    """Return a type's weight: that of the range which says most about it."""
    kind, _, _ = media_type.partition("/")
    return next((weights[each] for each in (media_type, f"{kind}/*", "*/*") if each in weights), 0.0)
