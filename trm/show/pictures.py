"""Frames as pictures, by Pillow: all in one (PNG), and an animation (GIF).

Colors are from Okabe and Ito's palette for color-blind readers, and no mark is a color
alone: a given has a gray cell, a wrong cell a frame.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from configs import require
from data.puzzles.kind import Kind
from data.storage import AnyPath, open_path, require_writable, whole_file
from trm.show.frames import Frame, Solution, crop, solved_first
from trm.show.page import write_page

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

INK, FAINT, PAPER = "#000000", "#5f5f5f", "#ffffff"
GIVEN, MODEL, CHANGED, WRONG = "#e4e4e4", "#0072b2", "#f7ec9f", "#d55e00"
LETTERS = (
    ("given", GIVEN, "", INK),
    ("by the model", PAPER, "", MODEL),
    ("changed in this step", CHANGED, "", MODEL),
)
MARGIN, LINE, SMALL = 16, 22, 15
WIDEST = 1500
"""Most pixels of boards side by side."""

MOST_BOARDS = 12
"""Most boards of a picture; more steps are thinned out evenly."""


def require_pillow(option: str = "--out") -> None:
    """Raise `UserError` unless Pillow is installed, as the option needs it."""
    require(
        find_spec("PIL") is not None,
        "Pillow is not installed; pictures need it. Run `pip install -e '.[show]'`, or "
        f"leave out `{option}`.",
    )


def write_pictures(
    solution: Solution, folder: str | AnyPath, name: str
) -> list[AnyPath]:
    """Write a solution as `name` with `.png`, `.gif` and `.html`; return the paths.

    Raises:
        UserError: if Pillow is missing, or a file cannot be written.
    """
    require_pillow()
    kind, frames = solution.kind, solution.frames
    paths = [open_path(folder) / f"{name}.{end}" for end in ("png", "gif", "html")]
    png, gif, page = paths
    require_writable(png)
    with whole_file(png) as file:
        draw_sheet(kind, frames).save(file, "PNG", optimize=True)
    write_animation(gif, kind, frames)
    write_page(page, kind, frames, solution.question.name, solution.conclusion)
    return paths


def draw_sheet(kind: Kind, frames: Sequence[Frame]) -> "Image":
    """Return the question and at most `MOST_BOARDS` boards in one picture."""
    from PIL import Image, ImageDraw

    kind, frames = crop(kind, frames)
    panels = [_panel(kind, frames[i]) for i in _spread(len(frames))]
    width, height = panels[0].size
    shelves = math.ceil(len(panels) / max(WIDEST // width, 1))
    across = math.ceil(len(panels) / shelves)
    note, legend = solved_first(frames), _legend_width(kind)
    needed = legend + math.ceil(font(SMALL).getlength(note))
    wide = max(across * width, needed) + MARGIN
    sheet = Image.new("RGB", (wide, shelves * height + MARGIN + LINE), PAPER)
    for i, panel in enumerate(panels):
        row, column = divmod(i, across)
        sheet.paste(panel, (column * width, row * height))
    draw, y = ImageDraw.Draw(sheet), shelves * height + MARGIN // 2
    _draw_legend(draw, kind, MARGIN, y)
    draw.text((MARGIN + legend, y + 1), note, INK, font(SMALL))
    return sheet


def write_animation(
    path: AnyPath, kind: Kind, frames: Sequence[Frame], seconds: float = 0.9
) -> None:
    """Write an endless animation; the first and the last frame stay longer."""
    from PIL import Image, ImageDraw

    kind, frames = crop(kind, frames)
    pictures = []
    for frame in frames:
        panel = _panel(kind, frame)
        width = max(panel.width, _legend_width(kind)) + MARGIN
        picture = Image.new("RGB", (width, panel.height + LINE + MARGIN), PAPER)
        picture.paste(panel, ((width - panel.width) // 2, 0))
        corner = MARGIN, panel.height + MARGIN // 2
        _draw_legend(ImageDraw.Draw(picture), kind, *corner)
        pictures.append(picture)
    first, *others = in_few_colors(pictures)
    each = round(1000 * seconds)
    times = [2 * each, *[each] * (len(pictures) - 2), 3 * each][-len(pictures) :]
    options = {"append_images": others, "duration": times, "loop": 0}
    with whole_file(path) as file:
        first.save(file, "GIF", save_all=True, **options)


def in_few_colors(pictures: Sequence["Image"]) -> list["Image"]:
    """Return pictures in the most frequent of their colors, for smaller files."""
    from PIL import Image

    palette, plain = _palette(pictures), Image.Dither.NONE
    return [p.quantize(palette=palette, dither=plain) for p in pictures]


def _palette(pictures: Sequence["Image"]) -> "Image":
    """Return a palette of the most frequent colors, none close to another.

    Otherwise colors flicker, and Pillow replaces white by a similar color.
    """
    from PIL import Image

    counts: Counter[Any] = Counter()
    for i in _spread(len(pictures)):
        colors = pictures[i].getcolors(pictures[i].width * pictures[i].height)
        counts.update({color: count for count, color in colors or []})
    chosen: list[tuple[int, int, int]] = []
    for color, _ in counts.most_common():
        if all(np.abs(np.subtract(color, other)).max() > 12 for other in chosen):
            chosen.append(color)
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for color in chosen[:256] for part in color])
    return palette


def _spread(frames: int) -> list[int]:
    """Return the first and the last frame, and some between."""
    numbers = np.linspace(0, frames - 1, min(MOST_BOARDS, frames))
    return numbers.round().astype(int).tolist()


def _cell_size(kind: Kind) -> int:
    """Return the pixels of a cell: smaller boards have larger cells."""
    return max(12, min(40, 360 // kind.columns))


def _panel(kind: Kind, frame: Frame) -> "Image":
    """Draw a board with its step, its halting probability and the verdict."""
    from PIL import Image, ImageDraw

    cell = _cell_size(kind)
    lines = len(frame.tokens) // kind.columns
    width = max(kind.columns * cell, 200) + 2 * MARGIN
    top = MARGIN + 2 * LINE
    picture = Image.new("RGB", (width, top + lines * cell + LINE + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    left = (width - kind.columns * cell) // 2
    draw.text((left, MARGIN - 4), frame.title, INK, font(18))
    if frame.q_halt is not None:
        _draw_meter(draw, left, MARGIN + LINE, frame.q_halt)
    draw_board(draw, kind, frame, left, top, cell)
    corner = left, top + lines * cell + 6
    draw.text(corner, frame.verdict, INK, font(SMALL))
    return picture


def _draw_meter(draw: "ImageDraw", left: int, top: int, value: float) -> None:
    """Draw the halting probability as a number and a bar."""
    draw.text((left, top - 1), f"halt {value:.2f}", FAINT, font(SMALL))
    start, end = left + 74, left + 194
    bar = (start, top + 3, end, top + 13)
    draw.rectangle((start, bar[1], start + value * (end - start), bar[3]), fill=MODEL)
    draw.rectangle(bar, outline=FAINT)


def draw_board(
    draw: "ImageDraw", kind: Kind, frame: Frame, left: int, top: int, cell: int
) -> None:
    """Draw the cells, the thin lines, then the thick lines."""
    columns = kind.columns
    lines = len(frame.tokens) // columns
    for i, token in enumerate(frame.tokens.tolist()):
        row, column = divmod(i, columns)
        x, y = left + column * cell, top + row * cell
        known = 0 <= token < len(kind.signs)
        box = (x, y, x + cell, y + cell)
        if kind.fills:
            fill = kind.fills[token] if known else PAPER
            ink = ink_on(fill)
        else:
            by_model = frame.step and (frame.altered[i] or not frame.given[i])
            ink = MODEL if by_model else INK
            fill = GIVEN if frame.given[i] else PAPER
            fill = CHANGED if frame.changed[i] else fill
        draw.rectangle(box, fill=fill)
        letter = "?" if not known else kind.letters[token] if kind.letters else ""
        if letter:
            middle = x + cell / 2, y + cell / 2
            draw.text(middle, letter, ink, font(0.58 * cell), anchor="mm")
    right, bottom = left + columns * cell, top + lines * cell
    for row in range(lines + 1):
        y = top + row * cell
        draw.line((left, y, right, y), "#b5b5b5")
    for column in range(columns + 1):
        x = left + column * cell
        draw.line((x, top, x, bottom), "#b5b5b5")
    for row in range(0, lines + 1, kind.box[0] or lines):
        y = top + row * cell
        draw.line((left - 1, y, right + 1, y), INK, 3)
    for column in range(0, columns + 1, kind.box[1] or columns):
        x = left + column * cell
        draw.line((x, top - 1, x, bottom + 1), INK, 3)
    inset = max(cell // 12, 1)
    for i in np.flatnonzero(frame.wrong):
        row, column = divmod(int(i), columns)
        x, y = left + column * cell + inset, top + row * cell + inset
        size = cell - 2 * inset
        if kind.fills:  # cells of any color: the frame needs an edge
            draw.rectangle((x - 1, y - 1, x + size + 1, y + size + 1), outline=PAPER)
            edge = (x + inset + 1, y + inset + 1)
            draw.rectangle(
                (*edge, x + size - inset - 1, y + size - inset - 1), outline=PAPER
            )
        draw.rectangle((x, y, x + size, y + size), outline=WRONG, width=inset + 1)


def _legend(kind: Kind) -> list[tuple[str, str, str, str]]:
    """Return for each mark a text and the colors of its cell, frame and letter."""
    entries = [] if kind.fills else list(LETTERS)
    entries += [(text, fill, "", "") for fill, text in kind.key]
    return [*entries, ("breaks a rule" if kind.faults else "wrong", PAPER, WRONG, "")]


def _legend_width(kind: Kind) -> int:
    """Return the pixels of the legend in a line."""
    texts = (text for text, *_ in _legend(kind))
    return round(sum(font(SMALL).getlength(text) + 44 for text in texts))


def _draw_legend(draw: "ImageDraw", kind: Kind, x: int | float, y: int) -> None:
    """Draw each mark with its meaning, in a line."""
    for text, fill, frame, ink in _legend(kind):
        draw.rectangle((x, y, x + 18, y + 18), fill, frame or "#b5b5b5")
        if frame:
            draw.rectangle((x + 1, y + 1, x + 17, y + 17), outline=frame, width=3)
        if ink:
            draw.text((x + 9, y + 9), "5", ink, font(13), "mm")
        draw.text((x + 25, y + 1), text, INK, font(SMALL))
        x += font(SMALL).getlength(text) + 44


def ink_on(fill: str) -> str:
    """Return black or white, whichever can be read on a color."""
    from PIL import ImageColor

    red, green, blue, *_ = ImageColor.getrgb(fill)
    return INK if 299 * red + 587 * green + 114 * blue > 110_000 else PAPER


@cache
def font(size: int | float):
    """Return Pillow's font in a size, in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
