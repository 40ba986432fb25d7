"""A life in a file: where it began and what was done. The rules make the rest of it again.

    {"format": "rlssm life", "version": 1, "start": STATE, "actions": ["move_left", "do", ...]}

The state has the generator in it, so that the same actions lead to the same states.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rlssm.errors import UserError
from rlssm.world_models.crafter import EPISODE_LENGTH, is_over, transition
from rlssm.world_models.json_reader import read_json
from rlssm.world_models.record import Transition
from rlssm.world_models.schema import ACTIONS
from rlssm.world_models.schema_json import state_from_json, state_to_json

FORMAT = "rlssm life"
VERSION = 1


def save_life(life: Sequence[Transition], path: str | Path) -> None:
    """Write one life, at least one transition of Crafter's rules, to a file."""
    start, actions = life[0][0], [action for _, action, _ in life]
    fields = {"format": FORMAT, "version": VERSION, "start": state_to_json(start)}
    Path(path).write_text(json.dumps({**fields, "actions": actions}), encoding="utf-8")


def load_life(path: str | Path) -> list[Transition]:
    """Return the transitions of the life in a file.

    Raises:
      UserError: naming the file and the first thing wrong with it.
    """
    fields = read_json(path).fields(("format", "version", "start", "actions"))
    for name, expected in (("format", FORMAT), ("version", VERSION)):
        value = fields[name].value
        if type(value) is not type(expected) or value != expected:
            raise fields[name].refusal(ascii(expected))
    state = state_from_json(fields["start"])
    life: list[Transition] = []
    for node in fields["actions"].items(EPISODE_LENGTH, 1):
        action = node.choice(ACTIONS)
        if is_over(state):
            raise UserError(f"{node.path} comes after the life is over")
        after, _ = transition(state, action)
        life.append((state, action, after))
        state = after
    return life
