"""The memory suite by name: families of three levels, and chains to remember one bit over.

Of 16 families, 13 are those that S5 was published on, 39 tasks (`PUBLISHED`); LabyrinthExplore,
LabyrinthEscape and VelocityOnlyCartPole are in POPGym alone.

Sources: POPGym (Morad et al. 2023); for the 39, "Structured State Space Models for In-Context
Reinforcement Learning" (Lu et al. 2023, arXiv 2303.03982) and its code popjaxrl.
"""

from rlssm.envs.bandits import MultiArmedBandit
from rlssm.envs.base import Environment
from rlssm.envs.battleship import Battleship
from rlssm.envs.cards import Autoencode, RepeatFirst, RepeatPrevious
from rlssm.envs.concentration import Concentration
from rlssm.envs.counting import CountRecall, HigherLower
from rlssm.envs.labyrinth import LabyrinthEscape, LabyrinthExplore
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.minesweeper import Minesweeper
from rlssm.envs.stateless import StatelessCartPole, StatelessPendulum, VelocityOnlyCartPole

LEVELS = ("Easy", "Medium", "Hard")
FAMILIES: dict[str, tuple[Environment, Environment, Environment]] = {
    "RepeatPrevious": (
        RepeatPrevious(decks=1, k=4),
        RepeatPrevious(decks=2, k=32),
        RepeatPrevious(decks=3, k=64),
    ),
    "RepeatFirst": (RepeatFirst(decks=1), RepeatFirst(decks=8), RepeatFirst(decks=16)),
    "Autoencode": (Autoencode(decks=1), Autoencode(decks=2), Autoencode(decks=3)),
    "CountRecall": (
        CountRecall(decks=1, kinds=2),
        CountRecall(decks=2, kinds=4),
        CountRecall(decks=4, kinds=13),
    ),
    "HigherLower": (HigherLower(decks=1), HigherLower(decks=2), HigherLower(decks=3)),
    "Concentration": (
        Concentration(decks=1, kinds=2),
        Concentration(decks=2, kinds=2),
        Concentration(decks=1, kinds=13),
    ),
    "Battleship": (Battleship(8), Battleship(10), Battleship(12)),
    "Minesweeper": (
        Minesweeper(side=4, mines=2),
        Minesweeper(side=6, mines=6),
        Minesweeper(side=8, mines=10),
    ),
    "MultiArmedBandit": (
        MultiArmedBandit(arms=10, length=200),
        MultiArmedBandit(arms=20, length=400),
        MultiArmedBandit(arms=30, length=600),
    ),
    "StatelessCartPole": (
        StatelessCartPole(max_steps=200),
        StatelessCartPole(max_steps=400),
        StatelessCartPole(max_steps=600),
    ),
    "NoisyStatelessCartPole": (
        StatelessCartPole(max_steps=200, noise=0.1),
        StatelessCartPole(max_steps=200, noise=0.2),
        StatelessCartPole(max_steps=200, noise=0.3),
    ),
    "StatelessPendulum": (
        StatelessPendulum(max_steps=200),
        StatelessPendulum(max_steps=150),
        StatelessPendulum(max_steps=100),
    ),
    "NoisyStatelessPendulum": (
        StatelessPendulum(max_steps=200, noise=0.1),
        StatelessPendulum(max_steps=200, noise=0.2),
        StatelessPendulum(max_steps=200, noise=0.3),
    ),
    "LabyrinthExplore": (LabyrinthExplore(5), LabyrinthExplore(7), LabyrinthExplore(9)),
    "LabyrinthEscape": (LabyrinthEscape(5), LabyrinthEscape(7), LabyrinthEscape(9)),
    "VelocityOnlyCartPole": (
        VelocityOnlyCartPole(max_steps=200),
        VelocityOnlyCartPole(max_steps=400),
        VelocityOnlyCartPole(max_steps=600),
    ),
}
SUITE: dict[str, Environment] = {
    f"{family}{level}": env
    for family, envs in FAMILIES.items()
    for level, env in zip(LEVELS, envs, strict=True)
}
PUBLISHED: tuple[str, ...] = tuple(SUITE)[:39]
MEMORY_TASKS: dict[str, Environment] = SUITE | {
    f"MemoryChain-{length}": MemoryChain(length) for length in (10, 100, 1000)
}
