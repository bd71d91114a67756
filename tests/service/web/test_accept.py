"""Content negotiation by the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.web.accept import prefers

JSON, NPZ = "application/json", "application/x-npz"


@pytest.mark.parametrize(
    "accept",
    [
        NPZ,
        "APPLICATION/X-NPZ",
        f"  {NPZ}  ",
        f"text/html,{NPZ}",
        f"{NPZ}, {JSON};q=0.5",
        f"{JSON};q=0.5,{NPZ};q=0.6",
        f"{NPZ};q=0.001",
        f"{NPZ} ; Q=0.5",
        f"{NPZ};q=1.000",
        f"{NPZ};version=1",
        f"{NPZ}, {JSON}",
        f"{JSON}, {NPZ}",
        f"{NPZ}, */*",
        f"*/*;q=0.5, {NPZ};q=0.5",
        f"*/*, {JSON};q=0",
        f"application/*, {JSON};q=0.9",
        f'text/html;title="a, b;c", {NPZ}',
        f'text/html;title="\\"", {NPZ}',
        f", ,{NPZ},,",
    ],
)
def test_offered_type_is_preferred(accept: str) -> None:
    """The offered type has a larger weight, or an equal weight and an explicit name."""
    assert prefers(accept, NPZ, JSON)


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        JSON,
        "text/html",
        f"{NPZ};q=0",
        f"{NPZ};q=0.000",
        f"{NPZ};q=0, {JSON}",
        f"{NPZ};q=0, */*",
        f"{NPZ};q=0, {JSON};q=0",
        f"{NPZ};q=0.4, {JSON};q=0.5",
        f"{NPZ};q=0.4, */*;q=0.5",
        f"{NPZ};level=1;q=0",
        f"{NPZ}2",
        f"x{NPZ}",
        f'text/html;title="{NPZ}"',
        f'text/html;title=", {NPZ}"',
        f'text/html;title=", {NPZ}',
        f"text/html;{NPZ}",
        f";{NPZ}",
    ],
)
def test_default_type_is_preferred(accept: str) -> None:
    """A weight of 0 excludes a type, and a name within another name does not match."""
    assert not prefers(accept, NPZ, JSON)


@pytest.mark.parametrize("weight", ["2", "-1", "x", "", "1.5", "0,5", "nan", "0x1", "1e0"])
def test_element_with_invalid_weight_is_ignored(weight: str) -> None:
    """The other elements of the header remain valid."""
    assert not prefers(f"{NPZ};q={weight}", NPZ, JSON)
    assert prefers(f"{JSON};q={weight}, {NPZ}", NPZ, JSON)


@given(accept=st.text(alphabet='ap/*;,q=01."\\ \t', max_size=40))
def test_any_header_is_accepted(accept: str) -> None:
    """No header value raises an error."""
    assert prefers(accept, NPZ, JSON) in (True, False)
    assert prefers(f"{accept}, {NPZ}", NPZ, JSON) in (True, False)
