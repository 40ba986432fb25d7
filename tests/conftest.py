"""Shared test set-up.

Shapes in annotations are checked at run time, here and nowhere else. Compiled code is kept between
tests: most of the suite's time is compilation, and many tests compile the same small programs.
"""

from pathlib import Path

import jax
from jaxtyping import install_import_hook

install_import_hook(["rlssm.kernels", "rlssm.nn"], "beartype.beartype")

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "xla"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
