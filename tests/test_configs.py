import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from configs import (
    ACTConfig,
    EvalConfig,
    GeneratedSudoku,
    MeshConfig,
    OptimConfig,
    PuzzleDataConfig,
    RunConfig,
    SudokuExtreme,
    TrainGPT,
    TrainTRM,
    TRMConfig,
    UserError,
)
from train.cli import parse
from train.presets import TRM_PRESETS
from train.runs.record import differences, settings

ROOT = Path(__file__).parent.parent


def command(*argv: str) -> tuple[str, TrainTRM]:
    return parse(TRM_PRESETS, "Train.", argv)


def test_default_preset_is_the_papers_sudoku_run() -> None:
    name, config = command()
    assert name == "sudoku"
    assert config == TrainTRM()
    assert (config.model.mixer, config.model.positions) == ("mlp", "none")
    assert (config.model.H_cycles, config.model.L_cycles) == (3, 6)
    assert (config.optim.lr, config.optim.weight_decay) == (1e-4, 1.0)
    assert (config.batch_size, config.epochs, config.optim.ema) == (768, 5e4, 0.999)


def test_fields_override_the_default_preset() -> None:
    name, config = command("--config.batch-size", "6144")
    assert (name, config.batch_size) == ("sudoku", 6144)


def test_fields_override_a_named_preset() -> None:
    name, config = command("sudoku-attention", "--config.seed", "3")
    assert (name, config.seed, config.model.mixer) == (
        "sudoku-attention",
        3,
        "attention",
    )
    _, config = command("quickstart", "--config.data.build.train", "7")
    assert isinstance(config.data.build, GeneratedSudoku)
    assert config.data.build.train == 7


@pytest.mark.parametrize("preset", TRM_PRESETS)
def test_presets_survive_the_command_line(preset: str) -> None:
    assert command(preset)[1] == TRM_PRESETS[preset][1]


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["sudok"], "sudoku-attention"),
        (["--config.batch-sise", "3"], "--config.batch-size"),
        (["--config.batch-size", "many"], "batch-size"),
        (["--config.precision", "float16"], "bfloat16"),
    ],
)
def test_mistakes_on_the_command_line(
    argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        command(*argv)
    assert exit_.value.code not in (0, None)
    printed = capsys.readouterr()
    assert hint in printed.err + printed.out


def test_a_preset_after_a_flag_is_refused() -> None:
    with pytest.raises(ValueError, match="must be the first argument"):
        command("--config.seed", "3", "sudoku-attention")


def test_help_names_presets_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command("--help-all")
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    for name in TRM_PRESETS:
        assert name in printed
    assert "--config.act.max-steps" in printed
    assert "N_sup" in printed


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TRMConfig(dim=500, mixer="attention"), "Use dim=496 or dim=504"),
        (
            lambda: TRMConfig(dim=24, heads=8, mixer="attention", positions="rope"),
            "even",
        ),
        (lambda: TRMConfig(mixer="mlp", positions="rope"), "mixer=attention"),
        (lambda: TRMConfig(prefix=0), "puzzle_dim"),
        (lambda: TRMConfig(puzzle_dim=0), "prefix=0"),
        (lambda: TRMConfig(variant="hier6", L_cycles=7), "at most 6"),
        (lambda: TRMConfig(variant="transformer"), "H_cycles=1"),
        (lambda: TRMConfig(layers=0), "`layers` must be at least 1"),
        (lambda: ACTConfig(exploration=1.5), "probability"),
        (lambda: ACTConfig(max_steps=0), "max_steps"),
        (lambda: OptimConfig(lr=0.0), "`lr`"),
        (lambda: OptimConfig(beta2=1.0), "`beta2`"),
        (lambda: OptimConfig(lr=float("inf")), "`lr`"),
        (lambda: TRMConfig(expansion=0.0), "`expansion`"),
        (lambda: TrainTRM(epochs=float("inf")), "`epochs`"),
        (lambda: ACTConfig(continue_loss=True), "halt=compare"),
        (lambda: OptimConfig(clip=-1.0), "`clip`"),
        (lambda: OptimConfig(warmup=-1), "`warmup`"),
        (lambda: MeshConfig(model=0), "`model`"),
        (lambda: MeshConfig(data=0), "`data`"),
        (lambda: EvalConfig(epochs=0.0), "`epochs`"),
        (lambda: EvalConfig(puzzles=0), "`puzzles`"),
        (lambda: RunConfig(keep_last=0), "`keep_last`"),
        (lambda: RunConfig(keep_best=-1), "`keep_best`"),
        (lambda: RunConfig(keep_every=-1), "`keep_every`"),
        (lambda: PuzzleDataConfig(paths=()), "`paths`"),
        (lambda: SudokuExtreme(train_csv=("a.csv",)), "together"),
        (lambda: SudokuExtreme(augmentations=-1), "`augmentations`"),
        (lambda: SudokuExtreme(subsample=0), "`subsample`"),
        (lambda: SudokuExtreme(seed=-1), "`seed`"),
        (lambda: GeneratedSudoku(blanks=1.0), "`blanks`"),
        (lambda: GeneratedSudoku(augmentations=-1), "`augmentations`"),
        (lambda: GeneratedSudoku(seed=-1), "`seed`"),
        (lambda: TrainTRM(batch_size=10, accumulation=3), "`accumulation`"),
        (lambda: TrainTRM(loop="episode", steps_per_call=2), "loop=stream"),
        (lambda: TrainTRM(epochs=0.0), "`epochs`"),
        (lambda: TrainTRM(seed=-1), "`seed`"),
        (lambda: TrainTRM(seed=2**32), "`seed` must lie in 0 .. 4294967295"),
        (lambda: TrainGPT(seed=2**63), "`seed`"),
        (lambda: TrainTRM(seeds=(1, 2, 1)), "1, 2, 1"),
        (lambda: TrainGPT(seeds=(0, -1)), "-1"),
        (lambda: SudokuExtreme(seed=2**63), "`seed`"),
        (lambda: GeneratedSudoku(seed=2**63), "`seed`"),
        (lambda: GeneratedSudoku(augmentations=2**31), "at most 2147483647"),
        (lambda: GeneratedSudoku(train=10**30), "`train` must be at most"),
        (lambda: PuzzleDataConfig(block=2**31), "`block` must be at most"),
        (lambda: OptimConfig(weight_decay=float("inf")), "`weight_decay`"),
    ],
)
def test_bad_values_say_what_must_hold(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        make()


def test_every_field_has_a_docstring() -> None:
    """A string stands under each field of each dataclass, for `--help`."""
    import ast

    tree = ast.parse((ROOT / "configs.py").read_text())
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = {f for f in (getattr(n, "target", None) for n in node.body) if f}
        for before, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(before, ast.AnnAssign) and before.target in fields:
                nested = "Config" in ast.unparse(before.annotation)
                documented = isinstance(after, ast.Expr)
                assert documented or nested, ast.unparse(before)


def test_a_continued_run_may_differ_in_mesh_and_reports_only() -> None:
    config = TrainTRM()
    moved = dataclasses.replace(
        config,
        mesh=MeshConfig(data=4, model=2),
        run=RunConfig(log_every=1),
        run_dir="elsewhere",
    )
    assert differences(settings(config), settings(moved)) == []
    other = dataclasses.replace(config, optim=OptimConfig(lr=2e-4))
    assert differences(settings(config), settings(other)) == [
        "optim.lr: 0.0001 -> 0.0002"
    ]
