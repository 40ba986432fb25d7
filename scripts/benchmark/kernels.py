"""Time the scan kernel against the bytes it must move, and check what it computes.

For every shape (T, B, P), a complex state as a pair of float32 arrays, a constant decay and resets
in one step of a hundred, the kernel as it comes, the associative form and, with `--plans`, many
plans of the kernel get a row: microseconds forward, microseconds forward and backward, and the
ratios to the floor. The floor is the bytes over the bandwidth of a device copy of 1 GiB in the same
run: forward 16 bytes per element (read b, write x), backward 24 more (read the cotangent, read x,
write the gradient of b). A row that fails says so in its first line and leaves the others alone.

Then, for decays of steps 1e-1, 1e-2 and 1e-3: the greatest error of the states and gradients
relative to their largest value, against a float64 loop on the same float32 inputs, over up to four
rows of the batch; whether NaN behind a reset stays there; and time and memory of a million steps.

    python scripts/benchmark/kernels.py --out results/benchmark/kernels-h100.json
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.kernels import gpu_scan
from rlssm.kernels.gpu_scan import Plan
from rlssm.kernels.linear_scan import linear_scan
from rlssm.kernels.pair import Pair

SHAPES = ["128,2048,128", "1024,256,128", "4096,64,128", "1024,64,128", "16384,4,128"]
LONG = [250_000, 500_000, 1_000_000]
STEPS = [1e-1, 1e-2, 1e-3]
RESET_RATE = 0.01

SHAPES_OF_PROGRAMS = [
    Plan(32, 1, 16), Plan(64, 2, 8), Plan(128, 1, 8), Plan(128, 1, 16), Plan(128, 4, 8),
    Plan(128, 1, 4, ahead=True), Plan(128, 1, 8, ahead=True),
]  # fmt: skip
CHUNKS = [1, 2, 4, 8, 16, 32, 64, 128]
MOST_STATES = 2**17
"""States over all chunks beyond which no more chunks are tried."""


def plans_for(length: int, states: int) -> list[Plan]:
    """Return the plans tried for so many steps of so many states."""
    fewest = 1 if states >= 4096 else 16
    counts = [
        n for n in CHUNKS if n == 1 or (fewest <= n <= MOST_STATES // states and length % n == 0)
    ]
    counts = counts[:1] + counts[1:][-2:]
    chunks = [None if n == 1 else length // n for n in counts]
    return [p._replace(chunk=chunk) for chunk in chunks for p in SHAPES_OF_PROGRAMS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="T,B,P of each problem")
    parser.add_argument("--long", nargs="*", type=int, default=LONG, help="T of B = 1, P = 64")
    parser.add_argument("--repeats", type=int, default=10, help="timed groups of calls")
    parser.add_argument(
        "--plans", type=int, default=0, help="tune: try all plans forward, and the best N both ways"
    )
    parser.add_argument("--budget", type=float, default=210.0, help="seconds after which to stop")
    parser.add_argument("--interpret", action="store_true", help="try the script without a GPU")
    parser.add_argument("--copy", type=int, default=2**28, help="float32 numbers in the copy")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    gpu_scan.INTERPRET = args.interpret
    deadline = time.perf_counter() + args.budget
    device = jax.devices()[0]
    bandwidth = copy_bandwidth(args.copy, args.repeats)
    about = {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "bandwidth": bandwidth,
        "floor_bytes": {"forward": 16, "both": 40},
    }
    print(f"{device.device_kind}, jax {jax.__version__}, copy {bandwidth / 1e12:.2f} TB/s")
    shapes = [tuple(int(n) for n in shape.split(",")) for shape in args.shapes]
    results: dict[str, Any] = {**about, "timings": [], "checks": [], "long": []}

    def keep(kind: str, row: dict[str, Any]) -> None:
        results[kind].append(row)
        print(render(row), flush=True)
        if args.out:  # after every row: a run that is cut off keeps what it has
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(results, indent=1) + "\n")

    measure = partial(time_row, bandwidth=bandwidth, repeats=args.repeats, deadline=deadline)
    rows = [(shape, how) for shape in shapes for how in ("kernel", "associative")]
    compile_together(rows, BOTH)
    for shape, how in rows:
        keep("timings", measure(shape, how))
    for shape in shapes:
        for step in STEPS:
            keep("checks", guarded(check, shape, step, deadline=deadline))
    for length in args.long:
        keep("long", guarded(measure_long, length, deadline=deadline))
    if args.plans:
        tried = [
            (shape, plan) for shape in shapes for plan in plans_for(shape[0], shape[1] * shape[2])
        ]
        compile_together(tried, BOTH[:1])
        for shape, plan in tried:
            keep("timings", measure(shape, plan, BOTH[:1]))
        chosen = [(shape, plan) for shape in shapes for plan in fastest(results, shape, args.plans)]
        compile_together(chosen, BOTH)
        for shape, plan in chosen:
            keep("timings", measure(shape, plan))
    print("\n" + table(results))


def fastest(results: dict[str, Any], shape: tuple[int, ...], count: int) -> list[Plan]:
    """Return the plans whose forward pass took least time."""
    timed = {
        plan: row["forward_us"]
        for plan in plans_for(shape[0], shape[1] * shape[2])
        for row in results["timings"]
        if row["arguments"] == [str(shape), str(plan)] and "failed" not in row
    }
    return sorted(timed, key=timed.__getitem__)[:count]


# --- Problems ---------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 1, 2))
def draw(length: int, batch: int, size: int, step: float) -> tuple[Any, ...]:
    """Return a, b, reset, carry and a cotangent of the states."""
    keys = jax.random.split(jax.random.key(0), 7)

    def pair(i: int, *shape: int) -> Pair:
        return Pair(jax.random.normal(keys[i], shape), jax.random.normal(keys[i + 1], shape))

    steps = step * jax.random.uniform(keys[6], (size,), minval=0.5, maxval=1.0)
    modulus, phase = jnp.exp(-0.5 * steps), steps * jnp.pi * jnp.arange(size)
    a = Pair(modulus * jnp.cos(phase), modulus * jnp.sin(phase))
    reset = jax.random.bernoulli(keys[6], RESET_RATE, (length, batch))
    b, g = pair(0, length, batch, size), pair(2, length, batch, size)
    return a, b, reset, pair(4, batch, size), g


BOTH = ("forward", "both")


def functions(how: str | Plan) -> dict[str, Any]:
    """Return forward: (a, b, reset, carry) -> x, and both: (..., g) -> x and gradients."""
    if isinstance(how, Plan):
        forward = partial(gpu_scan.scan, plan=how)

        def both(a: Any, b: Any, reset: Any, carry: Any, g: Any) -> Any:
            x = forward(a, b, reset, carry)
            return x, gpu_scan.backward(a, x, reset, carry, g, plan=how)

        return {"forward": forward, "both": both}

    def states(a: Any, b: Any, reset: Any, carry: Any) -> Any:
        return linear_scan(a, b, reset, carry, implementation=how)[1]

    def gradients(a: Any, b: Any, reset: Any, carry: Any, g: Any) -> Any:
        x, pull = jax.vjp(lambda a, b, carry: states(a, b, reset, carry), a, b, carry)
        return x, pull(g)

    return {"forward": states, "both": gradients}


@cache
def compiled(shape: tuple[int, ...], how: str | Plan, which: str) -> tuple[Any, float]:
    """Return one of the functions compiled for a shape, and the seconds it took."""
    arguments = jax.eval_shape(partial(draw, *shape), 0.1)[: 4 if which == "forward" else 5]
    started = time.perf_counter()
    program = jax.jit(functions(how)[which]).lower(*arguments).compile()
    return program, time.perf_counter() - started


def compile_together(rows: list[tuple[Any, Any]], whiches: tuple[str, ...]) -> None:
    """Compile all side by side; what fails is left to fail in its own row."""

    def attempt(row: tuple[Any, Any], which: str) -> None:
        with suppress(Exception):
            compiled(*row, which)

    with ThreadPoolExecutor() as pool:
        list(pool.map(attempt, rows * len(whiches), np.repeat(whiches, len(rows)).tolist()))


# --- Time -------------------------------------------------------------------------------------


def microseconds(function: Any, arguments: Any, repeats: int) -> float:
    """Return the median over groups of calls that are queued together."""
    jax.block_until_ready(function(*arguments))
    times, group = [], 5
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(group):
            result = function(*arguments)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - started) / group)
    return 1e6 * float(np.median(times))


def copy_bandwidth(count: int, repeats: int) -> float:
    """Return the bytes per second, read and written, of a copy that adds one."""
    source = jnp.ones(count, jnp.float32)
    return 2e6 * source.nbytes / microseconds(jax.jit(lambda v: v + 1), (source,), repeats)


def guarded(function: Any, *arguments: Any, deadline: float) -> dict[str, Any]:
    """Return the row of a function, or a row that names what went wrong."""
    about = {"of": function.__name__, "arguments": [str(v) for v in arguments]}
    if time.perf_counter() > deadline:
        return {**about, "failed": "skipped: out of time"}
    try:
        return {**about, **function(*arguments)}
    except Exception as error:  # whatever a compiler throws: the other rows must not be lost
        lines = str(error).strip().splitlines() or [""]
        return {**about, "failed": f"{type(error).__name__}: {lines[0][:300]}"}


def time_row(
    shape: tuple[int, ...],
    how: str | Plan,
    whiches: tuple[str, ...] = BOTH,
    *,
    bandwidth: float,
    repeats: int,
    deadline: float,
) -> dict[str, Any]:
    def measure(shape: tuple[int, ...], how: str | Plan) -> dict[str, Any]:
        problem = draw(*shape, 0.1)
        row: dict[str, Any] = {}
        for which, count, size in zip(whiches, (4, 5), (16, 40), strict=False):
            program, seconds = compiled(shape, how, which)
            taken = microseconds(program, problem[:count], repeats)
            floor = 1e6 * size * float(np.prod(shape)) / bandwidth
            row |= {f"{which}_us": taken, f"{which}_ratio": taken / floor,
                    f"{which}_compile_s": seconds}  # fmt: skip
        return row

    return guarded(measure, shape, how, deadline=deadline)


def measure_long(length: int) -> dict[str, Any]:
    """Return time and memory of forward and backward over so many steps."""
    problem = draw(length, 1, 64, 1e-2)
    both = compiled((length, 1, 64), "kernel", "both")[0]
    memory = both.memory_analysis()
    x, gradients = jax.block_until_ready(both(*problem))
    finite = all(bool(jnp.isfinite(v).all()) for v in jax.tree.leaves((x, gradients)))
    row = {"ms": microseconds(both, problem, 3) / 1e3, "finite": finite}
    for name in ("argument", "output", "temp"):
        row[f"{name}_bytes_per_step"] = getattr(memory, f"{name}_size_in_bytes") / length
    stats = jax.devices()[0].memory_stats() or {}
    return {**row, "peak_bytes": stats.get("peak_bytes_in_use")}


# --- Correctness ------------------------------------------------------------------------------


def check(shape: tuple[int, ...], step: float) -> dict[str, Any]:
    """Compare a few rows of the batch with a float64 loop, in values and gradients."""
    length, batch, size = shape
    a, b, reset, carry, g = draw(*shape, step)
    rows = np.unique([0, batch // 3, 2 * batch // 3, batch - 1])
    chosen = jnp.zeros(batch, bool).at[rows].set(True)
    g = jax.tree.map(lambda v: jnp.where(chosen[:, None], v, 0), g)  # only they move a
    both = compiled(shape, "kernel", "both")[0]
    x, (d_a, d_b, d_carry) = both(a, b, reset, carry, g)

    def host(value: Pair, axis: int | None) -> np.ndarray:
        re, im = (np.asarray(v if axis is None else jnp.take(v, rows, axis)) for v in value)
        return re.astype(np.float64) + 1j * im.astype(np.float64)

    inputs = host(a, None), host(b, 1), np.asarray(reset)[:, rows], host(carry, 0), host(g, 1)
    wanted = loop(*inputs)
    found = host(x, 1), host(d_a, None), host(d_b, 1), host(d_carry, 0)
    names = "x", "d_a", "d_b", "d_carry"
    errors = {
        name: float(np.abs(f - w).max() / np.abs(w).max())
        for name, f, w in zip(names, found, wanted, strict=True)
    }
    at = length // 2
    spoilt = Pair(b.re.at[at - 1, 0].set(jnp.nan), b.im)
    reset = reset.at[at, 0].set(True)
    g = jax.tree.map(lambda v: v.at[:at, 0].set(0), g)
    after = jnp.ones((length, batch, 1), bool).at[:at, 0].set(False)

    def seen(b: Pair) -> Any:
        result = both(a, b, reset, carry, g)
        return jax.tree.map(lambda v: jnp.where(after, v, 0) if v.ndim == 3 else v, result)

    clean, dirty = seen(b), seen(spoilt)
    same = jax.tree.map(lambda u, v: bool((u == v).all()), clean, dirty)
    return {"error": errors, "clean": all(jax.tree.leaves(same))}


def loop(
    a: np.ndarray, b: np.ndarray, reset: np.ndarray, carry: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return the states and the gradients of a, b and carry, written down as two loops."""
    x, states, d_b = carry, np.empty_like(b), np.empty_like(b)
    for t in range(len(b)):
        states[t] = x = a * np.where(reset[t][:, None], 0, x) + b[t]
    d_a, later = np.zeros_like(a), np.zeros_like(carry)
    for t in reversed(range(len(b))):
        d_b[t] = later = later + g[t]
        before = np.where(reset[t][:, None], 0, states[t - 1] if t else carry)
        d_a += (later * before.conj()).sum(0)
        later = np.where(reset[t][:, None], 0, a.conj() * later)
    return states, d_a, d_b, later


# --- Report -----------------------------------------------------------------------------------


def render(row: dict[str, Any]) -> str:
    name = " ".join(row["arguments"])
    if "failed" in row:
        return f"{row['of']} {name}: FAILED {row['failed']}"
    if "forward_us" in row:
        parts = (
            f"{which} {row[f'{which}_us']:8.1f} us x{row[f'{which}_ratio']:.2f} "
            f"(compiled in {row[f'{which}_compile_s']:.1f} s)"
            for which in BOTH
            if f"{which}_us" in row
        )
        return f"{name:80s} " + "   ".join(parts)
    return f"{name:30s} " + json.dumps(
        {k: v for k, v in row.items() if k not in ("of", "arguments")}
    )


def table(results: dict[str, Any]) -> str:
    """Return, for every shape, the rows of `kernel`, associative and the best five plans."""
    lines = [f"{results['device']}, copy {results['bandwidth'] / 1e12:.2f} TB/s; ratios to floor"]
    shapes = dict.fromkeys(row["arguments"][0] for row in results["timings"])
    for shape in shapes:
        rows = [r for r in results["timings"] if r["arguments"][0] == shape]
        good = [r for r in rows if "failed" not in r]
        plans = [r for r in good if r["arguments"][1].startswith("Plan")]
        named = [r for r in good if not r["arguments"][1].startswith("Plan")]
        lines.append(shape)
        best = sorted(plans, key=lambda r: (r.get("both_us", np.inf), r["forward_us"]))[:5]
        lines += [f"  {render(r)}" for r in [*named, *best]]
        lines += [f"  {render(r)[:150]}" for r in rows if "failed" in r][:4]
    for row in results["checks"]:
        lines.append(render(row)[:200])
    return "\n".join(lines + [render(row)[:200] for row in results["long"]])


if __name__ == "__main__":
    main()
