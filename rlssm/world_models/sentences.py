"""Laws as sentences, and the evidence for one of them.

for each zombie, when self.distance <= 1 and self.cooldown == 0: player.health - 2
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rlssm.errors import unknown_name
from rlssm.world_models.laws import Add, Law, Outcome, Read, Set, Step, evaluate
from rlssm.world_models.likelihood import Model, predict
from rlssm.world_models.object_view import Key
from rlssm.world_models.scenarios import Transition

_SCOPES = {"player": "the player", "world": "the world"}


def sentence(law: Law) -> str:
    """Return a law as a sentence."""
    clauses = [f"{test.feature} {test.comparison} {test.value}" for test in law.tests]
    if law.actions is not None:
        clauses.insert(0, f"the action is {' or '.join(sorted(law.actions))}")
    when = f", when {' and '.join(clauses)}" if clauses else ""
    who = _SCOPES.get(law.scope, f"each {law.scope}")
    return f"for {who}{when}: {_effect(law)}"


def _effect(law: Law) -> str:
    of, attribute = law.observable.of, law.observable.attribute
    name = f"{of}.{attribute}"
    if len(law.outcomes) == 1:
        return _outcome(name, law.outcomes[0])
    total = sum(math.exp(outcome.logit) for outcome in law.outcomes)
    shares = [
        f"{_outcome(name, outcome)} ({100 * math.exp(outcome.logit) / total:.3g} %)"
        for outcome in law.outcomes
    ]
    return ", or ".join(shares)


def _outcome(name: str, outcome: Outcome) -> str:
    match outcome.term:
        case Set(value):
            return f"{name} becomes {value}"
        case Add(amount):
            return f"{name} {'+' if amount >= 0 else '-'} {abs(amount):g}"
        case Read(feature):
            return f"{name} becomes {feature}"
        case Step(direction):
            return f"a step {direction} if it is free"


# --- Evidence ---------------------------------------------------------------------------------


class Uses(NamedTuple):
    """How often a law spoke in some transitions, and how often what it named first came about."""

    active: int
    right: int


class Instance(NamedTuple):
    """One observable that a law spoke about: what came, and how likely the model had made it."""

    transition: int
    action: str
    key: Key
    before: object
    after: object
    probability: float


def uses(model: Model, transitions: Iterable[Transition]) -> list[Uses]:
    """Return for each law how often it spoke of an observable, and how often rightly.

    It is right where one of the values that it names came about; where amounts add up, where the
    model found the value likelier than not.
    """
    active: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for law, instance, named in _instances(model, transitions):
        active[law] += 1
        right[law] += instance.probability > 0.5 if model.laws[law].adds else named
    return [Uses(active[i], right[i]) for i in range(len(model.laws))]


def evidence(model: Model, name: str, transitions: Iterable[Transition]) -> list[Instance]:
    """Return every observable that a law spoke about.

    Raises:
      UserError: if no law has the name.
    """
    index = find(model.laws, name)
    return [instance for law, instance, _ in _instances(model, transitions) if law == index]


def find(laws: Sequence[Law], name: str) -> int:
    """Return the place of the law of a name.

    Raises:
      UserError: if there is none, with the nearest.
    """
    names = [law.name for law in laws]
    if name not in names:
        raise unknown_name("law", name, names)
    return names.index(name)


def _instances(
    model: Model, transitions: Iterable[Transition]
) -> Iterator[tuple[int, Instance, bool]]:
    for number, (state, action, after) in enumerate(transitions):
        scene = model.world.scene(state, action)
        changes, predicted = model.world.changes(scene, after), predict(model, scene)
        for key, votes in evaluate(model.laws, scene, model.world.reference).items():
            if not changes.observed(key):
                continue
            old = scene.old(key)
            new = changes.values.get(key, old)
            probability = math.exp(predicted[key].log_prob(new))
            instance = Instance(number, action, key, old, new, probability)
            for vote in votes:
                if any(vote.outcomes):  # else it speaks as a bystander
                    yield vote.law, instance, new in vote.values
