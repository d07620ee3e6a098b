"""Which checkpoints are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from orbax.checkpoint import checkpoint_managers as policies

from configs import RunConfig


class _Best(policies.PreservationPolicy):
    """Keeps the checkpoints of the highest scores; of equal ones, the newest.

    Orbax's own forgets the scores when a process ends, unless it is to write a file of
    them, and does not start if that file is damaged.
    """

    def __init__(self, scores: Mapping[int, float], number: int):
        self._scores, self._number = scores, number

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """For each checkpoint, whether it is one of the best."""
        steps = [info.step for info in checkpoints if info.step in self._scores]
        steps.sort(key=lambda step: (self._scores[step], step))
        best = steps[::-1][: self._number]
        return [info.step in best for info in checkpoints]


def preservation(
    config: RunConfig, scores: Mapping[int, float]
) -> policies.AnyPreservationPolicy:
    """Which checkpoints are kept."""
    keep: list[Any] = [
        policies.LatestN(config.keep_last),
        _Best(scores, config.keep_best),
    ]
    if config.keep_every:
        keep.append(policies.EveryNSteps(config.keep_every))
    return policies.AnyPreservationPolicy(keep)
