"""Every setting of every run, as frozen dataclasses; `train/presets.py` has presets.

A field's docstring is its help on the command line: meaning, unit, the paper's symbol
and the official option (of `SamsungSAILMontreal/TinyRecursiveModels`; of nanoGPT where
it concerns a GPT). Values are checked here and never written back; derived numbers are
properties. Sizes that come from the data (vocabulary, sequence length, number of
puzzles) are not settings, but for `GPTConfig.vocab_size`, which may pad them.

Imports the standard library alone; every other package may import this file.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Config = TypeVar("Config", "TrainTRM", "TrainGPT")

LARGEST = 2**31 - 1
"""Largest count and index: what 32 bits hold, on every device."""

MOST_ROWS = 2**24
"""Largest batch: beyond it, what must be an oversight would fill the memory first."""

MOST_STEPS = 2**16
"""Most steps that one program makes, and the widest and deepest model."""

SEEDS = 2**32
"""Seeds lie below this: JAX's keys take 32 bits, and 2**32 would be 0 again."""


class UserError(ValueError):
    """An error that is the user's to mend: what must hold, what came, what to do."""


class RunError(RuntimeError):
    """A run that was going well cannot go on: why, what is kept, what to do."""


def ceil_div(a: int, b: int) -> int:
    """Return `a / b` rounded up."""
    return -(-a // b)


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_positive(config: object, *names: str, largest: int = LARGEST) -> None:
    """Raise `UserError` unless each named field of `config` is in 1 .. `largest`."""
    for name in names:
        _require_within(name, getattr(config, name), 1, largest)


def require_finite_positive(config: object, *names: str) -> None:
    """Raise `UserError` unless each named field is a finite number above 0."""
    for name in names:
        value = getattr(config, name)
        require(
            0 < value < math.inf,
            f"`{name}` must be a finite number above 0: got {value}.",
        )


def require_not_negative(config: object, *names: str) -> None:
    """Raise `UserError` unless each named field of `config` is in 0 .. `LARGEST`."""
    for name in names:
        _require_within(name, getattr(config, name), 0, LARGEST)


def require_seed(seed: int) -> None:
    """Raise `UserError` unless `seed` is in 0 .. 2**32 - 1."""
    require(0 <= seed < SEEDS, f"`seed` must lie in 0 .. {SEEDS - 1}: got {seed}.")


def require_seeds(config: "TrainTRM | TrainGPT") -> None:
    """Raise `UserError` unless `seed` and `seeds` are in range and distinct."""
    for seed in (config.seed, *config.seeds):
        require_seed(seed)
    require(
        len(set(config.seeds)) == len(config.seeds),
        f"`seeds` must be distinct: got {', '.join(map(str, config.seeds))}.",
    )


def require_processes(processes: int) -> None:
    """Raise `UserError` unless so many processes can be started."""
    require(
        1 <= processes <= 1024,
        f"`processes` must be at least 1 and at most 1024: got {processes}.",
    )


def _require_within(name: str, value: int | float, least: int, largest: int) -> None:
    """Raise `UserError` unless `value` is in `least` .. `largest`."""
    require(value >= least, f"`{name}` must be at least {least}: got {value}.")
    require(value <= largest, f"`{name}` must be at most {largest}: got {value}.")


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
    """Return the number of steps that cover `examples`, rounded down.

    Args:
        batches: examples of each step.
        examples: may be a fraction.
    """
    ends = (*batches.firsts[1:], math.inf)
    for first, end, size in zip(batches.firsts, ends, batches.values, strict=True):
        if first + int(examples / size) < end:
            return first + int(examples / size)
        examples -= (end - first) * size
    raise AssertionError("the last value has no end")


def piecewise(name: str, start: T, pairs: Iterable[tuple[int, T]]) -> Piecewise[T]:
    """`start`, then from each first step on the value beside it.

    Of values that begin at the same step the last one holds.

    Raises:
        UserError: if the first steps of the schedule `name` do not ascend.
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
    """The groups of the regular expression `form` in each part of a schedule.

    Raises:
        UserError: if a part has another form.
    """
    parts = text.split(",") if text else []
    found = [re.fullmatch(form, part.strip()) for part in parts]
    for part, match in zip(parts, found, strict=True):
        require(
            match is not None,
            f"`{name}` must have parts with commas between them, like `{like}`: got "
            f"`{part}`. Correct this one.",
        )
    return [match.groups() for match in found if match is not None]


def _batches(config: "TrainTRM | TrainGPT") -> Piecewise[int]:
    """The batch size of each step; what begins within a dispatch begins with the next.

    Raises:
        UserError: if a part has another form, or a size or a step is out of range.
    """
    name, call = "batch_schedule", config.steps_per_call
    parts = _parts(name, config.batch_schedule, r"(\d+):(\d+)", "0:768,20000:3072")
    pairs = [(ceil_div(int(step), call) * call, int(size)) for step, size in parts]
    for _, size in pairs:
        _require_within(name, size, 1, MOST_ROWS)
    return piecewise(name, config.batch_size, pairs)


def _at_batch(config: Config, batch: int) -> tuple[Config, dict[str, int]]:
    """Return the configuration of the steps with this batch, and what to report."""
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[config.batch_lr]
    lr = (batch / config.batch_size) ** power * config.optim.lr
    optim = replace(config.optim, lr=lr)
    plain = replace(config, batch_size=batch, batch_schedule="", optim=optim)
    return plain, {"batch_size": batch} if config.batch_schedule else {}


# -- data ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SudokuExtreme:
    """How puzzle lists in CSV form become a dataset (Sudoku-Extreme by default)."""

    source: str = "sapientinc/sudoku-extreme"
    """A Hugging Face dataset, or a local folder, with `train.csv` and `test.csv`."""

    train_csv: tuple[str, ...] = ()
    """Local CSV files (`.csv` or `.csv.gz`) to train on, instead of `source`."""

    test_csv: tuple[str, ...] = ()
    """Local CSV files to test on, instead of `source`."""

    subsample: int | None = 1000
    """Training puzzles drawn from the source; all of them if None. `subsample-size`."""

    augmentations: int = 1000
    """Symmetric images added to each training puzzle. Officially `num-aug`."""

    min_difficulty: int | None = None
    """Least rating (guesses of the tdoku solver) of a puzzle, in both splits."""

    seed: int = 0
    """Seed of the subsample and of the augmentations (the official draw has none)."""

    def __post_init__(self) -> None:
        require(
            bool(self.train_csv) == bool(self.test_csv),
            "`train_csv` and `test_csv` must be given together: got "
            f"{len(self.train_csv)} and {len(self.test_csv)} files. Give both or none.",
        )
        if self.subsample is not None:
            require_positive(self, "subsample")
        require_not_negative(self, "augmentations")
        require_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class GeneratedSudoku:
    """How small Sudoku are made up: unique solutions, no grid in both splits."""

    size: Literal[4, 6, 9] = 6
    """Rows, columns and digits of a puzzle."""

    train: int = 1000
    """Training puzzles before augmentation."""

    test: int = 1000
    """Test puzzles; their solved grids are none of the training grids."""

    augmentations: int = 0
    """Symmetric images added to each training puzzle."""

    blanks: float = 0.5
    """Share of the cells to leave empty, as far as the solution stays unique."""

    seed: int = 0
    """Seed of the grids, of the cells left empty and of the augmentations."""

    def __post_init__(self) -> None:
        require_positive(self, "train", "test")
        require_not_negative(self, "augmentations")
        require_seed(self.seed)
        require(
            0.0 < self.blanks < 1.0,
            f"`blanks` must lie between 0 and 1: got {self.blanks}.",
        )


@dataclass(frozen=True, kw_only=True)
class MazeHard:
    """How maze lists in CSV form become a dataset (Maze-Hard by default)."""

    source: str = "sapientinc/maze-30x30-hard-1k"
    """A Hugging Face dataset, or a local folder, with `train.csv` and `test.csv`."""

    train_csv: tuple[str, ...] = ()
    """Local CSV files (`.csv` or `.csv.gz`) to train on, instead of `source`."""

    test_csv: tuple[str, ...] = ()
    """Local CSV files to test on, instead of `source`."""

    subsample: int | None = None
    """Training mazes drawn from the source; all of them if None. `subsample-size`."""

    dihedral: bool = True
    """Train on the 8 turned and mirrored images of each maze, as the paper says. The
    official builder makes none unless told to (`aug`)."""

    seed: int = 0
    """Seed of the subsample (the official draw has none)."""

    def __post_init__(self) -> None:
        require(
            bool(self.train_csv) == bool(self.test_csv),
            "`train_csv` and `test_csv` must be given together: got "
            f"{len(self.train_csv)} and {len(self.test_csv)} files. Give both or none.",
        )
        if self.subsample is not None:
            require_positive(self, "subsample")
        require_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class GeneratedMaze:
    """How mazes are made up: random walls, kept where the way is long."""

    size: int = 30
    """Rows and columns."""

    least_path: int = 110
    """Fewest cells of the shortest path, both ends counted (Maze-Hard: 110)."""

    train: int = 1000
    """Training mazes before augmentation."""

    test: int = 1000
    """Test mazes, none of which is an image of a training maze."""

    unique: bool = False
    """Only mazes with one shortest path. (In others the answer is that of Maze-Hard:
    from S, it goes down where it can, else right, else left, else up.)"""

    dihedral: bool = False
    """Train on the 8 turned and mirrored images of each maze."""

    seed: int = 0
    """Seed of the mazes."""

    processes: int = 1
    """Processes that search. The mazes are the same."""

    def __post_init__(self) -> None:
        require_positive(self, "train", "test")
        require_seed(self.seed)
        require_processes(self.processes)
        require(2 <= self.size <= 64, f"`size` must lie in 2 .. 64: got {self.size}.")
        require(
            2 <= self.least_path <= self.size**2 // 2 + self.size,
            f"`least_path` must lie in 2 .. {self.size**2 // 2 + self.size}, about as "
            f"long as paths get in {self.size}x{self.size}: got {self.least_path}.",
        )


@dataclass(frozen=True, kw_only=True)
class ARC:
    """How tasks of the Abstraction and Reasoning Corpus become a dataset."""

    source: str = "kaggle/combined"
    """Folder of `*_SUBSET_challenges.json` and `*_SUBSET_solutions.json`, also gzipped,
    or of folders `SUBSET` with one JSON file a task. The official repository has them
    in this folder."""

    subsets: tuple[str, ...] = ("training", "evaluation", "concept")
    """Sets of tasks to train on. `subsets`."""

    test: tuple[str, ...] = ("evaluation",)
    """Those whose test pairs are tested on instead. `test-set-name`."""

    augmentations: int = 1000
    """Images added to each task, as far as there are so many. Officially `num-aug`."""

    seed: int = 42
    """Seed of the augmentations and of the order of the tasks. `seed`."""

    processes: int = 2
    """Processes that make images; the dataset is the same with any number."""

    def __post_init__(self) -> None:
        missing = [name for name in self.test if name not in self.subsets]
        require(
            bool(self.test) and not missing,
            f"`test` must name some of the subsets {', '.join(self.subsets)}: got "
            f"{', '.join(self.test) or 'none'}.",
        )
        require_not_negative(self, "augmentations")
        require_seed(self.seed)
        require_processes(self.processes)


@dataclass(frozen=True, kw_only=True)
class PuzzleDataConfig:
    """Where the puzzles lie, and how they are made if they are missing."""

    paths: tuple[str, ...] = ("datasets/sudoku-extreme-1k-aug-1000",)
    """Directories in the official format; several are merged. Those of an object store
    (`gs://...`) are copied once to `~/.cache/tiny-recursive-jax`. `data_paths`."""

    build: SudokuExtreme | GeneratedSudoku | MazeHard | GeneratedMaze | ARC | None = (
        field(default_factory=SudokuExtreme)
    )
    """How to make the first path if it is missing. None: stop if it is missing."""

    block: int = 5000
    """Epochs strung together before a partial batch is dropped and the groups are drawn
    anew. Officially the epochs between two evaluations (`epochs_per_iter`)."""

    hints: float = 0.0
    """Share of the training puzzles that are made easier: of the cells to fill in, a
    random part, up to all of them, is given (in the manner of arXiv 2601.10679)."""

    prefetch: int = 2
    """Batches prepared ahead of the device, by one background thread."""

    def __post_init__(self) -> None:
        require(bool(self.paths), "`paths` must name at least one directory: got none.")
        require_positive(self, "block", "prefetch")
        require(
            0.0 <= self.hints <= 1.0, f"`hints` must lie in [0, 1]: got {self.hints}."
        )


@dataclass(frozen=True, kw_only=True)
class Shakespeare:
    """How tiny Shakespeare becomes `train.bin` and `val.bin`, as nanoGPT makes them."""

    tokens: Literal["char", "gpt2"] = "char"
    """One token a character, or GPT-2's byte pairs."""

    input: str = ""
    """A local copy of `input.txt`; empty to download it."""

    bpe_dir: str = ""
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: the folder that
    the environment variable `GPT2_BPE_DIR` names, or else a download."""


@dataclass(frozen=True, kw_only=True)
class OpenWebText:
    """How OpenWebText becomes `train.bin` and `val.bin` of GPT-2 tokens (17 GB)."""

    source: str = "Skylion007/openwebtext"
    """A Hugging Face dataset, or a local folder of one, with a column `text`."""

    bpe_dir: str = ""
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: the folder that
    the environment variable `GPT2_BPE_DIR` names, or else a download."""

    processes: int = 8
    """Processes that read and encode documents."""

    def __post_init__(self) -> None:
        require_processes(self.processes)


@dataclass(frozen=True, kw_only=True)
class FineWeb:
    """How shards of GPT-2 tokens become `train.bin` and `val.bin` (200 MB each)."""

    source: str = "kjj0/fineweb10B-gpt2"
    """A Hugging Face dataset, or a local folder, of `*_train_*.bin` and `*_val_*.bin`
    as `KellerJordan/modded-nanogpt` makes and reads them."""

    shards: int = 18
    """Shards to train on, the first ones: 1.8 billion tokens."""

    bpe_dir: str = ""
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: the folder that
    the environment variable `GPT2_BPE_DIR` names, or else a download."""

    def __post_init__(self) -> None:
        require_positive(self, "shards")


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """How text files of one's own become `train.bin` and `val.bin`."""

    input: tuple[str, ...] = ()
    """Files of UTF-8 text, also gzipped (`.gz`), joined in this order."""

    val_input: tuple[str, ...] = ()
    """Files to validate on. Default: the last tenth of the characters of `input`."""

    tokens: Literal["char", "gpt2"] = "gpt2"
    """One token a character, or GPT-2's byte pairs."""

    bpe_dir: str = ""
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: the folder that
    the environment variable `GPT2_BPE_DIR` names, or else a download."""

    processes: int = 1
    """Processes that encode."""

    def __post_init__(self) -> None:
        require(bool(self.input), "`input` must name at least one file: got none.")
        require_processes(self.processes)


@dataclass(frozen=True, kw_only=True)
class TextDataConfig:
    """Where the text lies, and how it is made if it is missing."""

    path: str = "datasets/openwebtext"
    """Folder of `train.bin` and `val.bin` (uint16 tokens), nanoGPT's own included.
    `dataset`."""

    build: Shakespeare | OpenWebText | FineWeb | TextFiles | None = field(
        default_factory=OpenWebText
    )
    """How to make the folder if it is missing. None: stop if it is missing."""

    prefetch: int = 2
    """Batches prepared ahead of the device, by one background thread."""

    def __post_init__(self) -> None:
        require_positive(self, "prefetch")


# -- models ----------------------------------------------------------------------------


Activation = Literal["gelu", "gelu_tanh", "relu2", "swiglu"]


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A GPT-2 (Radford et al. 2019) as nanoGPT writes it, unless told otherwise.

    Options are nanoGPT's, but for those of what the field has learnt since.
    """

    n_layer: int = 12
    """Blocks."""

    n_head: int = 12
    """Attention heads; must divide `n_embd`."""

    n_embd: int = 768
    """Width of every position."""

    block_size: int = 1024
    """Longest sequence, and the length of the sequences trained on."""

    vocab_size: int | None = None
    """Rows of the token embedding. None: the tokens of the data; 50,304 where these are
    GPT-2's 50,257 (nanoGPT's padding: a multiple of 64 is faster). Rows beyond the
    data's tokens are never sampled."""

    dropout: float = 0.0
    """Probability of dropping an entry: embeddings, attention weights, residuals."""

    bias: bool = False
    """Whether linear layers and LayerNorms have biases (GPT-2's own: yes)."""

    activation: Activation = "gelu"
    """`gelu`: exact (nanoGPT). `gelu_tanh`: the approximation that OpenAI used; taken
    from the folder when weights are loaded. `relu2`: squared (arXiv 2109.08668).
    `swiglu`: gated (arXiv 2002.05202), as many weights, a multiple of 64 wide."""

    positions: Literal["learned", "rope"] = "learned"
    """`learned`: added to the tokens (GPT-2). `rope`: queries and keys are turned by
    them (arXiv 2104.09864)."""

    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""

    norm: Literal["layer", "rms"] = "layer"
    """`layer`: LayerNorm with weights (GPT-2). `rms`: division by the root mean square
    (arXiv 1910.07467), without weights."""

    qk_norm: bool = False
    """Divide each query and key by its root mean square (arXiv 2010.04245)."""

    zero_init: bool = False
    """Begin with zeros in the output projections of attention, of feed-forward layers
    and in a head of its own, instead of small numbers."""

    tied_head: bool = True
    """Whether the head is the token embedding (GPT-2: yes)."""

    logit_cap: float = 0.0
    """Bend logits by a hyperbolic tangent so that they stay within this (arXiv
    2408.00118); 0 for no bend."""

    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """Kernel of attention. `auto`: cuDNN on an NVIDIA GPU in 16 bits, splash (Pallas)
    on a TPU for multiples of 128 positions and for 512 or more, XLA elsewhere and where
    attention has dropout."""

    unroll: int | None = None
    """Blocks compiled in a row: 1 compiles fast, `n_layer` runs fast. None: all of them
    on a GPU, where a loop copies what each block keeps for its gradient (36 to 28 ms a
    step of GPT-2 on an H200, which compiles in 20 s); elsewhere 1."""

    remat: bool = False
    """Keep only the input of each block for the backward pass and compute the rest
    again: less memory, a third more work."""

    loss_chunk: int = 2048
    """Most tokens whose logits stand in memory at once."""

    def __post_init__(self) -> None:
        require_positive(self, "n_layer", "n_head", "n_embd", largest=MOST_STEPS)
        require_positive(self, "block_size", "loss_chunk")
        given = (n for n in ("vocab_size", "unroll") if getattr(self, n) is not None)
        require_positive(self, *given)
        require(
            self.n_embd % self.n_head == 0,
            f"`n_head` must divide `n_embd`: got n_embd={self.n_embd}, "
            f"n_head={self.n_head}. Use n_embd="
            f"{self.n_embd // self.n_head * self.n_head or self.n_head} or "
            f"n_embd={ceil_div(self.n_embd, self.n_head) * self.n_head}.",
        )
        require(
            0.0 <= self.dropout < 1.0,
            f"`dropout` must lie in [0, 1): got {self.dropout}.",
        )
        require_finite_positive(self, "rope_theta")
        require_not_negative(self, "logit_cap")
        require(
            self.positions != "rope" or self.head_dim % 2 == 0,
            f"RoPE needs an even head width: got {self.head_dim}. Change `n_head`.",
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def ups(self) -> int:
        """Matrices into the feed-forward layer: SwiGLU has a gate besides."""
        return 2 if self.activation == "swiglu" else 1

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer."""
        wide = 8 * self.n_embd // (1 + self.ups)
        return wide if self.ups == 1 else ceil_div(wide, 64) * 64


@dataclass(frozen=True, kw_only=True)
class TRMConfig:
    """A Tiny Recursive Model (arXiv 2510.04871) or one of its relatives."""

    variant: Literal["trm", "single_z", "hier6", "hrm", "transformer", "eqr"] = "trm"
    """What is refined, and how. Officially a model class each (`arch`)."""

    mixer: Literal["attention", "mlp", "units"] = "mlp"
    """How positions exchange information. `mlp` is officially `mlp_t=True`. `units`:
    a cell of a Sudoku sees the means of its row, its column and its box."""

    symbols: bool = False
    """Give each digit of each cell of a Sudoku a position of its own, so that renaming
    digits changes nothing (needs `mixer=units`)."""

    positions: Literal["rope", "learned", "none"] = "none"
    """How attention tells positions apart. `pos_encodings`."""

    dim: int = 512
    """Width of every position. D in the paper, `hidden_size` officially."""

    heads: int = 8
    """Attention heads; must divide `dim`. `num_heads`."""

    expansion: float = 4.0
    """Feed-forward width over `dim`, before SwiGLU's 2/3 and rounding. `expansion`."""

    inner_multiple: int = 256
    """Inner widths are rounded up to a multiple of it. Officially always 256."""

    gate: Literal["silu", "normed"] = "silu"
    """Inside of the feed-forward layers: SwiGLU, or SwiGLU with a norm, which lets Muon
    take a high rate (arXiv 2601.19085)."""

    layers: int = 2
    """Blocks of the network; of HRM's fast one. `L_layers`; of the transformer baseline
    `H_layers`."""

    H_layers: int | None = None
    """Blocks of HRM's slow network. None: as many as `layers`. `H_layers`."""

    H_cycles: int = 3
    """Deep-recursion cycles a supervision step; the last has gradient. T."""

    L_cycles: int = 6
    """Refinements of z in one cycle. n in the paper, `L_cycles` officially."""

    prefix: int = 16
    """Positions in front of the puzzle, filled from the puzzle table. `puzzle_emb_len`.
    HRM and the transformer baseline officially take ceil(`puzzle_dim` / `dim`)."""

    puzzle_dim: int = 512
    """Width of a row of the puzzle table; 0 for no table. `puzzle_emb_ndim`."""

    rope_theta: float = 10000.0
    """Base of the rotary frequencies. `rope_theta`."""

    norm_eps: float = 1e-5
    """Added to the mean square inside RMSNorm. `rms_norm_eps`."""

    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """Kernel of attention. `auto`: cuDNN on an NVIDIA GPU in bfloat16, splash (Pallas)
    on a TPU for multiples of 128 positions and for 512 or more, else XLA."""

    def __post_init__(self) -> None:
        require_positive(self, "dim", "heads", "layers", largest=MOST_STEPS)
        require_positive(self, "H_cycles", "L_cycles", largest=MOST_STEPS)
        if self.H_layers is not None:
            require_positive(self, "H_layers", largest=MOST_STEPS)
            require(
                self.variant == "hrm",
                f"`H_layers` is for `variant=hrm`, which has two networks: got "
                f"H_layers={self.H_layers} for {self.variant}. Use `layers`.",
            )
        require_positive(self, "inner_multiple", largest=MOST_STEPS)
        require(
            not self.symbols or (self.mixer == "units" and self.positions == "none"),
            "`symbols` needs mixer=units and positions=none: got "
            f"mixer={self.mixer}, positions={self.positions}. Use these.",
        )
        for name in ("expansion", "rope_theta", "norm_eps"):
            require_finite_positive(self, name)
        require(
            1 <= self.expansion * self.dim * 2 / 3 <= MOST_ROWS,
            f"`expansion` must give the feed-forward layer a width of 1 to {MOST_ROWS}:"
            f" got {self.expansion} for dim={self.dim}. Use 4.",
        )
        require(
            self.mixer != "attention" or self.dim % self.heads == 0,
            f"`heads` must divide `dim`: got dim={self.dim}, heads={self.heads}. "
            f"Use dim={self.dim // self.heads * self.heads or self.heads} or "
            f"dim={ceil_div(self.dim, self.heads) * self.heads}.",
        )
        require(
            self.mixer == "attention" or self.positions != "rope",
            "`positions=rope` needs `mixer=attention`: others have no queries to turn. "
            "Use positions=none or learned.",
        )
        require(
            self.positions != "rope" or self.head_dim % 2 == 0,
            f"RoPE needs an even head width: got {self.head_dim}. Change `heads`.",
        )
        require(
            0 <= self.puzzle_dim <= self.prefix * self.dim,
            f"`puzzle_dim` must lie between 0 and prefix * dim = "
            f"{self.prefix * self.dim}: got {self.puzzle_dim}.",
        )
        require(
            self.puzzle_dim > 0 or self.prefix == 0,
            f"`prefix` positions are filled from the puzzle table: got "
            f"prefix={self.prefix} with puzzle_dim=0. Use prefix=0.",
        )
        require(
            self.variant != "hier6" or self.L_cycles <= 6,
            f"hier6 has six scratchpads, one a refinement: got "
            f"L_cycles={self.L_cycles}. Use at most 6.",
        )
        require(
            self.variant != "transformer" or self.H_cycles == 1,
            f"the transformer baseline is one call a step: got "
            f"H_cycles={self.H_cycles}. Use H_cycles=1.",
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads


@dataclass(frozen=True, kw_only=True)
class ACTConfig:
    """Adaptive computation time: how many supervision steps a puzzle gets."""

    max_steps: int = 16
    """Supervision steps after which a puzzle is forced to halt. N_sup in the paper,
    `halt_max_steps` officially."""

    exploration: float = 0.1
    """Probability of demanding a random least number of steps, drawn for each row at
    each training step. `halt_exploration_prob`."""

    halt: Literal["positive", "compare", "never"] = "positive"
    """When a row may halt early in training: `positive`: q_halt > 0 (TRM). `compare`:
    q_halt > q_continue (HRM). `never`: `act_enabled=False` of the baseline."""

    continue_loss: bool = False
    """Train q_continue by Q-learning, one more forward a step (HRM; goes with
    `halt=compare`). Officially `no_ACT_continue=False`."""

    loss: Literal["stablemax", "softmax"] = "stablemax"
    """Cross-entropy over the vocabulary. `loss_type`."""

    label_smoothing: float = 0.0
    """Share of each cell's target that is spread evenly over the vocabulary."""

    q_weight: float = 0.5
    """Weight of the halting head's loss beside that of the cells. Officially 0.5."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", largest=MOST_STEPS)
        require(
            0.0 <= self.label_smoothing < 1.0,
            f"`label_smoothing` must lie in [0, 1): got {self.label_smoothing}.",
        )
        require_not_negative(self, "q_weight")
        require(
            not self.continue_loss or self.halt == "compare",
            f"`continue_loss` needs `halt=compare`, which uses what it trains: got "
            f"halt={self.halt}.",
        )
        require(
            0.0 <= self.exploration <= 1.0,
            f"`exploration` is a probability: got {self.exploration}.",
        )


# -- optimization ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The update of a model's parameters."""

    name: Literal["adam_atan2", "adamw"] = "adam_atan2"
    """Update rule. TRM's official code uses AdamATan2, the paper's text says AdamW."""

    lr: float = 1e-4
    """Peak learning rate. `lr`; nanoGPT's `learning_rate`."""

    warmup: int = 2000
    """Updates of linear warm-up. `lr_warmup_steps`; nanoGPT's `warmup_iters`."""

    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up. `cosine`: down to the end. `wsd`: stable, then linear decay
    (arXiv 2404.06395)."""

    min_ratio: float = 1.0
    """Final over peak rate; 1 keeps it. `lr_min_ratio`; nanoGPT's
    `min_lr / learning_rate`."""

    decay_share: float = 0.4
    """Share of the updates, at the end, in which `wsd` decays."""

    weight_decay: float = 1.0
    """Decoupled decay, times the rate. `weight_decay`."""

    decay: Literal["all", "matrices"] = "all"
    """What decays: every parameter (TRM), or those of two or more axes (nanoGPT)."""

    beta1: float = 0.9
    """Decay of the first moment. `beta1`."""

    beta2: float = 0.95
    """Decay of the second moment. `beta2`."""

    eps: float = 1e-8
    """Added to the root of the second moment; AdamW only (AdamATan2 has none)."""

    clip: float = 0.0
    """Largest global norm of a gradient; 0 for no clipping. nanoGPT's `grad_clip`."""

    ema: float = 0.999
    """Decay of the averaged weights that are evaluated; 0 for none. `ema_rate`."""

    muon: bool = False
    """Update the matrices of hidden layers by Muon (Jordan 2024), and by `name` only
    the rest: embeddings, heads, vectors."""

    muon_rate: float = 1.0
    """Rate of these matrices, and of their decay, over that of the rest. Their updates
    have the size of Adam's: a root mean square of 0.2 (arXiv 2502.16982)."""

    muon_momentum: float = 0.95
    """Decay of Muon's momentum."""

    muon_nesterov: bool = True
    """Whether the momentum is Nesterov's: the newest gradient counts once more."""

    muon_steps: int = 5
    """Newton-Schulz steps of an update: with fewer, small singular values stay small,
    and an update takes less time."""

    def __post_init__(self) -> None:
        require_finite_positive(self, "lr", "eps")
        require(
            0.0 <= self.min_ratio <= 1.0,
            f"`min_ratio` must lie in [0, 1]: got {self.min_ratio}.",
        )
        require(
            0.0 < self.decay_share <= 1.0,
            f"`decay_share` must lie in (0, 1]: got {self.decay_share}.",
        )
        for name in ("ema", "beta1", "beta2", "muon_momentum"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"`{name}` must lie in [0, 1): got {value}.")
        require_not_negative(self, "warmup", "weight_decay", "clip")
        require_finite_positive(self, "muon_rate")
        require_positive(self, "muon_steps", largest=100)


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """The update of the puzzle table: SignSGD on the rows that a batch touches."""

    lr: float = 1e-4
    """Peak learning rate, warmed up and decayed like the network's. `puzzle_emb_lr`."""

    weight_decay: float = 1.0
    """Decay of the touched rows, times the rate. `puzzle_emb_weight_decay`."""

    def __post_init__(self) -> None:
        require_not_negative(self, "lr", "weight_decay")


# -- machines and runs -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The device mesh. The batch is split over both axes, parameters over `model`."""

    data: int | None = None
    """Size of the `data` axis. None: all devices that `model` leaves."""

    model: int = 1
    """Size of the `model` axis, over which parameters, averages and optimizer state are
    split (gathered once a step)."""

    distributed: bool = False
    """Join the other processes of this run first (`jax.distributed.initialize`). A TPU
    pod, Slurm, MPI and Kubernetes tell JAX the rest; elsewhere give the next three."""

    coordinator: str = ""
    """`HOST:PORT` of the first process, if no cluster tells it."""

    processes: int | None = None
    """Processes of the run, if no cluster tells it."""

    process: int | None = None
    """Number of this process, from 0, if no cluster tells it."""

    def __post_init__(self) -> None:
        require_positive(self, "model")
        for name in ("data", "processes"):
            if getattr(self, name) is not None:
                require_positive(self, name)
        given = (self.coordinator or None, self.processes, self.process)
        told = sum(value is not None for value in given)
        require(
            told in (0, 3) and (told == 0 or self.distributed),
            "`coordinator`, `processes` and `process` go together, and with "
            f"`distributed`: got {self.coordinator!r}, {self.processes}, "
            f"{self.process}, distributed={self.distributed}. Give all or none.",
        )
        require(
            self.process is None or 0 <= self.process < (self.processes or 0),
            f"`process` must lie in 0 .. processes - 1: got {self.process} of "
            f"{self.processes}.",
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """When and how the test split is evaluated (on the averaged weights)."""

    epochs: float = 5000.0
    """Epochs of training between two evaluations; always one at the end.
    `eval_interval`."""

    puzzles: int | None = 10000
    """Puzzles of the evaluations on the way, the first ones; None for all. (The
    recipe's full evaluations cost 45 % of its compute.)"""

    final_puzzles: int | None = None
    """Puzzles of the last evaluation; None for all."""

    batch_size: int | None = None
    """Puzzles evaluated at once, over all devices. None: the training batch."""

    mode: Literal["fixed", "halt"] = "fixed"
    """`fixed`: `max_steps` for every puzzle (official). `halt`: a puzzle stops by the
    rule of training."""

    def __post_init__(self) -> None:
        require_finite_positive(self, "epochs")
        for name in ("puzzles", "final_puzzles"):
            if getattr(self, name) is not None:
                require_positive(self, name)
        if self.batch_size is not None:
            require_positive(self, "batch_size", largest=MOST_ROWS)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Files and reports of a run. May differ when a run is continued."""

    log_every: int = 50
    """Steps between two lines of metrics."""

    save_every: int = 1000
    """Steps between two checkpoints; also after each evaluation and on SIGTERM."""

    save: Literal["always", "best"] = "always"
    """`best`: only an evaluation as good as the best so far saves, and the end of the
    run. nanoGPT's `always_save_checkpoint`."""

    eval_only: bool = False
    """Evaluate the newest checkpoint of the run directory, or the weights of
    `init_from`, on all there is, and stop. The run is left as it is. `eval_only`."""

    keep_last: int = 2
    """Newest checkpoints to keep."""

    keep_best: int = 1
    """Best evaluated checkpoints to keep besides; 0 for none."""

    keep_every: int = 0
    """Keep each checkpoint whose step is a multiple of this; 0 for none."""

    wandb: str = ""
    """Weights & Biases project to report to; empty for none (extra `wandb`)."""

    tensorboard: bool = False
    """Write TensorBoard events beside the metrics (extra `tensorboard`)."""

    profile: str = ""
    """`FIRST:COUNT`: write a trace of so many steps, from step FIRST on (the first of a
    run is 1), into the folder `profile` of the run. Empty for none."""

    compilation_cache: str | None = "~/.cache/tiny-recursive-jax"
    """Folder of compiled programs kept between runs; None for none. The variable
    `JAX_COMPILATION_CACHE_DIR` goes before it."""

    def __post_init__(self) -> None:
        require_positive(self, "log_every", "save_every", "keep_last")
        require_not_negative(self, "keep_best", "keep_every")
        require(
            re.fullmatch("([1-9][0-9]{0,9}:[1-9][0-9]{0,9})?", self.profile)
            is not None,
            "`profile` must be FIRST:COUNT, two numbers above 0: got "
            f"{self.profile!r}. Use 20:5 for the steps 20 to 24.",
        )

    @property
    def profiled(self) -> range:
        """Numbers of the steps to trace."""
        if not self.profile:
            return range(0)
        first, count = map(int, self.profile.split(":"))
        return range(first, first + count)


@dataclass(frozen=True, kw_only=True)
class TrainTRM:
    """One training run of a Tiny Recursive Model: all that decides its numbers."""

    batch_size: int = 768
    """Puzzles in flight, over all devices. `global_batch_size`."""

    batch_schedule: str = ""
    """Batch sizes from certain steps on, as `0:768,20000:3072`; before the first, and
    throughout if empty, `batch_size`."""

    batch_lr: Literal["none", "sqrt", "linear"] = "none"
    """Factor of the learning rate while the batch is another than `batch_size`: none,
    their quotient, or its root. (Not of the puzzle table's: a row is updated as often.)
    """

    epochs: float = 50000.0
    """Passes over the groups of puzzles; an epoch shows one image of each. `epochs`."""

    seed: int = 0
    """Seed of the weights, the data's order and the exploration. `seed`."""

    seeds: tuple[int, ...] = ()
    """Train once per seed, one after the other, into RUN/seed<N>. Empty: `seed` alone.
    """

    loop: Literal["stream", "episode"] = "stream"
    """`stream`: one update a batch, halted rows refilled (official code). `episode`:
    updates on one batch until all its rows halt or `max_steps` (paper, figure 3)."""

    supervision_steps: int = 1
    """Supervision steps whose mean gradient makes one update (`stream` only)."""

    accumulation: int = 1
    """Slices of the batch that go through the network one after another, to save
    memory. The update is the same."""

    steps_per_call: int = 1
    """Updates made by one dispatch to the devices (`stream` only). The run's length is
    rounded up to a multiple of it, so that one program serves all."""

    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type; parameters, losses and norms are float32. `forward_dtype`."""

    init_from: str = "scratch"
    """First weights: `scratch`; the directory of another run; or an official
    checkpoint, a file, a folder, or `owner/name` on the Hugging Face hub. The model is
    then theirs. `load_checkpoint`."""

    init_table: Literal["keep", "mean", "zeros"] = "keep"
    """The puzzle table that goes with them. `keep`: theirs if it has as many rows as
    the data have puzzles, else as `mean` (official). `mean`: all rows the mean of
    theirs. `zeros`: a fresh one."""

    freeze: bool = False
    """Train the puzzle table alone; the network stays as it is. `freeze_weights`."""

    depth_schedule: str = ""
    """`H_cycles`x`L_cycles` of training from certain steps or shares of the run on, as
    `0:1x2,30%:2x4,60%:3x6` (CGAR, arXiv 2511.08653). Before the first, throughout if
    empty, and in every evaluation: those of `model`."""

    run_dir: str = ""
    """Folder of the run; the same command on it continues the run. Empty:
    `runs/<preset>-<time>`."""

    model: TRMConfig = field(default_factory=TRMConfig)
    act: ACTConfig = field(default_factory=ACTConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    table: TableConfig = field(default_factory=TableConfig)
    data: PuzzleDataConfig = field(default_factory=PuzzleDataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        require_positive(self, "batch_size", "accumulation", largest=MOST_ROWS)
        require_positive(
            self, "supervision_steps", "steps_per_call", largest=MOST_STEPS
        )
        require_finite_positive(self, "epochs")
        require_seeds(self)
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
            not self.freeze or self.model.puzzle_dim > 0 or self.init_from != "scratch",
            "`freeze` trains the puzzle table alone: got puzzle_dim=0, no table. Train "
            "with freeze=False.",
        )
        for *_, depth in self._depth_parts:
            self.model_at(depth)

    @property
    def batches(self) -> Piecewise[int]:
        """The batch size of each step."""
        return _batches(self)

    def phases(self, total: int) -> list[tuple[int, "TrainTRM", dict[str, int]]]:
        """Return the plain configurations that a run of `total` steps goes through.

        Each with its first step and the values to report with its metrics. None has a
        schedule of batches; a schedule of depths has one depth left.
        """
        batches, depths, phases = self.batches, self.depths(total), []
        for first in sorted({*batches.firsts, *depths.firsts}):
            plain, values = _at_batch(self, batches.at(first))
            if self.depth_schedule:
                high, low = depths.at(first)
                plain = replace(plain, depth_schedule=f"0:{high}x{low}")
                values |= {"H_cycles": high, "L_cycles": low}
            phases.append((first, plain, values))
        return [phase for phase in phases if phase[0] <= total]

    def depths(self, total: int) -> Piecewise[tuple[int, int]]:
        """`H_cycles` and `L_cycles` at each step of a run of `total` steps.

        What begins within a dispatch begins with the next one.

        Raises:
            UserError: if the steps do not ascend.
        """
        call, pairs = self.steps_per_call, []
        for place, percent, depth in self._depth_parts:
            step = Fraction(place) * total / 100 if percent else Fraction(place)
            pairs.append((math.ceil(step / call) * call, depth))
        start = self.model.H_cycles, self.model.L_cycles
        return piecewise("depth_schedule", start, pairs)

    @property
    def deepest(self) -> tuple[int, int]:
        """`H_cycles` and `L_cycles` of training where it recurses the most."""
        parts = self._depth_parts
        depths = [depth for *_, depth in parts]
        if not parts or float(parts[0][0]) > 0:
            depths.append((self.model.H_cycles, self.model.L_cycles))
        return max(depths, key=lambda depth: (math.prod(depth), depth[1]))

    def model_at(self, depth: tuple[int, int]) -> TRMConfig:
        """The model with other `H_cycles` and `L_cycles`."""
        return replace(self.model, H_cycles=depth[0], L_cycles=depth[1])

    @property
    def _depth_parts(self) -> list[tuple[str, str, tuple[int, int]]]:
        """Where each depth begins, whether that is `%` of the run, and the depth."""
        form = r"(\d+(?=:)|\d+(?:\.\d+)?(?=%))(%?):(\d+)x(\d+)"
        parts = _parts("depth_schedule", self.depth_schedule, form, "0:1x2,30%:2x4")
        return [(at, unit, (int(high), int(low))) for at, unit, high, low in parts]


@dataclass(frozen=True, kw_only=True)
class TextEvalConfig:
    """When and how the loss on both splits is estimated."""

    interval: int = 2000
    """Steps between two evaluations; always one at the end. `eval_interval`."""

    iters: int = 200
    """`microbatch_size` sequences of each split are evaluated so many times; they are
    drawn once and are the same at every evaluation, on any mesh. `eval_iters`."""

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
class TrainGPT:
    """One training run of a GPT: all that decides its numbers."""

    batch_size: int = 480
    """Sequences of an update, over all devices. `batch_size` times
    `gradient_accumulation_steps`."""

    batch_schedule: str = ""
    """Batch sizes from certain steps on, as `0:768,20000:3072`; before the first, and
    throughout if empty, `batch_size`."""

    batch_lr: Literal["none", "sqrt", "linear"] = "none"
    """Factor of the learning rate while the batch is another than `batch_size`: none,
    their quotient, or its root."""

    microbatch_size: int = 12
    """Most sequences that a device takes through the model at once; their gradients are
    added up. `batch_size`."""

    max_iters: int = 600000
    """Updates. `max_iters` (which makes one more)."""

    lr_decay_iters: int | None = None
    """Updates over which the rate decays. None: all. `lr_decay_iters`."""

    init_from: str = "scratch"
    """First weights: `scratch`; the directory of another run; `gpt2`, `gpt2-medium`,
    `gpt2-large` or `gpt2-xl` from the Hugging Face hub; a local folder of such a model;
    a `ckpt.pt` of nanoGPT. The model is then theirs. With `resume` there must be a run
    to go on with. `init_from`."""

    seed: int = 1337
    """Seed of the weights, the data's order and dropout."""

    seeds: tuple[int, ...] = ()
    """Train once per seed, one after the other, into RUN/seed<N>. Empty: `seed` alone.
    """

    steps_per_call: int = 1
    """Updates made by one dispatch to the devices; must divide `max_iters`."""

    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Compute type; parameters, losses and norms are float32. `float16` scales the loss
    as `GradScaler` does. `dtype`."""

    run_dir: str = ""
    """Folder of the run; the same command on it continues the run. Empty:
    `runs/<preset>-<time>`. `out_dir`."""

    model: GPTConfig = field(default_factory=GPTConfig)
    optim: OptimConfig = ADAMW
    data: TextDataConfig = field(default_factory=TextDataConfig)
    eval: TextEvalConfig = field(default_factory=TextEvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        require_positive(self, "batch_size", "microbatch_size", largest=MOST_ROWS)
        require_positive(self, "max_iters")
        require_positive(self, "steps_per_call", largest=MOST_STEPS)
        require_seeds(self)
        if self.lr_decay_iters is not None:
            require_positive(self, "lr_decay_iters")
        require(
            self.max_iters % self.steps_per_call == 0,
            f"`steps_per_call` must divide `max_iters`: got max_iters="
            f"{self.max_iters}, steps_per_call={self.steps_per_call}.",
        )
        require(bool(self.init_from), "`init_from` must not be empty. Use `scratch`.")
        assert self.batches  # or it says why not

    @property
    def batches(self) -> Piecewise[int]:
        """The batch size of each step."""
        return _batches(self)

    def phases(self, total: int) -> list[tuple[int, "TrainGPT", dict[str, int]]]:
        """Return the plain configurations that a run of `total` steps goes through.

        Each with its first step and the values to report with its metrics.
        """
        firsts = [first for first in self.batches.firsts if first <= total]
        return [(first, *_at_batch(self, self.batches.at(first))) for first in firsts]


MAY_CHANGE = (
    *("run_dir", "mesh", "run", "eval"),
    *("epochs", "max_iters", "accumulation", "microbatch_size"),
    *("data.paths", "data.path", "data.build", "data.prefetch"),
    *("model.attention", "model.unroll", "model.remat", "model.loss_chunk"),
)
"""Settings in which a continued run may differ from its beginning. The data must be the
same wherever they lie; a longer run follows the schedule of its new length."""

EVALUATION_MAY_CHANGE = ("act.max_steps",)
"""Settings of model and halting in which an evaluation alone may differ, besides."""
