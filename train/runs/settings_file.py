"""Files of settings as Python assignments, `model.n_layer = 4`, which are not run."""

import ast
from collections.abc import Iterator

from configs import UserError, require
from data.storage import exists, open_path, read_text


def command_line(file: str) -> Iterator[str]:
    """Yield the settings in a file as words of a command line.

    Args:
        file: its path. Names are those of the command line without `--config.`, values
            are numbers, strings, `True`, `False`, `None`, or tuples of them.

    Raises:
        UserError: if the file is missing, or has anything but such assignments.
    """
    path = open_path(file)
    require(exists(path), f"File not found: `{file}`. Check the path.")
    try:
        lines = ast.parse(read_text(path)).body
    except (SyntaxError, ValueError) as error:
        raise UserError(
            f"`{file}` must be a `config.json` or lines `name = value`: {error}."
        ) from error
    for line in lines:
        match line:
            case ast.Expr(value=ast.Constant()):  # a docstring
                continue
            case ast.Assign(targets=[ast.Name() | ast.Attribute() as name]):
                name, value = ast.unparse(name), _value(line.value, file)
            case _:
                raise _unusable(line, file)
        part, _, field = f"--config.{name.removeprefix('config.')}".rpartition(".")
        if isinstance(value, bool):
            yield f"{part}.{field}" if value else f"{part}.no_{field}"
        else:
            values = value if isinstance(value, tuple | list) else [value]
            yield f"{part}.{field}"
            yield from map(str, values)


def _value(node: ast.expr, file: str) -> object:
    """Return the value of a literal."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _unusable(node, file) from None


def _unusable(node: ast.stmt | ast.expr, file: str) -> UserError:
    return UserError(
        f"A file of settings has lines `name = value` with plain values: line "
        f"{node.lineno} of `{file}` has `{ast.unparse(node)}`. Write the value."
    )
