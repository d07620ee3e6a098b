"""What a run warns of before its first step, and an evaluation in its result."""

import pytest

from configs import TrainTRM
from train.evaluation import Split
from train.running import parts_evaluated, slow_warmup
from train.trm import TRMExperiment
from trm.summary import describe


@pytest.mark.parametrize(
    ("total", "expected"), [(85, "still rises: it is 2.2e-06"), (4002, "")]
)
def test_a_warm_up_of_half_of_the_run(total: int, expected: str) -> None:
    """Of 2,000 updates."""
    experiment = TRMExperiment(TrainTRM(), sizes={})
    experiment.total = total
    line = "".join(slow_warmup(experiment))
    assert expected in line
    assert bool(line) == bool(expected)


class Parts(TRMExperiment):
    """Evaluates 10 of 1,000 puzzles but at the end."""

    def eval_splits(self, when: str) -> list[Split]:
        examples = 1000 if when == "last" else 10
        sizes = {"examples": examples, "whole": 1000, "batches": 1}
        return [Split(name="", batch=lambda index: (), **sizes)]


def test_evaluations_of_a_part() -> None:
    assert list(parts_evaluated(Parts(TrainTRM(), sizes={}))) == [
        "Earlier evaluations: only the first 10 of 1,000 puzzles."
    ]


def test_a_result_tells_what_was_not_scored() -> None:
    work = {"row_steps": 8, "steps_of_fixed": 8, "puzzles_per_second": 1, "seconds": 1}
    found = {"values": {}, "scored": 0, "puzzles": 20, "whole": 50, "work": work}
    text = describe(found)
    assert "Only 20 of 50 puzzles were evaluated." in text
    assert "Only 0 of 20 puzzles have a solution." in text
    text = describe(found | {"puzzles": 50})
    assert "were evaluated" not in text
