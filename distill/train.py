"""Training: the student learns to point where the teacher points, for as long as it is given.

The time budget is the schedule: the learning rate falls to nearly nothing when the time is used up. A run that was
interrupted goes on from its last checkpoint, with the time it had left.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from distill.examples import Batch, Examples, sampled
from distill.initialise import initialise, widened
from distill.recipe import Recipe
from distill.student import Student, pack
from distill.teacher import Teacher
from distill.vocabulary import VOCABULARY, pieces_of
from model.backbone import FNetBackbone
from model.presets.hub import load_preset
from model.presets.preset import VOCABULARY_FILE
from model.presets.weights import read_weights

CHECKPOINT = "train/checkpoint.pt"
LOG = "train/log.jsonl"
PIECE_ROWS = "token_embedding/embeddings"

_CHECKPOINT_SECONDS = 300.0
_LOG_STEPS = 50
_EVALUATED_TEXTS = 3_000
_EVALUATED_ROWS = 16
# More texts than these never fit a step's rows.
_MOST_TEXTS = 1_024
_LAST_RATE = 0.01
_CLIPPED_NORM = 1.0


@dataclass(slots=True)
class Progress:
    """How far a run is; kept in its checkpoint.

    Attributes:
        seconds: Time spent on steps.
        steps: Steps made.
        texts: Texts shown.
        tokens: Tokens shown.
        epochs: Texts shown, in times of all there are.
        start: Name and version of the preset that the run went on from, nothing if it began anew.
    """

    seconds: float = 0.0
    steps: int = 0
    texts: int = 0
    tokens: int = 0
    epochs: float = 0.0
    start: str = ""


def loss_of(recipe: Recipe, batch: Batch, pooled: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """Return the parts of the loss, each with its weight in.

    Args:
        recipe: Gives the weights.
        batch: The texts.
        pooled: `[texts, hidden]`, their pooled outputs.
        mean: `[texts, hidden]`, their mean outputs.
    """
    wanted = functional.normalize(torch.from_numpy(batch.vectors), dim=1)
    pooled, mean = functional.normalize(pooled, dim=1), functional.normalize(mean, dim=1)
    wrong = (pooled @ pooled.T - wanted @ wanted.T).square()
    families = torch.from_numpy(batch.families)
    kin = (families[:, None] == families).fill_diagonal_(False)
    return {
        "cosine": 1 - (pooled * wanted).sum(dim=1).mean(),
        "mean": recipe.mean_weight * (1 - (mean * wanted).sum(dim=1).mean()),
        "similarity": recipe.similarity_weight * wrong.mean(),
        "family": recipe.family_weight * (wrong * kin).sum() / kin.sum().clamp(min=1),
    }


def train(recipe: Recipe, work: Path, minutes: float, *, compiled: bool = True, start: Path | None = None) -> Path:
    """Train for `minutes` in all, over however many calls, and return the checkpoint.

    Args:
        recipe: The recipe.
        work: Its working directory: corpus, taught, vocabulary.
        minutes: Wall time of all steps together.
        compiled: Whether to fuse the student's elementwise work.
        start: A preset to go on from, instead of the teacher's words.

    Raises:
        ValueError: The working directory's vocabulary does not begin with that preset's, or has more pieces than the
            recipe.
        PresetError: That preset has other dimensions than the recipe's student.
    """
    checkpoint = work / CHECKPOINT
    if checkpoint.exists() and torch.load(checkpoint, weights_only=True)["progress"]["seconds"] >= minutes * 60:
        return checkpoint
    torch.manual_seed(recipe.seed)
    sentencepiece.set_random_generator_seed(recipe.seed)
    # Tiny gradients would otherwise slow the processor down.
    torch.set_flush_denormal(True)
    examples = Examples(recipe, work)
    held_out = Examples(recipe, work, held_out=True)
    student = Student(FNetBackbone.from_architecture(recipe.architecture, dtype="float32"), compiled=compiled)
    optimizer = torch.optim.AdamW(_groups(recipe, student), betas=(0.9, 0.98), fused=True)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        progress, before = _resume(checkpoint, student, optimizer)
        _forget_later(work, progress)
    else:
        if start is None:
            initialise(student, examples, Teacher(), recipe.seed)
        else:
            _take(start, work, student, examples)
        progress = Progress(start=_named(start) if start else "")
        before = {name: variable.detach().clone() for name, variable in student.variables.items()} if start else {}
        _log(work, progress, {"fidelity": fidelity(student, held_out, recipe)})
    saved = progress.seconds
    unlogged: list[dict[str, float]] = []
    batches = _mixture(recipe, examples, progress, minutes)
    with tqdm(total=round(minutes * 60), initial=round(progress.seconds), desc="training", unit="s") as bar:
        while progress.seconds < minutes * 60:
            began = time.perf_counter()
            rate = _rate(recipe, progress.seconds / (minutes * 60)) * (recipe.further_rate if progress.start else 1.0)
            unlogged.append(_step(recipe, student, optimizer, batches, progress, rate))
            progress.seconds += time.perf_counter() - began
            bar.update(int(progress.seconds) - bar.n)
            if len(unlogged) == _LOG_STEPS:
                parts = {name: float(np.mean([step[name] for step in unlogged])) for name in unlogged[0]}
                unlogged.clear()
                _log(work, progress, {"rate": rate, **parts})
                bar.set_postfix(cosine=f"{1 - parts['cosine']:.3f}", texts=f"{progress.texts:,}")
            if progress.seconds - saved > _CHECKPOINT_SECONDS:
                saved = progress.seconds
                _save(checkpoint, student, optimizer, progress, before)
                _log(work, progress, {"fidelity": fidelity(student, held_out, recipe)})
    _save(checkpoint, student, optimizer, progress, before)
    _log(work, progress, {"fidelity": fidelity(student, held_out, recipe)})
    return checkpoint


def fidelity(student: Student, examples: Examples, recipe: Recipe) -> float:
    """Return the mean cosine between the pooled outputs and the teacher, on some of the examples."""
    row_tokens = recipe.row_tokens[1]
    found: list[float] = []
    waiting = list(sampled(examples, _EVALUATED_TEXTS, recipe.seed))
    while waiting:
        rows, count = pack([examples.token_ids[index] for index in waiting], row_tokens, _EVALUATED_ROWS)
        with torch.no_grad():
            pooled, _ = student.outputs(rows)
        wanted = torch.from_numpy(examples.vectors[waiting[:count]].astype(np.float32))
        found += functional.cosine_similarity(pooled, wanted).tolist()
        waiting = waiting[count:]
    return float(np.mean(found))


def _step(
    recipe: Recipe,
    student: Student,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Batch, Any]],
    progress: Progress,
    rate: float,
) -> dict[str, float]:
    batch, rows = next(batches)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate
    pooled, mean = student.outputs(rows)
    parts = loss_of(recipe, batch, pooled, mean)
    torch.stack(list(parts.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], _CLIPPED_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    progress.steps += 1
    progress.texts += len(batch.token_ids)
    progress.tokens += sum(map(len, batch.token_ids))
    return {name: float(part.detach()) for name, part in parts.items()}


def _mixture(recipe: Recipe, examples: Examples, progress: Progress, minutes: float) -> Iterator[tuple[Batch, Any]]:
    """Deal steps for ever: sentences, and now and then passages."""
    short, long = recipe.row_tokens

    def late() -> bool:
        return progress.seconds > recipe.late * minutes * 60

    sentences = _stream(recipe, examples, progress, late, 0, short)
    passages = _stream(recipe, examples, progress, late, short, long)
    while True:
        every = recipe.passage_steps[late()]
        yield next(passages if progress.steps % every == every - 1 else sentences)


def _stream(
    recipe: Recipe, examples: Examples, progress: Progress, late: Callable[[], bool], longer_than: int, at_most: int
) -> Iterator[tuple[Batch, Any]]:
    """Deal the texts of certain lengths over and over, in a new order each time."""
    if not ((examples.lengths > longer_than) & (examples.lengths <= at_most)).any():
        longer_than = 0
    while True:
        rng = np.random.default_rng([recipe.seed, at_most, progress.steps])
        was_late = late()
        dealer = examples.batches(
            rng,
            _MOST_TEXTS,
            longer_than=longer_than,
            at_most=at_most,
            resegmented=recipe.resegmented,
            composed=recipe.late_composed if was_late else 1.0,
        )
        batch = next(dealer, None)
        while batch is not None:
            rows, count = pack(batch.token_ids, at_most, recipe.batch_tokens // at_most)
            progress.epochs += count / len(examples.texts)
            yield batch.first(count), rows
            try:
                batch = dealer.send(count) if late() == was_late else None
            except StopIteration:
                batch = None


def _groups(recipe: Recipe, student: Student) -> list[dict[str, Any]]:
    """Part the variables by learning rate and weight decay."""
    groups: dict[str, list[Tensor]] = {"token embedding": [], "kernels": [], "others": []}
    for name, variable in student.variables.items():
        if name.startswith("token_embedding"):
            groups["token embedding"].append(variable)
        else:
            groups["kernels" if name.endswith("kernel") else "others"].append(variable)
    peaks = {"token embedding": recipe.embedding_learning_rate}
    decays = {"kernels": recipe.weight_decay}
    return [
        {
            "params": variables,
            "peak": peaks.get(name, recipe.learning_rate),
            "weight_decay": decays.get(name, 0.0),
        }
        for name, variables in groups.items()
    ]


def _rate(recipe: Recipe, done: float) -> float:
    """Return the share of the peak learning rate: a straight rise, then half a cosine."""
    if done < recipe.warmup:
        return max(done / recipe.warmup, _LAST_RATE)
    rest = min(1.0, (done - recipe.warmup) / (1 - recipe.warmup))
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * rest))


def _take(start: Path, work: Path, student: Student, examples: Examples) -> None:
    """Set the student's variables to a preset's, and the rows of words that the preset does not know well."""
    known, pieces = pieces_of(start / VOCABULARY_FILE), pieces_of(work / VOCABULARY)
    if pieces[: len(known)] != known:
        raise ValueError(f"{start} has another vocabulary than {work}: run the tokenizer step with the same start")
    unused = student.backbone.vocabulary_size - len(pieces)
    if unused < 0:
        raise ValueError(f"{work} has {len(pieces)} pieces, the recipe's vocabulary {student.backbone.vocabulary_size}")
    # Its vocabulary is all in which the preset may differ.
    size = load_preset(str(start)).architecture.vocabulary_size
    weights = read_weights(start, dataclasses.replace(student.backbone.architecture, vocabulary_size=size))
    rows = widened(weights[PIECE_ROWS][: len(known)], pieces, examples.piece_counts(), Teacher())
    weights[PIECE_ROWS] = np.pad(rows, ((0, unused), (0, 0)))
    student.backbone.assign_weights(weights)


def _named(start: Path) -> str:
    preset = load_preset(str(start))
    return f"{preset.name} {preset.version}".strip()


def _save(
    file: Path, student: Student, optimizer: torch.optim.Optimizer, progress: Progress, before: dict[str, Tensor]
) -> None:
    unfinished = file.with_suffix(".tmp")
    state = {
        "variables": {name: variable.detach() for name, variable in student.variables.items()},
        "before": before,
        "optimizer": optimizer.state_dict(),
        "progress": dataclasses.asdict(progress),
    }
    torch.save(state, unfinished)
    os.replace(unfinished, file)  # noqa: PTH105 - the one that says it replaces


def _resume(file: Path, student: Student, optimizer: torch.optim.Optimizer) -> tuple[Progress, dict[str, Tensor]]:
    state = torch.load(file, weights_only=True)
    with torch.no_grad():
        for name, variable in student.variables.items():
            variable.copy_(state["variables"][name])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"]), state["before"]


def _forget_later(work: Path, progress: Progress) -> None:
    """Drop log lines of steps that were lost with what came after the checkpoint."""
    lines = (work / LOG).read_text().splitlines() if (work / LOG).exists() else []
    kept = [line for line in lines if json.loads(line)["steps"] <= progress.steps]
    (work / LOG).write_text("".join(f"{line}\n" for line in kept))


def _log(work: Path, progress: Progress, values: dict[str, float]) -> None:
    line = dataclasses.asdict(progress) | values
    with (work / LOG).open("a") as stream:
        stream.write(
            json.dumps({key: round(value, 5) if key != "start" else value for key, value in line.items()}) + "\n"
        )
