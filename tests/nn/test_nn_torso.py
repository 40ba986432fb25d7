from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from rlssm.errors import UserError, unknown_name
from rlssm.nn.cores import GRUConfig, LRUConfig, MinGRUConfig, NoneConfig, S5Config
from rlssm.nn.encoders import Encoder, action_mask, as_float
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import Torso, TorsoConfig
from rlssm.types import Box, DictSpace, Discrete, Inputs, Previous, Spec, zeros

KEY = jax.random.key(0)
T, B = 3, 2


def encode(space, obs):
    return jax.jit(Encoder(space).init_with_output)(KEY, obs)[0]


# --- Encoders ---------------------------------------------------------------------------------


def test_vectors_pass_through_and_other_ranks_are_flattened():
    x = jnp.arange(24.0).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(encode(Box((4,)), x), x)
    np.testing.assert_array_equal(encode(Box((3, 4)), x), x.reshape(1, 2, 12))
    np.testing.assert_array_equal(encode(Box(()), x), x[..., None])


def test_discrete_becomes_one_hot():
    np.testing.assert_array_equal(encode(Discrete(3), jnp.array([[2, 0]])), np.eye(3)[[[2, 0]]])


def test_numbers_become_floats():
    np.testing.assert_allclose(as_float(jnp.array([0, 255], jnp.uint8)), [0, 1])
    np.testing.assert_array_equal(as_float(jnp.array([-3, 7])), [-3, 7])
    np.testing.assert_array_equal(as_float(jnp.array([True, False])), [1, 0])


def test_images_are_read_frame_by_frame_as_fractions():
    encoder = Encoder(Box((5, 5, 3), "uint8"))
    image = jax.random.randint(KEY, (T, B, 5, 5, 3), 0, 256).astype(jnp.uint8)
    together, params = jax.jit(encoder.init_with_output)(KEY, image)
    assert together.shape == (T, B, 32)
    assert 0 < together.max() < 10
    alone = jax.jit(encoder.apply)(params, image[1, 0])
    np.testing.assert_allclose(alone, together[1, 0], atol=1e-6)


def test_large_images_shrink_eightfold():
    encoder, image = Encoder(Box((84, 84, 1))), jnp.zeros((T, B, 84, 84, 1))
    features, _ = jax.eval_shape(encoder.init_with_output, KEY, image)
    assert features.shape == (T, B, 11 * 11 * 32)


def test_dicts_are_joined_in_order_without_the_action_mask():
    space = DictSpace((("action_mask", Box((2,), "bool")), ("a", Discrete(2)), ("b", Box((2,)))))
    obs = {"action_mask": jnp.ones((1, 2), bool), "a": jnp.array([1]), "b": jnp.array([[5.0, 6]])}
    np.testing.assert_array_equal(encode(space, obs), [[0, 1, 5, 6]])
    assert action_mask(obs) is obs["action_mask"]
    assert action_mask(obs["b"]) is None
    assert action_mask({"b": obs["b"]}) is None


# --- Torso ------------------------------------------------------------------------------------

VECTOR = Box((3,))


def inputs_of(spec, *, action, reward=2.0, first=False):
    flag = jnp.full((T, B), first)
    action = jnp.full((T, B, *spec.action.shape), action)
    obs = jax.tree.map(jnp.ones_like, zeros(spec.obs, (T, B)))
    return Inputs(obs, Previous(action, jnp.full((T, B), reward)), flag)


def features(spec, inputs, **fields):
    torso = Torso(spec, TorsoConfig(**fields), NoneConfig())
    return torso.apply({}, inputs, inputs.first, method=Torso._features)  # has no parameters here


def test_discrete_inputs_are_joined_in_order():
    spec = Spec(VECTOR, Discrete(3))
    found = features(spec, inputs_of(spec, action=1))
    np.testing.assert_array_equal(found[0, 0], [1, 1, 1, 0, 1, 0, 2, 0])


def test_no_previous_action_differs_from_action_zero():
    spec = Spec(VECTOR, Discrete(3))
    at_first = features(spec, inputs_of(spec, action=0, reward=0.0, first=True))
    np.testing.assert_array_equal(at_first[0, 0], [1, 1, 1, 0, 0, 0, 0, 1])
    later = features(spec, inputs_of(spec, action=0, reward=0.0))
    np.testing.assert_array_equal(later[0, 0], [1, 1, 1, 1, 0, 0, 0, 0])


def test_continuous_actions_are_joined_as_they_are():
    spec = Spec(VECTOR, Box((2,)))
    found = features(spec, inputs_of(spec, action=-0.5))
    np.testing.assert_array_equal(found[0, 0], [1, 1, 1, -0.5, -0.5, 2, 0])


@pytest.mark.parametrize(
    ("field", "kept"),
    [
        ("observe_action", [1, 1, 1, 2, 0]),
        ("observe_reward", [1, 1, 1, 0, 1, 0, 0]),
        ("observe_first", [1, 1, 1, 0, 1, 0, 2]),
    ],
)
def test_each_input_can_be_left_out(field, kept):
    spec = Spec(VECTOR, Discrete(3))
    found = features(spec, inputs_of(spec, action=1), **{field: False})
    np.testing.assert_array_equal(found[0, 0], kept)


def test_torso_is_dense_layers_then_the_core():
    spec = Spec(VECTOR, Discrete(3))
    torso = Torso(spec, TorsoConfig(width=5, hidden=(7,)), GRUConfig(), "highest")
    inputs, reset = inputs_of(spec, action=1), jnp.zeros((T, B), bool).at[1, 0].set(True)
    carry = torso.initial_carry(B)
    (_, y), params = jax.jit(torso.init_with_output)(KEY, carry, inputs, reset)
    assert {name: set(tree) for name, tree in params["params"].items()} == {
        "dense": {"hidden_0", "hidden_1"},
        "core": {"layer"},
    }
    assert y.shape == (T, B, 5)
    _, fresh = jax.jit(torso.apply)(params, carry, jax.tree.map(lambda v: v[1:], inputs), reset[1:])
    np.testing.assert_allclose(y[1:, 0], fresh[:, 0], rtol=1e-5)
    assert not np.allclose(y[1:, 1], fresh[:, 1])


def test_the_published_agent_has_its_published_core_size():
    # popjaxrl, 9 inputs (6 observed, an action of 2 as one-hot, the flag), 4 layers of 256.
    spec = Spec(Box((6,)), Discrete(2))
    core = S5Config(layers=4, state_size=256, norm="none", c_init="lecun_normal")
    torso = Torso(spec, TorsoConfig(width=256, observe_reward=False), core)
    inputs, reset = inputs_of(spec, action=1), jnp.zeros((T, B), bool)
    carry = torso.initial_carry(B)
    params = jax.eval_shape(torso.init, KEY, carry, inputs, reset)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params["core"])) == 1_053_184
    assert sum(leaf.size for leaf in jax.tree.leaves(params["dense"])) == 10 * 128 + 129 * 256


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 0, "torso.width must be at least 1, got 0"),
        ("hidden", (8, 0), "torso.hidden must be a tuple of widths of at least 1, got (8, 0)"),
    ],
)
def test_torso_config_refuses(field, value, message):
    with pytest.raises(UserError) as error:
        TorsoConfig(**{field: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("config", "kind", "value"),
    [
        (TorsoConfig, "torso.activation", "rellu"),
        (MLPConfig, "activation", "rellu"),
        (S5Config, "core.init", "leg"),
        (S5Config, "core.gate", "glu"),
        (LRUConfig, "core.norm", "layer"),
        (MinGRUConfig, "core.scan", "parallel"),
    ],
)
def test_a_name_that_is_not_offered_is_refused_with_those_that_are(
    monkeypatch, config, kind, value
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    field = kind.split(".")[-1]
    offered = get_args(get_type_hints(config)[field])
    with pytest.raises(UserError) as error:
        config(**{field: value})
    assert str(error.value) == str(unknown_name(kind, value, offered))
