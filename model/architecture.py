"""The architecture of an FNet: its sizes, and the names and shapes of its variables.

Source: Lee-Thorp et al., "FNet: Mixing Tokens with Fourier Transforms" (arXiv 2105.03824), section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Shape = tuple[int, ...]

# Far above any FNet: a configuration with more layers is damaged, and its list of variables exhausts memory.
MAX_LAYERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The constructor arguments of `FNetBackbone`, without its dtype.

    Attributes:
        vocabulary_size: Number of token ids; valid ids are `[0, vocabulary_size)`.
        num_layers: Number of encoder layers, 0 or more.
        hidden_dim: Size of the vector of a token.
        intermediate_dim: Size of the inner feed-forward vector.
        dropout: Dropout rate in training, in `[0, 1)`.
        max_sequence_length: Number of position vectors, and so the maximum number of tokens in a sequence.
        num_segments: Number of segment ids; valid ids are `[0, num_segments)`.
    """

    vocabulary_size: int
    num_layers: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float = 0.1
    max_sequence_length: int = 512
    num_segments: int = 4

    def variable_shapes(self) -> dict[str, Shape]:
        """Return the name and shape of every variable, in the order of the forward pass.

        Kernels are `[in, out]`, as in Keras.
        """
        hidden, intermediate = self.hidden_dim, self.intermediate_dim
        shapes: dict[str, Shape] = {
            "token_embedding/embeddings": (self.vocabulary_size, hidden),
            "position_embedding/embeddings": (self.max_sequence_length, hidden),
            "segment_embedding/embeddings": (self.num_segments, hidden),
            "embeddings_layer_norm/gamma": (hidden,),
            "embeddings_layer_norm/beta": (hidden,),
            "embedding_projection/kernel": (hidden, hidden),
            "embedding_projection/bias": (hidden,),
        }
        for index in range(self.num_layers):
            layer = f"layers/{index}"
            shapes |= {
                f"{layer}/mixing_layer_norm/gamma": (hidden,),
                f"{layer}/mixing_layer_norm/beta": (hidden,),
                f"{layer}/intermediate_dense/kernel": (hidden, intermediate),
                f"{layer}/intermediate_dense/bias": (intermediate,),
                f"{layer}/output_dense/kernel": (intermediate, hidden),
                f"{layer}/output_dense/bias": (hidden,),
                f"{layer}/output_layer_norm/gamma": (hidden,),
                f"{layer}/output_layer_norm/beta": (hidden,),
            }
        return shapes | {"pooled_dense/kernel": (hidden, hidden), "pooled_dense/bias": (hidden,)}

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters."""
        return sum(math.prod(shape) for shape in self.variable_shapes().values())
