import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.nn.distributions import Categorical, Gaussian, TanhGaussian
from rlssm.nn.heads import LOG_STD_RANGE, POLICY_SCALE, ValueHead, policy_head
from rlssm.nn.mlp import MLP, Ensemble, MLPConfig, orthogonal
from rlssm.types import Box, Discrete

X = jax.random.normal(jax.random.key(0), (4, 3, 5))
KEY = jax.random.key(1)


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_mlp_computes_its_equation(layer_norm):
    config = MLPConfig(hidden=(6, 7), activation="tanh", layer_norm=layer_norm)
    mlp = MLP(config, out=2, precision="highest")
    params = jax.jit(mlp.init)(KEY, X)["params"]
    x = np.asarray(X, np.float64)
    for name in ("hidden_0", "hidden_1"):
        x = x @ np.asarray(params[name]["kernel"], np.float64)
        x = np.tanh(normalised(x) if layer_norm else x)
    expected = x @ np.asarray(params["out"]["kernel"], np.float64)
    np.testing.assert_allclose(mlp.apply({"params": params}, X), expected, atol=1e-5)


def test_mlp_kernels_are_orthogonal_with_the_given_gains():
    params = MLP(MLPConfig(hidden=(9,), kernel_scale=2.0), out=4, out_scale=0.01).init(KEY, X)
    hidden, out = params["params"]["hidden_0"]["kernel"], params["params"]["out"]["kernel"]
    np.testing.assert_allclose(hidden @ hidden.T, 4 * np.eye(5), atol=1e-5)
    np.testing.assert_allclose(out.T @ out, 1e-4 * np.eye(4), atol=1e-8)


def test_mlp_without_layers_is_the_identity():
    mlp = MLP(MLPConfig(hidden=()))
    assert mlp.apply(mlp.init(KEY, X), X) is X


def test_ensemble_members_are_the_member_with_their_own_parameters():
    member = MLP(MLPConfig(hidden=(4,)), out=1)
    ensemble = Ensemble(member, 3)
    params = jax.jit(ensemble.init)(KEY, X)["params"]["member"]
    found = ensemble.apply({"params": {"member": params}}, X)
    assert found.shape == (3, 4, 3, 1)
    for e in range(3):
        alone = member.apply({"params": jax.tree.map(lambda p, e=e: p[e], params)}, X)
        np.testing.assert_allclose(found[e], alone, rtol=1e-6)
    assert not np.allclose(found[0], found[1])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden", (8, 0), "hidden must be widths of at least 1, got (8, 0)"),
        ("kernel_scale", 0.0, "kernel_scale must be above 0, got 0.0"),
    ],
)
def test_mlp_config_refuses(field, value, message):
    with pytest.raises(UserError) as error:
        MLPConfig(**{field: value})
    assert str(error.value) == message


# --- Heads ------------------------------------------------------------------------------------


def run(head, *args):
    output, params = jax.jit(head.init_with_output)(KEY, X, *args)
    return params, output


def test_categorical_head_is_nearly_uniform_and_obeys_its_mask():
    head = policy_head(Discrete(4), MLPConfig(hidden=(8,)), squashed=False)
    _, policy = run(head)
    assert isinstance(policy, Categorical)
    np.testing.assert_allclose(policy.entropy(), np.log(4), atol=1e-3)
    mask = jnp.ones((4, 3, 4), bool).at[..., 1].set(False)
    _, masked = run(head, mask)
    assert np.all(jax.nn.softmax(masked.logits)[..., 1] == 0)
    np.testing.assert_array_equal(masked.logits[..., 0], policy.logits[..., 0])


def test_gaussian_head_has_one_log_std_per_action():
    params, policy = run(policy_head(Box((2,)), MLPConfig(hidden=(8,)), squashed=False))
    assert isinstance(policy, Gaussian)
    np.testing.assert_array_equal(params["params"]["log_std"], np.zeros(2))
    np.testing.assert_array_equal(policy.log_std, np.zeros((4, 3, 2)))
    assert np.abs(policy.mean).max() < 5 * POLICY_SCALE


def test_tanh_gaussian_head_reads_a_limited_log_std_from_the_features():
    head = policy_head(Box((2,)), MLPConfig(hidden=()), squashed=True)
    params, policy = run(head)
    assert isinstance(policy, TanhGaussian)
    assert len(np.unique(policy.log_std)) == policy.log_std.size
    extreme = head.apply(jax.tree.map(lambda p: 1e4 * p, params), X)
    assert (extreme.log_std.min(), extreme.log_std.max()) == LOG_STD_RANGE


def test_value_head_gives_one_number_per_row_also_as_twins():
    head = ValueHead(MLPConfig(hidden=(8,)))
    for module, shape in [(head, (4, 3)), (Ensemble(head, 2), (2, 4, 3))]:
        value, _ = jax.eval_shape(module.init_with_output, KEY, X)
        assert value.shape == shape


def test_matrix_actions_are_refused():
    with pytest.raises(UserError) as error:
        policy_head(Box((2, 3)), MLPConfig(), squashed=True)
    assert str(error.value) == (
        "a continuous action must be a vector, got shape (2, 3); flatten it in the adapter"
    )


def test_no_batch_of_matrices_is_orthogonalised_at_once():
    """A batched QR on a CPU can deadlock: seeds and members are drawn one after the other."""
    keys = jax.vmap(jax.random.key)(jnp.arange(6)).reshape(3, 2)
    draw = jax.vmap(jax.vmap(lambda key: orthogonal(2.0)(key, (5, 4))))
    program = jax.jit(draw).lower(keys).as_text()
    calls = [line for line in program.splitlines() if "geqrf" in line and "custom_call" in line]
    assert calls and not any("x5x4xf32" in line for line in calls)
    drawn = np.asarray(draw(keys))
    gram = np.einsum("smki,smkj->smij", drawn, drawn)
    np.testing.assert_allclose(gram, np.broadcast_to(4 * np.eye(4), gram.shape), atol=1e-5)
    assert len(np.unique(drawn[..., 0, 0])) == 6
