"""The comparison of methods at equal compute."""

import pytest

from benchmarks.methods import METHODS, Settings, table
from configs import UserError


def test_table() -> None:
    """A cell is the mean over the seeds, with their deviation if there are several."""
    rows = [
        {"method": "trm", "updates": 20, "solved": {"8 steps": 0.5, "noise": 0.25}},
        {"method": "trm", "updates": 20, "solved": {"8 steps": 0.7, "noise": 0.25}},
        {"method": "flow", "updates": 15, "solved": {"8 steps": 0.125}},
    ]
    assert table(rows).splitlines() == [
        "|  | updates | 8 steps | noise |",
        "| --- | --- | --- | --- |",
        "| trm | 20 | 60.0 +- 14.1 | 25.0 +- 0.0 |",
        "| flow | 15 | 12.5 |  |",
    ]


@pytest.mark.parametrize("methods", [("trm", "dreams"), ("flow",)])
def test_methods_to_compare(methods: tuple[str, ...]) -> None:
    with pytest.raises(
        UserError, match=f"must be `trm` and some of .*{[*METHODS][-1]}"
    ):
        Settings(methods=methods)
