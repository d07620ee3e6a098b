"""Presets: named configurations for the command line."""

from dataclasses import replace
from typing import Any

from configs import (
    ADAMW,
    ARC,
    ACTConfig,
    EvalConfig,
    FineWeb,
    GeneratedMaze,
    GeneratedSudoku,
    GPTConfig,
    MazeHard,
    OptimConfig,
    PuzzleDataConfig,
    RunConfig,
    Shakespeare,
    TableConfig,
    TextDataConfig,
    TextEvalConfig,
    TrainGPT,
    TrainTRM,
    TRMConfig,
)

_ATTENTION = TRMConfig(mixer="attention", positions="rope")

_SMALL = TrainTRM(
    batch_size=32,
    precision="float32",
    model=TRMConfig(dim=64, prefix=1, puzzle_dim=64, H_cycles=1, L_cycles=2),
    act=ACTConfig(max_steps=8),
    optim=OptimConfig(lr=2e-3, warmup=200, min_ratio=0.1, weight_decay=0.1, ema=0.995),
    table=TableConfig(lr=2e-3),
    run=RunConfig(log_every=100, save_every=500),
)
"""For one CPU core; its optimizer suits most small models."""

_ARC1 = TrainTRM(
    epochs=100000.0,
    model=replace(_ATTENTION, L_cycles=4),
    optim=OptimConfig(weight_decay=0.1),
    table=TableConfig(lr=1e-2, weight_decay=0.1),
    data=PuzzleDataConfig(
        paths=("datasets/arc1concept-aug-1000",), build=ARC(), block=10000
    ),
    eval=EvalConfig(epochs=10000.0),
)
"""Source: official `config/cfg_pretrain.yaml` and README."""

TRM_PRESETS: dict[str, tuple[str, TrainTRM]] = {
    "sudoku": (
        "Sudoku-Extreme, token MLP: 87.4 % in the paper; one 48 GB GPU, < 36 h.",
        TrainTRM(),
    ),
    "quickstart": (
        "Generated 6x6 Sudoku; less than a minute on two CPU cores.",
        replace(
            _SMALL,
            batch_size=16,
            epochs=10.0,
            model=replace(
                _SMALL.model,
                dim=32,
                puzzle_dim=32,
                L_cycles=1,
                inner_multiple=32,  # the default 256 triples the computation
            ),
            optim=replace(_SMALL.optim, lr=3e-3, warmup=100, ema=0.99),
            table=TableConfig(lr=3e-3),
            data=PuzzleDataConfig(
                paths=("datasets/sudoku-6x6",),
                build=GeneratedSudoku(size=6, train=4000, test=1000, augmentations=8),
            ),
            eval=EvalConfig(epochs=3.4, puzzles=256, batch_size=128),
            run=RunConfig(log_every=200, save_every=1000),
        ),
    ),
    "sudoku-easy": (
        "Generated 9x9 Sudoku, as in newspapers; four minutes on one CPU core.",
        replace(
            _SMALL,
            epochs=32.0,
            model=replace(_SMALL.model, mixer="units", inner_multiple=64),
            act=replace(_SMALL.act, loss="softmax"),
            optim=replace(_SMALL.optim, warmup=100, muon=True, muon_rate=3.0, ema=0.99),
            data=PuzzleDataConfig(
                paths=("datasets/sudoku-9x9",),
                build=GeneratedSudoku(
                    size=9, train=2000, test=500, augmentations=20, blanks=0.63
                ),
            ),
            eval=EvalConfig(epochs=8.0, puzzles=250, batch_size=125),
        ),
    ),
    "sudoku-9x9": (
        "Generated 9x9 Sudoku of 28 givens; about 40 minutes on a busy CPU core.",
        replace(
            _SMALL,
            epochs=64.0,
            model=replace(_SMALL.model, mixer="units", inner_multiple=64),
            act=replace(_SMALL.act, loss="softmax"),
            optim=replace(
                _SMALL.optim,
                warmup=100,
                schedule="wsd",
                decay_share=0.3,
                muon=True,
                muon_rate=3.0,
                ema=0.998,
            ),
            data=PuzzleDataConfig(
                paths=("datasets/sudoku-9x9-hard",),
                hints=0.3,
                build=GeneratedSudoku(
                    size=9, train=4000, test=1000, augmentations=50, blanks=0.66
                ),
            ),
            eval=EvalConfig(
                epochs=16.0, puzzles=250, final_puzzles=1000, batch_size=125
            ),
        ),
    ),
    "sudoku-small": (
        "Sudoku-Extreme 1k, mixes rows, columns and boxes, 100 thousand parameters: 18 "
        "% after 25 minutes on one CPU core.",
        replace(
            _SMALL,
            epochs=480.0,
            model=replace(_SMALL.model, H_cycles=2, mixer="units", inner_multiple=64),
            optim=replace(_SMALL.optim, muon=True),
            data=PuzzleDataConfig(hints=0.7),
            eval=EvalConfig(
                epochs=120.0, puzzles=1024, final_puzzles=4096, batch_size=128
            ),
        ),
    ),
    "sudoku-fast": (
        "Sudoku-Extreme 1k, token MLP with Muon: 85.5 % in its source; intended for "
        "ten minutes on one H200, not run (docs/recipes.md).",
        TrainTRM(
            batch_size=384,
            epochs=3072.0,
            steps_per_call=10,
            depth_schedule="0:2x3,30%:4x6,60%:6x9",
            model=TRMConfig(gate="normed", prefix=1, H_cycles=6, L_cycles=9),
            act=ACTConfig(loss="softmax", label_smoothing=0.2, q_weight=0.05),
            optim=OptimConfig(
                name="adamw",
                lr=1e-4,
                warmup=0,
                min_ratio=0.0,
                weight_decay=1.0,
                clip=1.0,
                ema=0.9,
                ema_start=0.625,
                muon=True,
                muon_rate=50.0,
                muon_decay=0.02,
                muon_momentum=0.6,
                muon_steps=3,
            ),
            eval=EvalConfig(
                epochs=512.0, puzzles=1024, final_puzzles=16000, batch_size=1024
            ),
            run=RunConfig(log_every=100),
        ),
    ),
    "sudoku-attention": (
        "Sudoku-Extreme, attention: 74.7 % in the paper; one 48 GB GPU, < 36 h.",
        TrainTRM(model=_ATTENTION),
    ),
    "sudoku-single-z": (
        "Sudoku-Extreme, one latent: 71.9 % in the paper (table 2).",
        TrainTRM(model=TRMConfig(variant="single_z")),
    ),
    "sudoku-hier6": (
        "Sudoku-Extreme, six scratchpads: 77.6 % in the paper (table 2).",
        TrainTRM(model=TRMConfig(variant="hier6")),
    ),
    "sudoku-hrm": (
        "Sudoku-Extreme, HRM, 27 M parameters: 55.0 % in the paper.",
        TrainTRM(
            model=replace(
                _ATTENTION, variant="hrm", layers=4, H_cycles=2, L_cycles=2, prefix=1
            ),
            act=ACTConfig(halt="compare", continue_loss=True),
        ),
    ),
    "sudoku-eqr": (
        "Sudoku-Extreme, EqR: random latents and noise; over 99 % in its paper with "
        "many restarts.",
        TrainTRM(model=TRMConfig(variant="eqr", prefix=0, puzzle_dim=0)),
    ),
    "maze": (
        "Maze-Hard 30x30, attention: 85.3 % in the paper; four 48 GB GPUs, < 24 h.",
        TrainTRM(
            model=replace(_ATTENTION, L_cycles=4),
            data=PuzzleDataConfig(
                paths=("datasets/maze-30x30-hard-1k",), build=MazeHard()
            ),
        ),
    ),
    "maze-small": (
        "Generated 8x8 mazes, token MLP; 15 minutes on two CPU cores.",
        replace(
            _SMALL,
            epochs=10.0,
            data=PuzzleDataConfig(
                paths=("datasets/maze-8x8",),
                build=GeneratedMaze(
                    size=8, least_path=5, train=20000, unique=True, dihedral=True
                ),
            ),
            eval=EvalConfig(epochs=2.0, puzzles=256, batch_size=128, mode="halt"),
        ),
    ),
    "sudoku-transformer": (
        "Sudoku-Extreme, 8 layers, no recursion; 8 heads (the official 12 do not fit).",
        TrainTRM(
            model=replace(
                _ATTENTION, variant="transformer", layers=8, H_cycles=1, prefix=1
            ),
            act=ACTConfig(halt="compare"),
        ),
    ),
    "arc-small": (
        "46 tasks of ARC-AGI-1 with grids up to 6x6: 11.6 % in two attempts, after "
        "four minutes on one CPU core.",
        replace(
            _SMALL,
            epochs=500.0,
            model=replace(
                _SMALL.model,
                mixer="attention",
                positions="rope2d",
                heads=4,
                inner_multiple=64,
            ),
            act=ACTConfig(max_steps=4, loss="softmax"),
            optim=replace(_SMALL.optim, warmup=100, muon=True),
            table=TableConfig(lr=1e-2, weight_decay=0.1),
            data=PuzzleDataConfig(
                paths=("datasets/arc-small",),
                build=ARC(
                    subsets=("training",),
                    test=("training",),
                    augmentations=16,
                    side=6,
                ),
            ),
            eval=EvalConfig(epochs=250.0, batch_size=128),
        ),
    ),
    "arc1": (
        "ARC-AGI-1, attention: 44.6 % in the paper; four 80 GB GPUs, 3 days. (Reported "
        "elsewhere: 52.8 % with L_cycles 6, 43.0 % with 4.)",
        _ARC1,
    ),
    "arc2": (
        "ARC-AGI-2, attention: 7.8 % in the paper; four 80 GB GPUs, 3 days.",
        replace(
            _ARC1,
            data=replace(
                _ARC1.data,
                paths=("datasets/arc2concept-aug-1000",),
                build=ARC(
                    subsets=("training2", "evaluation2", "concept"),
                    test=("evaluation2",),
                ),
            ),
        ),
    ),
}
"""Name -> (description, configuration). The first is the default."""

_GPT2 = GPTConfig(bias=True, activation="gelu_tanh")
_MODERN = GPTConfig(
    positions="rope", norm="rms", qk_norm=True, activation="relu2", zero_init=True
)
_MUON = replace(ADAMW, schedule="wsd", min_ratio=0.0, decay_share=0.4, muon=True)
_GRIDS = replace(
    _MODERN, activation="swiglu", positions="rope3d", labels=2, tied_head=False
)
"""Rows of ARC. Source: mvakde/mdlARC at 8afc20d, with what `docs/arc-gpt.md` lists."""

_CHARACTERS = TextDataConfig(path="datasets/shakespeare-char", build=Shakespeare())


def _evaluate(init_from: str) -> TrainGPT:
    """Evaluate OpenAI's weights. Source: nanoGPT, `config/eval_gpt2*.py`."""
    return TrainGPT(
        batch_size=8,
        microbatch_size=8,
        init_from=init_from,
        model=_GPT2,
        eval=TextEvalConfig(iters=500),
        run=RunConfig(eval_only=True),
    )


GPT_PRESETS: dict[str, tuple[str, TrainGPT]] = {
    "gpt2": (
        "GPT-2 124M on OpenWebText, nanoGPT's defaults; 8 A100 40 GB, 4 days.",
        TrainGPT(run=RunConfig(log_every=1)),
    ),
    "gpt2-medium": (
        "GPT-2 with 350M parameters.",
        TrainGPT(model=GPTConfig(n_layer=24, n_head=16, n_embd=1024)),
    ),
    "gpt2-large": (
        "GPT-2 with 774M parameters.",
        TrainGPT(model=GPTConfig(n_layer=36, n_head=20, n_embd=1280)),
    ),
    "gpt2-xl": (
        "GPT-2 with 1558M parameters.",
        TrainGPT(model=GPTConfig(n_layer=48, n_head=25, n_embd=1600)),
    ),
    "train-gpt2": (
        "GPT-2 124M on OpenWebText: val loss 2.85 in nanoGPT; 8 A100 40 GB, 4 days.",
        TrainGPT(
            eval=TextEvalConfig(interval=1000),
            run=RunConfig(log_every=10),
        ),
    ),
    "gpt2-fast": (
        "162M (124M and an untied head) on FineWeb with Muon; intended for val loss "
        "3.28 in 3,250 updates, not run.",
        TrainGPT(
            batch_size=512,
            microbatch_size=32,
            max_iters=3250,
            model=replace(_MODERN, n_head=6, tied_head=False),
            optim=replace(_MUON, lr=1e-3, warmup=100, muon_rate=3.6, clip=0.0),
            data=TextDataConfig(path="datasets/fineweb", build=FineWeb()),
            eval=TextEvalConfig(interval=250, iters=320),
            run=RunConfig(log_every=10),
        ),
    ),
    "shakespeare-char": (
        "tiny Shakespeare, characters: val loss 1.47 in nanoGPT; one A100, 3 minutes.",
        TrainGPT(
            batch_size=64,
            microbatch_size=64,
            max_iters=5000,
            model=GPTConfig(
                n_layer=6, n_head=6, n_embd=384, block_size=256, dropout=0.2, unroll=6
            ),
            optim=replace(ADAMW, lr=1e-3, beta2=0.99, warmup=100),
            data=_CHARACTERS,
            eval=TextEvalConfig(interval=250),
            run=RunConfig(log_every=10, save_every=250, save="best"),
        ),
    ),
    "shakespeare-char-cpu": (
        "tiny Shakespeare, characters: val loss 1.88 in nanoGPT; a CPU, minutes.",
        TrainGPT(
            batch_size=12,
            microbatch_size=12,
            max_iters=2000,
            precision="float32",
            model=GPTConfig(n_layer=4, n_head=4, n_embd=128, block_size=64, unroll=4),
            optim=replace(ADAMW, lr=1e-3, beta2=0.99, warmup=100),
            data=_CHARACTERS,
            eval=TextEvalConfig(interval=250, iters=20),
            run=RunConfig(log_every=100, save_every=250, save="best"),
        ),
    ),
    "shakespeare-char-fast": (
        "shakespeare-char-cpu with Muon and newer techniques; half a minute on one CPU "
        "core.",
        TrainGPT(
            batch_size=12,
            microbatch_size=12,
            max_iters=250,
            precision="float32",
            model=replace(
                _MODERN,
                n_layer=4,
                n_head=4,
                n_embd=128,
                block_size=64,
                unroll=4,
                rope_theta=100.0,
                zero_init=False,
            ),
            optim=replace(
                _MUON,
                lr=3e-3,
                beta2=0.99,
                warmup=10,
                decay_share=1.0,
                muon_rate=2.0,
                muon_momentum=0.8,
                muon_steps=4,
            ),
            data=_CHARACTERS,
            eval=TextEvalConfig(interval=125, iters=20),
            run=RunConfig(log_every=50, save_every=250, save="best"),
        ),
    ),
    "finetune-shakespeare": (
        "OpenAI's GPT-2 XL on tiny Shakespeare in GPT-2 tokens; one 80 GB GPU.",
        TrainGPT(
            batch_size=32,
            microbatch_size=1,
            max_iters=20,
            init_from="gpt2-xl",
            model=replace(_GPT2, n_layer=48, n_head=25, n_embd=1600, remat=True),
            optim=replace(ADAMW, lr=3e-5, warmup=0, min_ratio=1.0),
            data=TextDataConfig(
                path="datasets/shakespeare", build=Shakespeare(tokens="gpt2")
            ),
            eval=TextEvalConfig(interval=5, iters=40),
            run=RunConfig(log_every=1, save="best"),
        ),
    ),
    "arc-gpt": (
        "ARC-AGI-1 by a GPT of 75M, a row of tokens for each pair: mdlARC reports 44 "
        "%; not run (docs/arc-gpt.md).",
        TrainGPT(
            batch_size=32,
            microbatch_size=8,
            max_iters=80783,  # 650 epochs of 3,977 pairs
            model=replace(
                _GRIDS,
                n_layer=8,
                n_embd=768,
                expansion=6.0,
                block_size=1863,
                dropout=0.1,
                qk_norm=False,
                zero_init=False,
            ),
            optim=replace(
                _MUON,
                lr=3e-4,
                warmup=1616,
                decay_share=0.2,
                weight_decay=0.01,
                muon_decay=0.55,
                muon_beta2=0.95,
            ),
            data=PuzzleDataConfig(
                paths=("datasets/arc1concept-gpt-aug-300",),
                build=ARC(augmentations=300, colors="inputs"),
                block=100,
            ),
            eval=TextEvalConfig(interval=4000, iters=50),
        ),
    ),
    "arc-gpt-small": (
        "The 46 smallest training tasks of ARC-AGI-1 by a GPT of 0.3M: 52.5 % in two "
        "attempts, after six minutes on two CPU cores.",
        TrainGPT(
            batch_size=16,
            microbatch_size=16,
            max_iters=3000,
            precision="float32",
            model=replace(_GRIDS, n_layer=3, n_head=4, n_embd=96, block_size=87),
            optim=replace(_MUON, lr=3e-3, warmup=20, muon_momentum=0.9),
            data=PuzzleDataConfig(
                paths=("datasets/arc1-gpt-small",),
                build=ARC(
                    subsets=("training",),
                    test=("training",),
                    augmentations=100,
                    colors="inputs",
                    side=6,
                ),
                block=100,
            ),
            eval=TextEvalConfig(interval=1000, iters=4),
            run=RunConfig(log_every=200, save_every=1000),
        ),
    ),
    "eval-gpt2": (
        "OpenAI's GPT-2 124M on OpenWebText: val loss 3.12 in nanoGPT.",
        _evaluate("gpt2"),
    ),
    "eval-gpt2-medium": (
        "OpenAI's GPT-2 350M on OpenWebText: val loss 2.84 in nanoGPT.",
        _evaluate("gpt2-medium"),
    ),
    "eval-gpt2-large": (
        "OpenAI's GPT-2 774M on OpenWebText: val loss 2.67 in nanoGPT.",
        _evaluate("gpt2-large"),
    ),
    "eval-gpt2-xl": (
        "OpenAI's GPT-2 1558M on OpenWebText: val loss 2.54 in nanoGPT.",
        _evaluate("gpt2-xl"),
    ),
}
"""Name -> (description, configuration). The first is the default."""

PRESETS: dict[str, tuple[str, Any]] = {**TRM_PRESETS, **GPT_PRESETS}
"""All presets; no two share a name."""
