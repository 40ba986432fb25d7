"""Behaviour cloning: its losses against loops written from the equations, and what it clones."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import (
    SPEC,
    alone,
    assert_trees_close,
    batch,
    check_act_equals_unroll,
    dataset,
    first_gradient,
    from_env,
    learner,
    with_core,
    with_random_weights,
)

from rlssm.algorithms import bc
from rlssm.algorithms.bc import PRESETS, BCConfig
from rlssm.data.dataset import DatasetInfo, Episode, from_episodes
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.nn import normalizers
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.types import Box, DictSpace, Discrete, Spec, inputs

SMALL = BCConfig(
    actor=MLPConfig((16,), "tanh"),
    experience=ExperienceConfig(batch=64),
    learning_rate=1e-2,
    precision="highest",
)
WINDOWED = replace(SMALL, experience=replace(SMALL.experience, length=6, burn_in=2, batch=24))
# The memory is not told what the steps that only warm it up did and earned.
RECURRENT = replace(
    with_core(SMALL, "gru"),
    torso=TorsoConfig(width=8, hidden=(), observe_action=False, observe_reward=False),
)
ONE_ACTION = Box((1,))


# --- One update -------------------------------------------------------------------------------

MASKED = Spec(DictSpace((("action_mask", Box((3,), "bool")), ("x", Box((3,))))), Discrete(3))
KINDS = {
    "deterministic": (WINDOWED, SPEC),
    "gaussian": (replace(WINDOWED, policy="gaussian"), SPEC),
    "discrete": (WINDOWED, MASKED),
}


def drawn(config, spec):
    """Return a batch of whose windows two are of the agent's own steps."""
    data = batch(config, seed=5)
    source = data.step.extras["source"].at[:, -2:].set(1)
    data = data._replace(step=data.step._replace(extras={"source": source}))
    if isinstance(spec.action, Box):
        return data
    key, length, columns = jax.random.key(0), *data.mask.shape
    action = jax.random.randint(key, (length, columns), 0, 3)
    allowed = jax.random.bernoulli(key, 0.5, (length, columns, 3)) | jax.nn.one_hot(
        action, 3, dtype=bool
    )
    step = data.step._replace(action=action, obs={"action_mask": allowed, "x": data.step.obs})
    return data._replace(
        step=step, previous=data.previous._replace(action=jnp.zeros(columns, jnp.int32))
    )


@pytest.fixture(scope="module", params=KINDS)
def updated(request):
    """One update: (kind, update, state, batch, state after, metrics)."""
    config, spec = KINDS[request.param]
    update = jax.jit(partial(bc.update, config, spec))
    state, data = with_random_weights(config, spec, seed=3), drawn(config, spec)
    return request.param, update, state, data, *update(state, data)


def negative_log_likelihood(kind, policy, t, b, action, allowed):
    """Return what one step costs, from the parameters of the policy's distribution."""
    if kind == "deterministic":
        return np.mean([(x - y) ** 2 for x, y in zip(policy[t, b], action[t, b], strict=True)])
    if kind == "gaussian":
        mean, log_std = policy.mean[t, b], policy.log_std[t, b]
        z = (action[t, b] - mean) / np.exp(log_std)
        return sum(0.5 * z**2 + log_std + 0.5 * np.log(2 * np.pi))
    logits = [x for x, ok in zip(policy.logits[t, b], allowed[t, b], strict=True) if ok]
    return np.log(np.sum(np.exp(logits))) - policy.logits[t, b][action[t, b]]


def test_losses_are_those_of_the_equations(updated):
    kind, _, state, data, _, metrics = updated
    actor = bc.networks(*KINDS[kind])
    _, policy = apply(actor, state.params["actor"], (), inputs(data), data.reset)
    policy = jax.tree.map(lambda x: np.asarray(x, np.float64), policy)
    allowed = np.asarray(data.step.obs["action_mask"]) if kind == "discrete" else None
    action, source = np.asarray(data.step.action), np.asarray(data.step.extras["source"])
    cost = [
        negative_log_likelihood(kind, policy, t, b, action, allowed)
        for t, b in np.argwhere(np.asarray(data.mask))
        if source[t, b] == 0
    ]
    assert 0 < len(cost) < np.asarray(data.mask).sum()
    if kind == "discrete":
        assert not allowed.all()
    assert metrics["actor/loss"] == pytest.approx(np.mean(cost), rel=1e-4)


def test_the_gradient_is_the_slope_of_the_loss(updated):
    kind, update, state, data, after, _ = updated
    gradient = first_gradient(after.opt_state)
    size = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient)))

    def loss(step):
        weights = jax.tree.map(lambda w, g: w + step * g / size, state.params["actor"], gradient)
        moved = state.replace(params=state.params | {"actor": weights})
        return float(update(moved, data)[1]["actor/loss"])

    assert (loss(0.01) - loss(-0.01)) / 0.02 == pytest.approx(size, rel=0.01)


def test_an_update_is_reproducible_and_changes_every_parameter(updated):
    kind, update, state, data, after, _ = updated
    again = update(state, data)[0]
    trees = [jax.tree_util.tree_leaves(s.params) for s in (state, after, again)]
    for before, a, b in zip(*trees, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (np.asarray(a) != np.asarray(before)).any()
    assert_trees_close(after.hyper, state.hyper)
    np.testing.assert_array_equal(*(jax.random.key_data(s.key) for s in (after, state)))


def test_with_memory_masked_steps_teach_nothing_but_are_remembered():
    update = jax.jit(partial(bc.update, RECURRENT, SPEC))
    state, data = with_random_weights(RECURRENT), batch(RECURRENT, seed=5)
    after, metrics = update(state, data)
    step, unmasked = data.step, ~data.mask
    action = jnp.where(unmasked[..., None], 9.0, step.action)
    other, same = update(state, data._replace(step=step._replace(action=action)))
    assert_trees_close(other.params, after.params, atol=1e-7)
    assert same["actor/loss"] == pytest.approx(float(metrics["actor/loss"]))
    moved = update(state, data._replace(step=step._replace(obs=step.obs.at[1].add(1.0))))[1]
    assert abs(moved["actor/loss"] - metrics["actor/loss"]) > 1e-4


# --- What is cloned ---------------------------------------------------------------------------

SIGNS = np.array([[-1.0], [1.0]], np.float32)


def half_of_what_is_seen(key, seen):
    return seen.obs / 2 + 0.2 * jax.random.normal(key, seen.obs.shape)


@pytest.mark.parametrize(
    "policy", [pytest.param("deterministic", marks=pytest.mark.slow), "gaussian"]
)
def test_a_noisy_expert_is_cloned(policy):
    """The mean of its actions is learnt, and by a Gaussian how they vary too."""
    config, env = replace(SMALL, policy=policy), probes.RewardFromBoth(ONE_ACTION)
    state, metrics = learner(config, env)(from_env(env, policy=half_of_what_is_seen), 400)
    _, found = bc.networks(config, env.spec).apply(state.params["actor"], *alone(SIGNS))
    mean = found if policy == "deterministic" else found.mode()
    assert mean[0, :, 0] == pytest.approx([-0.5, 0.5], abs=0.05)
    if policy == "deterministic":
        assert metrics["actor/loss"] < 0.06  # 0.04 is the variance
    else:
        assert jnp.exp(found.log_std[0, :, 0]) == pytest.approx([0.2, 0.2], abs=0.03)


def test_discrete_actions_are_cloned_in_proportion():
    env = probes.RewardFromBoth(Discrete(2))

    def three_in_four(key, seen):
        return jnp.where(seen.obs[:, 0] > 0, jax.random.bernoulli(key, 0.75, (8,)), 0)

    state, _ = learner(SMALL, env)(from_env(env, policy=three_in_four), 400)
    _, found = bc.networks(SMALL, env.spec).apply(state.params["actor"], *alone(SIGNS))
    assert jax.nn.softmax(found.logits)[0, :, 1] == pytest.approx([0, 0.75], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("core", "best"), [("gru", True), ("none", False)])
def test_an_expert_with_memory_is_cloned_with_memory_alone(core, best):
    """The expert plays what it was shown at the first of three steps, later seen as 0."""
    rng, shown = np.random.default_rng(0), np.array([1.0, 0, 0, 0], np.float32)[:, None]
    made, ends = [], np.arange(3) == 2
    for sign in rng.choice([-0.5, 0.5], 100):
        action, nothing = np.full((3, 1), sign, np.float32), np.zeros(3, np.float32)
        made.append(Episode((sign * shown).astype(np.float32), action, nothing, ends, ~ends & ends))
    env = probes.RewardFromObservation(ONE_ACTION)
    data = jax.device_put(from_episodes(made, DatasetInfo("t/x-v0", env.spec)))
    config = SMALL
    if core != "none":
        hidden = TorsoConfig(width=8, hidden=(), observe_action=False)
        config = replace(with_core(SMALL, core, length=12, burn_in=3, batch=72), torso=hidden)
    _, metrics = learner(config, env)(data, 300)
    # Without memory two of three steps cost the variance of what was shown, 1/4.
    assert (float(metrics["actor/loss"]) < 0.08) == best


# --- Acting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("core", "policy"),
    [("gru", "deterministic"), pytest.param("s5", "gaussian", marks=pytest.mark.slow)],
)
def test_acting_step_by_step_equals_unrolling(core, policy):
    def actions(actor, params, carry, seen, reset):
        found = apply(actor, params["actor"], carry, seen, reset)[1]
        return found if policy == "deterministic" else jnp.clip(found.mode(), -1, 1)

    check_act_equals_unroll(with_core(replace(SMALL, policy=policy), core), actions)


def test_samples_are_clipped_to_what_an_environment_accepts():
    config = replace(SMALL, policy="gaussian")
    state = with_random_weights(config)
    _, seen, reset = jax.tree.map(lambda x: x[0], alone(np.zeros((200, 3), np.float32)))
    act = partial(bc.act, config, SPEC, state.params, seen, reset, (), state.key)
    action = np.asarray(act(greedy=False)[0])
    assert (np.abs(action) == 1).any() and np.abs(action).max() == 1
    assert len(np.unique(action[:, 0])) > 50 and len(np.unique(act(greedy=True)[0][:, 0])) == 1


def test_observations_are_standardised_by_the_statistics():
    """Shifted and scaled observations make no difference once they are standardised."""
    config = replace(PRESETS["corl"], actor=SMALL.actor, precision="highest")
    state, obs = with_random_weights(config), dataset().obs

    def greedy(obs):
        statistics = normalizers.update(state.params["statistics"], jnp.asarray(obs))
        _, seen, reset = jax.tree.map(lambda x: x[0], alone(obs))
        params = state.params | {"statistics": statistics}
        return bc.act(config, SPEC, params, seen, reset, (), state.key, greedy=True)[0]

    np.testing.assert_allclose(greedy(obs), greedy(50 + 30 * obs), atol=5e-3)


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"ssm_lr_factor": float("inf")}, "ssm_lr_factor must be above 0, got inf"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0, or left out, got 0.0"),
        ({"policy": "gausian"}, "unknown policy 'gausian', perhaps 'gaussian' was meant; known: "
            "deterministic, gaussian"),
        ({"torso": TorsoConfig(width=4)}, "torso feeds the memory, and core none has none: set "
            "the sizes of the networks, or choose a core"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)  # fmt: skip
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        BCConfig(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "spec", "message"),
    [
        ({}, Spec(Box((3,)), Box((2, 2))), "bc needs discrete or continuous actions (a vector), "
            "got Box(shape=(2, 2), dtype='float32')"),
        ({"normalize_obs": True}, MASKED, "normalize_obs needs array observations; leave it out "
            "for this environment"),
    ],
    ids=["action", "obs"],
)  # fmt: skip
def test_networks_refuse(changes, spec, message):
    with pytest.raises(UserError) as error:
        bc.networks(BCConfig(**changes), spec)
    assert str(error.value) == message
