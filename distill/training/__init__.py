"""The training: vocabulary, teacher vectors, initialization and the training loop of the student."""
