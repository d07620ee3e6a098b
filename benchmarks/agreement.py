"""Whether two codes computed the same: compared before anything is timed."""

from collections.abc import Collection, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""What a code computed, by name. `gradient NAME` and `weight NAME` are shown as one."""


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Norm of the difference over the norm of the other code's value."""
    a, b = np.float64(ours), np.float64(theirs)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))


def compare(ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Relative differences.

    Raises:
        ValueError: if the two do not name the same arrays.
    """
    if ours.keys() != theirs.keys():
        odd = ", ".join(sorted(ours.keys() ^ theirs.keys()))
        raise ValueError(f"Both steps must name the same arrays: only one has {odd}.")
    return {name: difference(ours[name], theirs[name]) for name in theirs}


def show(errors: Mapping[str, float], reference: str) -> None:
    """Print the differences: the worst gradient and weight, then all others."""
    print(f"  relative difference to the {reference} step after one step:")
    grouped = set()
    for kind in ("gradient", "weight"):
        several = {n: e for n, e in errors.items() if n.startswith(f"{kind} ")}
        if several:
            worst = max(several, key=lambda name: several[name])
            print(f"    {several[worst]:.1e}  worst {kind} ({worst.split()[1]})")
            grouped |= several.keys()
    for name, error in errors.items():
        if name not in grouped:
            print(f"    {error:.1e}  {name}")


def check(errors: Mapping[str, float], names: Collection[str], limit: float) -> None:
    """Stop if what must agree does not.

    Args:
        errors: of everything compared.
        names: what must agree.
        limit: largest relative difference.

    Raises:
        SystemExit: if one of them differs by more, or is not a number.
    """
    wrong = [name for name in names if not errors[name] <= limit]
    if wrong:
        raise SystemExit(
            f"`{wrong[0]}` must agree to {limit:g} before timing: the two codes differ "
            f"by {errors[wrong[0]]:.1e} (relative). Compare the two models, or raise "
            "`--tolerance`."
        )
