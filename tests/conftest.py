"""Shared test set-up: shapes in annotations are checked at run time, here and nowhere else."""

from jaxtyping import install_import_hook

install_import_hook(["rlssm.kernels", "rlssm.nn"], "beartype.beartype")
