"""The names that nanoGPT's options have here."""

from collections.abc import Iterable

from configs import UserError

OPTIONS = {
    "out_dir": ("run-dir",),
    "eval_interval": ("eval.interval",),
    "log_interval": ("run.log-every",),
    "eval_iters": ("eval.iters",),
    "eval_only": ("run.eval-only",),
    "always_save_checkpoint": ("run.save",),
    "init_from": ("init-from",),
    "wandb_log": ("run.wandb",),
    "wandb_project": ("run.wandb",),
    "wandb_run_name": ("run-dir",),
    "dataset": ("data.path",),
    "gradient_accumulation_steps": ("batch-size", "microbatch-size"),
    "batch_size": ("batch-size", "microbatch-size"),
    "block_size": ("model.block-size",),
    "n_layer": ("model.n-layer",),
    "n_head": ("model.n-head",),
    "n_embd": ("model.n-embd",),
    "dropout": ("model.dropout",),
    "bias": ("model.bias",),
    "learning_rate": ("optim.lr",),
    "max_iters": ("max-iters",),
    "weight_decay": ("optim.weight-decay",),
    "beta1": ("optim.beta1",),
    "beta2": ("optim.beta2",),
    "grad_clip": ("optim.clip",),
    "decay_lr": ("optim.warmup", "optim.min-ratio"),
    "warmup_iters": ("optim.warmup",),
    "lr_decay_iters": ("lr-decay-iters",),
    "min_lr": ("optim.min-ratio",),
    "backend": (),
    "device": (),
    "dtype": ("precision",),
    "compile": (),
}
"""nanoGPT's option to ours, without `--config.`; the table in `docs/gpt.md`."""

OURS = {option.replace("-", "_") for options in OPTIONS.values() for option in options}
"""Our options of the table, as a file of settings writes them."""


def require_ours(words: Iterable[str]) -> None:
    """Raise `UserError` that translates nanoGPT's options among command-line words.

    Words of a file of settings begin with `--config.`, and then `batch_size` is ours.
    """
    translated = {}
    for word in words:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        plain = name.removeprefix("config.")
        ours = plain != name and plain in OURS
        if word.startswith("--") and plain in OPTIONS and not ours:
            translated[plain] = OPTIONS[plain]
    if not translated:
        return
    flags = lambda options: ", ".join(f"`--config.{option}`" for option in options)
    lines = (f"`{n}` is {flags(o) or 'not needed'}" for n, o in translated.items())
    raise UserError(
        f"nanoGPT's options have other names here: {'; '.join(lines)}. See the table "
        "in `docs/gpt.md`."
    )
