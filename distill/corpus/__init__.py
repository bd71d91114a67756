"""The training text: sources, composed text, and the corpus files built from them."""
