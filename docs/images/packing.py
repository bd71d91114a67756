"""Draw `packing.svg`: three sequences in one row, and the matrix that transforms each by itself.

.venv/bin/python docs/images/packing.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

WIDTH, HEIGHT, ROW = 960, 400, 64
# Name, first token, tokens, line and area.
SEQUENCES = (
    ("A", 0, 21, "#2563a8", "#dbe7f5"),
    ("C", 22, 5, "#4d7c0f", "#e7f0d5"),
    ("B", 32, 30, "#b45309", "#fbe9d3"),
)
WORK = (
    ("#888", "dense, gelu, normalise", "one token at a time: company cannot matter"),
    ("#888", "transform along the hidden axis", "one token at a time, too"),
    ("#111", "transform along the row", "a product with the matrix on the right: one block a sequence"),
)


def words(x: float, y: float, text: str, **style: str | float) -> str:
    """Return a line of text."""
    told = " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in {"fill": "#555", **style}.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" {told}>{text}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str, **style: str | float) -> str:
    """Return a rectangle."""
    told = " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in style.items())
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {size} fill="{fill}" stroke="{stroke}" {told}/>'


def row(left: float, top: float, cell: float) -> Iterator[str]:
    """Draw the row, a cell a token."""
    yield words(left, 46, "One row of 64 tokens", font_size=18, fill="#111")
    yield words(left, 70, "no token is padding; a gap is room that a shorter text may take")
    for token in range(ROW):
        mine = [(line, area) for _, first, count, line, area in SEQUENCES if first <= token < first + count]
        line, area = mine[0] if mine else ("#bbb", "#fff")
        dashes = {} if mine else {"stroke_dasharray": "2 2"}
        yield box(left + token * cell, top, cell - 1.2, 44, area, line, rx=1.5, stroke_width=0.8, **dashes)
    for name, first, count, line, _ in SEQUENCES:
        x = left + (first + count / 2) * cell
        yield words(x, top + 66, f"{name}: {count}", text_anchor="middle", fill=line)
    for number, (dot, what, why) in enumerate(WORK):
        y = top + 116 + number * 48
        yield f'<circle cx="{left + 6}" cy="{y - 5}" r="5" fill="{dot}"/>'
        yield words(left + 22, y, what, fill="#111")
        yield words(left + 22, y + 20, why, font_size=13.5)


def matrix(left: float, top: float, side: float) -> Iterator[str]:
    """Draw the block-diagonal matrix."""
    unit = side / ROW
    yield words(left, 46, "The transform along the row", font_size=18, fill="#111")
    yield box(left, top, side, side, "#fafafa", "#999")
    for _, first, count, line, area in SEQUENCES:
        x, y, block = left + first * unit, top + first * unit, count * unit
        yield box(x, y, block, block, area, line, stroke_width=1.2)
        inside = block > side / 10
        where, anchor = (x + block / 2, "middle") if inside else (x - 8, "end")
        yield words(where, y + block / 2 + 5, f"cos 2πjk/{count}", text_anchor=anchor, fill=line, font_size=14)
    for x, y in ((0.78, 0.2), (0.16, 0.75)):
        yield words(left + side * x, top + side * y, "0", font_size=28, fill="#999", text_anchor="middle")
    yield words(left, top + side + 24, "of one shape, whatever lies in it: one program for all", font_size=13.5)


def main() -> None:
    """Write the picture beside this file."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t d"'
    told = (
        "Sequences of 21, 5 and 30 tokens lie in one row of 64, and the matrix of its transform has a block for each."
    )
    lines = [
        f'{head} font-family="system-ui, sans-serif" font-size="15">',
        '<title id="t">One row, three sequences, three transforms</title>',
        f'<desc id="d">{told}</desc>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#fff"/>',
        *row(40, 96, 7.6),
        *matrix(590, 60, 300),
        "</svg>",
    ]
    Path(__file__).with_suffix(".svg").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
