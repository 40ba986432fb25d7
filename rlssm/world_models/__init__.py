"""Symbolic world models: what a world is made of, laws about it, and how likely they make it.

To read it in order:

- `schema`, `schema_json`: a Crafter state as objects, and as JSON.
- `terrain` (on `noise`), `crafter_step`, `crafter_player`, `crafter_creatures`, `crafter`: the
  world's beginning and its rules, equal to the package's in every field.
- `crafter_slots`, `crafter_jax_*`, `crafter_jax`: the same rules compiled, for batches of states.
- `small_worlds`: three worlds that can be enumerated.
- `object_view`: what a world shows to laws; `crafter_vocabulary`, `crafter_scene`, `crafter_view`:
  what Crafter shows.
- `laws`, `law_json`, `small_laws`: laws as data; `likelihood`: scoring and sampling with them.
- `record`, `evidence`, `fitting`: recorded transitions, their sparse likelihood, fitted weights.
- `particles`, `posterior`, `filtering`: law sets and hidden parts of a state, by particles.
- `walking`, `explorer`: one life in Crafter; `cases`, `guards`, `synthesis`: laws from it;
  `aspects`, `proposer`: laws from a language model.
- `oracle_laws` (with `law_writing`, `oracle_player`, `oracle_creatures`): Crafter's laws by hand.
- `laws_jax_*`, `laws_jax`: sampling from laws, compiled, for batches of states.
- `scenarios`, `mutators`, `fidelity`, `contenders`, `ranking`: how good a model is.
- `planning`, `planning_tasks`: plans rolled out in a model; `errand`: a model as an environment.
- `sentences`, `pictures`: laws and predictions for people.
- `craftax_state`: Craftax-Classic as a second world behind the same view.
"""
