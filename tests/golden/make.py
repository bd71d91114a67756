"""Write the golden presets next to this script, with their outputs in keras-hub.

The script needs keras-hub, which `make parity` installs: `.venv-parity/bin/python tests/golden/make.py [DIRECTORY]`.
Equal library versions write equal files.

Every preset is a directory in the format of keras-hub with two more files: `expected.npz` holds inputs and outputs of
the network, named `length/array`, and `texts.json` holds texts and their token ids if there is a tokenizer.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import h5py
import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import sentencepiece

Arrays = dict[str, npt.NDArray[Any]]

SEED = 2105
BATCH = 2

# Training data of the vocabularies.
SENTENCES = """\
The quick brown fox jumps over the lazy dog, and the dog sleeps on.
A Fourier transform mixes every token with every other token of a sentence.
Where the river bends, an old mill turns slowly in the morning light.
She sold sea shells by the sea shore; he bought three of them for £5.
In 1822 Joseph Fourier wrote about the flow of heat through solid bodies.
Which of these two sentences says the same thing as the first one?
Nobody expected the weather to change so quickly over the northern hills.
The museum opens at 9:30 and closes at 18:00, except on Mondays.
“It depends,” she said, “on what you mean by exact.”
Training is slow, inference is fast, and memory is never enough.
Un café crème, s'il vous plaît, et une crêpe pour ma sœur.
Die Straße führt über die Brücke zum größten Platz der Stadt.
El niño soñó con una montaña de azúcar y un pingüino.
Please send the 27 documents to office@example.org before Friday!
Cosine and sine: the real part of the sum is all that remains.
My brother's train was late again, so we walked home in the rain.
What a wonderful, terrible, unforgettable and altogether strange evening!
The price rose by 12.5% between January and September.
Birds sing at dawn; frogs, at dusk; crickets, all night long.
If you can read this sentence, then you do not need my glasses.
They planted apple trees, pear trees and one very small cherry tree.
Water boils at 100 degrees, unless you carry the kettle up a mountain.
""".splitlines()

LONG = " ".join(SENTENCES[:8])

# Empty and long texts, other scripts, look-alike characters, and special tokens as text.
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "token",
    "",
    " ",
    "  two  spaces  ",
    "tabs\tand\nlines\r\nand\x0bmore",
    "caf\u00e9 cr\u00e8me, na\u00efve",
    "cafe\u0301 cre\u0300me, decomposed",
    "stra\u00dfe STRASSE \u1e9e",
    "\ufb01ne \ufb02ow, \u2460 \u00bd \u2122 \uff26\uff35\uff2c\uff2c width",
    "no\u00a0break, zero\u200bwidth, soft\u00adhyphen, \ufeffmark",
    "\U0001f98a jumps \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f",
    "\u5085\u91cc\u53f6\u53d8\u6362",
    "\u062a\u062d\u0648\u064a\u0644 \u0641\u0648\u0631\u064a\u064a\u0647",
    "\u03bc\u03b5\u03c4\u03b1\u03c3\u03c7\u03b7\u03bc\u03b1\u03c4\u03b9\u03c3\u03bc\u03cc\u03c2",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "[CLS] literal [SEP] specials [MASK] <pad> <unk> <s> </s>",
    "\u2581underlines \u2581\u2581 _and_ __more__",
    "control \x01\x1f\x7f\x85 characters",
    "nothing \x00 ends here",
    "https://example.org/a?b=c&d=%20#e",
    "1234567890 3.14159 1e-12 0x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u0130stanbul \u01c5 \u03a3\u03c2",
    "\U0010ffff\ue000\ufffd",
    LONG,
]
SHORT_PAIR = "a dog"
# Pairs of short, long and empty texts, for all cases of truncation.
PAIRS = [
    ("the fox", SHORT_PAIR),
    ("the fox", LONG),
    (LONG, SHORT_PAIR),
    (LONG, LONG[40:]),
    ("", LONG),
    (LONG, ""),
    ("", ""),
    ("\U0001f98a \u5085\u91cc\u53f6", "cafe\u0301 [SEP] cr\u00e8me"),
    (SENTENCES[1], SENTENCES[4]),
    (SENTENCES[4], SENTENCES[13]),
]
# The length of the preprocessor, a short one, and one for the special tokens only.
LENGTHS_TO_PACK = (24, 9, 4, 3)


def main(out: Path) -> None:
    """Write all presets to a directory, and replace existing ones."""
    tokenizer = keras_hub.models.FNetTokenizer(train(260))
    size = tokenizer.vocabulary_size()
    even = network(size, 2, 16, 24, max_sequence_length=32)
    write_network(empty_directory(out / "even"), even, (1, 2, 5, 17, 32))
    write_texts(out / "even", keras_hub.models.FNetTextClassifierPreprocessor(tokenizer, sequence_length=24))

    odd = network(50, 2, 7, 13, max_sequence_length=20, num_segments=1)
    write_network(empty_directory(out / "odd"), odd, (1, 2, 9, 20))

    sharded = network(60, 3, 10, 22, max_sequence_length=16, num_segments=2)
    # 3 kB per shard, in GiB.
    write_network(empty_directory(out / "sharded"), sharded, (1, 7, 16), max_shard_size=3000 / 1024**3)
    assert len(list((out / "sharded").glob("model_*.weights.h5"))) > 1

    write_older_paths(out / "even", empty_directory(out / "older_paths"))
    write_bfloat16(empty_directory(out / "bfloat16"))

    # Special tokens as user-defined symbols, without normalization, and with waterfall truncation.
    tokenizer_with_symbols = keras_hub.models.FNetTokenizer(
        train(120, normalization_rule_name="identity", specials="user_defined_symbols")
    )
    write_network(empty_directory(out / "waterfall"), network(130, 1, 8, 12, max_sequence_length=24), (1, 24))
    write_texts(
        out / "waterfall",
        keras_hub.models.FNetTextClassifierPreprocessor(
            tokenizer_with_symbols, sequence_length=24, truncate="waterfall"
        ),
    )


def train(size: int, specials: str = "control_symbols", **options: Any) -> bytes:
    """Train a vocabulary with the special token ids of the published one."""
    proto = io.BytesIO()
    options[specials] = ["[CLS]", "[SEP]", "[MASK]"]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES),
        model_writer=proto,
        model_type="unigram",
        vocab_size=size,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        pad_piece="<pad>",
        **options,
    )
    return proto.getvalue()


def network(vocabulary_size: int, num_layers: int, hidden_dim: int, intermediate_dim: int, **arguments: Any) -> Any:
    """Return a keras-hub network with random weights that differ from the initial ones in every variable."""
    backbone = keras_hub.models.FNetBackbone(vocabulary_size, num_layers, hidden_dim, intermediate_dim, **arguments)
    random = np.random.default_rng(SEED)
    for variable in backbone.weights:
        if variable.name == "gamma":
            values = random.uniform(0.5, 1.5, variable.shape)
        elif variable.name == "kernel":
            values = random.normal(scale=variable.shape[0] ** -0.5, size=variable.shape)
        else:
            values = random.normal(scale=0.4, size=variable.shape)
        variable.assign(values)
    return backbone


def empty_directory(directory: Path) -> Path:
    """Return an empty directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def write_network(directory: Path, backbone: Any, lengths: Sequence[int], **options: Any) -> None:
    """Save a network and its outputs for random sequences of the given lengths."""
    backbone.save_to_preset(str(directory), **options)
    fix_the_date(directory)
    inputs = {length: random_inputs(backbone, length) for length in lengths}
    expected = {length: outputs(backbone, arrays) for length, arrays in inputs.items()}
    loaded = keras_hub.models.FNetBackbone.from_preset(str(directory), dtype=backbone.dtype_policy.name)
    for length, arrays in inputs.items():
        check_equal(outputs(loaded, arrays), expected[length])
    save_arrays(directory, {length: inputs[length] | expected[length] for length in lengths})


def write_older_paths(source: Path, directory: Path) -> None:
    """Save a preset with the weights layout of Keras 2.13, which keras-hub still reads."""
    for file in ("config.json", "metadata.json", "model.weights.h5", "expected.npz"):
        shutil.copyfile(source / file, directory / file)
    with h5py.File(directory / "model.weights.h5", "r+") as weights:
        weights.move("layers", "_layer_checkpoint_dependencies")
    loaded = keras_hub.models.FNetBackbone.from_preset(str(directory))
    for arrays in read_arrays(directory).values():
        check_equal(outputs(loaded, arrays), arrays)


def write_bfloat16(directory: Path) -> None:
    """Save a bfloat16 network with its bfloat16 outputs, and its float32 outputs as `float32_…`."""
    lengths = (1, 2, 13, 32)
    backbone = network(90, 2, 16, 24, max_sequence_length=32, dtype="bfloat16")
    write_network(directory, backbone, lengths)
    float32_backbone = keras_hub.models.FNetBackbone.from_preset(str(directory), dtype="float32")
    arrays = read_arrays(directory)
    for length in lengths:
        arrays[length] |= {
            f"float32_{name}": array for name, array in outputs(float32_backbone, arrays[length]).items()
        }
    save_arrays(directory, arrays)


def write_texts(directory: Path, preprocessor: Any) -> None:
    """Save a preprocessor with its tokenizer, and the ids and packed sequences of texts."""
    preprocessor.save_to_preset(str(directory))
    tokenizer = preprocessor.tokenizer
    tokenized = [{"text": text, "token_ids": tokenizer(text).tolist()} for text in TEXTS]
    packed = []
    texts: list[tuple[str, str | None]] = [(text, None) for text in TEXTS]
    for length in LENGTHS_TO_PACK:
        preprocessor.sequence_length = length
        for text, pair in texts + PAIRS:
            if pair is None and length != LENGTHS_TO_PACK[0] and text != LONG:
                continue
            # Without a label, keras-hub uses the second text as the label.
            arrays = preprocessor(text if pair is None else ([text], [pair]), y=None)
            ids, segments = (np.asarray(arrays[name]).ravel().tolist() for name in ("token_ids", "segment_ids"))
            packed.append({"text": text, "pair": pair, "token_ids": ids, "segment_ids": segments})
    # One line per case.
    document = ",\n".join(
        f'"{name}": [\n' + ",\n".join(map(json.dumps, cases)) + "\n]"
        for name, cases in (("tokenized", tokenized), ("packed", packed))
    )
    (directory / "texts.json").write_text("{\n" + document + "\n}\n")


def random_inputs(backbone: Any, length: int) -> Arrays:
    """Return a batch of random sequences, with the first and last id of tokens and segments."""
    random = np.random.default_rng(length)
    ids = random.integers(0, backbone.vocabulary_size, (BATCH, length))
    segments = random.integers(0, backbone.num_segments, (BATCH, length))
    ids[:, -1], segments[:, -1] = (0, backbone.vocabulary_size - 1), (0, backbone.num_segments - 1)
    return {"token_ids": ids.astype(np.int32), "segment_ids": segments.astype(np.int32)}


def outputs(backbone: Any, arrays: Arrays) -> Arrays:
    """Return the outputs of the network, as float32."""
    actual = backbone({name: arrays[name] for name in ("token_ids", "segment_ids")})
    return {
        name: keras.ops.convert_to_numpy(keras.ops.cast(actual[name], "float32"))
        for name in ("sequence_output", "pooled_output")
    }


def check_equal(actual: Arrays, expected: Arrays) -> None:
    """Assert that loaded outputs equal saved ones."""
    for name, array in actual.items():
        np.testing.assert_array_equal(array, expected[name])


def save_arrays(directory: Path, arrays: dict[int, Arrays]) -> None:
    """Write `expected.npz`."""
    flat = {f"{length}/{name}": array for length, named in arrays.items() for name, array in named.items()}
    np.savez_compressed(directory / "expected.npz", **flat)  # type: ignore[arg-type]


def read_arrays(directory: Path) -> dict[int, Arrays]:
    """Read `expected.npz`."""
    arrays: dict[int, Arrays] = {}
    with np.load(directory / "expected.npz") as stored:
        for key, array in stored.items():
            length, name = key.split("/")
            arrays.setdefault(int(length), {})[name] = array
    return arrays


def fix_the_date(directory: Path) -> None:
    """Set a fixed date, so that files change only with their content."""
    path = directory / "metadata.json"
    path.write_text(re.sub(r'("date_saved": )"[^"]*"', r'\1"2026-01-01@00:00:00"', path.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
