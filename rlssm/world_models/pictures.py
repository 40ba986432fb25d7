"""States and predicted changes as text and as PNG."""

import math
from collections.abc import Mapping
from pathlib import Path

from rlssm.world_models.likelihood import Distribution, Model, predict
from rlssm.world_models.object_view import Key, Value, vector_of
from rlssm.world_models.schema import (
    MATERIALS,
    NO_MATERIAL,
    Arrow,
    Entity,
    Player,
    Position,
    WorldState,
)

TILES = dict(
    zip(MATERIALS, ("~", ".", "#", "_", ":", "T", "!", "c", "i", "d", "t", "f"), strict=True)
)
LETTERS = {"cow": "C", "zombie": "Z", "skeleton": "S", "arrow": "-", "plant": "p", "fence": "="}
_FACING = {(-1, 0): "<", (1, 0): ">", (0, -1): "^", (0, 1): "v"}
_COLOURS = {
    "water": "#3b7dd8", "grass": "#7ec850", "stone": "#8d8d8d", "path": "#cdb892",
    "sand": "#eddc98", "tree": "#2e6b2e", "lava": "#e25822", "coal": "#404040", "iron": "#c9a27a",
    "diamond": "#bfefff", "table": "#9c6b30", "furnace": "#5a5a5a",
}  # fmt: skip
_LIKELY = 0.01  # below, a predicted change is left out


def ascii_state(state: WorldState, around: Position | None = None, reach: int = 8) -> str:
    """Return the map as text: the player as an arrow, objects as capitals, then vitals and items.

    Of a large map the tiles within `reach` of a place are shown, by default of the player.
    """
    x0, x1, y0, y1 = _window(state, around, reach)
    here = {entity.position: _letter(entity) for entity in state.objects}
    lines = [
        " ".join(here.get((x, y), _tile(state, (x, y))) for x in range(x0, x1))
        for y in range(y0, y1)
    ]
    player = state.player
    held = [f"{item} {amount}" for item, amount in player.inventory.items() if amount]
    sleeping = ", asleep" if player.sleeping else ""
    lines.append(f"step {state.step_count}, health {player.health}{sleeping}; {', '.join(held)}")
    return "\n".join(lines)


def legend() -> str:
    """Return what the signs of `ascii_state` mean."""
    tiles = [f"{sign} {material}" for material, sign in TILES.items()]
    objects = [f"{letter} {kind}" for kind, letter in LETTERS.items()]
    return ", ".join([*tiles, *objects]) + ", ^ v < > the player"


def _window(state: WorldState, around: Position | None, reach: int) -> tuple[int, int, int, int]:
    x, y = around or state.player.position
    width, height = state.size
    return (
        max(x - reach, 0),
        min(x + reach + 1, width),
        max(y - reach, 0),
        min(y + reach + 1, height),
    )


def _letter(entity: Entity) -> str:
    if isinstance(entity, Player):
        return _FACING[entity.facing]
    return LETTERS[entity.kind]


def _tile(state: WorldState, position: Position) -> str:
    index = state.materials[position]
    return " " if index == NO_MATERIAL else TILES[MATERIALS[index]]


# --- Predictions ------------------------------------------------------------------------------


def predicted_changes(model: Model, state: WorldState, action: str) -> dict[Key, Distribution]:
    """Return the distributions of what a model finds at least 1 % likely to change."""
    scene = model.world.scene(state, action)
    return {
        key: distribution
        for key, distribution in predict(model, scene).items()
        if -math.expm1(distribution.log_prob(scene.old(key))) >= _LIKELY
    }


def ascii_changes(model: Model, state: WorldState, action: str) -> str:
    """Return the predicted changes as text, one observable a line, the likeliest values first."""
    scene = model.world.scene(state, action)
    lines = []
    for key, distribution in predicted_changes(model, state, action).items():
        owner = "" if key.kind in ("player", "world") else f" {key.owner}"
        name, values = f"{key.kind}{owner} {key.attribute}", _likely(distribution)
        spoken = ", ".join(f"{value} {100 * p:.3g} %" for value, p in values)
        lines.append(f"  {name}: {scene.old(key)} -> {spoken}")
    return "\n".join(lines) or "  nothing changes"


def _likely(distribution: Distribution) -> list[tuple[Value, float]]:
    table = {value: math.exp(p) for value, p in distribution.log_probs.items()}
    kept = [(value, p) for value, p in table.items() if p >= _LIKELY]
    return sorted(kept, key=lambda pair: -pair[1])


def png_state(
    path: Path,
    states: Mapping[str, WorldState],
    model: Model | None = None,
    action: str = "noop",
) -> None:
    """Draw states side by side, under their titles, as a PNG file.

    With a model, arrows in the first state show where it expects objects to go under `action`, as
    dark as it finds it likely, and red frames the tiles it expects to change.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(states), 4.6), layout="constrained")
    axes = figure.subplots(1, len(states), squeeze=False)[0]
    for number, (ax, (title, state)) in enumerate(zip(axes, states.items(), strict=True)):
        _draw_state(ax, state)
        ax.set_title(title, fontsize=9)
        if number == 0 and model is not None:
            _draw_changes(ax, model, state, action)
    figure.savefig(path, dpi=120)


def _draw_state(ax, state: WorldState) -> None:
    from matplotlib.colors import ListedColormap

    colours = ListedColormap(["#000000", *(_COLOURS[material] for material in MATERIALS)])
    ax.imshow(state.materials.T, cmap=colours, vmin=NO_MATERIAL, vmax=len(MATERIALS) - 1)
    ax.set_xticks(()), ax.set_yticks(())
    for entity in state.objects:
        x, y = entity.position
        if isinstance(entity, Player | Arrow):
            dx, dy = entity.facing
            colour = "white" if isinstance(entity, Player) else "black"
            ax.plot([x, x + 0.4 * dx], [y, y + 0.4 * dy], color=colour, linewidth=2)
            ax.plot(x, y, "o", color=colour, markersize=7)
        else:
            ax.text(x, y, LETTERS[entity.kind], ha="center", va="center", weight="bold")


def _draw_changes(ax, model: Model, state: WorldState, action: str) -> None:
    from matplotlib.patches import Rectangle

    by_id = {entity.entity_id: entity for entity in state.objects}
    for key, distribution in predicted_changes(model, state, action).items():
        if key.attribute == "displacement" and isinstance(key.owner, int):
            x, y = by_id[key.owner].position
            for value, probability in _likely(distribution):
                dx, dy = vector_of(value)
                if (dx, dy) != (0, 0):
                    style = {"arrowstyle": "->", "alpha": probability, "color": "black"}
                    ax.annotate("", (x + dx, y + dy), (x, y), arrowprops=style)
        elif isinstance(key.owner, tuple):
            x, y = key.owner
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="red", lw=2))
