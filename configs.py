"""All settings of all runs, as frozen dataclasses. Presets are in `train/presets.py`.

The docstring of a field is its help on the command line: meaning, unit, the paper's
symbol, and the official option (of `SamsungSAILMontreal/TinyRecursiveModels`; for a GPT
of nanoGPT). Values are checked here and never changed; derived numbers are properties.
Sizes of the data (vocabulary, sequence length, number of puzzles) are not settings,
except for `GPTConfig.vocab_size`, which can add padding.

Imports only the standard library; every package may import this file.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

LARGEST = 2**31 - 1
"""Maximum of counts and indices: 32 bits on every device."""

MOST_ROWS = 2**24
"""Maximum batch size: larger values would exhaust memory before any other check."""

MOST_STEPS = 2**16
"""Maximum of steps in one program, and of a model's width and depth."""

SEEDS = 2**32
"""Seeds are smaller: JAX's keys have 32 bits, so 2**32 would equal 0."""


class UserError(ValueError):
    """An error the user can fix: the requirement, the value received, and a remedy."""


class RunError(RuntimeError):
    """A healthy run has to stop: the reason, what was saved, and how to continue."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, shortened; else its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def ceil_div(a: int, b: int) -> int:
    """Return `a / b` rounded up."""
    return -(-a // b)


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_within(config: object, interval: str, *names: str) -> None:
    """Raise `UserError` unless each field is None or in `interval`, like `[0, 1)`."""
    low, high = map(float, interval[1:-1].split(","))
    for name in names:
        value = getattr(config, name)
        require(
            value is None
            or (
                (low <= value if interval[0] == "[" else low < value)
                and (value <= high if interval[-1] == "]" else value < high)
            ),
            f"`{name}` must be in {interval}: got {value}.",
        )


def require_positive(config: object, *names: str, largest: int = LARGEST) -> None:
    """Raise `UserError` unless each field is None or in 1 .. `largest`."""
    require_within(config, f"[1, {largest}]", *names)


def require_not_negative(config: object, *names: str) -> None:
    """Raise `UserError` unless each field is None or in 0 .. `LARGEST`."""
    require_within(config, f"[0, {LARGEST}]", *names)


def require_seed(seed: int) -> None:
    """Raise `UserError` unless `seed` is in 0 .. 2**32 - 1."""
    require(0 <= seed < SEEDS, f"`seed` must be in [0, {SEEDS - 1}]: got {seed}.")


# -- schedules -------------------------------------------------------------------------


@dataclass(frozen=True)
class Piecewise(Generic[T]):
    """A step function: `values[i]` applies from step `firsts[i]` onwards."""

    firsts: tuple[int, ...]
    """Ascending from 0."""

    values: tuple[T, ...]

    def at(self, step: int) -> T:
        """Return the value at a step."""
        return self.values[bisect_right(self.firsts, step) - 1]


def steps_covering(batches: Piecewise[int], examples: float) -> int:
    """Return the number of steps with `examples` examples, rounded down."""
    ends = (*batches.firsts[1:], math.inf)
    for first, end, size in zip(batches.firsts, ends, batches.values, strict=True):
        if first + int(examples / size) < end:
            return first + int(examples / size)
        examples -= (end - first) * size
    raise AssertionError("the last value has no end")


def piecewise(name: str, start: T, pairs: Iterable[tuple[int, T]]) -> Piecewise[T]:
    """Return `start` from step 0, then each value of `(step, value)` from its step.

    At equal steps the last value applies.

    Raises:
        UserError: if the steps of the schedule `name` do not ascend.
    """
    pairs = list(pairs)
    firsts = [first for first, _ in pairs]
    require(
        firsts == sorted(firsts),
        f"The steps of `{name}` must ascend: got {', '.join(map(str, firsts))}. Sort "
        "its parts.",
    )
    values = {0: start, **dict(pairs)}
    return Piecewise(tuple(values), tuple(values.values()))


def _parts(name: str, text: str, form: str, like: str) -> list[tuple[str, ...]]:
    """Return the groups of the regular expression `form` in each part of a schedule.

    Raises:
        UserError: if a part does not match.
    """
    groups = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(form, part.strip())
        if match is None:
            raise UserError(
                f"`{name}` must be a comma-separated list like `{like}`: got `{part}`."
            )
        groups.append(match.groups())
    return groups


# -- data ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PuzzleLists:
    """Settings of datasets from lists of puzzles in CSV files."""

    train_csv: tuple[str, ...] = ()
    """Local CSV files (`.csv` or `.csv.gz`) to train on, instead of `source`."""

    test_csv: tuple[str, ...] = ()
    """Local CSV files to test on, instead of `source`."""

    def __post_init__(self) -> None:
        require(
            bool(self.train_csv) == bool(self.test_csv),
            "`train_csv` and `test_csv` must be given together: got "
            f"{len(self.train_csv)} and {len(self.test_csv)} files.",
        )


@dataclass(frozen=True, kw_only=True)
class SudokuExtreme(PuzzleLists):
    """A dataset from lists of Sudoku in CSV files (Sudoku-Extreme by default)."""

    source: str = "sapientinc/sudoku-extreme"
    """A Hugging Face dataset, or a local folder, with `train.csv` and `test.csv`."""

    subsample: int | None = 1000
    """Training puzzles drawn from the source; None: all. `subsample-size`."""

    augmentations: int = 1000
    """Augmentations added to each training puzzle. `num-aug`."""

    min_difficulty: int | None = None
    """Minimum rating (guesses of the tdoku solver) of a puzzle, in both splits."""

    seed: int = 0
    """Seed of the subsample and the augmentations (officially not seeded)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "subsample")
        require_not_negative(self, "augmentations")
        require_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class GeneratedSudoku:
    """A dataset of generated small Sudoku with unique solutions."""

    size: Literal[4, 6, 9] = 6
    """Rows, columns and digits of a puzzle."""

    train: int = 1000
    """Training puzzles before augmentation."""

    test: int = 1000
    """Test puzzles; no test solution occurs in the training set."""

    augmentations: int = 0
    """Augmentations added to each training puzzle."""

    blanks: float = 0.5
    """Share of empty cells; fewer if the solution would not be unique."""

    seed: int = 0
    """Seed of the solutions, the empty cells and the augmentations."""

    def __post_init__(self) -> None:
        require_positive(self, "train", "test")
        require_not_negative(self, "augmentations")
        require_seed(self.seed)
        require_within(self, "(0, 1)", "blanks")


@dataclass(frozen=True, kw_only=True)
class MazeHard(PuzzleLists):
    """A dataset from lists of mazes in CSV files (Maze-Hard by default)."""

    source: str = "sapientinc/maze-30x30-hard-1k"
    """A Hugging Face dataset, or a local folder, with `train.csv` and `test.csv`."""

    subsample: int | None = None
    """Training mazes drawn from the source; None: all. `subsample-size`."""

    dihedral: bool = True
    """Train on the 8 rotations and reflections of each maze, as in the paper.
    Officially off by default (`aug`)."""

    seed: int = 0
    """Seed of the subsample (officially not seeded)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "subsample")
        require_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class GeneratedMaze:
    """A dataset of generated mazes: random walls with a long shortest path."""

    size: int = 30
    """Rows and columns."""

    least_path: int = 110
    """Minimum cells of the shortest path, including both ends (Maze-Hard: 110)."""

    train: int = 1000
    """Training mazes before augmentation."""

    test: int = 1000
    """Test mazes; none is an augmentation of a training maze."""

    unique: bool = False
    """Only mazes with a single shortest path. (Otherwise the answer follows Maze-Hard:
    from S, prefer down, then right, left, up.)"""

    dihedral: bool = False
    """Train on the 8 rotations and reflections of each maze."""

    seed: int = 0
    """Seed of the mazes."""

    processes: int = 1
    """Worker processes; the mazes do not depend on it."""

    def __post_init__(self) -> None:
        require_positive(self, "train", "test")
        require_seed(self.seed)
        require_within(self, "[1, 1024]", "processes")
        require_within(self, "[2, 64]", "size")
        longest = self.size**2 // 2 + self.size
        require_within(self, f"[2, {longest}]", "least_path")


@dataclass(frozen=True, kw_only=True)
class ARC:
    """A dataset from tasks of the Abstraction and Reasoning Corpus."""

    source: str = "kaggle/combined"
    """Folder with `*_SUBSET_challenges.json` and `*_SUBSET_solutions.json` (or `.gz`),
    or with folders `SUBSET` of one JSON file per task. The default is the path in the
    official repository."""

    subsets: tuple[str, ...] = ("training", "evaluation", "concept")
    """Sets of tasks to train on. `subsets`."""

    test: tuple[str, ...] = ("evaluation",)
    """Subsets with test pairs for testing instead of training. `test-set-name`."""

    augmentations: int = 1000
    """Maximum of augmentations added to each task. `num-aug`."""

    colors: Literal["all", "inputs"] = "all"
    """Colors that augmentations permute, besides black. `inputs`: not those that only
    outputs have, so that a rule is the same in all of them."""

    side: int = 30
    """Rows and columns of the canvas; tasks with a larger grid are left out. Officially
    always 30, the largest grid of ARC."""

    seed: int = 42
    """Seed of the augmentations and the order of the tasks. `seed`."""

    processes: int = 2
    """Worker processes; the dataset does not depend on it."""

    def __post_init__(self) -> None:
        require(
            bool(self.test) and set(self.test) <= set(self.subsets),
            f"`test` must be from the subsets {', '.join(self.subsets)}: got "
            f"{', '.join(self.test) or 'none'}.",
        )
        require_not_negative(self, "augmentations")
        require_seed(self.seed)
        require_within(self, "[1, 1024]", "processes")
        require_within(self, "[1, 30]", "side")


@dataclass(frozen=True, kw_only=True)
class PuzzleDataConfig:
    """Puzzle datasets, and how to build a missing one."""

    paths: tuple[str, ...] = ("datasets/sudoku-extreme-1k-aug-1000",)
    """Folders in the official format; several are merged. Folders in an object store
    (`gs://...`) are copied once to `~/.cache/tiny-recursive-jax`. `data_paths`."""

    build: SudokuExtreme | GeneratedSudoku | MazeHard | GeneratedMaze | ARC | None = (
        field(default_factory=SudokuExtreme)
    )
    """How to build the first path if it is missing. None: stop if it is missing."""

    block: int = 5000
    """Epochs that are concatenated before a partial batch is dropped and the groups are
    drawn again. Officially the epochs between evaluations (`epochs_per_iter`)."""

    hints: float = 0.0
    """Share of training puzzles that are made easier: a random part of the empty cells
    is filled in (similar to arXiv 2601.10679)."""

    augment: Literal["stored", "fresh"] = "stored"
    """`fresh`: every visit shows a training puzzle under a random symmetry of its kind
    (Sudoku, mazes). `stored`: as it is in the dataset."""

    prefetch: int = 2
    """Batches prepared ahead of the device, in a background thread."""

    def __post_init__(self) -> None:
        require(bool(self.paths), "`paths` must name at least one folder: got none.")
        require_positive(self, "block", "prefetch")
        require_within(self, "[0, 1]", "hints")


@dataclass(frozen=True, kw_only=True)
class BytePairs:
    """Location of GPT-2's byte pairs."""

    bpe_dir: str = ""
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: the folder in the
    environment variable `GPT2_BPE_DIR`, or a download."""


@dataclass(frozen=True, kw_only=True)
class Shakespeare(BytePairs):
    """Tiny Shakespeare as `train.bin` and `val.bin`, as built by nanoGPT."""

    tokens: Literal["char", "gpt2"] = "char"
    """One token per character, or GPT-2's byte pairs."""

    input: str = ""
    """A local copy of `input.txt`; empty: download it."""


@dataclass(frozen=True, kw_only=True)
class OpenWebText(BytePairs):
    """OpenWebText as `train.bin` and `val.bin` of GPT-2 tokens (17 GB)."""

    source: str = "Skylion007/openwebtext"
    """A Hugging Face dataset, or a local folder of one, with a column `text`."""

    processes: int = 8
    """Worker processes that read and encode documents."""

    def __post_init__(self) -> None:
        require_within(self, "[1, 1024]", "processes")


@dataclass(frozen=True, kw_only=True)
class FineWeb(BytePairs):
    """Shards of GPT-2 tokens (200 MB each) as `train.bin` and `val.bin`."""

    source: str = "kjj0/fineweb10B-gpt2"
    """A Hugging Face dataset, or a local folder, with `*_train_*.bin` and `*_val_*.bin`
    in the format of `KellerJordan/modded-nanogpt`."""

    shards: int = 18
    """First shards to train on; 18 have 1.8 billion tokens."""

    def __post_init__(self) -> None:
        require_positive(self, "shards")


@dataclass(frozen=True, kw_only=True)
class TextFiles(BytePairs):
    """Own text files as `train.bin` and `val.bin`."""

    input: tuple[str, ...] = ()
    """Files of UTF-8 text (or `.gz`), concatenated in this order."""

    val_input: tuple[str, ...] = ()
    """Validation files. Default: the last tenth of the characters of `input`."""

    tokens: Literal["char", "gpt2"] = "gpt2"
    """One token per character, or GPT-2's byte pairs."""

    like: str = ""
    """Folder of a run, a published model or a dataset to take the tokens from, instead
    of `tokens`. Other characters are left out and counted."""

    processes: int = 1
    """Worker processes that encode."""

    def __post_init__(self) -> None:
        require(bool(self.input), "`input` must name at least one file: got none.")
        require_within(self, "[1, 1024]", "processes")


@dataclass(frozen=True, kw_only=True)
class TextDataConfig:
    """A text dataset, and how to build it if it is missing."""

    path: str = "datasets/openwebtext"
    """Folder with `train.bin` and `val.bin` (uint16 tokens), as in nanoGPT.
    `dataset`."""

    build: Shakespeare | OpenWebText | FineWeb | TextFiles | None = field(
        default_factory=OpenWebText
    )
    """How to build the folder if it is missing. None: stop if it is missing."""

    prefetch: int = 2
    """Batches prepared ahead of the device, in a background thread."""

    def __post_init__(self) -> None:
        require_positive(self, "prefetch")


# -- models ----------------------------------------------------------------------------


Activation = Literal["gelu", "gelu_tanh", "relu2", "swiglu"]


def _require_heads(width: str, dim: int, name: str, heads: int, rope: bool) -> None:
    """Raise `UserError` unless the heads divide the width, evenly for RoPE."""
    require(
        dim % heads == 0,
        f"`{name}` must divide `{width}`: got {width}={dim}, {name}={heads}. Use "
        f"{width}={max(dim // heads, 1) * heads} or "
        f"{width}={ceil_div(dim, heads) * heads}.",
    )
    require(
        not rope or dim // heads % 2 == 0,
        f"RoPE needs an even head width: got {dim // heads}. Change `{name}`.",
    )


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A GPT-2 (Radford et al. 2019) as in nanoGPT, with newer techniques as options."""

    n_layer: int = 12
    """Blocks."""

    n_head: int = 12
    """Attention heads; must divide `n_embd`."""

    n_embd: int = 768
    """Model width."""

    block_size: int = 1024
    """Maximum sequence length, also the length of training sequences."""

    vocab_size: int | None = None
    """Rows of the token embedding. None: the vocabulary of the data; 50,304 for GPT-2's
    50,257 tokens (nanoGPT's padding: a multiple of 64 is faster). Padding tokens are
    never sampled."""

    dropout: float = 0.0
    """Dropout probability of embeddings, attention weights and residuals."""

    bias: bool = False
    """Biases in linear layers and LayerNorms (in GPT-2's own weights: yes)."""

    activation: Activation = "gelu"
    """`gelu`: exact (nanoGPT). `gelu_tanh`: OpenAI's approximation; loaded weights set
    it. `relu2`: squared ReLU (arXiv 2109.08668). `swiglu`: gated (arXiv 2002.05202), an
    equal number of weights, width rounded up to a multiple of 64."""

    expansion: float = 4.0
    """Feed-forward width divided by `n_embd`; for SwiGLU before 2/3 and rounding."""

    positions: Literal["learned", "rope", "rope3d"] = "learned"
    """`learned`: added to the tokens (GPT-2). `rope`: rotate queries and keys (arXiv
    2104.09864). `rope3d`: by column, line and part of a row of ARC (mdlARC)."""

    labels: int = 0
    """First tokens of a sequence whose vectors are added to all tokens. Rows of ARC
    have 2, task and symmetry; needs `tied_head=False`."""

    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""

    norm: Literal["layer", "rms"] = "layer"
    """`layer`: LayerNorm with weights (GPT-2). `rms`: RMSNorm without weights (arXiv
    1910.07467)."""

    qk_norm: bool = False
    """RMSNorm of queries and keys (arXiv 2010.04245)."""

    zero_init: bool = False
    """Initialize output projections of attention and feed-forward layers, and an untied
    head, with zeros instead of small numbers."""

    tied_head: bool = True
    """Use the token embedding as the head (GPT-2: yes)."""

    logit_cap: float = 0.0
    """Bound logits smoothly by this value with a hyperbolic tangent (arXiv 2408.00118);
    0: no bound."""

    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """Attention kernel. `auto`: cuDNN on an NVIDIA GPU in 16 bits; splash (Pallas) on a
    TPU for 512 positions or more, or a multiple of 128; otherwise, and with attention
    dropout, XLA."""

    unroll: int | None = None
    """Blocks compiled in sequence: 1 compiles fast, `n_layer` runs fast. None: all on a
    GPU or TPU, where a loop copies the residuals of each block (36 instead of 28 ms per
    step of GPT-2 on an H200, which compiles in 20 s); 1 on a CPU, and with `remat`,
    whose loop has few to copy."""

    remat: bool = False
    """Keep only the input of each block for the backward pass and recompute the rest:
    less memory, a third more computation."""

    loss_chunk: int = 2048
    """Maximum of tokens whose logits are in memory at once."""

    loops: str = ""
    """Blocks that are computed several times in a row with the same weights, like
    `4-5x3`: blocks 4 and 5, counted from 0, three times (as in the records of
    `openai/parameter-golf`; arXiv 2502.05171 also feeds the input in again)."""

    def __post_init__(self) -> None:
        require_positive(self, "n_layer", "n_head", "n_embd", largest=MOST_STEPS)
        require_positive(self, "block_size", "loss_chunk", "vocab_size", "unroll")
        rope = self.positions != "learned"
        _require_heads("n_embd", self.n_embd, "n_head", self.n_head, rope)
        require(
            self.positions != "rope3d" or self.head_dim >= 6,
            "`positions=rope3d` needs heads of a width of 6 or more: got "
            f"{self.head_dim}. Change `n_head`.",
        )
        require(
            not self.labels or not self.tied_head,
            "`labels` are never predicted, so they need a head of their own: got "
            f"labels={self.labels} with tied_head=True. Use tied_head=False.",
        )
        require_within(self, "(0, inf)", "expansion")
        require_within(self, "[0, 1)", "dropout")
        require_within(self, "(0, inf)", "rope_theta")
        require_not_negative(self, "logit_cap", "labels")
        require_positive(self, "depth", largest=MOST_STEPS)

    @property
    def order(self) -> tuple[int, ...]:
        """Numbers of the blocks in the order in which they are computed."""
        order, done = [], 0
        parts = _parts("loops", self.loops, r"(\d+)-(\d+)x(\d+)", "4-5x3")
        for first, last, times in (map(int, part) for part in parts):
            require(
                done <= first <= last < self.n_layer and 1 <= times <= MOST_STEPS,
                "Loops must be FIRST-LASTxTIMES, in ascending order, of blocks from 0 "
                f"to {self.n_layer - 1}, once or more: got loops={self.loops}.",
            )
            order += [*range(done, first), *[*range(first, last + 1)] * times]
            done = last + 1
        return (*order, *range(done, self.n_layer))

    @property
    def depth(self) -> int:
        """Blocks that are computed."""
        return len(self.order)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def ups(self) -> int:
        """Matrices into the feed-forward layer: 2 for SwiGLU, which has a gate."""
        return 2 if self.activation == "swiglu" else 1

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer."""
        wide = int(2 * self.expansion * self.n_embd) // (1 + self.ups)
        return wide if self.ups == 1 else ceil_div(wide, 64) * 64


@dataclass(frozen=True, kw_only=True)
class TRMConfig:
    """A Tiny Recursive Model (arXiv 2510.04871) or a related model."""

    variant: Literal[
        "trm", "single_z", "hier6", "hrm", "transformer", "eqr", "infiloop"
    ] = "trm"
    """Latents and their recursion. Officially one model class each (`arch`)."""

    mixer: Literal["attention", "mlp", "units"] = "mlp"
    """Exchange between positions. `mlp` is officially `mlp_t=True`. `units`: a cell of
    a Sudoku gets the means of its row, column and box."""

    symbols: bool = False
    """Give each digit of each cell of a Sudoku its own position, so that the model is
    equivariant to renaming digits (needs `mixer=units`)."""

    positions: Literal["rope", "rope2d", "learned", "none"] = "none"
    """Position encoding. `rope2d`: rotary by row and column of a square board (arXiv
    2605.21488, 2603.02193). `pos_encodings`."""

    dim: int = 512
    """Model width. D in the paper, `hidden_size` officially."""

    heads: int = 8
    """Attention heads; must divide `dim`. `num_heads`."""

    expansion: float = 4.0
    """Feed-forward width divided by `dim`, before SwiGLU's 2/3 and rounding.
    `expansion`."""

    inner_multiple: int = 256
    """Inner widths are rounded up to a multiple of it. Officially always 256."""

    gate: Literal["silu", "normed", "conv"] = "silu"
    """Feed-forward layers. `silu`: SwiGLU. `normed`: SwiGLU with a norm, which allows a
    high learning rate with Muon (arXiv 2601.19085). `conv`: SwiGLU with a convolution
    over two positions (ConvSwiGLU, arXiv 2512.14693); a token MLP keeps its SwiGLU."""

    layers: int = 2
    """Blocks of the network; for HRM of the fast network. `L_layers`; for the
    transformer baseline `H_layers`."""

    H_layers: int | None = None
    """Blocks of HRM's slow network. None: equal to `layers`. `H_layers`."""

    H_cycles: int = 3
    """Deep-recursion cycles per supervision step; the last has a gradient. T."""

    L_cycles: int = 6
    """Refinements of z per cycle. n in the paper, `L_cycles` officially."""

    prefix: int = 16
    """Positions before the puzzle, filled from the puzzle table. `puzzle_emb_len`.
    Officially ceil(`puzzle_dim` / `dim`) for HRM and the transformer baseline."""

    puzzle_dim: int = 512
    """Width of a row of the puzzle table; 0: no table. `puzzle_emb_ndim`."""

    flow: Literal["none", "stablemax", "softmax"] = "none"
    """Looped flow (arXiv 2609.11801): each supervision step sees a noised answer, whose
    noise falls from step to step. The value is the function from logits to
    probabilities, equal to `act.loss`."""

    flow_unknown: int | None = 1
    """Token of the cells to fill in; a looped flow adds no noise to the others. Sudoku:
    1; mazes: 2. None: noise in all cells."""

    flow_gamma: float = 5.0
    """Fresh noise in the steps of an evaluation; 0: none. The paper's gamma."""

    rope_theta: float = 10000.0
    """Base of the rotary frequencies. `rope_theta`."""

    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm. `rms_norm_eps`."""

    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """Attention kernel. `auto`: cuDNN on an NVIDIA GPU in bfloat16; splash (Pallas) on
    a TPU for 512 positions or more, or a multiple of 128; otherwise XLA."""

    def __post_init__(self) -> None:
        counts = ("dim", "heads", "layers", "H_cycles", "L_cycles", "H_layers")
        require_positive(self, *counts, "inner_multiple", largest=MOST_STEPS)
        require_within(self, "(0, inf)", "expansion", "rope_theta", "norm_eps")
        require(
            self.H_layers is None or self.variant == "hrm",
            f"`H_layers` needs variant=hrm: got H_layers={self.H_layers} for "
            f"{self.variant}. Use `layers`.",
        )
        require(
            self.flow == "none" or not self.symbols,
            "`flow` has no form for `symbols`: got both. Use one of them.",
        )
        require_not_negative(self, "flow_unknown", "flow_gamma")
        require(
            not self.symbols or (self.mixer == "units" and self.positions == "none"),
            "`symbols` needs mixer=units and positions=none: got "
            f"mixer={self.mixer}, positions={self.positions}.",
        )
        require(
            1 <= self.expansion * self.dim * 2 / 3 <= MOST_ROWS,
            f"`expansion` must give a feed-forward width in [1, {MOST_ROWS}]: got "
            f"{self.expansion} for dim={self.dim}. Use 4.",
        )
        require(
            self.mixer == "attention" or not self.positions.startswith("rope"),
            f"Rotary positions need `mixer=attention`: got {self.mixer}. Use "
            "positions=none or learned.",
        )
        if self.mixer == "attention":
            rope = self.positions.startswith("rope")
            _require_heads("dim", self.dim, "heads", self.heads, rope)
        require(
            self.positions != "rope2d" or self.head_dim % 4 == 0,
            "`positions=rope2d` needs a head width that is a multiple of 4: got "
            f"{self.head_dim}. Change `heads`.",
        )
        require(
            0 <= self.puzzle_dim <= self.prefix * self.dim,
            "`puzzle_dim` must be in 0 .. prefix * dim = "
            f"{self.prefix * self.dim}: got {self.puzzle_dim}.",
        )
        require(
            self.puzzle_dim > 0 or self.prefix == 0,
            f"`prefix` needs a puzzle table: got prefix={self.prefix} with "
            "puzzle_dim=0. Use prefix=0.",
        )
        require(
            self.variant != "hier6" or self.L_cycles <= 6,
            f"variant=hier6 has six latents: got L_cycles={self.L_cycles}. Use at most "
            "6.",
        )
        require(
            self.variant != "transformer" or self.H_cycles == 1,
            "variant=transformer has no recursion: got "
            f"H_cycles={self.H_cycles}. Use H_cycles=1.",
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads


@dataclass(frozen=True, kw_only=True)
class ACTConfig:
    """Adaptive computation time: the number of supervision steps per puzzle."""

    max_steps: int = 16
    """Maximum of supervision steps per puzzle. N_sup in the paper, `halt_max_steps`
    officially."""

    exploration: float = 0.1
    """Probability of a random minimum of steps, drawn per row and training step.
    `halt_exploration_prob`."""

    halt: Literal["positive", "compare", "never"] = "positive"
    """Rule for an early halt in training. `positive`: q_halt > 0 (TRM). `compare`:
    q_halt > q_continue (HRM). `never`: `act_enabled=False` of the baseline."""

    continue_loss: bool = False
    """Train q_continue by Q-learning, with one more forward per step (HRM; needs
    `halt=compare`). Officially `no_ACT_continue=False`."""

    loss: Literal["stablemax", "softmax"] = "stablemax"
    """Cross-entropy over the vocabulary. `loss_type`."""

    label_smoothing: float = 0.0
    """Share of each cell's target that is spread evenly over the vocabulary."""

    q_weight: float = 0.5
    """Weight of the halting loss relative to the loss of the cells. Officially 0.5."""

    pseudotargets: int = 0
    """Updates until a looped flow sees only its own last prediction with noise, instead
    of the solution, in all steps but the first; their share rises linearly. 0: none
    (the paper: 20,000 for Sudoku and ARC-AGI-2)."""

    chains: int = 1
    """Scratchpads per puzzle in training. All make each supervision step; the one with
    the lowest loss learns from it, and shares its answer (arXiv 2601.19085: 4)."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", "chains", largest=MOST_STEPS)
        require_within(self, "[0, 1)", "label_smoothing")
        require_not_negative(self, "q_weight", "pseudotargets")
        require(
            not self.continue_loss or self.halt == "compare",
            f"`continue_loss` needs `halt=compare`: got halt={self.halt}.",
        )
        require_within(self, "[0, 1]", "exploration")


# -- optimization ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer of a model's parameters."""

    name: Literal["adam_atan2", "adamw"] = "adam_atan2"
    """Update rule. TRM's official code uses AdamATan2, the paper mentions AdamW."""

    lr: float = 1e-4
    """Peak learning rate. `lr`; nanoGPT's `learning_rate`."""

    warmup: int = 2000
    """Updates of linear warm-up. `lr_warmup_steps`; nanoGPT's `warmup_iters`."""

    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning rate after the warm-up. `cosine`: decay to the end. `wsd`: constant,
    then linear decay (arXiv 2404.06395)."""

    min_ratio: float = 1.0
    """Final divided by peak learning rate; 1: constant. `lr_min_ratio`; nanoGPT's
    `min_lr / learning_rate`."""

    decay_share: float = 0.4
    """Last share of the updates, in which `wsd` decays."""

    weight_decay: float = 1.0
    """Decoupled decay, times the learning rate. `weight_decay`."""

    decay: Literal["all", "matrices"] = "all"
    """Decay every parameter (TRM), or those with two or more axes (nanoGPT)."""

    cautious: bool = False
    """Decay only where weight and update have the same sign (arXiv 2510.12402)."""

    beta1: float = 0.9
    """Decay of the first moment. `beta1`."""

    beta2: float = 0.95
    """Decay of the second moment. `beta2`."""

    eps: float = 1e-8
    """Added to the root of the second moment; AdamW only (AdamATan2 has none)."""

    clip: float = 0.0
    """Maximum global norm of a gradient; 0: no clipping. nanoGPT's `grad_clip`."""

    ema: float = 0.999
    """Decay of the averaged weights used in evaluations; 0: no average. `ema_rate`."""

    ema_start: float = 0.0
    """Share of the updates after which averaging starts; until then the average is the
    weights."""

    muon: bool = False
    """Update the matrices of hidden layers with Muon (Jordan 2024); `name` then applies
    only to embeddings, heads and vectors."""

    muon_rate: float = 1.0
    """Factor of the learning rate of Muon's matrices, and of their decay. Their updates
    have the size of Adam's: a root mean square of 0.2 (arXiv 2502.16982)."""

    muon_decay: float | None = None
    """Decay of Muon's matrices, times their learning rate. None: `weight_decay`."""

    muon_momentum: float = 0.95
    """Decay of Muon's momentum."""

    muon_nesterov: bool = True
    """Use Nesterov momentum."""

    muon_steps: int = 5
    """Newton-Schulz steps per update: fewer are faster, but small singular values stay
    small."""

    muon_beta2: float | None = None
    """NorMuon (arXiv 2510.05491): divide each neuron's update by the root of its mean
    square, which is averaged over updates with this decay (paper: 0.95). None: Muon."""

    def __post_init__(self) -> None:
        require_within(self, "(0, inf)", "lr", "eps", "muon_rate")
        require_within(self, "[0, 1]", "min_ratio")
        require_within(self, "(0, 1]", "decay_share")
        require_within(self, "[0, 1)", "ema", "ema_start", "beta1", "beta2")
        require_within(self, "[0, 1)", "muon_momentum", "muon_beta2")
        require_not_negative(self, "warmup", "weight_decay", "muon_decay", "clip")
        require_positive(self, "muon_steps", largest=100)
        require(
            self.muon or self.muon_decay is None,
            f"`muon_decay` needs `muon`: got {self.muon_decay}. Use `weight_decay`.",
        )
        require(
            self.muon or self.muon_beta2 is None,
            f"`muon_beta2` needs `muon`: got {self.muon_beta2}. Use `beta2`.",
        )


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """The optimizer of the puzzle table: SignSGD on the rows in a batch."""

    lr: float = 1e-4
    """Peak learning rate; follows the network's schedule. `puzzle_emb_lr`."""

    weight_decay: float = 1.0
    """Decay of the updated rows, times the rate. `puzzle_emb_weight_decay`."""

    def __post_init__(self) -> None:
        require_not_negative(self, "lr", "weight_decay")


# -- devices and runs ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The device mesh. The batch is split over both axes, parameters over `model`."""

    data: int | None = None
    """Size of the axis `data`. None: the number of devices divided by `model`."""

    model: int = 1
    """Size of the axis `model`. Parameters, averages and optimizer state are split over
    it, and gathered once per step."""

    distributed: bool = False
    """Join the other processes of this run first (`jax.distributed.initialize`). TPU
    pods, Slurm, MPI and Kubernetes are detected; otherwise set the next three."""

    coordinator: str = ""
    """`HOST:PORT` of the first process. Empty: detect."""

    processes: int | None = None
    """Number of processes. None: detect."""

    process: int | None = None
    """Number of this process, from 0. None: detect."""

    def __post_init__(self) -> None:
        require_positive(self, "model", "data", "processes")
        values = (self.coordinator or None, self.processes, self.process)
        given = sum(value is not None for value in values)
        require(
            given == 0 or (given == 3 and self.distributed),
            "`coordinator`, `processes` and `process` need each other and "
            f"`distributed`: got {self.coordinator!r}, {self.processes}, "
            f"{self.process}, distributed={self.distributed}. Give all or none.",
        )
        if self.processes is not None:
            require_within(self, f"[0, {self.processes - 1}]", "process")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """When and how to evaluate the test split (with the averaged weights)."""

    epochs: float = 5000.0
    """Epochs between evaluations; the last one is at the end. `eval_interval`."""

    puzzles: int | None = 10000
    """First puzzles to use in evaluations before the end; None: all. (The recipe's full
    evaluations take 45 % of its computation.)"""

    final_puzzles: int | None = None
    """First puzzles to use in the last evaluation; None: all."""

    batch_size: int | None = None
    """Puzzles per batch, over all devices. None: a slice of the training batch."""

    mode: Literal["fixed", "halt"] = "fixed"
    """`fixed`: `max_steps` for every puzzle (official). `halt`: the halting rule of
    training."""

    def __post_init__(self) -> None:
        require_within(self, "(0, inf)", "epochs")
        require_positive(self, "puzzles", "final_puzzles")
        require_positive(self, "batch_size", largest=MOST_ROWS)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Files and reports of a run. May change when a run is resumed."""

    log_every: int = 50
    """Steps between two lines of metrics."""

    save_every: int = 1000
    """Steps between two checkpoints; also saved after evaluations and on SIGTERM."""

    save: Literal["always", "best"] = "always"
    """`best`: save only after an evaluation that is at least as good as the best one,
    and at the end. nanoGPT's `always_save_checkpoint`."""

    minutes: float | None = None
    """Time of the whole run, instead of `epochs` or `max_iters`: its length, and so its
    schedules, follow from its speed. Includes the last evaluation and save."""

    seeds_at_once: int = 1
    """Number of `seeds` to train at the same time, one process for each. The processes
    divide this machine's GPUs or TPU chips equally; on a CPU they share the cores."""

    eval_only: bool = False
    """Evaluate the newest checkpoint of the run directory, or the weights of
    `init_from`, on all data, and stop. The run is not changed. `eval_only`."""

    keep_last: int = 2
    """Number of newest checkpoints to keep."""

    keep_best: int = 1
    """Number of best evaluated checkpoints to keep in addition."""

    keep_every: int = 0
    """Keep each checkpoint whose step is a multiple of this; 0: none."""

    wandb: str = ""
    """Weights & Biases project for reports; empty: none (extra `wandb`)."""

    tensorboard: bool = False
    """Write TensorBoard events (extra `tensorboard`)."""

    profile: str = ""
    """`FIRST:COUNT`: trace COUNT steps from step FIRST onwards (a run begins with 1)
    into the folder `profile` of the run. Empty: no trace."""

    compilation_cache: str | None = "~/.cache/tiny-recursive-jax"
    """Folder of compiled programs for later runs; None: no cache. Overridden by
    `JAX_COMPILATION_CACHE_DIR`."""

    def __post_init__(self) -> None:
        require_positive(self, "log_every", "save_every", "keep_last", "seeds_at_once")
        require_not_negative(self, "keep_best", "keep_every")
        if self.minutes is not None:
            require_within(self, "(0, inf)", "minutes")
        require(
            re.fullmatch("([1-9][0-9]{0,9}:[1-9][0-9]{0,9})?", self.profile)
            is not None,
            "`profile` must be FIRST:COUNT, two numbers above 0: got "
            f"{self.profile!r}. Use 20:5 for the steps 20 to 24.",
        )

    @property
    def profiled(self) -> range:
        """Steps to trace."""
        if not self.profile:
            return range(0)
        first, count = map(int, self.profile.split(":"))
        return range(first, first + count)


CheckpointName = Literal["best", "newest"] | int
"""The checkpoint of the best score, the newest, or the one of a step."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of both kinds of training runs."""

    batch_size: int
    """Examples per update, over all devices."""

    batch_schedule: str = ""
    """Batch sizes from certain steps onwards, like `0:768,20000:3072`; before the first
    step, or if empty: `batch_size`."""

    batch_lr: Literal["none", "sqrt", "linear"] = "none"
    """Factor of the learning rate for a scheduled batch size: 1, or its quotient by
    `batch_size`, or the root of it. (Not for the puzzle table: its rows are not updated
    less often.)"""

    seed: int
    """Seed of the weights, the data's order and all draws in training."""

    seeds: tuple[int, ...] = ()
    """Train once per seed, into RUN/seed<N>, one after the other or
    `run.seeds_at_once`. Empty: `seed` alone."""

    steps_per_call: int = 1
    """Updates per dispatch to the devices."""

    init_checkpoint: CheckpointName = "best"
    """Checkpoint of the run in `init_from`: `best`, `newest` or a step."""

    run_dir: str = ""
    """Folder of the run; the same command resumes it. Empty: `runs/<preset>-<time>`.
    nanoGPT's `out_dir`."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        require_positive(self, "batch_size", largest=MOST_ROWS)
        require_positive(self, "steps_per_call", largest=MOST_STEPS)
        for seed in (self.seed, *self.seeds):
            require_seed(seed)
        require(
            len(set(self.seeds)) == len(self.seeds),
            f"`seeds` must be distinct: got {', '.join(map(str, self.seeds))}.",
        )
        alone = not self.seeds or self.mesh.distributed or "://" in self.run_dir
        require(
            self.run.seeds_at_once == 1 or not alone,
            "`run.seeds_at_once` above 1 needs `seeds`, a local `run_dir` and no "
            f"`mesh.distributed`: got {self.run.seeds_at_once}. Several machines can "
            "each train some of the seeds.",
        )
        for size in self.batches.values:
            require(
                1 <= size <= MOST_ROWS,
                f"Sizes in `batch_schedule` must be in [1, {MOST_ROWS}]: got {size}.",
            )

    @property
    def batches(self) -> Piecewise[int]:
        """The batch size at each step; changes are delayed to the next dispatch.

        Raises:
            UserError: if `batch_schedule` is malformed, or its steps do not ascend.
        """
        name, call = "batch_schedule", self.steps_per_call
        parts = _parts(name, self.batch_schedule, r"(\d+):(\d+)", "0:768,20000:3072")
        pairs = [(ceil_div(int(step), call) * call, int(size)) for step, size in parts]
        return piecewise(name, self.batch_size, pairs)

    def phases(self, total: int) -> list[tuple[int, Any, dict[str, int]]]:
        """Return the phases of a run of `total` steps.

        Each is the first step, a configuration without a schedule of batches, and the
        values to report with the metrics.
        """
        firsts = [first for first in self.batches.firsts if first <= total]
        return [(first, *self._at_batch(self.batches.at(first))) for first in firsts]

    def _at_batch(self, batch: int) -> tuple[Any, dict[str, int]]:
        """Return the configuration with this batch size, and values to report."""
        power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[self.batch_lr]
        lr = (batch / self.batch_size) ** power * self.optim.lr
        optim = replace(self.optim, lr=lr)
        plain = replace(self, batch_size=batch, batch_schedule="", optim=optim)
        return plain, {"batch_size": batch} if self.batch_schedule else {}


@dataclass(frozen=True, kw_only=True)
class TrainTRM(Training):
    """One training run of a Tiny Recursive Model."""

    batch_size: int = 768
    """Puzzles in progress, over all devices. `global_batch_size`."""

    epochs: float = 50000.0
    """Passes over the groups of puzzles; an epoch has one augmentation of each.
    `epochs`."""

    seed: int = 0
    """Seed of the weights, the data's order and the exploration. `seed`."""

    loop: Literal["stream", "episode"] = "stream"
    """`stream`: one update per batch, halted rows are refilled (official code).
    `episode`: update on one batch until all its rows have halted (paper, figure 3)."""

    supervision_steps: int = 1
    """Supervision steps per update, which uses their mean gradient (`stream` only)."""

    accumulation: int | Literal["auto"] = "auto"
    """Slices of the batch that are processed one after the other, to save memory. The
    update does not depend on it, except for rounding. `auto`: on a TPU, the most slices
    with at least 2,048 positions of a device's puzzles in each; otherwise 1."""

    steps_per_call: int = 1
    """Updates per dispatch to the devices (`stream` only). The run's length is rounded
    up to a multiple."""

    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type; parameters, losses and norms are float32. `forward_dtype`."""

    init_from: str = "scratch"
    """Initial weights: `scratch`; another run, `RUN` or `RUN/checkpoints/STEP`; or an
    official checkpoint, a file, a folder, or `owner/name` on the Hugging Face hub.
    Weights also set the model's sizes. `load_checkpoint`."""

    init_table: Literal["keep", "mean", "zeros"] = "keep"
    """Puzzle table for loaded weights. `keep`: the loaded table if the number of
    puzzles is equal, else like `mean` (official). `mean`: all rows are the mean of the
    loaded rows. `zeros`: a new table."""

    freeze: bool = False
    """Train only the puzzle table. `freeze_weights`."""

    depth_schedule: str = ""
    """`H_cycles`x`L_cycles` in training from certain steps or shares of the run
    onwards, like `0:1x2,30%:2x4,60%:3x6` (CGAR, arXiv 2511.08653). Before the first, if
    empty, and in evaluations: the values of `model`."""

    model: TRMConfig = field(default_factory=TRMConfig)
    act: ACTConfig = field(default_factory=ACTConfig)
    table: TableConfig = field(default_factory=TableConfig)
    data: PuzzleDataConfig = field(default_factory=PuzzleDataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "supervision_steps", largest=MOST_STEPS)
        require_within(self, "(0, inf)", "epochs")
        if self.accumulation != "auto":
            require_positive(self, "accumulation", largest=MOST_ROWS)
            for size in self.batches.values:
                require(
                    size % self.accumulation == 0,
                    f"`accumulation` must divide `batch_size`: got batch_size={size}, "
                    f"accumulation={self.accumulation}.",
                )
        require(
            self.loop == "stream"
            or (self.supervision_steps == 1 and self.steps_per_call == 1),
            "`supervision_steps` and `steps_per_call` above 1 need `loop=stream`.",
        )
        require(bool(self.init_from), "`init_from` must not be empty. Use `scratch`.")
        require(
            self.model.flow in ("none", self.act.loss),
            "`model.flow` must be the function of `act.loss`: got "
            f"{self.model.flow} and {self.act.loss}. Use one for both.",
        )
        require(
            self.model.flow != "none" or not self.act.pseudotargets,
            f"`pseudotargets` needs `model.flow`: got {self.act.pseudotargets}.",
        )
        require(
            self.act.chains == 1 or self.model.variant in ("trm", "hier6", "hrm"),
            "`chains` above 1 needs a fixed scratchpad apart from the answer: got "
            f"variant={self.model.variant}. Use variant=trm.",
        )
        require(
            not self.freeze or self.model.puzzle_dim > 0 or self.init_from != "scratch",
            "`freeze` needs a puzzle table: got puzzle_dim=0. Use freeze=False.",
        )
        for *_, depth in self._depth_parts:
            self.model_at(depth)

    def phases(self, total: int) -> list[tuple[int, Any, dict[str, int]]]:
        """Return the phases of a run; a schedule of depths has one depth left."""
        batches, depths, phases = self.batches, self.depths(total), []
        for first in sorted({*batches.firsts, *depths.firsts}):
            plain, values = self._at_batch(batches.at(first))
            if self.depth_schedule:
                high, low = depths.at(first)
                plain = replace(plain, depth_schedule=f"0:{high}x{low}")
                values |= {"H_cycles": high, "L_cycles": low}
            phases.append((first, plain, values))
        return [phase for phase in phases if phase[0] <= total]

    def depths(self, total: int) -> Piecewise[tuple[int, int]]:
        """Return `H_cycles` and `L_cycles` at each step of a run of `total` steps.

        Changes are delayed to the next dispatch.

        Raises:
            UserError: if the steps do not ascend.
        """
        call, pairs = self.steps_per_call, []
        for first, percent, depth in self._depth_parts:
            step = Fraction(first) * total / 100 if percent else Fraction(first)
            pairs.append((math.ceil(step / call) * call, depth))
        start = self.model.H_cycles, self.model.L_cycles
        return piecewise("depth_schedule", start, pairs)

    @property
    def deepest(self) -> tuple[int, int]:
        """`H_cycles` and `L_cycles` of the deepest recursion in training."""
        parts = self._depth_parts
        depths = [depth for *_, depth in parts]
        if not parts or float(parts[0][0]) > 0:
            depths.append((self.model.H_cycles, self.model.L_cycles))
        return max(depths, key=lambda depth: (math.prod(depth), depth[1]))

    def model_at(self, depth: tuple[int, int]) -> TRMConfig:
        """Return the model configuration with other `H_cycles` and `L_cycles`."""
        return replace(self.model, H_cycles=depth[0], L_cycles=depth[1])

    @property
    def _depth_parts(self) -> list[tuple[str, str, tuple[int, int]]]:
        """Parts of `depth_schedule`: first step, `%` or empty, depth."""
        form = r"(\d+(?=:)|\d+(?:\.\d+)?(?=%))(%?):(\d+)x(\d+)"
        parts = _parts("depth_schedule", self.depth_schedule, form, "0:1x2,30%:2x4")
        return [(at, unit, (int(high), int(low))) for at, unit, high, low in parts]


@dataclass(frozen=True, kw_only=True)
class TextEvalConfig:
    """When and how to estimate the loss on both splits."""

    interval: int = 2000
    """Steps between evaluations; the last one is at the end. `eval_interval`."""

    iters: int = 200
    """Batches of `microbatch_size` sequences per split. They are drawn once, and equal
    at every evaluation and on every mesh. `eval_iters`."""

    def __post_init__(self) -> None:
        require_positive(self, "interval", "iters")


ADAMW = OptimConfig(
    name="adamw",
    lr=6e-4,
    min_ratio=0.1,
    weight_decay=0.1,
    decay="matrices",
    clip=1.0,
    ema=0.0,
)


@dataclass(frozen=True, kw_only=True)
class TrainGPT(Training):
    """One training run of a GPT."""

    batch_size: int = 480
    """Sequences per update, over all devices. `batch_size` times
    `gradient_accumulation_steps`."""

    microbatch_size: int = 12
    """Maximum of sequences that a device processes at once; gradients are accumulated.
    `batch_size`."""

    max_iters: int = 600000
    """Updates. `max_iters` (which makes one more)."""

    lr_decay_iters: int | None = None
    """Updates until the end of the learning rate decay. None: all. `lr_decay_iters`."""

    init_from: str = "scratch"
    """Initial weights: `scratch`; another run, `RUN` or `RUN/checkpoints/STEP`; `gpt2`,
    `gpt2-medium`, `gpt2-large` or `gpt2-xl` from the Hugging Face hub; a local folder
    of such a model; a `ckpt.pt` of nanoGPT. Weights also set the model's sizes.
    `resume` requires an existing run. `init_from`."""

    seed: int = 1337
    """Seed of the weights, the data's order and dropout."""

    steps_per_call: int = 1
    """Updates per dispatch to the devices; must divide `max_iters`."""

    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Compute type; parameters, losses and norms are float32. `float16` scales the loss
    like `GradScaler`. `dtype`."""

    loops_from: float = 0.0
    """Share of the updates after which training computes `model.loops`; until then each
    block once. (Evaluations always compute them.)"""

    model: GPTConfig = field(default_factory=GPTConfig)
    optim: OptimConfig = ADAMW
    data: TextDataConfig | PuzzleDataConfig = field(default_factory=TextDataConfig)
    """Text, or tasks of ARC as rows of tokens."""

    eval: TextEvalConfig = field(default_factory=TextEvalConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "microbatch_size", largest=MOST_ROWS)
        require_positive(self, "max_iters", "lr_decay_iters")
        require(
            self.max_iters % self.steps_per_call == 0,
            f"`steps_per_call` must divide `max_iters`: got max_iters="
            f"{self.max_iters}, steps_per_call={self.steps_per_call}.",
        )
        require(bool(self.init_from), "`init_from` must not be empty. Use `scratch`.")
        require_within(self, "[0, 1]", "loops_from")
        require(
            not self.loops_from or bool(self.model.loops),
            f"`loops_from` needs `model.loops`: got {self.loops_from} without. Name "
            "blocks, like `4-5x3`.",
        )
        grids = isinstance(self.data, PuzzleDataConfig)
        require(
            self.model.labels == (2 if grids else 0)
            and (grids or self.model.positions != "rope3d"),
            "`model.labels` must be 2 for tasks of ARC and 0 for text, which has no "
            f"`rope3d`: got {self.model.labels} and {self.model.positions} for "
            f"{type(self.data).__name__}.",
        )
        if isinstance(self.data, PuzzleDataConfig):
            hints, augment = self.data.hints, self.data.augment
            require(
                hints == 0.0 and augment == "stored",
                "Tasks of ARC have no `hints`, and augmentations that are `stored`: "
                f"got {hints} and {augment}. Omit both.",
            )

    def phases(self, total: int) -> list[tuple[int, Any, dict[str, int]]]:
        """Return the phases of a run; in each `loops_from` is 0 (loops) or 1 (none)."""
        if not self.loops_from:
            return super().phases(total)
        call, phases = self.steps_per_call, []
        start = math.ceil(Fraction(str(self.loops_from)) * total / call) * call
        for first in sorted({*self.batches.firsts, start}):
            plain, values = self._at_batch(self.batches.at(first))
            loops = first >= start
            values |= {"blocks": self.model.depth if loops else self.model.n_layer}
            plain = replace(plain, loops_from=0.0 if loops else 1.0)
            phases.append((first, plain, values))
        return [phase for phase in phases if phase[0] <= total]

    @property
    def text(self) -> TextDataConfig:
        """The text dataset.

        Raises:
            UserError: for tasks of ARC.
        """
        if isinstance(self.data, TextDataConfig):
            return self.data
        raise UserError(
            "A GPT of ARC's tasks has no text: it cannot start from other weights, be "
            "sampled from, published or exported. Use `python -m gpt.arc`."
        )


MAY_CHANGE = (
    *("run_dir", "mesh", "run", "eval"),
    *("accumulation", "microbatch_size"),
    *("data.paths", "data.path", "data.build", "data.prefetch"),
    *("model.attention", "model.unroll", "model.remat", "model.loss_chunk"),
)
"""Settings that may change when a run is resumed; they change no number, or only the
evaluations. The content of the data must not change."""

RECIPE_MAY_CHANGE = (
    *("epochs", "max_iters", "lr_decay_iters", "table"),
    *("optim.lr", "optim.warmup", "optim.schedule", "optim.min_ratio"),
    *("optim.decay_share", "optim.weight_decay", "optim.cautious", "optim.clip"),
    *("optim.beta1", "optim.beta2", "optim.eps"),
    *("optim.muon_rate", "optim.muon_momentum", "optim.muon_nesterov"),
    "optim.muon_steps",
)
"""More settings that may change when a run is resumed: they change the next updates,
so each change is printed and recorded."""

EVALUATION_MAY_CHANGE = ("act.max_steps", "model.flow_gamma")
"""More settings that may change when a run is only evaluated."""
