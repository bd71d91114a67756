"""The recipe of the bundled preset: public text and a teacher become a small FNet that embeds sentences.

`python -m distill` runs it step by step; `distill.recipe` holds its knobs. Serving needs none of this.
"""
