from collections.abc import Callable
from dataclasses import replace

import pytest

from configs import (
    ARC,
    ACTConfig,
    EvalConfig,
    GeneratedMaze,
    GeneratedSudoku,
    GPTConfig,
    MazeHard,
    MeshConfig,
    OptimConfig,
    PuzzleDataConfig,
    RunConfig,
    SudokuExtreme,
    TextFiles,
    TrainGPT,
    TrainTRM,
    TRMConfig,
    UserError,
)
from train.cli import parse
from train.presets import TRM_PRESETS
from train.runs.record import differences


def command(*argv: str) -> tuple[str, TrainTRM]:
    return parse(TRM_PRESETS, "Train.", argv)


def test_the_default_preset() -> None:
    assert command() == ("sudoku", TrainTRM())


def test_fields_override_the_preset() -> None:
    assert command("--config.batch-size", "6144")[1] == TrainTRM(batch_size=6144)
    name, config = command("sudoku-attention", "--config.seeds", "3", "1")
    assert name == "sudoku-attention"
    assert config == replace(TRM_PRESETS[name][1], seeds=(3, 1))
    _, config = command("quickstart", "--config.data.build.train", "7")
    assert isinstance(config.data.build, GeneratedSudoku)
    assert config.data.build.train == 7


@pytest.mark.parametrize("preset", TRM_PRESETS)
def test_presets_survive_the_command_line(preset: str) -> None:
    assert command(preset)[1] == TRM_PRESETS[preset][1]


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["--config.batch-sise", "3"], "--config.batch-size"),
        (["--config.batch-size", "many"], "batch-size"),
        (["--config.precision", "float16"], "bfloat16"),
        (["--config.seed", "3", "sudoku-attention"], "sudoku-attention"),
    ],
)
def test_wrong_options(
    argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        command(*argv)
    assert exit_.value.code not in (0, None)
    assert hint in capsys.readouterr().err


def test_unknown_preset() -> None:
    with pytest.raises(UserError, match=r"`sudok`.*sudoku-attention"):
        command("sudok", "--config.seed", "3")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TRMConfig(dim=500, mixer="attention"), "dim=496 or dim=504"),
        (lambda: TRMConfig(dim=24, mixer="attention", positions="rope"), "heads"),
        (lambda: TRMConfig(mixer="mlp", positions="rope"), "mixer=attention"),
        (lambda: TRMConfig(prefix=0), "puzzle_dim"),
        (lambda: TRMConfig(puzzle_dim=0), "prefix=0"),
        (lambda: TRMConfig(variant="hier6", L_cycles=7), "L_cycles=7"),
        (lambda: TRMConfig(variant="transformer"), "H_cycles=1"),
        (lambda: TRMConfig(H_layers=2), "hrm"),
        (lambda: TRMConfig(symbols=True), "mixer=units"),
        (lambda: TRMConfig(layers=0), "layers"),
        (lambda: TRMConfig(expansion=0.0), "expansion"),
        (lambda: GPTConfig(n_head=5), "n_embd=765 or n_embd=770"),
        (lambda: ACTConfig(exploration=1.5), "exploration"),
        (lambda: ACTConfig(max_steps=0), "max_steps"),
        (lambda: ACTConfig(continue_loss=True), "halt=compare"),
        (lambda: OptimConfig(lr=0.0), "lr"),
        (lambda: OptimConfig(lr=float("inf")), "lr"),
        (lambda: OptimConfig(lr=float("nan")), "lr"),
        (lambda: OptimConfig(beta2=1.0), "beta2"),
        (lambda: OptimConfig(clip=-1.0), "clip"),
        (lambda: OptimConfig(warmup=-1), "warmup"),
        (lambda: OptimConfig(weight_decay=float("inf")), "weight_decay"),
        (lambda: MeshConfig(model=0), "model"),
        (lambda: MeshConfig(data=0), "data"),
        (lambda: MeshConfig(processes=2, process=0), "coordinator"),
        (
            lambda: MeshConfig(
                distributed=True, coordinator="here:1", processes=2, process=2
            ),
            "process",
        ),
        (lambda: EvalConfig(epochs=0.0), "epochs"),
        (lambda: EvalConfig(puzzles=0), "puzzles"),
        (lambda: RunConfig(keep_last=0), "keep_last"),
        (lambda: RunConfig(keep_best=-1), "keep_best"),
        (lambda: RunConfig(profile="0:1"), "0:1"),
        (lambda: PuzzleDataConfig(paths=()), "paths"),
        (lambda: PuzzleDataConfig(block=2**31), "block"),
        (lambda: SudokuExtreme(train_csv=("a.csv",)), "test_csv"),
        (lambda: SudokuExtreme(augmentations=-1), "augmentations"),
        (lambda: SudokuExtreme(subsample=0), "subsample"),
        (lambda: SudokuExtreme(seed=2**63), "seed"),
        (lambda: MazeHard(test_csv=("a.csv",)), "train_csv"),
        (lambda: GeneratedSudoku(blanks=1.0), "blanks"),
        (lambda: GeneratedSudoku(augmentations=2**31), "augmentations"),
        (lambda: GeneratedSudoku(train=10**30), "train"),
        (lambda: GeneratedMaze(size=10), "least_path"),
        (lambda: GeneratedMaze(processes=0), "processes"),
        (lambda: ARC(test=("other",)), "other"),
        (lambda: TextFiles(), "input"),
        (lambda: TrainTRM(batch_size=10, accumulation=3), "accumulation"),
        (lambda: TrainTRM(loop="episode", steps_per_call=2), "loop=stream"),
        (lambda: TrainTRM(epochs=0.0), "epochs"),
        (lambda: TrainTRM(epochs=float("inf")), "epochs"),
        (lambda: TrainTRM(seed=-1), "seed"),
        (lambda: TrainTRM(seed=2**32), "seed"),
        (lambda: TrainTRM(seeds=(1, 2, 1)), "1, 2, 1"),
        (lambda: TrainTRM(batch_schedule="0:0"), "batch_schedule"),
        (lambda: TrainTRM(batch_schedule="5"), "batch_schedule"),
        (lambda: TrainTRM(depth_schedule="0:0x1"), "H_cycles"),
        (lambda: TrainGPT(seeds=(0, -1)), "-1"),
        (lambda: TrainGPT(max_iters=3, steps_per_call=2), "steps_per_call"),
    ],
)
def test_bad_values(make: Callable[[], object], name: str) -> None:
    with pytest.raises(UserError, match=name):
        make()


def test_settings_that_may_change_when_a_run_is_resumed() -> None:
    config = TrainTRM()
    moved = replace(
        config,
        mesh=MeshConfig(data=4, model=2),
        run=RunConfig(log_every=1),
        run_dir="elsewhere",
    )
    assert differences(config, moved) == []
    other = replace(config, optim=OptimConfig(lr=2e-4))
    (difference,) = differences(config, other)
    assert "optim.lr" in difference
