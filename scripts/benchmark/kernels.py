"""Time the scan kernel against the bytes it must move, and check what it computes.

For every shape (T, B, P), a complex state as a pair of float32 arrays, a constant decay and resets
in one step of a hundred, each implementation and each plan of the kernel gets a row: microseconds
forward, microseconds forward and backward, and the ratios to the floor. The floor is the bytes over
the bandwidth of a device copy of 1 GiB in the same run: forward 16 bytes per element (read b, write
x), backward 24 more (read the cotangent, read x, write the gradient of b). A row that fails says so
in its first line and leaves the others alone.

Then, for decays of steps 1e-1, 1e-2 and 1e-3: the greatest error of the states and gradients
relative to their largest value, against a float64 loop on the same float32 inputs, over up to four
rows of the batch; whether NaN behind a reset stays there; and time and memory of a million steps.

    python scripts/benchmark/kernels.py --out results/benchmark/kernels-h100.json
"""

import argparse
import json
import time
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

ONE_PASS = [
    Plan(32, 1, 16),
    Plan(32, 1, 32),
    Plan(32, 1, 64),
    Plan(32, 1, 16, ahead=True),
    Plan(32, 1, 32, ahead=True),
    Plan(64, 1, 16),
    Plan(64, 2, 32),
    Plan(128, 1, 16),
    Plan(128, 4, 32),
]
TWO_PASSES = [
    Plan(32, 1, 32, chunk=64),
    Plan(32, 1, 32, chunk=128),
    Plan(32, 1, 32, chunk=256),
    Plan(64, 1, 16, chunk=128),
    Plan(128, 1, 16, chunk=64),
    Plan(128, 1, 16, chunk=128),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="T,B,P of each problem")
    parser.add_argument("--long", nargs="*", type=int, default=LONG, help="T of B = 1, P = 64")
    parser.add_argument("--repeats", type=int, default=10, help="timed groups of calls")
    parser.add_argument("--plans", type=int, default=len(ONE_PASS), help="plans tried, at most")
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
    for shape in shapes:
        keep("timings", measure(shape, "auto"))
    for shape in shapes:
        for step in STEPS:
            keep("checks", guarded(check, shape, step, deadline=deadline))
    for length in args.long:
        keep("long", guarded(measure_long, length, deadline=deadline))
    for turn in range(args.plans):
        for shape in shapes:
            small = gpu_scan.choose_plan(shape[0], shape[1] * shape[2]).chunk is not None
            plans = TWO_PASSES + ONE_PASS[:1] if small else interleave(ONE_PASS, TWO_PASSES)
            if turn < len(plans) and (plans[turn].chunk or 0) < shape[0]:
                keep("timings", measure(shape, plans[turn]))
    for shape in shapes:
        keep("timings", measure(shape, "associative"))
    print("\n" + table(results))


def interleave(first: list[Plan], second: list[Plan]) -> list[Plan]:
    """Two plans of the first for each of the second."""
    mixed = []
    for i in range(len(first)):
        mixed.append(first[i])
        if i % 2 and i // 2 < len(second):
            mixed.append(second[i // 2])
    return mixed


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


@cache
def functions(how: str | Plan) -> tuple[Any, Any]:
    """Return forward: (a, b, reset, carry) -> x, and both: (..., g) -> x and gradients."""
    if isinstance(how, Plan):
        forward = partial(gpu_scan.scan, plan=how)

        def both(a: Any, b: Any, reset: Any, carry: Any, g: Any) -> Any:
            x = forward(a, b, reset, carry)
            return x, gpu_scan.backward(a, x, reset, carry, g, plan=how)

        return jax.jit(forward), jax.jit(both)

    def states(a: Any, b: Any, reset: Any, carry: Any) -> Any:
        return linear_scan(a, b, reset, carry, implementation=how)[1]

    def gradients(a: Any, b: Any, reset: Any, carry: Any, g: Any) -> Any:
        x, pull = jax.vjp(lambda a, b, carry: states(a, b, reset, carry), a, b, carry)
        return x, pull(g)

    return jax.jit(states), jax.jit(gradients)


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
    shape: tuple[int, ...], how: str | Plan, *, bandwidth: float, repeats: int, deadline: float
) -> dict[str, Any]:
    def measure(shape: tuple[int, ...], how: str | Plan) -> dict[str, Any]:
        problem = draw(*shape, 0.1)
        forward, both = functions(how)
        started = time.perf_counter()
        jax.block_until_ready(forward(*problem[:4]))
        middle = time.perf_counter()
        jax.block_until_ready(both(*problem))
        compile_s = middle - started, time.perf_counter() - middle
        times = (
            microseconds(forward, problem[:4], repeats),
            microseconds(both, problem, repeats),
        )
        elements = float(np.prod(shape))
        floors = 16e6 * elements / bandwidth, 40e6 * elements / bandwidth
        return {
            "forward_us": times[0],
            "both_us": times[1],
            "forward_ratio": times[0] / floors[0],
            "both_ratio": times[1] / floors[1],
            "first_call_s": compile_s,
        }

    return guarded(measure, shape, how, deadline=deadline)


def measure_long(length: int) -> dict[str, Any]:
    """Return time and memory of forward and backward over so many steps."""
    problem = draw(length, 1, 64, 1e-2)
    both = functions("auto")[1].lower(*problem).compile()
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
    both = functions("auto")[1]
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
    if "both_us" in row:
        return (
            f"{name:90s} forward {row['forward_us']:8.1f} us x{row['forward_ratio']:.2f}   "
            f"both {row['both_us']:8.1f} us x{row['both_ratio']:.2f}   "
            f"first calls {row['first_call_s'][0]:.1f} s, {row['first_call_s'][1]:.1f} s"
        )
    return f"{name:30s} " + json.dumps(
        {k: v for k, v in row.items() if k not in ("of", "arguments")}
    )


def table(results: dict[str, Any]) -> str:
    """Return, for every shape, the rows of `auto`, associative and the best three plans."""
    lines = [f"{results['device']}, copy {results['bandwidth'] / 1e12:.2f} TB/s; ratios to floor"]
    shapes = dict.fromkeys(row["arguments"][0] for row in results["timings"])
    for shape in shapes:
        rows = [r for r in results["timings"] if r["arguments"][0] == shape]
        good = [r for r in rows if "failed" not in r]
        plans = [r for r in good if r["arguments"][1].startswith("Plan")]
        named = [r for r in good if not r["arguments"][1].startswith("Plan")]
        lines.append(shape)
        best = {
            r["arguments"][1]: r
            for key in ("forward_us", "both_us")
            for r in sorted(plans, key=lambda r: r[key])[:3]
        }
        for r in [*named, *best.values()]:
            lines.append(
                f"  {r['arguments'][1]:70s} {r['forward_us']:8.1f} x{r['forward_ratio']:5.2f}"
                f" {r['both_us']:8.1f} x{r['both_ratio']:5.2f}"
            )
        lines += [f"  {render(r)[:150]}" for r in rows if "failed" in r][:4]
    for row in results["checks"]:
        lines.append(render(row)[:200])
    return "\n".join(lines + [render(row)[:200] for row in results["long"]])


if __name__ == "__main__":
    main()
