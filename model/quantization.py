"""Quantization of kernels to 8-bit integers, without calibration data.

A kernel has one float32 scale per output feature. Features of large magnitude dominate the quantization error, so the
scales of inputs are partly moved into the kernel first (Xiao et al., "SmoothQuant", arXiv 2211.10438, with a migration
strength of 0.5). That paper measures input magnitudes on sample texts. Here they are estimated from the weights: inputs
of the first product are outputs of a layer normalization with known scale and offset, and inputs of the second product
are outputs of the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model.arrays import Float32s

_INT8_MAX = 127
# The magnitude of a feature is estimated at this number of standard deviations.
_DEVIATIONS = 2.0
# Lower bound of the estimated activation: the estimate is too coarse for smaller values, which increase the error of
# single tokens.
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
    """Return the factors that divide the inputs of the two products of a layer, and multiply the rows of their kernels.

    Args:
        gamma: `[h]`, scale of the layer normalization before the first product.
        beta: `[h]`, its offset.
        kernel: `[h, m]`, of the first product.
        bias: `[m]`.

    Returns:
        Factors `[h]` for the first product and `[m]` for the second; the geometric mean of each is 1.
    """
    # A normalized feature has mean 0 and deviation 1; features are assumed to be independent.
    hidden = np.abs(beta) + _DEVIATIONS * np.abs(gamma)
    deviations = np.sqrt(np.square(gamma[:, None] * kernel).sum(axis=0))
    inner = np.maximum(bias + beta @ kernel + _DEVIATIONS * deviations, _MIN_ACTIVATION)
    return _factors(hidden), _factors(inner)


def _factors(magnitudes: npt.NDArray[Any]) -> Float32s:
    """Return the square roots of magnitudes, divided by their geometric mean."""
    logarithms = 0.5 * np.log(np.maximum(magnitudes, np.finfo(np.float32).tiny))
    factors: Float32s = np.exp(logarithms - logarithms.mean()).astype(np.float32)
    return factors
