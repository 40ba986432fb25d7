"""Crafter's rules written as laws: the best that this formalism can say about the true world.

What it cannot say stays out, and is why these laws are a ceiling and not the world: an object
sees where others stood before the step, not after; a guard is a conjunction, so that a rule with
an "or" takes a law for each case; the first step awake still counts as sleep for actions.

Source: the rules in `crafter_player` and `crafter_creatures`.
"""

from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.laws import Law
from rlssm.world_models.likelihood import Model
from rlssm.world_models.oracle_creatures import creature_laws
from rlssm.world_models.oracle_player import player_laws

CHANCE = 1.0  # the weight at which logits are log probabilities, and all unnamed has e^-10
CERTAIN = 2.0  # of laws with one outcome: among ten thousand counts e^-10 each would be much


def oracle_model(reference: bool = False) -> Model:
    """Return the hand-written laws as a model, weighted so that their probabilities are exact."""
    laws = oracle_laws()
    weights = tuple(CERTAIN if len(law.outcomes) == 1 else CHANCE for law in laws)
    return Model(CrafterView(reference), laws, weights)


def oracle_laws() -> tuple[Law, ...]:
    """Return the laws of Crafter, about 340."""
    return (*player_laws(), *creature_laws())
