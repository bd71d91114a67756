"""The encoder of another checkout of this project, with the interface before `backend`, in a separate process.

`start_previous` runs this file with that checkout first on the path. Ids and vectors pass through pipes; the child
measures each call, so that the transport does not count.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Ids of each text to vectors `[texts, 2, h]` and the seconds of the call.
Request = Callable[[Sequence[Any]], tuple[Any, float]]


def start_previous(checkout: Path, preset: Path, engine: str, dtype: str) -> Request:
    """Start the child process, wait until its encoder has passed its self-test, and return a function that calls it.

    Args:
        checkout: The other checkout.
        preset: Directory of the weights in keras-hub's form.
        engine: `jax` or `openvino`.
        dtype: Operands of its products.

    Raises:
        RuntimeError: The encoder did not start.
    """
    # Without -P the directory of this file would come before the checkout.
    child = subprocess.Popen(  # noqa: S603 - runs this file
        [sys.executable, "-P", "-W", "ignore", __file__, str(preset), engine, dtype],
        env=os.environ | {"PYTHONPATH": str(checkout.resolve())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    stdin, stdout = child.stdin, child.stdout
    if stdin is None or stdout is None:
        raise RuntimeError("the child process has no pipes")

    def receive() -> Any:
        try:
            return pickle.load(stdout)  # noqa: S301 - written by the child
        except EOFError as error:
            raise RuntimeError(f"the encoder of {checkout} ended with status {child.wait()}") from error

    loaded_from = Path(receive())
    if not loaded_from.is_relative_to(checkout.resolve()):
        raise RuntimeError(f"the child process loaded {loaded_from}, not the encoder of {checkout}")
    if failure := receive():
        raise RuntimeError(failure)

    def request(texts: Sequence[Any]) -> tuple[Any, float]:
        pickle.dump(list(texts), stdin)
        stdin.flush()
        vectors, seconds = receive()
        return vectors, seconds

    return request


def main() -> None:
    """Build the encoder, then serve requests until the input ends."""
    # Libraries may print to standard output, so responses use a duplicate of it.
    responses = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(value: object) -> None:
        pickle.dump(value, responses)
        responses.flush()

    import model  # noqa: PLC0415 - from the other checkout

    send(model.__file__)
    try:
        encode = _build(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001 - reported as the reason why this candidate does not run
        send(f"{type(error).__name__}: {error}")
        return
    send("")
    while True:
        try:
            texts = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by the parent
        except EOFError:
            return
        started = time.perf_counter()
        vectors = encode(texts)
        send((vectors, time.perf_counter() - started))


def _build(preset: str, engine: str, dtype: str) -> Callable[[Sequence[Any]], Any]:
    """Return the encoder, built with its earlier interface."""
    from model import encoder as encoders  # noqa: PLC0415
    from model import selftest  # noqa: PLC0415
    from model.backbone import FNetBackbone  # noqa: PLC0415

    # Any, because the interface of this checkout differs.
    make: Any = encoders.PackedEncoder
    test: Any = selftest
    # Its self-test rejects the rounding errors of trained weights. Here it only chooses row lengths and spacing; the
    # report shows the accuracy.
    test.BFLOAT16_COSINE = test._STRAY_COSINE = 0.0  # noqa: SLF001
    backbone = FNetBackbone.from_preset(preset)
    encoder = make(backbone.architecture, backbone.named_weights(), dtype=dtype, engine=engine)
    test.prepare(encoder, lambda tokens: backbone.encode_one(*tokens))

    def encode(texts: Sequence[Any]) -> Any:
        # The other checkout may have the old name.
        sequence = getattr(encoders, "Tokens" if hasattr(encoders, "Tokens") else "TokenSequence")
        encodings = encoder.encode([sequence(ids, np.zeros_like(ids)) for ids in texts])
        return np.stack([np.stack([one.mean_output, one.pooled_output]) for one in encodings])

    return encode


if __name__ == "__main__":
    main()
