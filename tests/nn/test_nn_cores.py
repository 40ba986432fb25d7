"""The contract of every sequence core: one call == steps == two calls == separate episodes."""

from functools import cache, partial
from typing import get_args

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlssm.errors import UserError, unknown_name
from rlssm.nn.cores import (
    CORES,
    CoreConfig,
    FFMConfig,
    GRUConfig,
    LinearAttentionConfig,
    LRUConfig,
    LSTMConfig,
    MambaConfig,
    MinGRUConfig,
    NoneConfig,
    S4DConfig,
    S5AttentionConfig,
    S5Config,
    TransformerConfig,
    make_core,
)

H = 4
CONFIGS = {
    "none": NoneConfig(),
    "s5": S5Config(layers=2, state_size=8, blocks=2, gate="half_glu2", dt_min=0.05),
    "lru": LRUConfig(layers=1, state_size=3, gate="gelu", norm="none"),
    "gru": GRUConfig(layers=1),
    "lstm": LSTMConfig(layers=1),
    "mingru": MinGRUConfig(layers=2),
    "s4d": S4DConfig(layers=1, state_size=4, gate="gelu", norm="none", dt_min=0.05),
    "linear-attention": LinearAttentionConfig(layers=1, key_size=3, value_size=2, gate="gelu"),
    "mamba": MambaConfig(layers=1, state_size=2, expand=1, convolution=3),
    "ffm": FFMConfig(layers=1, traces=3, contexts=2),
    "s5-attention": S5AttentionConfig(
        layers=1, state_size=4, dt_min=0.05, heads=1, head_size=2, context=2, expansion=1
    ),
    "transformer": TransformerConfig(layers=1, heads=2, head_size=2, context=3, expansion=1),
}
# The functions compiled here run for microseconds, so compiling is what takes the time.
jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def core_of(name):
    return make_core(CONFIGS[name], H, "highest")


def randomised(key, tree):
    """Values that are nowhere zero, so that every path carries weight."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(1, len(leaves)))
    noisy = [v + 0.3 * jax.random.normal(k, v.shape) for v, k in zip(leaves, keys, strict=False)]
    return jax.tree.unflatten(treedef, noisy)


@cache
def parameters(name):
    core = core_of(name)
    x, reset = jnp.zeros((1, 1, H)), jnp.zeros((1, 1), bool)
    init = jit(core.init)
    return randomised(jax.random.key(1), init(jax.random.key(0), core.initial_carry(1), x, reset))


def problem(name, seed, shape):
    """Parameters, carry, inputs and cotangents in float32."""
    batch = shape[1]
    keys = jax.random.split(jax.random.key(seed), 4)
    carry = randomised(keys[0], core_of(name).initial_carry(batch))
    x = jax.random.normal(keys[1], (*shape, H))
    weights = jax.random.normal(keys[2], (*shape, H)), randomised(keys[3], carry)
    return parameters(name), carry, x, weights


# --- Four ways to run a core over a sequence --------------------------------------------------


def one_call(apply, params, carry, x, reset):
    return apply(params, carry, x, reset)


def in_pieces(length, apply, params, carry, x, reset):
    def piece(carry, inputs):
        return apply(params, carry, *inputs)

    cut = jax.tree.map(lambda v: v.reshape(-1, length, *v.shape[1:]), (x, reset))
    carry, y = jax.lax.scan(piece, carry, cut)
    return carry, y.reshape(x.shape)


steps = partial(in_pieces, 1)
two_calls = partial(in_pieces, 3)  # of six steps


def separate_episodes(apply, params, carry, x, reset, empty):
    """Run every piece between resets in a batch row of its own, with no reset at all.

    Rows are padded on the right to length T, so the carries they end with mean nothing.
    """
    length, batch = reset.shape
    start = jnp.arange(length)[:, None, None]  # row (s, b) holds the piece of b that starts at s
    time = jnp.minimum(start + jnp.arange(length)[:, None], length - 1)  # [s, t, 1]
    rows = jnp.moveaxis(x[time, jnp.arange(batch)], 0, 1).reshape(length, length * batch, H)
    fresh = jax.tree.map(lambda c: jnp.repeat(c[:1], (length - 1) * batch, 0), empty)
    first = jax.tree.map(
        lambda c, e: jnp.where(jnp.reshape(reset[0], (batch,) + (1,) * (c.ndim - 1)), e, c),
        carry,
        empty,
    )
    first = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, fresh)
    _, y = apply(params, first, rows, jnp.zeros((length, length * batch), bool))
    y = y.reshape(length, length, batch, H)  # [t, s, b, H]
    starts = reset.at[0].set(True)
    latest = jax.lax.cummax(jnp.where(starts, jnp.arange(length)[:, None], 0), axis=0)  # [T, B]
    return y[jnp.arange(length)[:, None] - latest, latest, jnp.arange(batch)]


@partial(jit, static_argnums=(0, 1))
def value_and_gradients(name, way, params, carry, x, reset, weights):
    """Outputs, and the gradients of <y, weights> + <last carry, weights> of every input."""
    core = core_of(name)

    def loss(params, carry, x):
        if way is separate_episodes:
            empty = core.initial_carry(x.shape[1])
            empty = jax.tree.map(lambda e, c: e.astype(c.dtype), empty, carry)
            last, y = None, way(core.apply, params, carry, x, reset, empty)
        else:
            last, y = way(core.apply, params, carry, x, reset)
        product = jnp.vdot(y, weights[0])
        if last is not None:
            terms = jax.tree.map(lambda c, w: jnp.sum(c * w), last, weights[1])
            product += sum(jax.tree.leaves(terms))
        return product, (y, last)

    (_, outputs), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, carry, x)
    return outputs, gradients


def assert_close(found, expected, tolerance):
    """Compare leaf by leaf, relative to the largest value of the leaf."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1e-3, np.abs(b).max()))


def check(name, given, reset, ways, tolerance):
    params, carry, x, (on_y, on_carry) = given
    run = partial(value_and_gradients, name)
    reference = run(one_call, params, carry, x, reset, (on_y, on_carry))
    for way in ways:
        if way is separate_episodes:  # which has no last carry
            on_carry = jax.tree.map(jnp.zeros_like, on_carry)
            (y, _), gradients = run(one_call, params, carry, x, reset, (on_y, on_carry))
            reference = (y, None), gradients
        assert_close(run(way, params, carry, x, reset, (on_y, on_carry)), reference, tolerance)


@st.composite
def reset_patterns(draw):
    flags = draw(st.lists(st.booleans(), min_size=12, max_size=12))
    return np.array(flags).reshape(6, 2)


@pytest.mark.parametrize("name", CORES)
@settings(max_examples=8, deadline=None)
@given(reset=reset_patterns(), seed=st.integers(0, 1000))
@example(reset=np.zeros((6, 2), bool), seed=0)
@example(reset=np.ones((6, 2), bool), seed=0)
@example(reset=np.eye(6, 2, dtype=bool), seed=0)
@example(reset=np.eye(6, 2, dtype=bool)[::-1], seed=0)
def test_all_ways_to_run_a_core_agree_in_float64(name, reset, seed):
    given = problem(name, seed, reset.shape)
    with jax.enable_x64(True):
        given = jax.tree.map(lambda v: v.astype("float64"), given)
        check(name, given, jnp.asarray(reset), (steps, two_calls, separate_episodes), 1e-10)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("s5", "gru", "transformer") else pytest.mark.slow)
        for name in CORES
    ],
)
def test_steps_and_one_call_agree_in_float32(name):
    reset = jnp.asarray(np.random.default_rng(0).random((6, 2)) < 0.3)
    check(name, problem(name, 0, (6, 2)), reset, (steps,), 1e-4)


# --- What lies behind a reset -----------------------------------------------------------------

POISONS = [np.nan, np.inf]
CUT = 3  # every row is reset before this step, except the last row, which is reset nowhere


@pytest.mark.parametrize("name", CORES)
def test_nothing_behind_a_reset_reaches_past_it(name):
    params, carry, x, weights = problem(name, 0, (6, 2))
    reset = jnp.zeros((6, 2), bool).at[CUT, 0].set(True)
    core = core_of(name)

    @jit
    def run(carry, x):
        def loss(carry, x):
            last, y = core.apply(params, carry, x, reset)
            later = jnp.sum((y * weights[0])[CUT:]) + jnp.sum((y * weights[0])[:CUT, 1])
            return later, (last, y)

        (_, (last, y)), (d_carry, d_x) = jax.value_and_grad(loss, (0, 1), has_aux=True)(carry, x)
        row = jax.tree.map(lambda c: c[1], d_carry)
        return last, y[CUT:], y[:, 1], d_x[CUT:], d_x[:, 1], row

    expected = run(carry, x)
    for poison in POISONS:
        bad_x = x.at[CUT - 1, 0, :].set(poison)
        bad_carry = jax.tree.map(lambda c: c.at[0].set(poison), carry)  # noqa: B023
        for arguments in [(carry, bad_x), (bad_carry, x), (bad_carry, bad_x)]:
            jax.tree.map(np.testing.assert_array_equal, run(*arguments), expected)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("name", CORES)
def test_a_dropped_carry_leaves_every_gradient_clean(name, poison):
    params, carry, x, weights = problem(name, 0, (6, 2))
    reset = jnp.zeros((6, 2), bool).at[0].set(True)
    dropped = jax.tree.map(lambda c: jnp.full_like(c, poison), carry)
    args = (params, dropped, x, reset, weights)
    (y, last), gradients = value_and_gradients(name, one_call, *args)
    clean = (params, jax.tree.map(jnp.zeros_like, carry), x, reset, weights)
    assert_close(((y, last), gradients), value_and_gradients(name, one_call, *clean), 1e-6)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradients[1]))


# --- Shapes, compiled size and configuration --------------------------------------------------


@pytest.mark.parametrize("name", CORES)
def test_carries_lead_with_the_batch_and_are_real_float32(name):
    core = core_of(name)
    for leaf in jax.tree.leaves(core.initial_carry(7)):
        assert leaf.shape[0] == 7 and leaf.dtype == jnp.float32 and not leaf.any()
    _, carry, x, _ = problem(name, 0, (6, 2))
    last, y = jit(core.apply)(parameters(name), carry, x, jnp.zeros((6, 2), bool))
    assert y.shape == x.shape
    assert jax.tree.map(jnp.shape, last) == jax.tree.map(jnp.shape, carry)


@pytest.mark.parametrize("name", CORES)
def test_an_empty_carry_can_be_donated(name):
    carry = core_of(name).initial_carry(3)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(carry)]
    assert len(set(buffers)) == len(buffers)


def equations(config, length):
    core = make_core(config, H)
    carry, x, reset = core.initial_carry(2), jnp.zeros((length, 2, H)), jnp.zeros((length, 2), bool)
    params = jax.eval_shape(core.init, jax.random.key(0), carry, x, reset)
    return str(jax.make_jaxpr(core.apply)(params, carry, x, reset)).split().count("=")


@pytest.mark.parametrize("config", [type(config) for config in list(CONFIGS.values())[1:]])
def test_the_traced_graph_does_not_grow_with_depth_or_length(config):
    assert equations(config(layers=2), 5) == equations(config(layers=6), 50) > 5


@pytest.mark.parametrize("name", CORES)
def test_one_step_compiles_without_a_loop(name):
    core = core_of(name)
    params, carry, x, _ = problem(name, 0, (1, 2))
    compiled = jax.jit(core.apply).lower(params, carry, x, jnp.zeros((1, 2), bool)).compile()
    assert "while(" not in compiled.as_text()


@pytest.mark.parametrize("name", ["s5", "lru", "mingru", "s4d", "linear-attention", "mamba", "ffm"])
@pytest.mark.parametrize("scan", ["associative", "chunked"])
def test_scan_implementations_agree_inside_a_core(name, scan):
    params, carry, x, _ = problem(name, 0, (6, 2))
    reset = jnp.zeros((6, 2), bool).at[2, 1].set(True)
    fields = {**vars(CONFIGS[name]), "scan": scan}
    other = make_core(type(CONFIGS[name])(**fields), H, "highest")
    found, expected = (jit(c.apply)(params, carry, x, reset) for c in (other, core_of(name)))
    assert_close(found, expected, 1e-5)


def test_every_config_is_known_by_its_tag():
    assert set(CORES.values()) == set(get_args(CoreConfig))
    assert all(config().name == name for name, config in CORES.items())


def test_an_unknown_core_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(UserError) as error:
        make_core({}, H)
    assert str(error.value) == str(unknown_name("core", "dict", CORES))
