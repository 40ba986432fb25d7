"""Time the implementations of the linear scan against each other, and check what they compute.

For every shape (T, B, P) of a complex state, held as a pair of real arrays as the layers do, and
a constant decay, each implementation gets a line: seconds to trace and compile, microseconds for
the states alone, microseconds for the states and the gradients of a weighted sum of their squares
with respect to all inputs (first quartiles, as others' work only ever adds time, and ratios to the
best), and the greatest error of the states relative to a float64 loop. Two more lines are what one
would write without this library: `lax.associative_scan` and `lax.scan`, differentiated by JAX. A
last line compares `auto` with the best of the others. Every round calls each implementation once,
in an order drawn anew, so that whatever else the machine does falls on all alike; `auto`, which is
the same program as one of the others, is timed as that one. Where a process happens to place its
arrays can change a small scan's time by a third, for as long as it lives: with `--processes` all is
done in several, one after the other, and the figures are medians over them.

    python scripts/benchmark/scan.py --shapes 256,16,64 1024,8,128 --repeats 50 --processes 5
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.kernels.linear_scan import IMPLEMENTATIONS, linear_scan
from rlssm.kernels.pair import Pair

SHAPES = ["1,16,64", "32,16,64", "256,16,64", "1024,8,128", "128,64,128", "4096,1,64"]
SHAPES += ["1024,16,128"]
SHAPES += ["1024,1,8", "16384,1,8", "1024,1,16", "4096,1,16", "16384,1,16"]  # where chunks win
SHAPES += ["1024,1,32", "4096,1,32", "16384,1,32", "1024,1,48", "4096,1,48", "1024,1,24"]
SHAPES += ["512,1,24", "768,1,20", "1536,1,24", "2048,1,64", "8192,1,48", "8192,1,64"]
RESET_RATE = 0.02


class Problem(NamedTuple):
    a: Pair
    b: Pair
    reset: jax.Array
    carry: Pair
    weight: Pair


class Timing(NamedTuple):
    compile_s: float
    forward_us: float
    gradient_us: float
    error: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="T,B,P of each problem")
    parser.add_argument("--only", nargs="+", help="implementations beside auto; default all")
    parser.add_argument("--repeats", type=int, default=50, help="timed rounds")
    parser.add_argument("--processes", type=int, default=1, help="processes to take medians over")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    device = jax.devices()[0]
    print(f"device {device.device_kind} ({device.platform}), jax {jax.__version__}, float32")
    print("matmul precision: irrelevant, a scan has no matrix product")
    shapes = [tuple(int(n) for n in shape.split(",")) for shape in args.shapes]
    about = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}
    results = []
    for shape in shapes:
        if args.processes > 1:
            results.append(median_of([run_apart(shape, args) for _ in range(args.processes)]))
        else:
            results.append(measure(*shape, only=args.only, repeats=args.repeats))
        report(results[-1])
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


def run_apart(shape: tuple[int, ...], args: argparse.Namespace) -> dict[str, Any]:
    """Return what `measure` finds in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scan.json"
        command = [sys.executable, __file__, "--shapes", ",".join(map(str, shape))]
        command += ["--repeats", str(args.repeats), "--out", str(out)]
        command += ["--only", *args.only] if args.only else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())["results"][0]


def median_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one result whose timings are medians over processes; each process's are kept."""
    timings = {
        name: {
            field: float(np.median([run["timings"][name][field] for run in runs]))
            for field in Timing._fields
        }
        for name in runs[0]["timings"]
    }
    ratios = auto_ratios({name: Timing(**timing) for name, timing in timings.items()})
    return {**runs[0], "timings": timings, "auto_to_best": ratios, "processes": runs}


def measure(
    length: int, batch: int, size: int, *, only: list[str] | None, repeats: int
) -> dict[str, Any]:
    problem = draw(length, batch, size)
    states = solve_in_float64(problem)
    names = ["auto", *IMPLEMENTATIONS, *REFERENCES]
    if only:
        names = ["auto", *only]
    elif jax.default_backend() == "cpu":
        names.remove("kernel")  # it is "auto" there
    calls, compile_s, errors, picked = {}, {}, {}, {}
    seen: dict[str, str] = {}
    for name in names[1:] + names[:1]:  # `auto` last
        started = time.perf_counter()
        programs = compiled(name, problem)
        compile_s[name] = time.perf_counter() - started
        errors[name] = relative_error(programs["forward"][1](*problem[:4]), states)
        for kind, (text, program) in programs.items():
            picked[name, kind] = seen.setdefault(text, name)
            if picked[name, kind] == name:
                calls[name, kind] = program, problem[:4] if kind == "forward" else problem
    quartiles = time_in_turns(calls, repeats)

    def taken(name: str, kind: str) -> float:
        return quartiles[picked[name, kind], kind]

    timings = {
        name: Timing(compile_s[name], taken(name, "forward"), taken(name, "gradient"), errors[name])
        for name in names
    }
    by_name = {name: timing._asdict() for name, timing in timings.items()}
    return {
        "shape": [length, batch, size],
        "timings": by_name,
        "auto_is": {kind: picked["auto", kind] for kind in ("forward", "gradient")},
        "auto_to_best": auto_ratios(timings),
    }


def draw(length: int, batch: int, size: int) -> Problem:
    rng = np.random.default_rng(0)

    def pair(*shape: int) -> Pair:
        re, im = rng.normal(size=(2, *shape)).astype(np.float32)
        return Pair(jnp.asarray(re), jnp.asarray(im))

    decay = np.exp(rng.uniform(0.001, 0.1, size) * (-0.5 + 1j * np.pi * np.arange(size)))
    a = Pair(jnp.asarray(decay.real, jnp.float32), jnp.asarray(decay.imag, jnp.float32))
    reset = jnp.asarray(rng.random((length, batch)) < RESET_RATE)
    shape = length, batch, size
    return Problem(a, pair(*shape), reset, pair(batch, size), pair(*shape))


def associative_reference(a: Pair, b: Pair, reset: jax.Array, carry: Pair) -> Pair:
    decay, pushed, start = (jax.lax.complex(*v) for v in (a, b, carry))
    decays = jnp.where(reset[..., None], 0, decay)
    pushed = pushed.at[0].add(decays[0] * start)

    def compose(first: Any, second: Any) -> Any:
        return first[0] * second[0], second[0] * first[1] + second[1]

    x = jax.lax.associative_scan(compose, (decays, pushed))[1]
    return Pair(x.real, x.imag)


def loop_reference(a: Pair, b: Pair, reset: jax.Array, carry: Pair) -> Pair:
    decay, pushed, start = (jax.lax.complex(*v) for v in (a, b, carry))

    def advance(x: jax.Array, inputs: Any) -> Any:
        b, reset = inputs
        x = decay * jnp.where(reset[:, None], 0, x) + b
        return x, x

    x = jax.lax.scan(advance, start, (pushed, reset))[1]
    return Pair(x.real, x.imag)


REFERENCES = {"lax.assoc": associative_reference, "lax.scan": loop_reference}


def compiled(name: str, problem: Problem) -> dict[str, tuple[str, Callable[..., Any]]]:
    """Return two programs with their text: the states alone, and with their gradients."""

    def states(a: Pair, b: Pair, reset: jax.Array, carry: Pair) -> Pair:
        if name in REFERENCES:
            return REFERENCES[name](a, b, reset, carry)
        return linear_scan(a, b, reset, carry, implementation=name)[1]

    def gradients(a: Pair, b: Pair, reset: jax.Array, carry: Pair, weight: Pair) -> Any:
        # The cotangent depends on x, as in training; else both directions would run at once.
        x, pull = jax.vjp(lambda a, b, carry: states(a, b, reset, carry), a, b, carry)
        return x, pull(jax.tree.map(jnp.multiply, weight, x))

    lowered = {
        "forward": jax.jit(states).lower(*problem[:4]),
        "gradient": jax.jit(gradients).lower(*problem),
    }
    return {kind: (program.as_text(), program.compile()) for kind, program in lowered.items()}


def time_in_turns(calls: dict[Any, tuple[Any, Any]], repeats: int) -> dict[Any, float]:
    """Return the microseconds of each call, the first quartile over rounds of random order."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    names, rng = list(calls), np.random.default_rng(0)
    for turn in range(repeats + 1):
        for i in rng.permutation(len(names)):
            function, arguments = calls[names[i]]
            started = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if turn > 0:  # the first round warms up
                times[names[i]].append(time.perf_counter() - started)
    return {name: 1e6 * float(np.quantile(values, 0.25)) for name, values in times.items()}


def solve_in_float64(problem: Problem) -> np.ndarray:
    a, b, carry = (to_complex(v) for v in (problem.a, problem.b, problem.carry))
    x, states = carry, np.empty_like(b)
    for t, reset in enumerate(np.asarray(problem.reset)):
        states[t] = x = a * np.where(reset[:, None], 0, x) + b[t]
    return states


def to_complex(pair: Pair) -> np.ndarray:
    return np.asarray(pair.re, np.float64) + 1j * np.asarray(pair.im, np.float64)


def relative_error(x: Pair, states: np.ndarray) -> float:
    return float(np.abs(to_complex(x) - states).max() / np.abs(states).max())


def auto_ratios(timings: dict[str, Timing]) -> dict[str, float]:
    """Return how much slower `auto` is than the best of the library's implementations."""
    ours = [timing for name, timing in timings.items() if name not in REFERENCES]
    auto = timings["auto"]
    return {
        "forward": auto.forward_us / min(timing.forward_us for timing in ours),
        "gradient": auto.gradient_us / min(timing.gradient_us for timing in ours),
    }


def report(result: dict[str, Any]) -> None:
    timings = {name: Timing(**timing) for name, timing in result["timings"].items()}
    best_forward = min(timing.forward_us for timing in timings.values())
    best_gradient = min(timing.gradient_us for timing in timings.values())
    print("\nT={}, B={}, P={}".format(*result["shape"]))
    print("                compile s  forward us         with gradient us   error")
    for name, (compile_s, forward, gradient, error) in timings.items():
        print(
            f"  {name:13s} {compile_s:9.2f}  {forward:10.1f} x{forward / best_forward:<5.2f}"
            f"  {gradient:13.1f} x{gradient / best_gradient:<5.2f}  {error:.1e}"
        )
    ratios = result["auto_to_best"]
    alone, both = (result["auto_is"][kind] for kind in ("forward", "gradient"))
    print(
        f"  auto to the best: forward ({alone}) {ratios['forward']:.2f}, "
        f"with gradient ({both}) {ratios['gradient']:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
