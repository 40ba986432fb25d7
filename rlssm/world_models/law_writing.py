"""Writing laws by hand, briefly: guards as text, outcomes with their probabilities."""

import json
import math
from collections.abc import Iterable

from rlssm.world_models.laws import Add, Law, Outcome, Read, Set, Step, Term, Test
from rlssm.world_models.object_view import Observable, Value


def write_law(
    name: str,
    scope: str,
    observable: str,
    outcomes: Term | Iterable[tuple[Term, float]],
    when: str = "",
    actions: Iterable[str] | None = None,
) -> Law:
    """Return a law from short forms of its parts.

    Args:
      name: its name.
      scope: what it is bound to.
      observable: `of.attribute`.
      outcomes: terms with their probabilities, or the only one.
      when: tests joined by " and ", each `feature comparison value`; a value that is not JSON is
        a name.
      actions: the actions it is for; None for any.
    """
    of, _, attribute = observable.partition(".")
    pairs = [(outcomes, 1.0)] if isinstance(outcomes, Set | Add | Read | Step) else outcomes
    return Law(
        name,
        scope,
        Observable(of, attribute),
        tuple(Outcome(term, math.log(probability)) for term, probability in pairs),
        tuple(_test(clause) for clause in when.split(" and ") if clause),
        None if actions is None else frozenset(actions),
    )


def _test(clause: str) -> Test:
    feature, comparison, text = clause.split(" ")
    value: Value
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return Test(feature, comparison, value)


def both(*clauses: str) -> str:
    """Return guards as one guard; empty ones count for nothing."""
    return " and ".join(clause for clause in clauses if clause)
