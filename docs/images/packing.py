"""Draw `packing.svg`: three sequences in one row, one transform per sequence, and the shared program.

.venv/bin/python docs/images/packing.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

WIDTH, HEIGHT = 960, 330
LEFT, CELL = 40, 16
# Name, first token, tokens, line and area.
SEQUENCES = (
    ("A", 0, 21, "#2563a8", "#dbe7f5"),
    ("B", 21, 5, "#4d7c0f", "#e7f0d5"),
    ("C", 26, 29, "#b45309", "#fbe9d3"),
)
# A narrower box has a short label.
LABEL_WIDTH = 130
TOKENS = sum(count for _, _, count, _, _ in SEQUENCES)


def text(x: float, y: float, content: str, **style: str | float) -> str:
    """Return a line of text."""
    attributes = " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in {"fill": "#555", **style}.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{content}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str) -> str:
    """Return a rectangle."""
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {size} fill="{fill}" stroke="{stroke}" rx="3"/>'


def arrow(x: float, top: float, bottom: float) -> str:
    """Return an arrow that points down."""
    head = f"M{x - 4:.1f} {bottom - 7:.1f} L{x:.1f} {bottom:.1f} L{x + 4:.1f} {bottom - 7:.1f}"
    return f'<path d="M{x:.1f} {top:.1f} V{bottom:.1f} {head}" fill="none" stroke="#888"/>'


def row(top: float) -> Iterator[str]:
    """Draw the row, with one cell per token."""
    for name, first, count, line, area in SEQUENCES:
        for token in range(first, first + count):
            yield box(LEFT + token * CELL, top, CELL - 2, 34, area, line)
        yield text(LEFT + first * CELL, top - 8, f"{name}: {count}", fill=line, font_size=14)


def mixing(top: float) -> Iterator[str]:
    """Draw one transform per sequence."""
    for _, first, count, line, area in SEQUENCES:
        x, width = LEFT + first * CELL, count * CELL
        label = f"Re(fft2), n = {count}" if width > LABEL_WIDTH else f"n = {count}"
        yield arrow(x + width / 2, top - 26, top - 4)
        yield box(x, top, width - 2, 40, area, line)
        yield text(x + width / 2, top + 25, label, fill=line, text_anchor="middle")
        yield arrow(x + width / 2, top + 44, top + 66)


def main() -> None:
    """Write the picture next to this file."""
    width = TOKENS * CELL
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t d"'
    description = (
        f"Sequences of 21, 5 and 29 tokens are packed end to end in one row of {TOKENS} tokens. Each has its own "
        "Fourier transform on the host; one compiled program runs the feed-forward part for the row."
    )
    lines = [
        f'{head} font-family="system-ui, sans-serif" font-size="15">',
        '<title id="t">One row with three sequences, and one transform per sequence</title>',
        f'<desc id="d">{description}</desc>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#fff"/>',
        text(LEFT, 36, "One row of tokens, sequences end to end, no padding", font_size=17, fill="#111"),
        *row(72),
        *mixing(134),
        box(LEFT, 202, width - 2, 52, "#f3f4f6", "#6b7280"),
        text(
            LEFT + width / 2,
            225,
            "add and normalize, feed-forward, add and normalize",
            text_anchor="middle",
            fill="#111",
        ),
        text(
            LEFT + width / 2, 244, "token-wise: one compiled program for the row", text_anchor="middle", font_size=13.5
        ),
        arrow(LEFT + width / 2, 258, 280),
        text(LEFT + width / 2, 302, "next layer", text_anchor="middle"),
        "</svg>",
    ]
    Path(__file__).with_suffix(".svg").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
