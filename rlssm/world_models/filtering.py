"""Guessing what is hidden (counters, objects out of sight) from what is seen, by particles.

A particle is a whole state. Observables are independent given the state before, so a step needs
no luck: what is seen is weighed by its exact probability and written into the particle, what is
hidden is drawn from the model.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rlssm.world_models.likelihood import Model, persistence_log_prob, predict
from rlssm.world_models.object_view import Key
from rlssm.world_models.particles import Particles

RESAMPLE_BELOW = 0.5


def filter_step(
    model: Model,
    particles: Particles[Any],
    action: str,
    after: Any,
    hidden: Callable[[Key], bool],
    rng: np.random.Generator,
) -> Particles[Any]:
    """Return the particles one transition later, weighed by what was seen of it.

    Args:
      model: laws with weights, default semantics.
      particles: states before, all alike in what is seen.
      action: what was done.
      after: the state after; what `hidden` says is hidden of it is not looked at.
      hidden: whether an observable cannot be seen.
      rng: draws what is hidden.

    The evidence leaves out what no law speaks about in any particle and which stayed as it was.
    """
    scenes = [model.world.scene(state, action) for state in particles.states]
    predictions = [predict(model, scene) for scene in scenes]
    spoken = {key for prediction in predictions for key in prediction}
    states, log_factors = [], []
    for scene, prediction in zip(scenes, predictions, strict=True):
        changes = model.world.changes(scene, after)
        values = {key: value for key, value in changes.values.items() if not hidden(key)}
        seen = {key for key in spoken if not hidden(key) and changes.observed(key)} | set(values)
        log_factor = 0.0
        for key in seen:
            try:
                old = scene.old(key)
            except KeyError:  # spoken of in another particle only, about an object not in this one
                continue
            value = values.get(key, old)
            if key in prediction:
                log_factor += prediction[key].log_prob(value)
            else:
                log_factor += persistence_log_prob(model, scene, key, value)
        for key, distribution in prediction.items():
            if hidden(key):
                values[key] = distribution.sample(rng)
        states.append(model.world.apply(scene, values))
        log_factors.append(log_factor)
    return Particles(tuple(states), particles.log_weights + np.array(log_factors))


def believed(particles: Particles[Any], value: Callable[[Any], Any]) -> dict[Any, float]:
    """Return the probability of every value of something the particles differ in."""
    belief: dict[Any, float] = {}
    for state, probability in zip(particles.states, particles.probabilities, strict=True):
        belief[value(state)] = belief.get(value(state), 0.0) + float(probability)
    return {v: p for v, p in sorted(belief.items(), key=lambda item: -item[1]) if p > 0}


def is_spent(particles: Particles[Any]) -> bool:
    """Return whether the weights have become so unequal that resampling is due."""
    if not math.isfinite(particles.log_evidence):
        return True
    return particles.effective_size < RESAMPLE_BELOW * len(particles.states)
