"""Translate between `all_config.yaml` of the official code and our configuration.

Source: `pretrain.py`, `PretrainConfig` and `save_code_and_config`.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from configs import (
    ACTConfig,
    EvalConfig,
    OptimConfig,
    PuzzleDataConfig,
    TableConfig,
    TrainTRM,
    TRMConfig,
    UserError,
    require,
)
from data.storage import write_whole

FILE = "all_config.yaml"

# Official name of the class in `arch.name`.
_ARCH = {
    "trm": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
    "single_z": "recursive_reasoning.trm_singlez@TinyRecursiveReasoningModel_ACTV1",
    "hier6": "recursive_reasoning.trm_hier6@TinyRecursiveReasoningModel_ACTV1",
    "hrm": "recursive_reasoning.hrm@HierarchicalReasoningModel_ACTV1",
    "transformer": "recursive_reasoning.transformers_baseline@Model_ACTV2",
}
_LOSS = {"stablemax": "stablemax_cross_entropy", "softmax": "softmax_cross_entropy"}
# Our field -> official option.
_PLAIN = {"batch_size": "global_batch_size", "epochs": "epochs", "seed": "seed"}
_OPTIM = {
    "lr": "lr",
    "warmup": "lr_warmup_steps",
    "min_ratio": "lr_min_ratio",
    "weight_decay": "weight_decay",
    "beta1": "beta1",
    "beta2": "beta2",
}
_TABLE = {"lr": "puzzle_emb_lr", "weight_decay": "puzzle_emb_weight_decay"}
_ACT = {"max_steps": "halt_max_steps", "exploration": "halt_exploration_prob"}
_EVAL = {"epochs": "eval_interval"}
_MODEL = {
    "dim": "hidden_size",
    "heads": "num_heads",
    "expansion": "expansion",
    "H_cycles": "H_cycles",
    "L_cycles": "L_cycles",
    "positions": "pos_encodings",
    "prefix": "puzzle_emb_len",
    "puzzle_dim": "puzzle_emb_ndim",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
}


def read_all_config(path: Path) -> dict[str, Any]:
    """Return the options of a file.

    Raises:
        UserError: if it is not YAML of the official code.
    """
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"`{path}` is not YAML ({first}). Copy or download it again, or remove it "
            "and give its settings as options."
        ) from error
    require(
        isinstance(options, dict) and isinstance(options.get("arch"), dict),
        f"`{path}` must be options of the official `pretrain.py`, with `arch`. Copy or "
        "download it again, or remove it and give its settings as options.",
    )
    return options


def number(options: Mapping[str, Any], name: str, usual: Any) -> Any:
    """Return an option; `usual` if it is missing.

    Raises:
        UserError: if it is not a finite number.
    """
    value = options.get(name)
    if value is None:
        return usual
    finite = type(value) in (int, float) and abs(value) < 2**63
    require_option(finite, name, "a number", value)
    return value


def _flag(options: Mapping[str, Any], name: str, usual: bool) -> bool:
    """Return an option that is true or false; `usual` if it is missing."""
    value = options.get(name)
    require_option(value is None or type(value) is bool, name, "true or false", value)
    return usual if value is None else value


def require_option(condition: bool, name: str, wanted: str, got: object) -> None:
    """Raise `UserError` about an option unless `condition` holds."""
    require(
        condition,
        f"`{name}` must be {wanted}: got {reprlib.repr(got)}. Correct `{FILE}`, or "
        "remove it and give its settings as options.",
    )


def train_config(model: TRMConfig, options: Mapping[str, Any]) -> TrainTRM:
    """Return the configuration of official options, with our defaults for the rest.

    Args:
        model: of the run.
        options: official options, or nothing.

    Raises:
        UserError: if a value is of another type or out of range.
    """
    arch = options.get("arch") or {}
    precision = arch.get("forward_dtype", "bfloat16")
    known = precision in ("bfloat16", "float32")
    require_option(known, "forward_dtype", "bfloat16 or float32", precision)
    optim = OptimConfig(**_chosen(OptimConfig, _OPTIM, options))
    if options:
        optim = replace(optim, ema=_ema(options))
    return TrainTRM(
        **_chosen(TrainTRM, _PLAIN, options),
        precision=precision,
        model=model,
        act=_act(model.variant, arch),
        optim=optim,
        table=TableConfig(**_chosen(TableConfig, _TABLE, options)),
        data=PuzzleDataConfig(**_paths(options), build=None),
        eval=EvalConfig(**_chosen(EvalConfig, _EVAL, options)),
    )


def all_config(config: TrainTRM) -> dict[str, Any]:
    """Return the official options of a configuration, as far as there are any."""
    model, act = config.model, config.act
    official = lambda table, ours: {
        name: getattr(ours, field) for field, name in table.items()
    }
    high = {"hrm": model.H_layers or model.layers, "transformer": model.layers}
    layers = {"H_layers": high.get(model.variant, 0), "L_layers": model.layers}
    arch = {
        "name": _ARCH.get(model.variant, model.variant),
        "loss": {"name": "losses@ACTLossHead", "loss_type": _LOSS[act.loss]},
        **official(_MODEL, model),
        **layers,
        **official(_ACT, act),
        "mlp_t": model.mixer == "mlp",
        "no_ACT_continue": not act.continue_loss,
        "forward_dtype": config.precision,
    }
    return {
        "arch": arch,
        "data_paths": list(config.data.paths),
        "data_paths_test": [],
        "evaluators": [],
        **official(_PLAIN, config),
        **official(_OPTIM, config.optim),
        **official(_TABLE, config.table),
        "epochs": _whole(config.epochs),
        "eval_interval": _whole(config.eval.epochs),
        "ema": config.optim.ema > 0,
        "ema_rate": config.optim.ema or 0.999,
        "freeze_weights": config.freeze,
    }


def _whole(epochs: float) -> int | float:
    """Return whole epochs without a decimal point, as the official code takes them."""
    return int(epochs) if epochs == int(epochs) else epochs


def write_all_config(config: TrainTRM, path: Path) -> None:
    """Write the official options of a configuration."""
    write_whole(path, yaml.safe_dump(all_config(config)))


def _act(variant: str, arch: Mapping[str, Any]) -> ACTConfig:
    """Return halting and losses.

    Source: `hrm.py` and `transformers_baseline.py` compare the two Q values whatever
    the options are; the latter has no continue loss.
    """
    always = variant in ("hrm", "transformer")
    compares = always or not _flag(arch, "no_ACT_continue", True)
    never = variant == "transformer" and not _flag(arch, "act_enabled", True)
    names: dict[str, Any] = {official: ours for ours, official in _LOSS.items()}
    loss = arch.get("loss") or {}
    if isinstance(loss, dict):
        loss = loss.get("loss_type", "stablemax_cross_entropy")
    known = loss in list(names)  # a list may be asked for anything
    require_option(known, "loss_type", f"one of {', '.join(names)}", loss)
    return ACTConfig(
        **_chosen(ACTConfig, _ACT, arch),
        halt="never" if never else "compare" if compares else "positive",
        continue_loss=compares and variant != "transformer",
        loss=names[loss],
    )


def _ema(options: Mapping[str, Any]) -> float:
    rate = number(options, "ema_rate", 0.999) or 0.999
    return float(rate) if _flag(options, "ema", False) else 0.0


def _paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paths of the data; `data_path` in HRM's options."""
    paths = options.get("data_paths") or options.get("data_path")
    if not paths:
        return {}
    paths = [paths] if isinstance(paths, str) else paths
    named = isinstance(paths, list) and all(isinstance(path, str) for path in paths)
    require_option(named, "data_paths", "a list of paths", paths)
    return {"paths": tuple(paths)}


def _chosen(
    kind: type, table: Mapping[str, str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of one of our classes that the options set."""
    hints, chosen = get_type_hints(kind), {}
    for name, official in table.items():
        value = number(options, official, None)
        if value is not None:
            whole = hints[name] is float or value == int(value)
            require_option(whole, official, "a whole number", value)
            chosen[name] = hints[name](value)
    return chosen
