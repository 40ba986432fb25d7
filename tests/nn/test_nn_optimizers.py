import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlssm.errors import UserError, unknown_name
from rlssm.nn.optimizers import SSM_GROUPS, make_optimizer

PARAMS = {
    "params": {
        "core": {
            "layer": {
                "memory": {
                    name: jnp.linspace(0.5, 1.5, 3)
                    for name in ("Lambda_re", "Lambda_im", "log_step", "B", "C", "D")
                },
                "norm": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
            }
        },
        "dense": {"kernel": jnp.linspace(-1, 1, 3), "bias": jnp.full(3, 0.1)},
    }
}
LR, B1, B2, EPS = 0.01, 0.8, 0.95, 1e-5


def gradients(step):
    keys = jax.random.split(jax.random.key(step), len(jax.tree.leaves(PARAMS)))
    leaves = [3 * jax.random.normal(key, (3,)) for key in keys]
    return jax.tree.unflatten(jax.tree.structure(PARAMS), leaves)


def run(optimizer, steps=3):
    params, state = PARAMS, optimizer.init(PARAMS)
    for step in range(steps):
        updates, state = optimizer.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def oracle(factors, decays, max_norm, steps=3):
    """AdamW written from its equations; one factor and one decay per leaf."""
    params = [np.asarray(p, np.float64) for p in jax.tree.leaves(PARAMS)]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for t in range(steps):
        grads = [np.asarray(g, np.float64) for g in jax.tree.leaves(gradients(t))]
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        grads = [g * min(1, max_norm / norm) for g in grads]
        for i, g in enumerate(grads):
            m[i] = B1 * m[i] + (1 - B1) * g
            v[i] = B2 * v[i] + (1 - B2) * g**2
            m_hat, v_hat = m[i] / (1 - B1 ** (t + 1)), v[i] / (1 - B2 ** (t + 1))
            step = m_hat / (np.sqrt(v_hat) + EPS) + decays[i] * params[i]
            params[i] = params[i] - LR * factors[i] * step
    return params


def leaf_names():
    return [path[-1].key for path, _ in jax.tree.leaves_with_path(PARAMS)]


EXPECTED = {  # scheme -> (names at the rate of the state space, names of its group that decay)
    "standard": ("Lambda_re Lambda_im log_step B", ""),
    "BandCdecay": ("Lambda_re Lambda_im log_step B", "B"),
    "BfastandCdecay": ("Lambda_re Lambda_im log_step", ""),
    "noBCdecay": ("Lambda_re Lambda_im log_step B C D", ""),
}


@pytest.mark.parametrize("group", SSM_GROUPS)
def test_each_group_follows_adamw_with_its_own_rate_and_decay(group):
    slow, decaying = (names.split() for names in EXPECTED[group])
    names = leaf_names()
    factors = [0.25 if name in slow else 1.0 for name in names]
    exempt = (set(slow) - set(decaying)) | {"bias", "scale"}
    decays = [0.0 if name in exempt else 0.1 for name in names]
    optimizer = make_optimizer(
        LR,
        ssm_lr_factor=0.25,
        ssm_group=group,
        weight_decay=0.1,
        max_grad_norm=2.0,
        b1=B1,
        b2=B2,
        eps=EPS,
    )
    found = jax.tree.leaves(run(optimizer)[0])
    for name, p, expected in zip(names, found, oracle(factors, decays, 2.0), strict=True):
        np.testing.assert_allclose(p, expected, rtol=1e-5, err_msg=name)


def test_lru_dynamics_belong_to_the_group():
    params = {name: jnp.ones(2) for name in ("nu", "theta", "gamma", "C")}
    optimizer = make_optimizer(0.1, ssm_lr_factor=0.0)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert all(np.all(updates[name] == 0) for name in ("nu", "theta", "gamma"))
    assert np.all(updates["C"] < 0)


def test_a_bare_array_is_a_parameter_tree_too():
    optimizer = make_optimizer(0.1, weight_decay=0.1)
    updates, _ = optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())), jnp.ones(()))
    np.testing.assert_allclose(updates, -0.11, rtol=1e-5)


def test_every_number_can_be_vmapped_and_the_state_is_arrays():
    def one(lr, factor, decay, norm, b1, b2, eps):
        optimizer = make_optimizer(
            lr,
            ssm_lr_factor=factor,
            weight_decay=decay,
            max_grad_norm=norm,
            b1=b1,
            b2=b2,
            eps=eps,
        )
        return run(optimizer, steps=2)

    rows = [
        (0.01, 1.0, 0.1, 0.5, 0.9, 0.99, 1e-5),
        (0.02, 0.5, 0.0, 5.0, 0.8, 0.9, 1e-3),
    ]
    together, state = jax.jit(jax.vmap(one))(*jnp.asarray(rows).T)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    for i, row in enumerate(rows):
        for found, alone in zip(
            jax.tree.leaves(together), jax.tree.leaves(jax.jit(one)(*row)[0]), strict=True
        ):
            np.testing.assert_allclose(found[i], alone, rtol=2e-5, atol=1e-6)


def test_a_schedule_sets_the_rate_of_both_groups():
    params = {"B": jnp.ones(2), "kernel": jnp.ones(2)}
    optimizer = make_optimizer(optax.linear_schedule(0.1, 0.0, 2), ssm_lr_factor=0.5)
    state = optimizer.init(params)
    for rate in (0.1, 0.05, 0.0):
        updates, state = optimizer.update(params, state, params)
        np.testing.assert_allclose(updates["kernel"], -rate, rtol=1e-4)
        np.testing.assert_allclose(updates["B"], -rate / 2, rtol=1e-4)


def test_an_unknown_group_is_named_with_the_nearest():
    with pytest.raises(UserError) as error:
        make_optimizer(0.1, ssm_group="standrad")
    assert str(error.value) == str(unknown_name("ssm_group", "standrad", SSM_GROUPS))
