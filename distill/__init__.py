"""The recipe of the bundled preset: distill a teacher into a small FNet sentence encoder, from public text.

`python -m distill` runs it step by step; `distill.recipe` holds its parameters. The service does not use this package.
"""
