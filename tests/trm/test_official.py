"""What model a checkpoint holds, told by names and shapes alone."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from configs import TRMConfig, UserError
from tests.golden import CASES, FOLDER, Golden
from tests.official import STYLES, options_of, weights_of
from train.presets import TRM_PRESETS
from trm.build import build_trm
from trm.official.all_config import all_config, train_config
from trm.official.infer import Given, infer
from trm.official.names import TABLE, to_official


def official(config: TRMConfig, vocab: int, seq: int) -> dict[str, np.ndarray]:
    """Zero weights of a model by official names."""
    build = lambda: build_trm(config, vocab=vocab, seq=seq, key=jax.random.key(0))
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(build))
    weights = to_official(zeros, config)
    if config.puzzle_dim:
        weights[TABLE] = np.zeros((3, config.puzzle_dim), np.float32)
    return weights


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", [*CASES, "trm_attention_bfloat16"])
def test_golden_cases(name: str, style: str) -> None:
    golden = Golden(name)
    found = infer(weights_of(golden, style), options_of(golden), Given(seq=16))
    layers = 2 if found.config.variant == "hrm" else None
    assert found.config == replace(golden.config, H_layers=layers)
    assert (found.vocab, found.seq, found.puzzles) == (6, 16, 7)
    assert found.prefix == style
    assert found.notes == ()
    config = train_config(found.config, found.options)
    assert config.act == golden.act
    assert config.optim == golden.optim
    assert config.precision == golden.options["forward_dtype"]
    assert config.batch_size == golden.batch_size


@pytest.mark.parametrize("name", CASES)
def test_without_options_what_was_taken_is_told(name: str) -> None:
    """Nothing of what names and shapes do say is among it."""
    golden = Golden(name)
    found = infer(weights_of(golden), {})
    told = {note.split("=")[0] for note in found.notes}
    unknown = ("heads", "H_cycles", "L_cycles", "positions", "prefix")
    assert told <= {*unknown, "seq"}
    taken = {name: getattr(found.config, name) for name in unknown}
    expected = replace(golden.config, **taken)
    layers = 2 if golden.config.variant == "hrm" else None
    assert found.config == replace(expected, H_layers=layers)
    if name in ("trm_mlp", "trm_learned_positions"):
        assert (found.seq, found.config.prefix) == (16, 3), "19 positions"
    if name == "trm_learned_positions":
        assert found.config.positions == "learned"


OURS = ("sudoku-easy", "sudoku-9x9", "sudoku-small", "sudoku-fast")
"""Presets of models that the official code does not have."""


@pytest.mark.parametrize(
    "name",
    [name for name in TRM_PRESETS if name.startswith("sudoku") and name not in OURS],
)
def test_presets_are_told_without_options(name: str) -> None:
    """Full-size models, but for their heads of which there are the usual ones."""
    config = TRM_PRESETS[name][1].model
    found = infer(official(config, 11, 81), {}, Given(seq=81))
    layers = config.layers if config.variant == "hrm" else None
    cycles = {}
    if config.variant == "transformer":
        cycles = {"L_cycles": 1}  # it makes none
    assert found.config == replace(config, H_layers=layers, **cycles)
    assert found.seq == 81


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "hrm", "layers": 3, "H_layers": 1, "puzzle_dim": 32, "prefix": 1},
        {"variant": "transformer", "layers": 5, "H_cycles": 1, "L_cycles": 1},
        {"variant": "hier6", "L_cycles": 6},
        {"variant": "eqr", "prefix": 0, "puzzle_dim": 0},
        {"variant": "eqr", "prefix": 0, "puzzle_dim": 0, "mixer": "mlp"}
        | {"positions": "none"},
        {"mixer": "mlp", "positions": "learned"},
        {"expansion": 1.0},
        {"expansion": 9.5, "dim": 100, "heads": 5, "puzzle_dim": 100},
        {"expansion": 20.0, "mixer": "mlp", "positions": "none"},
        {"prefix": 0, "puzzle_dim": 0},
        {"puzzle_dim": 48, "prefix": 2},
    ],
)
def test_other_models(changes: dict[str, Any]) -> None:
    usual = TRMConfig(mixer="attention", positions="rope", dim=32, heads=4)
    config = replace(usual, **({"puzzle_dim": 32, "prefix": 1} | changes))
    weights = official(config, 11, 81)
    given = Given(
        heads=config.heads,
        H_cycles=config.H_cycles,
        L_cycles=config.L_cycles,
        prefix=config.prefix,
        seq=81,
    )
    found = infer(weights, {}, given).config
    same = replace(found, expansion=config.expansion)
    assert same == config
    again = official(found, 11, 81)
    shapes = lambda named: {name: array.shape for name, array in named.items()}
    assert shapes(again) == shapes(weights), "an expansion that gives these widths"


def test_a_given_setting_goes_before_the_options() -> None:
    golden = Golden("trm_attention")
    found = infer(
        weights_of(golden), options_of(golden), Given(seq=16, heads=4, L_cycles=9)
    )
    assert (found.config.heads, found.config.L_cycles) == (4, 9)
    assert found.config.H_cycles == 3, "by the options"


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("trm_attention", "hidden_size", 64),
        ("trm_attention", "mlp_t", True),
        ("trm_mlp", "mlp_t", False),
        ("trm_mlp", "L_layers", 7),
        ("trm_mlp", "puzzle_emb_ndim", 0),
        ("trm_mlp", "expansion", 99.0),
        ("hrm", "H_layers", 1),
        ("transformer", "H_layers", 1),
    ],
)
def test_options_that_contradict_the_arrays(
    name: str, option: str, value: object
) -> None:
    """The arrays are right."""
    golden = Golden(name)
    options = options_of(golden)
    expected = infer(weights_of(golden), options, Given(seq=16))
    options["arch"] |= {option: value}
    with pytest.warns(UserWarning, match=rf"contradicts .*{option}={value} \("):
        found = infer(weights_of(golden), options, Given(seq=16))
    expansion = expected.config.expansion  # several give the same widths
    assert replace(found.config, expansion=expansion) == expected.config


def test_defaults_of_the_configured_model_of_the_same_kind() -> None:
    golden = Golden("trm_attention")
    default = replace(golden.config, L_cycles=11)
    assert infer(weights_of(golden), {}, default=default).config.L_cycles == 11
    other = replace(default, mixer="mlp", positions="none")
    assert infer(weights_of(golden), {}, default=other).config.L_cycles == 4


def test_options_there_and_back() -> None:
    for name in ("sudoku", "sudoku-attention", "sudoku-hrm", "sudoku-transformer"):
        config = TRM_PRESETS[name][1]
        data = replace(config.data, build=None)
        again = train_config(config.model, all_config(config))
        kept = replace(config.eval, epochs=again.eval.epochs)
        assert again == replace(config, data=data, eval=kept)


def without(weights: dict[str, np.ndarray], *ends: str) -> dict[str, np.ndarray]:
    return {n: a for n, a in weights.items() if not n.endswith(ends)}


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (("embed_tokens.embedding_weight",), "embed_tokens"),
        (("_init",), "a network without fixed first latents"),
        (("proj.weight",), "no network"),
    ],
)
def test_names_of_no_trm(ends: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        infer(without(weights_of(Golden("trm_mlp")), *ends), {})


def test_names_of_a_gpt() -> None:
    weights = {"transformer.wte.weight": np.zeros((3, 2), np.float32)}
    with pytest.raises(UserError, match=r"`transformer\.wte"):
        infer(weights, {})


def test_mixed_prefixes() -> None:
    weights = weights_of(Golden("trm_mlp"), "model.inner.")
    weights["q_head.bias"] = weights.pop("model.inner.q_head.bias")
    with pytest.raises(UserError, match=r"`model\.inner\.`.*`q_head\.bias`"):
        infer(weights, {})


def test_sizes_that_do_not_fit() -> None:
    weights = weights_of(Golden("trm_mlp"))
    with pytest.raises(UserError, match=r"19 positions.*20"):
        infer(weights, {}, Given(prefix=20))
    with pytest.raises(UserError, match=r"16 cells.*4"):
        infer(weights, {}, Given(prefix=4, seq=16))
    name = "L_level.layers.0.mlp.down_proj.weight"
    with pytest.raises(UserError, match="257"):
        infer(weights | {name: np.zeros((32, 257), np.float32)}, {})
    name = "L_level.layers.1.self_attn.o_proj.weight"
    with pytest.raises(UserError, match="30"):
        infer(
            weights_of(Golden("trm_attention"))
            | {name: np.zeros((32, 30), np.float32)},
            {},
        )
    name = "embed_tokens.embedding_weight"
    with pytest.raises(UserError, match="embedding_weight"):
        infer(weights | {name: np.zeros(6, np.float32)}, {})


def test_weights_of_the_code_of_eqr() -> None:
    with np.load(FOLDER / "eqr.npz") as stored:
        weights = {name[2:]: stored[name] for name in stored if name.startswith("w/")}
    found = infer(weights, {}).config
    assert (found.variant, found.mixer, found.prefix) == ("eqr", "mlp", 0)
    assert (found.layers, found.dim, found.puzzle_dim) == (2, 16, 0)


def test_eqr_of_another_noise() -> None:
    config = TRM_PRESETS["sudoku-eqr"][1].model
    weights = official(config, 11, 81)
    arch = {"lambda_": 0.95, "noise_scale": 0.01, "H_cycles": 3, "L_cycles": 6}
    found = infer(weights, {"arch": arch})
    assert (found.config, found.seq, found.notes) == (config, 81, ())
    assert found.puzzles == 1
    with pytest.raises(UserError, match=r"noise_scale.*0\.5"):
        infer(weights, {"arch": arch | {"noise_scale": 0.5}})


def test_positions_of_a_board_are_read() -> None:
    """As in locuslab/EqR, whose checkpoints have no prefix."""
    config = TRMConfig(
        variant="eqr",
        mixer="attention",
        positions="rope2d",
        dim=32,
        prefix=0,
        puzzle_dim=0,
        layers=1,
        L_cycles=4,
    )
    arch = {"pos_encodings": "rope2d", "num_heads": 8, "H_cycles": 3, "L_cycles": 4}
    found = infer(official(config, 6, 900), {"arch": arch})
    assert (found.config, found.seq, found.notes) == (config, 900, ("seq=900",))


def test_cells_that_nobody_tells() -> None:
    weights = weights_of(Golden("trm_attention"))
    found = infer(weights, {})
    assert found.seq == 900
    assert "seq=900" in found.notes
    other = {"embed_tokens.embedding_weight": np.zeros((7, 32), np.float32)}
    with pytest.raises(UserError, match="`--seq`"):
        infer(weights | other, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_heads", "8"), ("L_cycles", 2.5), ("pos_encodings", "rope3d")],
)
def test_options_that_cannot_be(name: str, value: object) -> None:
    golden = Golden("trm_attention")
    options = options_of(golden)
    options["arch"][name] = value
    with pytest.raises(UserError, match=str(value)):
        infer(weights_of(golden), options, Given(seq=16))


@pytest.mark.parametrize(
    ("name", "value"), [("lr", "high"), ("epochs", [1]), ("beta1", 1.5)]
)
def test_training_options_that_cannot_be(name: str, value: object) -> None:
    golden = Golden("trm_attention")
    with pytest.raises(UserError, match=name):
        train_config(golden.config, options_of(golden) | {name: value})
    options = options_of(golden)
    options["arch"]["loss"]["loss_type"] = "hinge"
    with pytest.raises(UserError, match="hinge"):
        train_config(golden.config, options)
