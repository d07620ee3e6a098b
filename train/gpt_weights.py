"""First weights of a GPT: from another run, or trained elsewhere."""

import warnings
from collections.abc import Mapping
from dataclasses import replace

from configs import TrainGPT, UserError, require
from data.storage import is_run
from data.text.tokenizer import Tokenizer
from gpt.pretrained import Pretrained, adopted, as_computed, read_pretrained
from train.feed import prepare_missing
from train.runs.loading import load_run, resumed_config
from train.runs.record import run_and_step


def resolve(config: TrainGPT) -> tuple[TrainGPT, Pretrained | None]:
    """Return the configuration with the model of the first weights, and the weights.

    None for a run that is resumed: it needs none.

    Raises:
        UserError: if there are no such weights.
    """
    resumed = resumed_config(TrainGPT, config.run_dir)
    if config.init_from == "resume":
        require(
            resumed is not None,
            "`--config.init-from resume` needs a run to resume: there is no checkpoint "
            f"in `{config.run_dir}`. Name the directory of the run with "
            "`--config.run-dir`.",
        )
        assert resumed is not None
        config = replace(config, init_from=resumed.init_from)
    if config.init_from == "scratch":
        return config, None
    if resumed is not None and resumed.init_from == config.init_from:
        return replace(config, model=as_computed(resumed.model, config.model)), None
    source = find_weights(config)
    wanted, longest = config.model.block_size, source.stored.block_size
    if wanted > longest:
        warnings.warn(
            f"`{config.init_from}` has {longest} positions: `block_size` is {longest}, "
            f"not {wanted}.",
            stacklevel=2,
        )
    return replace(config, model=source.config), source


def find_weights(config: TrainGPT) -> Pretrained:
    """Return the first weights: of another run, or trained elsewhere."""
    if not is_run(run_and_step(config.init_from)[0]):
        return read_pretrained(config.init_from, config.model)
    run = load_run(config.init_from, config.init_checkpoint)
    require(
        run.kind == "gpt",
        f"First weights must be those of a GPT: `{config.init_from}` is a run of "
        f"`train.{run.kind}`. Name another with `--config.init-from`.",
    )
    prepare_missing(config.text.path, config.text.build)
    tokens, stored = tokens_of(config), tokens_of(run.config)
    require(
        tokens == stored or stored is None,
        f"First weights must be for the tokens of `{config.text.path}`: "
        f"`{config.init_from}` has others. Use a run on text of the same tokens.",
    )
    return adopted(run.model, run.config.model, config.model)


def tokens_of(config: TrainGPT) -> Mapping[str, str | int] | None:
    """Return a description of the tokens; None if the dataset is missing."""
    try:
        return Tokenizer.of(config.text).describe()
    except UserError:
        return None
