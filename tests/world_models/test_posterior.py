"""Each step on particles against what it must keep, and compositions against enumeration."""

import itertools
import math

import numpy as np
import pytest
from crafter_laws import LAWS
from crafter_starts import meadow
from scipy.integrate import quad
from test_fitting import random_walk

from rlssm.errors import UserError
from rlssm.world_models.crafter import transition
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.filtering import believed, filter_step, is_spent
from rlssm.world_models.laws import Add, Law, Outcome, Set, Test
from rlssm.world_models.likelihood import Model, log_prob, predict
from rlssm.world_models.object_view import Numbers, Observable
from rlssm.world_models.particles import (
    Metropolis,
    Particles,
    RandomWalk,
    move,
    resample,
    resample_move,
    spawn,
    weigh,
)
from rlssm.world_models.posterior import LawPosterior, log_persistence, sample_law_sets
from rlssm.world_models.record import Record
from rlssm.world_models.schema import Zombie
from rlssm.world_models.small_laws import deterministic_laws, lit_walk_laws
from rlssm.world_models.small_worlds import (
    SWITCH,
    SmallWorld,
    Thing,
    deterministic_switches,
    lit_walk,
)

WEIGHTED = Particles(("a", "b", "c", "d"), np.log([0.1, 0.7, 0.05, 0.9]))

# --- Steps ------------------------------------------------------------------------------------


def test_weighing_multiplies_the_measure():
    factors = {"a": 2.0, "b": 0.5, "c": 1.0, "d": 0.1}
    weighed = weigh(WEIGHTED, lambda state: math.log(factors[state]))
    assert np.exp(weighed.log_weights) == pytest.approx([0.2, 0.35, 0.05, 0.09])
    assert weighed.log_evidence == pytest.approx(math.log(0.69))


def test_resampling_keeps_the_total_and_every_expected_weight():
    rng, sums = np.random.default_rng(0), dict.fromkeys("abcd", 0.0)
    for _ in range(4000):
        drawn = resample(WEIGHTED, rng)
        assert drawn.log_evidence == pytest.approx(WEIGHTED.log_evidence)
        for state, weight in zip(drawn.states, np.exp(drawn.log_weights), strict=True):
            sums[state] += weight / 4000
    assert sums == pytest.approx({"a": 0.1, "b": 0.7, "c": 0.05, "d": 0.9}, abs=0.02)
    with pytest.raises(UserError, match="the total weight must be positive"):
        resample(Particles(("a",), np.array([-np.inf])), rng)


def test_metropolis_leaves_its_density_alone():
    """Proposals that are not symmetric: on a line of five, up twice as often as down."""
    log_density = dict(enumerate(np.log([0.1, 0.4, 0.2, 0.05, 0.25])))

    def proposals(state):
        near = {s: w for s, w in ((state - 1, 1.0), (state + 1, 2.0)) if s in log_density}
        return {s: w / sum(near.values()) for s, w in near.items()}

    kernel = Metropolis(log_density.__getitem__, proposals)
    after = dict.fromkeys(log_density, 0.0)
    for state, log_p in log_density.items():
        assert sum(kernel.row(state).values()) == pytest.approx(1)
        for new, p in kernel.row(state).items():
            after[new] += math.exp(log_p) * p
    assert after == pytest.approx({s: math.exp(p) for s, p in log_density.items()})
    rng = np.random.default_rng(1)
    drawn = [kernel(2, rng) for _ in range(5000)]
    for new, p in kernel.row(2).items():
        assert drawn.count(new) / 5000 == pytest.approx(p, abs=0.03)


def test_random_walks_keep_a_normal_normal():
    rng = np.random.default_rng(2)
    kernel = RandomWalk(lambda x: float(-0.5 * (x @ x)), 1.0)
    start = spawn([rng.standard_normal(1) for _ in range(2000)])
    ends = start
    for _ in range(10):
        ends = move(ends, kernel, rng)
    assert ends.mean(lambda x: x[0]) == pytest.approx(0, abs=0.08)
    assert ends.mean(lambda x: x[0] ** 2) == pytest.approx(1, abs=0.12)


def test_resample_move_finds_evidence_and_posterior_of_a_coin():
    """Heads come up with one of nine probabilities; ten flips, one stage each."""
    grid = [i / 10 for i in range(1, 10)]
    flips = [1, 1, 0, 1, 1, 1, 0, 1, 1, 1]

    def log_likelihood(p, count):
        return sum(math.log(p if flip else 1 - p) for flip in flips[:count])

    def stage(i):
        kernel = Metropolis(
            lambda p: log_likelihood(p, i + 1), lambda p: dict.fromkeys(grid, 1 / len(grid))
        )
        return (lambda p: log_likelihood(p, i + 1) - log_likelihood(p, i)), kernel

    rng = np.random.default_rng(3)
    start = spawn([grid[i] for i in rng.integers(0, 9, 3000)])
    found = resample_move(start, [stage(i) for i in range(len(flips))], rng)
    joint = np.exp([log_likelihood(p, 10) for p in grid]) / len(grid)
    assert found.log_evidence == pytest.approx(math.log(joint.sum()), abs=0.06)
    exact = float(joint @ grid / joint.sum())
    assert found.mean(float) == pytest.approx(exact, abs=0.01)


# --- Law sets ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def posterior():
    record = Record(deterministic_switches(), random_walk(deterministic_switches(), 30))
    return LawPosterior(record, tuple(deterministic_laws().values()), bits=[1.0] * 6)


def every_set(count):
    return [
        frozenset(chosen)
        for size in range(count + 1)
        for chosen in itertools.combinations(range(count), size)
    ]


def test_marginals_equal_numerical_integrals():
    world = lit_walk()
    laws = lit_walk_laws()
    posterior = LawPosterior(
        Record(world, random_walk(world, 120)),
        [laws["right: lights flicker"], laws["right: right before the switch point"],
         laws["wrong: lights alternate"]],
    )  # fmt: skip
    base = posterior.log_marginal(frozenset())
    assert base < 0
    for law in (0, 1):
        chosen = frozenset({law})
        evidence = posterior.evidence(chosen)

        def log_joint(w, law=law, evidence=evidence):
            weights = np.eye(3)[law] * w
            return evidence.gradient(weights, evidence.logits())[0] - w

        peak = max(log_joint(w) for w in np.linspace(0, 5, 200))
        integral = quad(lambda w, f=log_joint, p=peak: math.exp(f(w) - p), 0, 10, limit=200)[0]
        unspoken = log_persistence(evidence.unspoken, len(posterior.record))
        assert posterior.log_marginal(chosen) - unspoken == pytest.approx(
            peak + math.log(integral), abs=0.15
        )


def test_kernels_over_law_sets_leave_the_enumerated_posterior_alone(posterior):
    sets = every_set(6)
    assert sum(math.exp(posterior.log_prior(s)) for s in sets) == pytest.approx(1)
    joint = np.array([posterior.log_joint(s) for s in sets])
    exact = dict(zip(sets, np.exp(joint - np.logaddexp.reduce(joint)), strict=True))
    assert max(exact, key=exact.get) == frozenset({0, 1})
    kernel = posterior.kernel()
    after = dict.fromkeys(sets, 0.0)
    for chosen, p in exact.items():
        for new, q in kernel.row(chosen).items():
            after[new] += p * q
    assert [after[s] for s in sets] == pytest.approx([exact[s] for s in sets], abs=1e-12)


def test_sequential_monte_carlo_over_law_sets_meets_enumeration(posterior):
    joint = {s: posterior.log_joint(s) for s in every_set(6)}
    evidence = np.logaddexp.reduce(list(joint.values()))
    estimates, shares = [], []
    for seed in range(4):
        found = sample_law_sets(posterior, 600, np.random.default_rng(seed), stages=3)
        estimates.append(math.exp(found.log_evidence - evidence))
        shares.append(found.mean(lambda s: float(s == {0, 1})))
    assert np.mean(estimates) == pytest.approx(1, abs=0.15)
    share = np.average(shares, weights=estimates)  # unbiased, once weighed by the evidence
    assert share == pytest.approx(math.exp(joint[frozenset({0, 1})] - evidence), abs=0.08)


# --- What is hidden ---------------------------------------------------------------------------


def clockwork():
    """A hidden count that goes round four values, with slips, and a lamp lit at the last."""

    def rule(state, action, flip):
        machine = state[0]
        count = machine.get("count")
        lit = int(count == 3)
        count = count if flip(0.3) else (count + 1) % 4
        return (machine.set("count", count).set("lamp", lit),)

    return SmallWorld(
        "clockwork",
        ("wait",),
        {"machine": {"count": Numbers(0, 3), "lamp": SWITCH}},
        (Thing("machine", 1, (("count", 0), ("lamp", 0))),),
        rule,
    )


def clockwork_model():
    of = Observable("self", "count")
    last, before = Test("self.count", "==", 3), Test("self.count", "<", 3)
    slip, go = math.log(0.3), math.log(0.7)
    lamp = Observable("self", "lamp")
    laws = (
        Law("goes on", "machine", of, (Outcome(Add(0), slip), Outcome(Add(1), go)), (before,)),
        Law("goes round", "machine", of, (Outcome(Set(3), slip), Outcome(Set(0), go)), (last,)),
        Law("lights", "machine", lamp, (Outcome(Set(1)),), (last,)),
        Law("goes dark", "machine", lamp, (Outcome(Set(0)),), (before,)),
    )
    return Model(clockwork(), laws, (1.0,) * 4)


def test_filtering_a_hidden_count_meets_the_forward_algorithm():
    model = clockwork_model()
    world = model.world

    def at(count, lamp):
        return (world.initial[0].set("count", count).set("lamp", lamp),)

    lamps = [0, 0, 0, 1, 0, 0]
    # Forward: alpha over (count), lamp observed; transition probabilities by the model itself.
    alpha, lamp, log_evidence = np.full(4, 0.25), 0, 0.0
    for seen in lamps:
        alpha = np.array(
            [
                sum(
                    alpha[old] * math.exp(log_prob(model, at(old, lamp), "wait", at(new, seen)))
                    for old in range(4)
                )
                for new in range(4)
            ]
        )
        log_evidence += math.log(alpha.sum())
        alpha, lamp = alpha / alpha.sum(), seen
    rng = np.random.default_rng(0)
    particles = spawn([at(count, 0) for count in range(4) for _ in range(250)])
    for seen in lamps:
        if is_spent(particles):
            particles = resample(particles, rng)
        hidden = lambda key: key.attribute == "count"  # noqa: E731
        particles = filter_step(model, particles, "wait", at(0, seen), hidden, rng)
    assert particles.log_evidence == pytest.approx(log_evidence, abs=0.15)
    belief = believed(particles, lambda state: state[0].get("count"))
    assert [belief.get(c, 0) for c in range(4)] == pytest.approx(alpha.tolist(), abs=0.06)


def test_a_meal_missed_tells_how_hungry_one_was():
    """Hunger is hidden; food falls in the third step, so it was 23 (over 25 on the third)."""
    names = ("hunger grows", "hunger runs over", "hunger costs food")
    model = Model(CrafterView(), tuple(law for law in LAWS if law.name in names), (2.0,) * 3)
    state = meadow()
    state.player.hunger = 23.0
    guesses = []
    for hunger in range(26):
        guess = state.copy()
        guess.player.hunger = float(hunger)
        guesses.append(guess)
    particles, rng = spawn(guesses), np.random.default_rng(0)
    hidden = lambda key: key.attribute == "hunger"  # noqa: E731
    for _ in range(3):
        after, _ = transition(state, "noop")
        particles = filter_step(model, particles, "noop", after, hidden, rng)
        state = after
    belief = believed(particles, lambda s: s.player.hunger)
    assert after.player.inventory["food"] == 8
    assert belief[after.player.hunger] > 0.95


def test_where_an_unseen_zombie_went():
    """Out of sight, it is where the model draws it; what is seen of it counts once it is."""
    law = next(law for law in LAWS if law.name == "zombie chases")
    model = Model(CrafterView(), (law,), (1.5,))
    state = meadow()
    x, y = state.player.position
    state.objects = [state.player, Zombie(2, (x - 4, y))]
    particles, rng = spawn([state] * 200), np.random.default_rng(1)
    particles = filter_step(model, particles, "noop", state, lambda key: key.owner == 2, rng)
    belief = believed(particles, lambda s: s.objects[1].position)
    dist = predict(model, model.world.scene(state, "noop"))
    (moves,) = [d for k, d in dist.items() if k.owner == 2]
    assert belief[x - 3, y] == pytest.approx(math.exp(moves.log_prob("right")), abs=0.1)
    after = state.copy()
    after.objects[1].position = (x - 2, y)
    particles = filter_step(model, particles, "noop", after, lambda key: False, rng)
    ours = sum(p for s, p in zip(particles.states, particles.probabilities, strict=True)
               if s.objects[1].position == (x - 2, y))  # fmt: skip
    assert ours == pytest.approx(1)
    assert particles.log_evidence > math.log(0.3)
