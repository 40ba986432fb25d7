"""What compiled laws say about a state: scores of values, and amounts that are drawn and added.

Laws of one scope are evaluated side by side. Tests that laws share are evaluated once; a law is
active where none of its tests fails. Laws that set an observable are gathered into scores of its
values; each law that adds draws its own amount. A named value has e^u - 1 more than every value of
the domain, which all share 1: so a draw is one of the named or, with the rest, any at all.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.errors import UserError
from rlssm.types import Key
from rlssm.world_models.crafter_slots import KIND_CODE
from rlssm.world_models.crafter_vocabulary import SCOPES
from rlssm.world_models.laws import COMPARISONS, Add, Law, Outcome, Read, Set, Step
from rlssm.world_models.laws_jax_scene import CODES, ArrayScene, code_of, group_of
from rlssm.world_models.likelihood import LEAST_SCORE, NOISE
from rlssm.world_models.object_view import MOVES, Choices, Domain, Numbers
from rlssm.world_models.schema import ACTIONS

_DENSE = 20  # domains up to this size have a score for every value
_BLOCK = 1024  # random numbers drawn at a time


class Domains(NamedTuple):
    """Numeric domains of several laws, side by side."""

    low: np.ndarray
    high: np.ndarray
    step: np.ndarray
    size: np.ndarray


class Uniforms:
    """Uniform random numbers in [0, 1), drawn in blocks: many small draws would be slow."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._left = jnp.zeros(0)

    def take(self, *shape: int) -> Float[Array, "..."]:
        count = math.prod(shape)
        if count > self._left.shape[0]:
            self._key, key = jax.random.split(self._key)
            self._left = jax.random.uniform(key, (max(count, _BLOCK),))
        taken, self._left = self._left[:count], self._left[count:]
        return taken.reshape(shape)


# --- Guards -----------------------------------------------------------------------------------


class Guards:
    """The guards of all laws of scopes that share an axis."""

    def __init__(self, group: str, laws: Sequence[Law]) -> None:
        self.group = group
        self._kinds = np.array([KIND_CODE.get(law.scope, 0) for law in laws])[:, None]
        tests = list(dict.fromkeys(test for law in laws for test in law.tests))
        self._features = list(dict.fromkeys(test.feature for test in tests))
        self._of_test = np.array([self._features.index(test.feature) for test in tests], int)
        self._constants = np.array([code_of(test.value) for test in tests], np.float32)[:, None]
        # Whether a test is true below, at and above its constant.
        self._below, self._at, self._above = (
            np.array([COMPARISONS[test.comparison](side, 0) for test in tests], bool)[:, None]
            for side in (-1, 0, 1)
        )
        self._needs = np.array(
            [[test in law.tests for test in tests] for law in laws], np.float32
        ).reshape(len(laws), len(tests))
        self._allowed = np.array(
            [[law.actions is None or action in law.actions for law in laws] for action in ACTIONS]
        )

    def active(self, scene: ArrayScene) -> Bool[Array, "L K"]:
        """Return which laws are active for which bindings."""
        active = jnp.asarray(self._allowed)[scene.action][:, None] & scene.bound(self.group)[None]
        if self.group == "creature":
            active &= scene.slots.kind == self._kinds
        if not self._features:
            return active
        read = [scene.read(self.group, feature) for feature in self._features]
        value, known = (jnp.stack(parts)[self._of_test] for parts in zip(*read, strict=True))
        holds = (
            ((value < self._constants) & self._below)
            | ((value == self._constants) & self._at)
            | ((value > self._constants) & self._above)
        )
        failed = jnp.asarray(self._needs) @ (~(known & holds)).astype(jnp.float32)
        return active & (failed == 0)


# --- Laws that set ----------------------------------------------------------------------------


class Scores(NamedTuple):
    """What laws that set an observable say: scores above noise of some of its values.

    `values` are codes or numbers `[*K V]`; a value may be listed twice, but then with score 0 but
    once. `spoken` says where any law spoke at all.
    """

    values: Float[Array, "*K V"]
    raised: Float[Array, "*K V"]
    spoken: Bool[Array, "*K"]


def domain_of(law: Law) -> Domain:
    """Return the domain of a law's observable."""
    return SCOPES[law.scope].observables[law.observable]


def set_scores(
    scene: ArrayScene,
    laws: Sequence[Law],
    weights: Float[Array, " L"],
    active: Bool[Array, "L K"],
    old: Float[Array, " K"],
    offset: Float[Array, " K"] | float = 0.0,
) -> Scores:
    """Return the scores of laws of one scope and observable.

    `offset` is added to the score of every value but "none".
    """
    if all(isinstance(o.term, Set) for law in laws for o in law.outcomes):
        return _constants(laws, weights, active, offset)
    domain = domain_of(laws[0])
    dense = isinstance(domain, Choices) or domain.size <= _DENSE
    most = max(len(law.outcomes) for law in laws)
    said = [_outcomes(scene, law, old, most) for law in laws]
    values, known = (jnp.stack(parts) for parts in zip(*said, strict=True))  # [L, M, K]
    logits = np.full((len(laws), most), -np.inf, np.float32)
    for row, law in zip(logits, laws, strict=True):
        row[: len(law.outcomes)] = [outcome.logit for outcome in law.outcomes]
    mass = jnp.where(known, jnp.exp(jnp.asarray(logits))[..., None], 0.0)
    spoken = active & jnp.any(known, 1)
    if dense:
        codes = jnp.asarray([code_of(value) for value in domain], jnp.float32)
        equal = values[..., None] == codes  # [L, M, K, V]
        named = jnp.sum(jnp.where(equal, mass[..., None], 0.0), 1)  # [L, K, V]
        shift = jnp.where(codes == CODES["none"], 0.0, jnp.asarray(offset)[..., None])
        raised = _raise(named, shift, weights[:, None, None], spoken[..., None])
        total = jnp.sum(raised, 0)
        return Scores(jnp.broadcast_to(codes, total.shape), total, jnp.any(spoken, 0))
    return _listed(domain, values, mass, weights, spoken)


def _constants(laws: Sequence[Law], weights: Array, active: Array, offset: Array | float) -> Scores:
    """Return the scores of laws that name nothing but constants."""
    terms = [[o.term for o in law.outcomes if isinstance(o.term, Set)] for law in laws]
    values = sorted({code_of(term.value) for row in terms for term in row})
    mass = np.zeros((len(laws), len(values)), np.float32)
    for row, law in enumerate(laws):
        for term, outcome in zip(terms[row], law.outcomes, strict=True):
            mass[row, values.index(code_of(term.value))] += math.exp(outcome.logit)
    with np.errstate(divide="ignore"):
        scores = jnp.asarray(np.log(mass))[:, None] + jnp.where(
            jnp.asarray(values) == CODES["none"], 0.0, jnp.asarray(offset)[..., None]
        )  # [L, K, V]
    raised = weights[:, None, None] * (jnp.maximum(scores, LEAST_SCORE) - NOISE)
    raised = jnp.where((mass > 0)[:, None] & active[..., None], raised, 0.0)
    total = jnp.sum(raised, 0)
    listed = jnp.broadcast_to(jnp.asarray(values, jnp.float32), total.shape)
    return Scores(listed, total, jnp.any(active, 0))


def _listed(domain: Domain, values: Array, mass: Array, weights: Array, spoken: Array) -> Scores:
    """Return scores of the values named, each listed with its full score once."""
    laws, most, places = values.shape
    equal = values[:, :, None] == values[:, None]  # [L, M, M, K]
    named = jnp.sum(jnp.where(equal, mass[:, None], 0.0), 2)
    earlier = np.tril(np.ones((most, most), bool), -1)[None, :, :, None]
    first = ~jnp.any(equal & earlier & (mass[:, None] > 0), 2)
    named = jnp.where(first & (mass > 0), named, 0.0)
    raised = _raise(named, 0.0, weights[:, None, None], spoken[:, None])
    return merged(domain, values.reshape(-1, places).T, raised.reshape(-1, places).T, spoken.any(0))


def merged(domain: Domain, values: Array, raised: Array, spoken: Array) -> Scores:
    """Return a list of scores with those of equal values added up at the first of them."""
    low, high = (domain.low, domain.high) if isinstance(domain, Numbers) else (-np.inf, np.inf)
    equal = values[..., :, None] == values[..., None, :]
    total = jnp.sum(jnp.where(equal, raised[..., None, :], 0.0), -1)
    count = values.shape[-1]
    earlier = np.tril(np.ones((count, count), bool), -1)
    first = ~jnp.any(equal & earlier & (raised[..., None, :] > 0), -1)
    inside = (values >= low) & (values <= high)
    return Scores(values, jnp.where(first & inside, total, 0.0), spoken)


def _raise(mass: Array, offset: Array | float, weights: Array, active: Array) -> Array:
    score = jnp.log(jnp.where(mass > 0, mass, 1.0)) + offset
    raised = weights * (jnp.maximum(score, LEAST_SCORE) - NOISE)
    return jnp.where((mass > 0) & active, raised, 0.0)


def _outcomes(
    scene: ArrayScene, law: Law, old: Float[Array, " K"], most: int
) -> tuple[Float[Array, "M K"], Bool[Array, "M K"]]:
    said = [_term(scene, law, outcome, old) for outcome in law.outcomes]
    said += [(jnp.zeros_like(old), jnp.zeros(old.shape, bool))] * (most - len(said))
    values, known = zip(*said, strict=True)
    return jnp.stack(values), jnp.stack(known)


def _term(
    scene: ArrayScene, law: Law, outcome: Outcome, old: Float[Array, " K"]
) -> tuple[Float[Array, " K"], Bool[Array, " K"]]:
    everywhere = jnp.ones(old.shape, bool)
    match outcome.term:
        case Set(value):
            return jnp.full(old.shape, code_of(value), jnp.float32), everywhere
        case Read(feature):
            value, known = scene.read(law.scope, feature)
            return value, known
        case Add(amount):
            domain = domain_of(law)
            if not isinstance(domain, Numbers):
                raise UserError(f"law {law.name!r} adds to {law.observable}, which is no number")
            return jnp.clip(old + amount, domain.low, domain.high), everywhere
        case Step(direction):
            return _step(scene, law.scope, direction, old)


def _step(
    scene: ArrayScene, scope: str, direction: str, old: Float[Array, " K"]
) -> tuple[Float[Array, " K"], Bool[Array, " K"]]:
    if direction in MOVES:
        toward, known = jnp.full(old.shape, CODES[direction]), jnp.ones(old.shape, bool)
    else:
        toward, known = scene.read(scope, direction)
    goes = jnp.take_along_axis(scene.free(group_of(scope)), toward.astype(jnp.int32)[:, None], 1)[
        :, 0
    ]
    return jnp.where(goes, toward, CODES["stay"]).astype(jnp.float32), known


def draw(
    scores: Scores, size: int, uniforms: Uniforms
) -> tuple[Float[Array, "*K"], Bool[Array, "*K"], Int[Array, "*K"]]:
    """Return a listed value, whether instead any value of the domain is meant, and then which.

    That is a number below `size`, the number of values in the domain.
    """
    value, anything, share = _one_of(scores.values, _log_expm1(scores.raised), size, uniforms)
    return value, anything, jnp.floor(share * size).astype(jnp.int32)


def draw_number(scores: Scores, domain: Domain, uniforms: Uniforms) -> Float[Array, "*K"]:
    """Return a value of a domain of numbers or choices."""
    value, anything, place = draw(scores, domain.size, uniforms)
    if isinstance(domain, Numbers):
        other = domain.low + domain.step * place
    else:
        codes = jnp.asarray([code_of(choice) for choice in domain], jnp.float32)
        other = codes[place]
    return jnp.where(anything, other, value)


def _one_of(
    values: Float[Array, "*K V"],
    logits: Float[Array, "*K V"],
    rest: Float[Array, "*K"] | float,
    uniforms: Uniforms,
) -> tuple[Float[Array, "*K"], Bool[Array, "*K"], Float[Array, "*K"]]:
    """Return a value, whether it is the rest that was drawn, and a uniform number below 1 for it.

    A value has mass e^logit beside the mass of the rest.
    """
    largest = jnp.maximum(jnp.max(logits, -1), 0.0)
    up_to = jnp.cumsum(jnp.exp(logits - largest[..., None]), -1)
    named, left = up_to[..., -1], rest * jnp.exp(-largest)
    drawn = uniforms.take(*named.shape) * (named + left)
    chosen = jnp.sum(up_to <= drawn[..., None], -1)
    last = values.shape[-1] - 1
    value = jnp.take_along_axis(values, jnp.minimum(chosen, last)[..., None], -1)[..., 0]
    share = jnp.clip((drawn - named) / left, 0.0, 1 - 2**-24)
    return value, chosen > last, share


def _log_expm1(u: Array) -> Array:
    positive = u > 0
    safe = jnp.where(positive, u, 1.0)
    return jnp.where(positive, safe + jnp.log1p(-jnp.exp(-safe)), -jnp.inf)


# --- Laws that add ----------------------------------------------------------------------------


class Adders:
    """Laws of one scope that add to numbers of the same owner, whatever attributes they are."""

    def __init__(self, laws: Sequence[Law]) -> None:
        self.attributes = [law.observable.attribute for law in laws]
        causes = [_cause(law) for law in laws]
        most = max(map(len, causes))
        self._amounts = np.zeros((len(laws), most), np.float32)
        self._scores = np.full((len(laws), most), -np.inf, np.float32)
        for row, cause in enumerate(causes):
            self._amounts[row, : len(cause)] = list(cause)
            self._scores[row, : len(cause)] = list(cause.values())
        domains = [domain_of(law) for law in laws]
        numbers = [domain for domain in domains if isinstance(domain, Numbers)]
        self._domains = Domains(
            *(
                np.array([getattr(domain, name) for domain in numbers], np.float32)[:, None]
                for name in ("low", "high", "step", "size")
            )
        )

    def amounts(
        self,
        weights: Float[Array, " L"],
        active: Bool[Array, "L K"],
        old: Float[Array, "L K"],
        uniforms: Uniforms,
    ) -> Float[Array, "L K"]:
        """Return the amount that each law adds for each binding, 0 where it is not active."""
        low, high, step, size = map(jnp.asarray, self._domains)
        old = jnp.clip(old, low, high)
        named = jnp.asarray(self._amounts)[:, None]  # [L, 1, M]
        reached = old[..., None] + named
        inside = (reached >= low[..., None]) & (reached <= high[..., None])
        listed = jnp.isfinite(jnp.asarray(self._scores))[:, None]
        score = jnp.maximum(jnp.where(listed, jnp.asarray(self._scores)[:, None], 0.0), LEAST_SCORE)
        raised = weights[:, None, None] * (score - NOISE)
        logits = jnp.where(inside, _log_expm1(raised), raised)
        logits = jnp.where(listed, logits, -jnp.inf)
        amounts = jnp.broadcast_to(named, logits.shape)
        amount, anything, share = _one_of(amounts, logits, size, uniforms)
        anywhere = low + step * jnp.floor(share * size) - old
        return jnp.where(active, jnp.where(anything, anywhere, amount), 0.0)


def _cause(law: Law) -> dict[float, float]:
    """Return the score of each amount that a law adds."""
    mass: dict[float, float] = {}
    for outcome in law.outcomes:
        if isinstance(outcome.term, Add):
            amount = float(outcome.term.amount)
            mass[amount] = mass.get(amount, 0.0) + math.exp(outcome.logit)
    return {amount: math.log(total) for amount, total in mass.items()}
