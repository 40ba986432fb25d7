"""Networks in flax.linen: from an agent's inputs to distributions and values, with memory between.

    inputs -> encoders -> torso (dense layers, then a core of `cores`) -> heads -> distributions

`cores` holds the contract of sequence cores; `s5`, `lru` and `recurrent` keep it. `normalizers`
and `optimizers` are pure functions beside them. Names of modules and parameters are part of a
checkpoint and do not change. Nothing is imported here: `distributions`, and `heads` with it, load
distrax.
"""
