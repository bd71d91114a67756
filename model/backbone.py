"""FNetBackbone in Keras 3, with the documented interface of keras_nlp and keras_hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt

from model.architecture import Architecture
from model.layers import (
    LAYER_NORM_EPSILON,
    FNetEncoder,
    PositionEmbedding,
    gelu_approximate,
    normal_initializer,
)
from model.presets import keras_config
from model.presets.hub import BUILT_IN_PRESETS, load_preset
from model.presets.weights import WEIGHTS_FILE, read_weights, write_weights

__all__ = ["FNetBackbone", "gelu_approximate"]


class FNetBackbone(keras.Model):  # type: ignore[misc]
    """An FNet encoder without a task head.

    FNet has no padding mask: `<pad>` is an ordinary token, so padding changes the outputs of a sequence.

    Source: arXiv 2105.03824, section 3. Pre-trained weights are provided as is, without warranty.

    Args:
        vocabulary_size: Size of the token vocabulary.
        num_layers: Number of FNet layers.
        hidden_dim: Size of the encoding and pooler layers.
        intermediate_dim: Size of the inner feed-forward vector.
        dropout: Dropout rate of the embeddings and of every layer.
        max_sequence_length: Number of positions, and so the maximum number of tokens in a sequence.
        num_segments: Number of segment ids; valid ids are `[0, num_segments)`.
        dtype: A dtype or `keras.DTypePolicy` of computations and weights. Mixing and layer normalization always
            compute in float32.

    Call arguments, a dictionary:
        token_ids: `[batch, length]` int32.
        segment_ids: `[batch, length]` int32.

    Returns:
        A dictionary: `sequence_output` `[batch, length, hidden_dim]`, and `pooled_output` `[batch, hidden_dim]`, a
        dense layer with tanh on the first token's output.

    Example:
        ```python
        model = FNetBackbone.from_preset("f_net_base_en")
        model({"token_ids": np.ones((1, 12), "int32"), "segment_ids": np.zeros((1, 12), "int32")})
        ```
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = BUILT_IN_PRESETS

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.1,
        max_sequence_length: int = 512,
        num_segments: int = 4,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        policy = keras.dtype_policies.get(dtype)

        # === Layers ===
        token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=normal_initializer(),
            dtype=policy,
            name="token_embedding",
        )
        position_embedding = PositionEmbedding(max_sequence_length, dtype=policy, name="position_embedding")
        segment_embedding = keras.layers.Embedding(
            num_segments,
            hidden_dim,
            embeddings_initializer=normal_initializer(),
            dtype=policy,
            name="segment_embedding",
        )
        embeddings_add = keras.layers.Add(dtype=policy, name="embeddings_add")
        embeddings_layer_norm = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON, dtype=policy, name="embeddings_layer_norm"
        )
        embedding_projection = _dense(hidden_dim, policy, "embedding_projection")
        embeddings_dropout = keras.layers.Dropout(dropout, dtype=policy, name="embeddings_dropout")
        transformer_layers = [
            FNetEncoder(intermediate_dim, dropout, dtype=policy, name=f"f_net_layer_{index}")
            for index in range(num_layers)
        ]
        pooled_dense = _dense(hidden_dim, policy, "pooled_dense", activation="tanh")

        # === Functional model ===
        token_ids = keras.Input(shape=(None,), dtype="int32", name="token_ids")
        segment_ids = keras.Input(shape=(None,), dtype="int32", name="segment_ids")
        tokens = token_embedding(token_ids)
        x = embeddings_add((tokens, position_embedding(tokens), segment_embedding(segment_ids)))
        x = embeddings_dropout(embedding_projection(embeddings_layer_norm(x)))
        for layer in transformer_layers:
            x = layer(x)
        super().__init__(
            inputs={"token_ids": token_ids, "segment_ids": segment_ids},
            outputs={"sequence_output": x, "pooled_output": pooled_dense(x[:, 0, :])},
            **kwargs,
        )
        self.dtype_policy = policy

        # === Config ===
        self.architecture = Architecture(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            dropout=dropout,
            max_sequence_length=max_sequence_length,
            num_segments=num_segments,
        )

    @property
    def token_embedding(self) -> Any:
        """The layer that embeds token ids; with `reverse=True` it maps vectors to vocabulary logits."""
        return self.get_layer("token_embedding")

    @property
    def vocabulary_size(self) -> int:
        """Size of the token vocabulary."""
        return self.architecture.vocabulary_size

    @property
    def num_layers(self) -> int:
        """Number of FNet layers."""
        return self.architecture.num_layers

    @property
    def hidden_dim(self) -> int:
        """Size of the output vectors."""
        return self.architecture.hidden_dim

    @property
    def intermediate_dim(self) -> int:
        """Size of the inner feed-forward vector."""
        return self.architecture.intermediate_dim

    @property
    def dropout(self) -> float:
        """Dropout rate."""
        return self.architecture.dropout

    @property
    def max_sequence_length(self) -> int:
        """Maximum number of tokens in a sequence."""
        return self.architecture.max_sequence_length

    @property
    def num_segments(self) -> int:
        """Number of segment ids."""
        return self.architecture.num_segments

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, as stored in `config.json`."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "max_sequence_length": self.max_sequence_length,
            "num_segments": self.num_segments,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> FNetBackbone:  # noqa: ARG003 - the signature of Keras
        """Build a model from a configuration that `get_config` returned."""
        arguments = dict(config)
        if isinstance(arguments.get("dtype"), dict):
            arguments["dtype"] = keras.dtype_policies.get(arguments["dtype"])
        return cls(**arguments)

    @classmethod
    def from_architecture(cls, architecture: Architecture, **kwargs: Any) -> FNetBackbone:
        """Build a model with random weights.

        Args:
            architecture: The network.
            **kwargs: Further constructor arguments, which override those of the architecture.
        """
        fields = {name: getattr(architecture, name) for name in Architecture.__dataclass_fields__}
        return cls(**{**fields, **kwargs})

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        load_weights: bool = True,  # noqa: FBT001, FBT002 - positional in the interface of Keras
        **kwargs: Any,
    ) -> FNetBackbone:
        """Build a model from a preset.

        Args:
            preset: A bundled or built-in name, `kaggle://owner/model/keras/variation[/version]`,
                `hf://owner/name[@revision]`, or a local directory.
            load_weights: Whether to load the weights rather than initialize them at random.
            **kwargs: Constructor arguments that override those of the preset. Without `dtype`, the network has the
                global dtype policy of Keras and not the saved one, as in keras-hub.

        Raises:
            PresetError: The preset is unknown or damaged, or its download failed.
        """
        description = load_preset(str(preset))
        fields = Architecture.__dataclass_fields__
        overrides = {name: value for name, value in kwargs.items() if name in fields}
        architecture = dataclasses.replace(description.architecture, **overrides)
        # Weights are checked before the network is built, since a damaged configuration may exhaust the memory.
        weights = read_weights(description.directory, architecture) if load_weights else None
        model = cls.from_architecture(architecture, **kwargs)
        if weights is not None:
            model.assign_weights(weights)
        return model

    def save_to_preset(self, preset_dir: str | Path) -> None:
        """Write `config.json`, `metadata.json` and the weights in the format of keras-hub.

        Args:
            preset_dir: The directory, created if it is missing; other files in it are not changed.
        """
        directory = Path(preset_dir)
        directory.mkdir(parents=True, exist_ok=True)
        write_weights(directory / WEIGHTS_FILE, self.named_weights())
        keras_config.write(directory / "config.json", keras_config.backbone(self.get_config()))
        keras_config.write(directory / "metadata.json", keras_config.metadata_of(self.architecture))

    def named_weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return all variables as float32, keyed by the names of `Architecture.variable_shapes`."""
        return {
            name: np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")))
            for name, variable in self.named_variables().items()
        }

    def assign_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set all variables, cast to their dtypes.

        Args:
            weights: Arrays keyed by the names of `Architecture.variable_shapes`.
        """
        for name, variable in self.named_variables().items():
            variable.assign(weights[name])

    def encode_one(
        self, token_ids: npt.NDArray[np.int32], segment_ids: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the outputs of one unpadded sequence, as float32.

        Args:
            token_ids: `[n]` int32.
            segment_ids: `[n]` int32.

        Returns:
            `[n, hidden_dim]` and `[hidden_dim]`.
        """
        outputs = self.predict_on_batch({"token_ids": token_ids[None], "segment_ids": segment_ids[None]})
        return outputs["sequence_output"][0].astype(np.float32), outputs["pooled_output"][0].astype(np.float32)

    def named_variables(self) -> dict[str, Any]:
        """Return the variables of this model, keyed by the names of `Architecture.variable_shapes`."""
        variables = {}
        for layer in self.layers:
            name = layer.name.replace("f_net_layer_", "layers/")
            for variable in layer.weights:
                # In Keras, the path of a sublayer's variable is model/layer/sublayer/variable.
                sublayer = variable.path.split("/")[-2]
                inner = f"{sublayer}/" if name.startswith("layers/") else ""
                variables[f"{name}/{inner}{variable.name}"] = variable
        return {name: variables[name] for name in self.architecture.variable_shapes()}


def _dense(units: int, policy: Any, name: str, activation: str | None = None) -> Any:
    return keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=normal_initializer(),
        bias_initializer=normal_initializer(),
        dtype=policy,
        name=name,
    )
