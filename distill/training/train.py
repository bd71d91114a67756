"""The training: the student's outputs are aligned with the teacher's vectors within a time budget.

The learning rate schedule depends on the elapsed share of the budget and decays to nearly 0 at its end. An interrupted
run resumes from its last checkpoint with the remaining time.
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

from distill.recipe import Recipe
from distill.training.examples import Batch, Examples, sample_indices
from distill.training.initialize import extend_embeddings, initialize
from distill.training.student import Rows, Student, pack
from distill.training.teacher import Teacher
from distill.training.vocabulary import VOCABULARY, pieces_of
from model.backbone import FNetBackbone
from model.presets.hub import load_preset
from model.presets.preset import VOCABULARY_FILE
from model.presets.weights import read_weights

CHECKPOINT = "train/checkpoint.pt"
LOG = "train/log.jsonl"
PIECE_EMBEDDINGS = "token_embedding/embeddings"

_CHECKPOINT_SECONDS = 300.0
_LOG_STEPS = 50
_EVALUATED_TEXTS = 3_000
_EVALUATED_ROWS = 16
# More texts never fit into the rows of one step.
_MAX_BATCH_TEXTS = 1_024
_MIN_RATE_FACTOR = 0.01
_MAX_GRADIENT_NORM = 1.0
_BETAS = (0.9, 0.98)


@dataclass(slots=True)
class Progress:
    """Progress of a run, stored in its checkpoint.

    Attributes:
        seconds: Time spent on steps.
        steps: Number of steps.
        texts: Number of texts in these steps.
        tokens: Number of tokens in these steps.
        epochs: `texts` as a multiple of the number of all texts.
        start: Name and version of the preset from which the run continues; empty for a run from scratch.
    """

    seconds: float = 0.0
    steps: int = 0
    texts: int = 0
    tokens: int = 0
    epochs: float = 0.0
    start: str = ""


def loss_parts(recipe: Recipe, batch: Batch, pooled: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """Return the weighted parts of the loss.

    Args:
        recipe: Gives the weights.
        batch: The texts, with the teacher's vectors.
        pooled: `[texts, hidden]`, the pooled outputs.
        mean: `[texts, hidden]`, the mean outputs.

    Returns:
        Scalars by name: `cosine`, `mean`, `similarity` and `group`.
    """
    targets = functional.normalize(torch.from_numpy(batch.vectors), dim=1)
    pooled, mean = functional.normalize(pooled, dim=1), functional.normalize(mean, dim=1)
    squared_errors = (pooled @ pooled.T - targets @ targets.T).square()
    groups = torch.from_numpy(batch.groups)
    same_group = (groups[:, None] == groups).fill_diagonal_(False)
    return {
        "cosine": 1 - (pooled * targets).sum(dim=1).mean(),
        "mean": recipe.mean_weight * (1 - (mean * targets).sum(dim=1).mean()),
        "similarity": recipe.similarity_weight * squared_errors.mean(),
        "group": recipe.group_weight * (squared_errors * same_group).sum() / same_group.sum().clamp(min=1),
    }


def train(recipe: Recipe, work: Path, minutes: float, *, compiled: bool = True, start: Path | None = None) -> Path:
    """Train until the steps of all calls together took `minutes`.

    Args:
        recipe: The recipe.
        work: Its working directory, with `corpus/`, `teacher_vectors/` and the vocabulary.
        minutes: Total wall time of the steps.
        compiled: Whether to fuse the student's elementwise operations.
        start: A preset to continue from, instead of the initialization with teacher vectors.

    Returns:
        The checkpoint file.

    Raises:
        ValueError: The working directory's vocabulary does not start with the preset's pieces, or has more pieces than
            the recipe's vocabulary.
        PresetError: The preset's dimensions differ from the recipe's.
    """
    checkpoint = work / CHECKPOINT
    if checkpoint.exists() and torch.load(checkpoint, weights_only=True)["progress"]["seconds"] >= minutes * 60:
        return checkpoint
    torch.manual_seed(recipe.seed)
    sentencepiece.set_random_generator_seed(recipe.seed)
    # Denormal gradients slow down the CPU.
    torch.set_flush_denormal(True)
    examples = Examples(recipe, work)
    held_out = Examples(recipe, work, held_out=True)
    student = Student(FNetBackbone.from_architecture(recipe.architecture, dtype="float32"), compiled=compiled)
    optimizer = torch.optim.AdamW(_parameter_groups(recipe, student), betas=_BETAS, fused=True)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        progress, initial = _resume(checkpoint, student, optimizer)
        _truncate_log(work, progress)
    else:
        if start is None:
            initialize(student, examples, Teacher(), recipe.seed)
        else:
            _load_start(start, work, student, examples)
        progress = Progress(start=_name_and_version(start) if start else "")
        initial = {name: variable.detach().clone() for name, variable in student.variables.items()} if start else {}
        _log(work, progress, {"fidelity": fidelity(student, held_out, recipe)})
    saved_seconds = progress.seconds
    unlogged: list[dict[str, float]] = []
    batches = _batches(recipe, examples, progress, minutes)
    with tqdm(total=round(minutes * 60), initial=round(progress.seconds), desc="training", unit="s") as bar:
        while progress.seconds < minutes * 60:
            step_start = time.perf_counter()
            rate_factor = _rate_factor(recipe, progress.seconds / (minutes * 60))
            if progress.start:
                rate_factor *= recipe.continued_rate_factor
            unlogged.append(_step(recipe, student, optimizer, batches, progress, rate_factor))
            progress.seconds += time.perf_counter() - step_start
            bar.update(int(progress.seconds) - bar.n)
            if len(unlogged) == _LOG_STEPS:
                parts = {name: float(np.mean([step[name] for step in unlogged])) for name in unlogged[0]}
                unlogged.clear()
                _log(work, progress, {"rate": rate_factor, **parts})
                bar.set_postfix(cosine=f"{1 - parts['cosine']:.3f}", texts=f"{progress.texts:,}")
            if progress.seconds - saved_seconds > _CHECKPOINT_SECONDS:
                saved_seconds = progress.seconds
                _save(checkpoint, student, optimizer, progress, initial)
                _log(work, progress, {"fidelity": fidelity(student, held_out, recipe)})
    _save(checkpoint, student, optimizer, progress, initial)
    _log(work, progress, {"fidelity": fidelity(student, held_out, recipe)})
    return checkpoint


def fidelity(student: Student, examples: Examples, recipe: Recipe) -> float:
    """Return the mean cosine of the pooled outputs to the teacher's vectors, on a sample of the examples."""
    row_tokens = recipe.row_tokens[1]
    cosines: list[float] = []
    indices = list(sample_indices(examples, _EVALUATED_TEXTS, recipe.seed))
    while indices:
        rows, count = pack([examples.token_ids[index] for index in indices], row_tokens, _EVALUATED_ROWS)
        with torch.no_grad():
            pooled, _ = student.outputs(rows)
        targets = torch.from_numpy(examples.vectors[indices[:count]].astype(np.float32))
        cosines += functional.cosine_similarity(pooled, targets).tolist()
        indices = indices[count:]
    return float(np.mean(cosines))


def _step(
    recipe: Recipe,
    student: Student,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Batch, Rows]],
    progress: Progress,
    rate_factor: float,
) -> dict[str, float]:
    """Run one training step and return the parts of its loss."""
    batch, rows = next(batches)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor
    pooled, mean = student.outputs(rows)
    parts = loss_parts(recipe, batch, pooled, mean)
    torch.stack(list(parts.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_(
        [parameter for group in optimizer.param_groups for parameter in group["params"]], _MAX_GRADIENT_NORM
    )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    progress.steps += 1
    progress.texts += len(batch.token_ids)
    progress.tokens += sum(map(len, batch.token_ids))
    return {name: float(part.detach()) for name, part in parts.items()}


def _batches(recipe: Recipe, examples: Examples, progress: Progress, minutes: float) -> Iterator[tuple[Batch, Rows]]:
    """Yield batches of sentences without end, with a batch of passages at regular intervals."""
    sentence_tokens, passage_tokens = recipe.row_tokens

    def is_late() -> bool:
        return progress.seconds > recipe.late_start_share * minutes * 60

    sentences = _batches_of_lengths(recipe, examples, progress, is_late, 0, sentence_tokens)
    passages = _batches_of_lengths(recipe, examples, progress, is_late, sentence_tokens, passage_tokens)
    while True:
        interval = recipe.passage_interval_steps[is_late()]
        yield next(passages if progress.steps % interval == interval - 1 else sentences)


def _batches_of_lengths(
    recipe: Recipe,
    examples: Examples,
    progress: Progress,
    is_late: Callable[[], bool],
    longer_than: int,
    max_tokens: int,
) -> Iterator[tuple[Batch, Rows]]:
    """Yield the texts of certain lengths repeatedly, in a new order in each epoch."""
    if not ((examples.lengths > longer_than) & (examples.lengths <= max_tokens)).any():
        longer_than = 0
    while True:
        rng = np.random.default_rng([recipe.seed, max_tokens, progress.steps])
        was_late = is_late()
        batches = examples.batches(
            rng,
            _MAX_BATCH_TEXTS,
            longer_than=longer_than,
            max_tokens=max_tokens,
            resegmented_share=recipe.resegmented_share,
            composed_share=recipe.late_composed_share if was_late else 1.0,
        )
        batch = next(batches, None)
        while batch is not None:
            rows, count = pack(batch.token_ids, max_tokens, recipe.batch_tokens // max_tokens)
            progress.epochs += count / len(examples.texts)
            yield batch.first(count), rows
            try:
                batch = batches.send(count) if is_late() == was_late else None
            except StopIteration:
                batch = None


def _parameter_groups(recipe: Recipe, student: Student) -> list[dict[str, Any]]:
    """Group the variables by learning rate and weight decay."""
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


def _rate_factor(recipe: Recipe, elapsed_share: float) -> float:
    """Return the learning rate relative to its peak: a linear warmup, then a cosine decay."""
    if elapsed_share < recipe.warmup_share:
        return max(elapsed_share / recipe.warmup_share, _MIN_RATE_FACTOR)
    decay_share = min(1.0, (elapsed_share - recipe.warmup_share) / (1 - recipe.warmup_share))
    return _MIN_RATE_FACTOR + (1 - _MIN_RATE_FACTOR) * 0.5 * (1 + math.cos(math.pi * decay_share))


def _load_start(start: Path, work: Path, student: Student, examples: Examples) -> None:
    """Set the student's variables to those of a preset; predict the rows of new and rare words."""
    known, pieces = pieces_of(start / VOCABULARY_FILE), pieces_of(work / VOCABULARY)
    if pieces[: len(known)] != known:
        raise ValueError(
            f"the vocabulary of {work} does not start with the pieces of {start}; "
            "run the tokenizer step with the same --start"
        )
    unused = student.backbone.vocabulary_size - len(pieces)
    if unused < 0:
        raise ValueError(
            f"{work} has {len(pieces)} pieces, "
            f"which exceed the recipe's vocabulary of {student.backbone.vocabulary_size}"
        )
    # Only the size of the vocabulary may differ.
    size = load_preset(str(start)).architecture.vocabulary_size
    weights = read_weights(start, dataclasses.replace(student.backbone.architecture, vocabulary_size=size))
    rows = extend_embeddings(weights[PIECE_EMBEDDINGS][: len(known)], pieces, examples.piece_counts(), Teacher())
    weights[PIECE_EMBEDDINGS] = np.pad(rows, ((0, unused), (0, 0)))
    student.backbone.assign_weights(weights)


def _name_and_version(start: Path) -> str:
    preset = load_preset(str(start))
    return f"{preset.name} {preset.version}".strip()


def _save(
    file: Path, student: Student, optimizer: torch.optim.Optimizer, progress: Progress, initial: dict[str, Tensor]
) -> None:
    temporary = file.with_suffix(".tmp")
    state = {
        "variables": {name: variable.detach() for name, variable in student.variables.items()},
        "initial": initial,
        "optimizer": optimizer.state_dict(),
        "progress": dataclasses.asdict(progress),
    }
    torch.save(state, temporary)
    os.replace(temporary, file)  # noqa: PTH105 - its name states that it replaces


def _resume(file: Path, student: Student, optimizer: torch.optim.Optimizer) -> tuple[Progress, dict[str, Tensor]]:
    state = torch.load(file, weights_only=True)
    with torch.no_grad():
        for name, variable in student.variables.items():
            variable.copy_(state["variables"][name])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"]), state["initial"]


def _truncate_log(work: Path, progress: Progress) -> None:
    """Remove the log lines of steps after the checkpoint, which are repeated."""
    lines = (work / LOG).read_text().splitlines() if (work / LOG).exists() else []
    lines = [line for line in lines if json.loads(line)["steps"] <= progress.steps]
    (work / LOG).write_text("".join(f"{line}\n" for line in lines))


def _log(work: Path, progress: Progress, values: dict[str, float]) -> None:
    line = dataclasses.asdict(progress) | values
    with (work / LOG).open("a") as stream:
        stream.write(
            json.dumps({key: round(value, 5) if key != "start" else value for key, value in line.items()}) + "\n"
        )
