"""The evaluation of an exported preset, and its model card."""
