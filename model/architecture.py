"""What defines an FNet: seven numbers, and the variables that follow from them.

Source: Lee-Thorp et al., "FNet: Mixing Tokens with Fourier Transforms" (arXiv 2105.03824), section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Shape = tuple[int, ...]

# Far above any FNet: a description that claims more is damaged, and to list its variables would take for ever.
MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The constructor arguments of `FNetBackbone`, without its dtype.

    Attributes:
        vocabulary_size: Number of token ids; valid ids are `[0, vocabulary_size)`.
        num_layers: Number of encoder layers, 0 or more.
        hidden_dim: Size of every token's vector.
        intermediate_dim: Size of the feed-forward layer's inner vector.
        dropout: Share of values dropped while training, in `[0, 1)`.
        max_sequence_length: Number of position vectors: the most tokens in a sequence.
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
        """Return every variable's name and shape, in the order of the forward pass.

        Kernels are `[in, out]`, as Keras keeps them.
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
        """Number of trained values in all variables."""
        return sum(math.prod(shape) for shape in self.variable_shapes().values())
