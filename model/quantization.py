"""Kernels in 8-bit integers, without calibration data.

A kernel has one float32 scale per output feature. What quantization loses depends most on features that are much larger
than others, so the scales of inputs are partly moved into the kernel first (Xiao et al., "SmoothQuant", arXiv
2211.10438, with a migration strength of 0.5). Where that paper measures the inputs' magnitudes on sample texts, they
are estimated here from the weights: the first product's inputs come out of a layer normalization, whose scale and
offset are known, and the second's out of the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model.arrays import Float32s

_INT8_MAX = 127
# Standard deviations from the mean at which a feature's magnitude is taken.
_DEVIATIONS = 2.0
# Features that are estimated to be seldom active are taken as this active: the estimate is too rough for less, and
# single tokens pay for it.
_MIN_ACTIVATION = 0.5


def quantize(kernel: Float32s) -> tuple[npt.NDArray[np.int8], Float32s]:
    """Quantize a kernel symmetrically, rounding to nearest.

    Args:
        kernel: `[out, in]`.

    Returns:
        Integers `[out, in]` in [-127, 127], and scales `[out, 1]`; their product approximates the kernel.
    """
    largest = np.abs(kernel).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, largest / _INT8_MAX, 1).astype(np.float32)
    return np.ascontiguousarray(np.rint(kernel / scales).astype(np.int8)), scales


def smoothing_factors(gamma: Float32s, beta: Float32s, kernel: Float32s, bias: Float32s) -> tuple[Float32s, Float32s]:
    """Return by which factors the inputs of a layer's two products are divided, and the kernels' rows multiplied.

    Args:
        gamma: `[h]`, scale of the layer normalization whose output the first product takes.
        beta: `[h]`, its offset.
        kernel: `[h, m]`, of the first product.
        bias: `[m]`.

    Returns:
        Factors `[h]` for the first product and `[m]` for the second; the geometric mean of each is 1.
    """
    # A normalized feature has mean 0 and deviation 1; features are taken as independent.
    hidden = np.abs(beta) + _DEVIATIONS * np.abs(gamma)
    deviations = np.sqrt(np.square(gamma[:, None] * kernel).sum(axis=0))
    inner = np.maximum(bias + beta @ kernel + _DEVIATIONS * deviations, _MIN_ACTIVATION)
    return _factors(hidden), _factors(inner)


def _factors(magnitudes: npt.NDArray[Any]) -> Float32s:
    """Return the square roots of magnitudes, divided by their geometric mean."""
    logarithms = 0.5 * np.log(np.maximum(magnitudes, np.finfo(np.float32).tiny))
    factors: Float32s = np.exp(logarithms - logarithms.mean()).astype(np.float32)
    return factors
