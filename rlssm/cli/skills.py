"""`rlssm skills RUN`: draws and scores the skills that a run found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlssm.cli.parse import RunDirectory, parse, say
from rlssm.cli.report import use_compilation_cache
from rlssm.cli.runs import which_checkpoint

SIDE_BY_SIDE = 8  # skills in the GIF

# What is printed, measure by measure.
WORDS = {
    "coverage": "cells covered",
    "displacement": "mean final displacement",
    "explained": "R² of position to representation",
    "squared_step": "mean squared step of the representation",
    "long_steps": "share of these above 1.05",
    "distance": "goals: mean final distance",
    "near": "share of goals within reach",
    "near_distance": "mean final distance to these",
    "hit_3": "ever within 3",
    "end_3": "at the end within 3",
    "stay_3": "share of steps within 3",
    "hit_1": "ever within 1",
    "end_1": "at the end within 1",
    "stay_1": "share of steps within 1",
}


@dataclass(frozen=True)
class Skills:
    run: RunDirectory
    """The run directory."""
    checkpoint: str = "last"
    """Which weights: last, best, or the steps of a checkpoint."""
    count: int = 48
    """Skills to roam with, an episode each; discrete ones equally often."""
    goals: int = 50
    """Places to reach for, an episode each."""
    mode: Literal["adaptive", "single"] = "adaptive"
    """Whether the skill towards a goal is chosen anew at every step, or once."""
    member: int = 0
    """Which member of the run to draw, counted from 0; all are scored."""
    seed: int = 0
    """Seed of skills, goals and start states."""
    out: Path | None = None
    """Folder for skills.json and the pictures; default plots in the run."""


def skills(words: list[str]) -> None:
    """`rlssm skills RUN`."""
    args = parse(
        Skills,
        words,
        command="rlssm skills",
        description="Draw and score the skills that a run found, without learning.",
    )
    import jax
    import numpy as np

    from rlssm.envs.trials import Suite
    from rlssm.errors import require
    from rlssm.evaluation.skills import judge
    from rlssm.io.config import make_directory, save_json
    from rlssm.train.run import Run
    from rlssm.train.skills import skill_policy

    run = Run(args.run)
    policy = skill_policy(run.config.agent, run.env.spec)
    members = run.config.members
    require(0 <= args.member < len(members), "member", args.member, f"from 0 to {len(members) - 1}")
    require(0 <= args.seed < 2**31, "seed", args.seed, "from 0 to 2147483647")
    assert not isinstance(run.env, Suite)  # whose learners have no skills
    use_compilation_cache()
    params, key = run.params(which_checkpoint(args.checkpoint)), jax.random.key(args.seed)
    judged = judge(run.env, policy, params, key, count=args.count, goals=args.goals, mode=args.mode)
    out = args.out or run.path / "plots"
    make_directory(out)
    settings = {"checkpoint": args.checkpoint, "seed": args.seed, "mode": args.mode}
    rows = [member | row for member, row in zip(members, judged.measures, strict=True)]
    known = [{k: None if np.isnan(v) else v for k, v in row.items()} for row in rows]
    save_json(out / "skills.json", settings | {"members": known})
    say(f"{run.config.agent.name} on {run.config.env.id}, {args.count} skills, {args.goals} goals")
    for name, words_for in WORDS.items():
        values = np.array([row[name] for row in judged.measures])
        spread = f"   {values.min():.4g} to {values.max():.4g}" if len(values) > 1 else ""
        say(f"  {words_for:<42}{values.mean():9.4g}{spread}")
    say("wrote " + ", ".join(str(path) for path in draw(run, params, judged, args, out)))


def draw(run: Any, params: Any, judged: Any, args: Skills, out: Path) -> list[Path]:
    """Draw one member's skills and return what was written; a GIF where there is a drawing."""
    import jax

    from rlssm.errors import UserError
    from rlssm.evaluation import skill_plots
    from rlssm.evaluation.evaluate import record
    from rlssm.evaluation.skills import Roamed
    from rlssm.evaluation.video import drawing_of, save_gif_of_several
    from rlssm.train.skills import skill_as_weight

    roamed = Roamed(*(x[args.member] for x in judged.roamed))
    title = f"{run.config.agent.name}, {run.config.env.id}"
    written = [out / name for name in ("skills.json", "skills.png", "representation.png")]
    skill_plots.trajectories(written[1], roamed, judged.skill, title=title)
    skill_plots.representation(written[2], roamed, judged.skill, title=title)
    try:
        drawing_of(run.env)
    except UserError:
        return written
    told = skill_as_weight(run.config.agent, run.env.spec)
    weights = jax.tree.map(lambda x: x[args.member], params)
    key = jax.random.key(args.seed)
    recordings = [record(run.env, told, (weights, z), key) for z in judged.skill[:SIDE_BY_SIDE]]
    save_gif_of_several(out / "skills.gif", run.env, recordings)
    return [*written, out / "skills.gif"]
