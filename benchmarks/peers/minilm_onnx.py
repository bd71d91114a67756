"""Export all-MiniLM-L6-v2 to int8 ONNX, in the environment of infinity-emb: `python minilm_onnx.py MODEL DIRECTORY`.

The directory is what infinity-emb's `optimum` engine loads: configuration, tokenizer and `model_quantized.onnx`, fused
for transformers (level O3) and quantized as ONNX Runtime documents for processors with VNNI: weights in int8 with one
scale per output, activations at run time.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Export, optimize and quantize."""
    import onnx  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415
    from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTOptimizer  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415
    from optimum.onnxruntime.configuration import AutoOptimizationConfig  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415

    source, directory = map(Path, sys.argv[1:])
    # The variable keeps the exported file, which is deleted with the object.
    exported = ORTModelForFeatureExtraction.from_pretrained(source, export=True)
    ORTOptimizer.from_pretrained(exported).optimize(AutoOptimizationConfig.O3(), directory, file_suffix="optimized")
    optimized = directory / "model_optimized.onnx"
    quantize_dynamic(
        optimized,
        directory / "model_quantized.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        # Types that shape inference cannot derive behind fused nodes.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
    )
    optimized.unlink()


if __name__ == "__main__":
    main()
