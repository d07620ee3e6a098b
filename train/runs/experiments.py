"""The class of a run's experiment: named in `config.json`, and imported again."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from configs import UserError, require
from train.experiment import AbstractExperiment

Kind = type[AbstractExperiment]


def name_of(kind: Kind) -> str:
    """Return `MODULE:CLASS`; a script `FILE.py` is the module `FILE`."""
    main = kind.__module__ == "__main__"
    return f"{_main_module() if main else kind.__module__}:{kind.__qualname__}"


def _main_module() -> str:
    """Return the name by which `__main__` can be imported."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m NAME
        return main.__spec__.name
    return Path(getattr(main, "__file__", None) or "__main__").stem


def own_experiment(record: Mapping[str, Any]) -> str | None:
    """Return the recorded `MODULE:CLASS`; None for `TRMExperiment`, `GPTExperiment`."""
    name = record.get("experiment")
    return None if is_plain(name, record["kind"]) else name


def is_plain(name: str | None, kind: str) -> bool:
    """Return True if this is the experiment of `python -m train.KIND`."""
    return name is None or name.startswith(f"train.{kind}:")


def import_experiment(name: str, run_dir: object) -> Kind:
    """Return the class `MODULE:CLASS` of the experiment of a run.

    Raises:
        UserError: if it cannot be imported.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = _import(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"`{run_dir}` was trained by `{path}` of the module `{module}`, which "
            f"could not be imported ({error}). Add its folder to PYTHONPATH, or name "
            f"it: `train.evaluate --experiment FILE.py`; from Python "
            f"`load_run(RUN, experiment={path})`."
        ) from error
    require(
        isinstance(found, type) and issubclass(found, AbstractExperiment),
        f"`{name}`, the experiment of `{run_dir}`, must be a subclass of "
        f"`AbstractExperiment`: got {found!r}. Restore the file.",
    )
    return found


def _import(module: str) -> ModuleType:
    """Import a module; the running script is not run again."""
    if module == _main_module():
        return sys.modules["__main__"]
    return importlib.import_module(module)


def experiment_in(file: str) -> Kind | None:
    """Run a Python file and return the experiment that it defines.

    None if it defines no experiment: a file may also register a kind of puzzle.

    Args:
        file: its path, `FILE.py`; `FILE.py:CLASS` where it defines several.

    Raises:
        UserError: if there is no such file or class, or several.
    """
    path, _, name = file.partition(":")
    require(Path(path).is_file(), f"File not found: `{path}`. Check the path.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, AbstractExperiment)
        and value.__module__ == module.__name__
        and key == (name or key)
    }
    require(
        len(classes) == 1 or not (classes or name),
        f"`{file}` must name one subclass of `AbstractExperiment`: found "
        f"{', '.join(classes) or 'none'}. Name one as `{path}:CLASS`.",
    )
    return next(iter(classes.values()), None)
