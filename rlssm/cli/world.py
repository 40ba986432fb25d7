"""Commands on world models: `rlssm world explore`, `learn`, `evaluate`, `plan`, `show`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rlssm.cli.parse import parse, say, wants_help
from rlssm.cli.report import use_compilation_cache
from rlssm.errors import UserError, require, unknown_name

if TYPE_CHECKING:
    from rlssm.world_models.likelihood import Model
    from rlssm.world_models.ranking import Row

USAGE = """\
usage: rlssm world COMMAND ...

  explore LIFE       live one life in Crafter, led by curiosity, and write it to a file
  learn LIFE MODEL   find laws that explain a life, fit them, and write them to a file
  evaluate MODEL     rank true states against distractors in the 23 scenarios, and count the edits
                     from predicted to true states, beside chance, baselines and the true world
  plan MODEL         compare plans by rollouts in a model and in the true world
  show MODEL         the laws of a model as sentences, the evidence for one, pictures of predictions

  MODEL is a file of laws, or `oracle` for the laws written by hand.
  rlssm world COMMAND --help explains a command."""

ORACLE = "oracle"
ModelName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


def world(words: list[str]) -> None:
    """`rlssm world COMMAND ...`."""
    known: dict[str, Callable[[list[str]], None]] = {
        "explore": explore,
        "learn": learn,
        "evaluate": evaluate,
        "plan": plan,
        "show": show,
    }
    if not words or wants_help(words[:1]):
        return say(USAGE)
    if words[0] not in known:
        raise unknown_name("world command", words[0], known)
    known[words[0]](words[1:])


def _load(name: str, reference: bool) -> "Model":
    """Return the model of a name in one of the two readings, whichever its file has."""
    from rlssm.world_models.crafter_view import CrafterView
    from rlssm.world_models.json_reader import read_json
    from rlssm.world_models.law_json import model_from_json
    from rlssm.world_models.oracle_laws import oracle_model

    if name == ORACLE:
        return oracle_model(reference)
    root = read_json(name)
    written = isinstance(root.value, dict) and root.value.get("reference") is True
    return replace(model_from_json(root, CrafterView(written)), world=CrafterView(reference))


# --- Explore and learn ------------------------------------------------------------------------

NewFile = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Explore:
    life: Annotated[NewFile, tyro.conf.arg(metavar="LIFE")]
    """JSON file to write the life to."""
    steps: int = 2000
    """Steps at most; a life may end before."""
    seed: int = 0
    """Seed of the world and of the explorer."""
    instincts: bool = True
    """Whether to look after food, drink, sleep and danger."""
    quiet: bool = False
    """Whether to leave out the progress bar."""


def explore(words: list[str]) -> None:
    """`rlssm world explore LIFE`."""
    args = parse(
        Explore,
        words,
        command="rlssm world explore",
        description="Live one life in Crafter without reward or goal, and write it to a file.",
    )
    from tqdm import tqdm

    from rlssm.world_models.explorer import live
    from rlssm.world_models.life_json import save_life

    require(args.steps > 0, "steps", args.steps, "positive")
    _check_folder("life", args.life)
    steps = live(args.seed, args.steps, args.instincts)
    life = list(tqdm(steps, total=args.steps, desc="life", disable=args.quiet, leave=False))
    save_life(life, args.life)
    player = life[-1][2].player
    done = ", ".join(name for name, count in player.achievements.items() if count)
    end = "died" if player.health <= 0 else "still alive"
    say(f"{len(life)} steps, {end}; achieved: {done or 'nothing'}")
    say(f"wrote {args.life}")


@dataclass(frozen=True)
class Learn:
    life: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LIFE")]
    """File of a life, as `explore` writes it."""
    model: Annotated[NewFile, tyro.conf.arg(metavar="MODEL")]
    """JSON file to write the laws to."""
    proposer_url: str | None = None
    """OpenAI-compatible endpoint of a language model that proposes laws too, up to its version."""
    proposer_model: str | None = None
    """Name of the model there."""
    quiet: bool = False
    """Whether to leave out what is being done."""


def learn(words: list[str]) -> None:
    """`rlssm world learn LIFE MODEL`."""
    args = parse(
        Learn,
        words,
        command="rlssm world learn",
        description="Find laws that explain a life, fit their weights, and write them to a file.",
    )
    from rlssm.world_models.crafter_view import CrafterView
    from rlssm.world_models.fitting import log_probs
    from rlssm.world_models.law_json import save_model
    from rlssm.world_models.life_json import load_life
    from rlssm.world_models.proposer import LanguageModel
    from rlssm.world_models.record import Record
    from rlssm.world_models.synthesis import synthesise

    _check_folder("model", args.model)
    url, name = args.proposer_url, args.proposer_model
    if (url is None) != (name is None):
        raise UserError("proposer-url and proposer-model must be given together")
    record = Record(CrafterView(), load_life(args.life))
    proposer = LanguageModel(url, name) if url is not None and name is not None else None
    fitted = synthesise(record, (lambda text: None) if args.quiet else say, proposer)
    save_model(fitted.model, args.model)
    each = float(log_probs(fitted.model, record).mean())
    say(f"{len(fitted.model.laws)} laws from {len(record)} steps, {each:.2f} nats a step")
    say(f"wrote {args.model}")


def _check_folder(name: str, path: Path) -> None:
    """Refuse a file that could not be written, before the work is done."""
    require(path.parent.is_dir(), name, str(path), "a file in a folder that exists")
    require(not path.is_dir(), name, str(path), "a file, not a folder")


# --- Evaluate ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluate:
    model: ModelName
    """File of laws, or `oracle`."""
    reference: bool = False
    """Whether to take the published observables and semantics."""
    scenarios: Literal["all", "success", "failure"] = "all"
    """Which of the 38; the published code scores the failing variant wherever there are two."""
    mutators: Literal["seven", "eight"] = "seven"
    """Distractors: those of the published list, or all that are described."""
    trials: int = 10
    """Runs of every scenario, at least 1."""
    seed: int = 0
    """Seed of the runs and of the distractors."""
    baselines: bool = True
    """Whether to evaluate the others too."""
    out: Path | None = None
    """JSON file to write every figure to."""
    quiet: bool = False
    """Whether to leave out the progress bar."""


def evaluate(words: list[str]) -> None:
    """`rlssm world evaluate MODEL`."""
    args = parse(
        Evaluate,
        words,
        command="rlssm world evaluate",
        description="Rank true states against distractors; count edits to the true state.",
    )
    from rlssm.world_models import contenders, mutators, ranking
    from rlssm.world_models.scenarios import chosen

    model = _load(args.model, args.reference)
    field = [contenders.of_model(model, args.model)]
    if args.baselines:
        field += [
            contenders.unfitted(model),
            contenders.poe_world(_load(args.model, reference=True)),
            contenders.null(),
            contenders.constant(),
            contenders.random(),
            contenders.true_world(),
        ]
    names = mutators.PUBLISHED if args.mutators == "seven" else tuple(mutators.MUTATORS)
    scenarios = chosen(args.scenarios)
    results = {}
    for contender in field:
        rows = ranking.evaluate(
            contender, scenarios, args.trials, args.seed, names, progress=not args.quiet
        )
        results[contender.name] = rows
        if contender is field[0]:
            say("\n".join(_scenario_table(rows)))
            say(f"\nover {len(rows)} scenarios: mean, deviation over trials [95 % interval]")
        say(_overall_line(contender.name, rows))
    if args.out is not None:
        args.out.write_text(json.dumps(_figures(args, results), indent=1), encoding="utf-8")
        say(f"wrote {args.out}")


def _scenario_table(rows: "Sequence[Row]") -> list[str]:
    lines = [f"{'scenario':34}{'steps':>6}{'n':>5}{'R@1':>8}{'MRR':>8}{'edits':>8}"]
    for row in rows:
        r_at_1, mrr, edits = (row.metric(name).mean for name in ("r_at_1", "mrr", "edits"))
        lines.append(
            f"{row.scenario.id:34}{row.transitions:6.1f}{row.candidates:5.1f}"
            f"{r_at_1:8.3f}{mrr:8.3f}{edits:8.2f}"
        )
    return lines


def _overall_line(name: str, rows: "Sequence[Row]") -> str:
    from rlssm.world_models.ranking import overall

    parts = []
    for title, metric in (("R@1", "r_at_1"), ("MRR", "mrr"), ("edits", "edits")):
        o = overall(rows, metric)
        parts.append(f"{title} {o.mean:.3f} {o.deviation:.3f} [{o.low:.3f}, {o.high:.3f}]")
    return f"  {name:12}" + "   ".join(parts)


def _figures(args: Evaluate, results: "dict[str, list[Row]]") -> dict[str, Any]:
    from rlssm.world_models.ranking import METRICS, overall

    return {
        "model": args.model,
        "reference": args.reference,
        "scenarios": args.scenarios,
        "mutators": args.mutators,
        "trials": args.trials,
        "seed": args.seed,
        "contenders": {
            name: {
                "overall": {metric: overall(rows, metric)._asdict() for metric in METRICS},
                "scenarios": {
                    row.scenario.id: {metric: row.metric(metric)._asdict() for metric in METRICS}
                    for row in rows
                },
            }
            for name, rows in results.items()
        },
    }


# --- Plan -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanWith:
    model: ModelName
    """File of laws, or `oracle`."""
    task: str = "all"
    """Task: zombie fighter, stone miner, sword maker, or all."""
    reference: bool = False
    """Whether to take the published semantics (nothing is born or dies), with facing observed."""
    rollouts: int = 128
    """Rollouts of every plan, at least 2."""
    shoot: int = 0
    """Random plans to try as well, made of the task's subroutines; the best is tested."""
    seed: int = 0
    """Seed of the rollouts."""
    quiet: bool = False
    """Whether to leave out the progress bar."""


def plan(words: list[str]) -> None:
    """`rlssm world plan MODEL`."""
    args = parse(
        PlanWith,
        words,
        command="rlssm world plan",
        description="Compare plans by rollouts in a model and in the true world.",
    )
    from rlssm.world_models import planning, planning_tasks

    require(args.rollouts >= 2, "rollouts", args.rollouts, "at least 2")
    require(args.shoot >= 0, "shoot", args.shoot, "at least 0")
    if args.task != "all" and args.task not in planning_tasks.TASKS:
        raise unknown_name("task", args.task, [*planning_tasks.TASKS, "all"])
    model = _load(args.model, args.reference)
    use_compilation_cache()
    worlds = {"true": planning.true_dynamics(), "model": planning.model_dynamics(model)}
    for name, task in planning_tasks.TASKS.items():
        if args.task not in ("all", name):
            continue
        say(f"{name}: mean reward and standard error of {args.rollouts} rollouts")
        for where, dynamics in worlds.items():
            found = planning_tasks.compare(
                task, dynamics, args.rollouts, args.seed, progress=not args.quiet
            )
            for title, e in found.items():
                say(f"  {where:6}{title:30}{e.mean:8.3f} +- {e.error:.3f}   {e.steps:5.1f} steps")
            say(f"  {where:6}ranking {'right' if planning_tasks.is_right(found) else 'wrong'}")
        if args.shoot:
            _shoot(args, task, worlds)


def _shoot(args: PlanWith, task: Any, worlds: dict[str, Any]) -> None:
    from rlssm.world_models.planning import estimate, rollouts, shoot

    count = max(args.rollouts // args.shoot, 1)
    start = task.start()
    (best, promise), *_ = shoot(
        worlds["model"],
        start,
        task.shootable,
        task.reward,
        length=max(map(len, task.plans.values())),
        candidates=args.shoot,
        count=count,
        seed=args.seed,
        progress=not args.quiet,
    )
    say(f"  best of {args.shoot} random plans, {count} rollouts each: {', '.join(map(str, best))}")
    lives = rollouts(worlds["true"], start, [best] * args.rollouts, args.seed)
    for where, found in (("model", promise), ("true", estimate(lives, task.reward))):
        say(f"  {where:6}{found.mean:8.3f} +- {found.error:.3f}")


# --- Show -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Show:
    model: ModelName
    """File of laws, or `oracle`."""
    law: str | None = None
    """Name of one law, to see the evidence for it."""
    scenario: str | None = None
    """Scenario to play, such as eat_cow or collect_coal (success): states and predicted changes."""
    reference: bool = False
    """Whether to take the published observables and semantics."""
    out: Path | None = None
    """PNG picture of the scenario to write."""
    seed: int = 0
    """Seed of the runs that uses and evidence are counted in."""


def show(words: list[str]) -> None:
    """`rlssm world show MODEL`."""
    args = parse(
        Show,
        words,
        command="rlssm world show",
        description="The laws of a model as sentences; uses are counted in one run of every "
        "scenario.",
    )
    model = _load(args.model, args.reference)
    if args.out is not None:
        require(args.scenario is not None, "out", str(args.out), "given together with scenario")
        require(args.out.suffix == ".png", "out", str(args.out), "a .png file")
    if args.scenario is not None:
        _show_scenario(model, args)
    elif args.law is not None:
        _show_law(model, args.law, args.seed)
    else:
        _show_laws(model, args.seed)


def _runs(seed: int) -> list[Any]:
    from rlssm.world_models.scenarios import SCENARIOS, play

    return [step for scenario in SCENARIOS for step in play(scenario, seed)]


def _show_laws(model: "Model", seed: int) -> None:
    from rlssm.world_models.sentences import sentence, uses

    counts = uses(model, _runs(seed))
    say(f"{len(model.laws)} laws: weight, how often right of how often active, what it says")
    for law, weight, count in zip(model.laws, model.weights, counts, strict=True):
        say(f"{weight:7.3f} {count.right:5}/{count.active:<5} {law.name}: {sentence(law)}")


def _show_law(model: "Model", name: str, seed: int) -> None:
    from rlssm.world_models.sentences import evidence, find, sentence

    index = find(model.laws, name)
    found = evidence(model, name, _runs(seed))
    say(f"{name}: {sentence(model.laws[index])}")
    say(f"  weight {model.weights[index]:.3f}, source {model.laws[index].source}")
    say(f"  spoke {len(found)} times in one run of every scenario")
    for case in found:
        owner = "" if case.key.kind in ("player", "world") else f" {case.key.owner}"
        say(
            f"  {case.action}: {case.key.kind}{owner} {case.key.attribute} {case.before} -> "
            f"{case.after}, by the model {100 * case.probability:.3g} %"
        )


def _show_scenario(model: "Model", args: Show) -> None:
    from rlssm.world_models import pictures
    from rlssm.world_models.scenarios import SCENARIOS, play

    by_id = {scenario.id: scenario for scenario in SCENARIOS}
    if args.scenario not in by_id:
        raise unknown_name("scenario", str(args.scenario), by_id)
    run = play(by_id[args.scenario], args.seed)
    say(pictures.legend())
    for state, action, _ in run:
        say(f"\n{pictures.ascii_state(state)}\n{action}:")
        say(pictures.ascii_changes(model, state, action))
    say(f"\n{pictures.ascii_state(run[-1].after)}")
    if args.out is not None:
        state, action, after = run[0]
        panels = {f"before {action}, predicted": state, f"after {action}": after}
        pictures.png_state(args.out, panels, model, action)
        say(f"wrote {args.out}")
