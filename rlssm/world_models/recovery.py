"""Which of some known laws a model has found, judged by what it predicts where they speak."""

from collections.abc import Sequence

import numpy as np

from rlssm.world_models.evidence import Evidence
from rlssm.world_models.fitting import fit
from rlssm.world_models.laws import Law
from rlssm.world_models.likelihood import Model, persistence_log_prob
from rlssm.world_models.object_view import Key
from rlssm.world_models.record import Record

MARGIN = 0.1  # nats a case by which the model may be worse than the known laws


def recovered(model: Model, known: Sequence[Law], record: Record) -> list[tuple[Law, bool]]:
    """Return, of each known law that is active in a record, whether a model has it.

    It has a law if, over what the law speaks about, it is less than `MARGIN` nats a case worse
    than all known laws fitted to the record, on average, and better than persistence alone. A law
    may be found in other words, or split into several.
    """
    truth = fit(record, known).model
    best, ours = _log_probs(truth, record), _log_probs(model, record)
    spoken: dict[int, list[tuple[int, Key]]] = {}
    for key, votes in record.votes(known).items():
        for law in {vote.law for vote in votes}:
            spoken.setdefault(law, []).append(key)
    found = []
    for law, keys in sorted(spoken.items()):
        loss = [
            best[key] - (ours[key] if key in ours else _unspoken(model, record, key))
            for key in keys
        ]
        found.append((known[law], bool(np.mean(loss) < MARGIN)))
    return found


def _log_probs(model: Model, record: Record) -> dict[tuple[int, Key], float]:
    evidence = Evidence(record, model.laws, record.votes(model.laws))
    found = evidence.item_log_probs(np.array(model.weights), evidence.logits())
    return {
        key: float(found[item])
        for key, item in zip(evidence.keys, evidence.where[:, 1], strict=True)
    }


def _unspoken(model: Model, record: Record, key: tuple[int, Key]) -> float:
    t, observed = key
    scene = record.scenes[t]
    value = record.changes[t].values.get(observed, scene.old(observed))
    return persistence_log_prob(model, scene, observed, value)
