"""Training of every model: the only place with devices, files and clocks."""

from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent

for _name in ("configs", "data", "gpt", "trm"):
    _spec = find_spec(_name)
    _file = _spec.origin if _spec else None
    if _file and _HOME not in Path(_file).resolve().parents:
        raise ImportError(
            f"`{_file}` hides the module `{_name}` of this project. Rename the file."
        )
