"""Which laws pay for their length.

What a law explains is what the others, or persistence where it alone speaks, would leave to it:

    saved = log p(record | laws kept) - log p(record | laws kept but this one)

at weights that stay as they were fitted together. Laws are tried one after the other, the least
weighty first, and dropped where they save less than they cost. Weight is no measure of worth here:
a law at weight 0 still says that anything can happen. Observations that look alike are looked at
once.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlssm.world_models.evidence import Evidence, look_at
from rlssm.world_models.laws import Law, Vote
from rlssm.world_models.likelihood import Model, persistence_log_prob
from rlssm.world_models.object_view import Key
from rlssm.world_models.record import Gathered, Record


class Alike(NamedTuple):
    """Observations that laws cannot tell apart: one of them, what is said of it, how many."""

    key: tuple[int, Key]
    votes: list[Vote]
    times: int


def worth_keeping(
    record: Record, model: Model, gathered: Gathered, cost: Callable[[Law, bool], float]
) -> list[int]:
    """Return the indices of the laws that pay for their length.

    `cost` is the length of a law in nats, shorter where another law has the same guard.
    """
    alike = _alike(record, gathered)
    speaks: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(alike):
        for law in {vote.law for vote in group.votes}:
            speaks[law].append(number)
    laws = range(len(model.laws))
    kept = set(laws)
    asking = Counter(map(guard_of, model.laws))
    explained = _explained(record, model, alike, kept)
    for law in sorted(laws, key=lambda index: model.weights[index]):
        mine = np.array(speaks[law], np.int64)
        without = _explained(record, model, [alike[number] for number in mine], kept - {law})
        guard = guard_of(model.laws[law])
        if (explained[mine] - without).sum() < cost(model.laws[law], asking[guard] > 1):
            kept.discard(law)
            asking[guard] -= 1
            explained[mine] = without
    return sorted(kept)


def guard_of(law: Law) -> tuple:
    """Return what a law asks, whatever the order."""
    return law.scope, law.actions, frozenset(law.tests)


def _alike(record: Record, gathered: Gathered) -> list[Alike]:
    votes = gathered.votes
    first: dict[tuple, tuple[int, Key]] = {}
    times: Counter[tuple] = Counter()
    for (t, key), said in votes.items():
        look = (*look_at(record, t, key, said)[0], key.family)
        first.setdefault(look, (t, key))
        times[look] += gathered.times.get((t, key), 1)
    return [Alike(key, votes[key], times[look]) for look, key in first.items()]


def _explained(
    record: Record, model: Model, alike: Sequence[Alike], kept: Iterable[int]
) -> Float[np.ndarray, " A"]:
    """Return the log probability of observations, by the laws kept or, without any, persistence."""
    kept = set(kept)
    spoken = {
        group.key: said
        for group in alike
        if (said := [vote for vote in group.votes if vote.law in kept])
    }
    evidence = Evidence(record, model.laws, spoken)
    by_item = evidence.item_log_probs(np.array(model.weights), evidence.logits())
    found = dict.fromkeys(spoken, 0.0)  # what is outside the domain is no law's business
    found.update(zip(evidence.keys, by_item[evidence.where[:, 1]].tolist(), strict=True))
    for group in alike:
        if group.key not in spoken:
            t, key = group.key
            value = record.changes[t].values.get(key, record.scenes[t].old(key))
            found[group.key] = persistence_log_prob(model, record.scenes[t], key, value)
    times = np.array([group.times for group in alike], float)
    return times * np.array([found[group.key] for group in alike])
