"""Quantization of kernels has a bounded rounding error, and smoothing preserves products."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.quantization import quantize, smoothing_factors

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]


def random_array(*shape: int, seed: int = 0) -> Float32s:
    """Return normal values."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def layer_inputs(hidden: int = 12, intermediate: int = 20, seed: int = 0) -> tuple[Float32s, ...]:
    """Return scale and offset of a normalization, kernel and bias of the product that follows it."""
    gamma, beta, bias = (random_array(size, seed=seed) for size in (hidden, hidden, intermediate))
    gamma[:] = 1 + gamma / 4
    kernel = random_array(hidden, intermediate, seed=seed)
    kernel /= np.float32(hidden**0.5)
    return gamma, beta, kernel, bias


@given(outputs=st.integers(1, 40), inputs=st.integers(1, 40), exponent=st.integers(-20, 20), seed=st.integers(0, 99))
def test_rounding_error_is_at_most_half_a_step(outputs: int, inputs: int, exponent: int, seed: int) -> None:
    """A step is the largest magnitude of an output feature divided by 127, regardless of other features."""
    kernel = random_array(outputs, inputs, seed=seed) * np.float32(2.0**exponent)
    kernel[0] *= 1000
    integers, scales = quantize(kernel)
    assert (integers.dtype.name, integers.shape) == ("int8", kernel.shape)
    assert (scales.dtype.name, scales.shape) == ("float32", (outputs, 1))
    largest = np.abs(kernel).max(axis=1, keepdims=True)
    np.testing.assert_allclose(scales, largest / 127, rtol=1e-6)
    error = np.abs(integers.astype(np.float64) * scales - kernel)
    assert (error <= 0.5001 * scales).all()


def test_integers_use_the_symmetric_range() -> None:
    """The largest magnitude of each output feature becomes 127 or -127, and -128 does not occur."""
    kernel = np.array([[1, -2, 0.5], [-0.1, 0.3, 0.2]], np.float32)
    integers, scales = quantize(kernel)
    assert integers.tolist() == [[64, -127, 32], [-42, 127, 85]]
    np.testing.assert_allclose(scales[:, 0], [2 / 127, 0.3 / 127], rtol=1e-6)


def test_kernel_of_zeros_is_exact() -> None:
    """An output feature without weights has a scale that is not zero."""
    integers, scales = quantize(np.zeros((2, 3), np.float32))
    assert not integers.any()
    assert scales.tolist() == [[1], [1]]


@pytest.mark.parametrize("seed", range(3))
def test_geometric_mean_of_smoothing_factors_is_one(seed: int) -> None:
    """Factors are positive and preserve the overall scale of a kernel."""
    gamma, beta, kernel, bias = layer_inputs(seed=seed)
    for factors, size in zip(smoothing_factors(gamma, beta, kernel, bias), (12, 20), strict=True):
        assert (factors.dtype.name, factors.shape) == ("float32", (size,))
        assert (factors > 0).all()
        assert np.log(factors.astype(np.float64)).mean() == pytest.approx(0, abs=1e-6)


def test_larger_features_have_larger_factors() -> None:
    """A feature that is 100 times as large has 10 times the factor: half of its magnitude moves into the kernel."""
    gamma, beta, kernel, bias = layer_inputs()
    gamma[:] = 1
    beta[:] = 0
    gamma[3] = 100
    hidden, _ = smoothing_factors(gamma, beta, kernel, bias)
    assert hidden[3] / hidden[0] == pytest.approx(10, rel=1e-5)
    beta[4] = 198
    hidden, _ = smoothing_factors(gamma, beta, kernel, bias)
    assert hidden[4] / hidden[0] == pytest.approx(10, rel=1e-5)


def test_inner_factors_follow_the_first_product() -> None:
    """An intermediate feature with a large bias has the largest factor, and one that is never active the smallest."""
    gamma, beta, kernel, bias = layer_inputs()
    bias[:] = 0
    bias[5], bias[6], bias[7] = 1000, -1000, -2000
    _, inner = smoothing_factors(gamma, beta, kernel, bias)
    assert inner.argmax() == 5
    assert inner[6] == inner[7] == inner.min()
    bias[:] = 0
    beta[:] = 0
    kernel[:, 3] *= 100
    _, inner = smoothing_factors(gamma, beta, kernel, bias)
    assert inner.argmax() == 3


def test_features_without_magnitude_have_finite_factors() -> None:
    """A scale and an offset of zero do not cause a division by zero."""
    gamma, beta, kernel, bias = layer_inputs()
    gamma[2] = beta[2] = 0
    for factors in smoothing_factors(gamma, beta, kernel, bias):
        assert np.isfinite(factors).all()
        assert (factors > 0).all()


def test_smoothing_preserves_products() -> None:
    """Inputs divided by the factors, times kernels whose rows are multiplied by them, equal the original product."""
    gamma, beta, kernel, bias = layer_inputs()
    second = random_array(20, 12, seed=1)
    hidden, inner = (factors.astype(np.float64) for factors in smoothing_factors(gamma, beta, kernel, bias))
    normalized = random_array(9, 12, seed=2).astype(np.float64)
    x: Float64s = normalized * gamma + beta
    smoothed: Float64s = normalized * (gamma / hidden) + beta / hidden
    np.testing.assert_allclose(smoothed @ (kernel * hidden[:, None]), x @ kernel.astype(np.float64), rtol=1e-10)
    active = np.maximum(x @ kernel + bias, 0)
    np.testing.assert_allclose((active / inner) @ (second * inner[:, None]), active @ second, rtol=1e-10, atol=1e-12)


def test_smoothing_reduces_the_error_of_outlier_features() -> None:
    """With one input feature 50 times as large as the others, 8-bit products have a smaller error."""
    gamma, beta, kernel, bias = layer_inputs(64, 128)
    gamma[:] = 1
    beta[:] = 0
    gamma[7] = 50
    x = random_array(200, 64, seed=3) * gamma
    hidden, _ = smoothing_factors(gamma, beta, kernel, bias)
    true = x.astype(np.float64) @ kernel

    def error(factors: Float32s) -> float:
        weights, weight_scales = quantize((kernel * factors[:, None]).T)
        inputs, input_scales = quantize(x / factors)
        product = (inputs.astype(np.float64) @ weights.T) * input_scales * weight_scales.T
        return float(np.linalg.norm(product - true) / np.linalg.norm(true))

    assert error(hidden) < 0.7 * error(np.ones(64, np.float32))
