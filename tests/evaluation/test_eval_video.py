import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rlssm.envs.cards import Autoencode, RepeatFirst, RepeatPrevious
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.probes import ConstantReward
from rlssm.envs.stateless import StatelessCartPole, StatelessPendulum
from rlssm.envs.wrappers import HideObservation, ObservationNoise, TimeLimit
from rlssm.errors import UserError
from rlssm.evaluation.drawings import DRAWINGS
from rlssm.evaluation.evaluate import record
from rlssm.evaluation.video import drawing_of, save_gif
from rlssm.types import Discrete, Policy


def random_policy(env) -> Policy:
    action = env.spec.action

    def act(params, inputs, reset, carry, key, greedy):
        shape = (*inputs.first.shape, *action.shape)
        if isinstance(action, Discrete):
            return jax.random.randint(key, shape, 0, action.n), carry
        return jax.random.uniform(key, shape, minval=-1.0), carry

    return Policy(lambda b: (), act)


def frames(tmp_path, env, steps: int = 4, **options) -> list[np.ndarray]:
    recording = record(env, random_policy(env), (), jax.random.key(0), max_steps=steps)
    save_gif(tmp_path / "x.gif", env, recording, **options)
    with Image.open(tmp_path / "x.gif") as gif:
        found = []
        for i in range(gif.n_frames):
            gif.seek(i)
            found.append(np.asarray(gif.convert("RGB"), np.int32))
        assert gif.info["loop"] == 0
    return found


def gymnax(name: str):
    from rlssm.envs.gymnax_env import make

    return make(name)


ENVIRONMENTS = {
    "cart-pole": lambda: StatelessCartPole(noise=0.1),
    "pendulum": lambda: StatelessPendulum(),
    "repeat-previous": lambda: RepeatPrevious(k=1),
    "repeat-first": lambda: RepeatFirst(decks=8),
    "autoencode": lambda: Autoencode(decks=2),
    "chain": lambda: MemoryChain(3),
    "wrapped": lambda: TimeLimit(
        ObservationNoise(HideObservation(gymnax("CartPole-v1"), (0,)), 1), 5
    ),
    "gymnax-pendulum": lambda: gymnax("Pendulum-v1"),
    "mountain-car": lambda: gymnax("MountainCar-v0"),
    "continuous-car": lambda: gymnax("MountainCarContinuous-v0"),
    "acrobot": lambda: gymnax("Acrobot-v1"),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_step_is_a_different_picture(tmp_path, name):
    found = frames(tmp_path, ENVIRONMENTS[name]())
    assert len(found) == 5
    for one, two in zip(found, found[1:], strict=False):
        assert one.shape == (320, 480, 3)
        assert (one < 200).any(-1).sum() > 300  # something is drawn besides the caption
        assert np.abs(one[:290] - two[:290]).max() > 50  # and it moves


def test_pole_leans_where_the_state_says(tmp_path):
    env = StatelessCartPole()
    recording = record(env, random_policy(env), (), jax.random.key(0), max_steps=1)
    for theta, side in ((-0.8, "left"), (0.8, "right")):
        states = recording.states._replace(theta=np.full(2, theta), x=np.zeros(2))
        save_gif(tmp_path / "x.gif", env, recording._replace(states=states))
        picture = np.asarray(Image.open(tmp_path / "x.gif").convert("RGB"), np.int32)
        orange = np.abs(picture - (0xE6, 0x9F, 0x00)).max(-1) < 40
        columns = np.nonzero(orange.any(0))[0]
        assert (columns.min() < 200 and columns.max() < 260) == (side == "left")
        assert (columns.max() > 280 and columns.min() > 220) == (side == "right")


def test_pace_and_last_frame(tmp_path):
    frames(tmp_path, MemoryChain(3), fps=5)
    with Image.open(tmp_path / "x.gif") as gif:
        durations = []
        for i in range(gif.n_frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
    assert durations == [200] * 4 + [1000]


def test_long_episodes_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr("rlssm.evaluation.video.MAX_FRAMES", 5)
    assert len(frames(tmp_path, RepeatPrevious(), steps=12)) == 5  # 0, 3, 6, 9 and the end


def test_environments_without_a_drawing_are_refused(tmp_path):
    for env, name in (
        (ConstantReward(), "ConstantReward"),
        (gymnax("Catch-bsuite"), "Catch-bsuite"),
    ):
        with pytest.raises(UserError, match=f"{name} has no drawing") as error:
            drawing_of(env)
        assert str(error.value).endswith(", ".join(DRAWINGS))


def test_unwritable_and_impossible(tmp_path):
    env = MemoryChain(3)
    recording = record(env, random_policy(env), (), jax.random.key(0))
    with pytest.raises(UserError, match="cannot write .*nowhere/x.gif: No such file or directory"):
        save_gif(tmp_path / "nowhere" / "x.gif", env, recording)
    with pytest.raises(UserError, match="fps must be from 1 to 50, got 0"):
        save_gif(tmp_path / "x.gif", env, recording, fps=0)
    assert jnp.isfinite(recording.reward).all()
