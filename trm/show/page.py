"""Frames as a page: one file of HTML without dependencies."""

import html
import json
from collections.abc import Sequence

import numpy as np

from data.puzzles.kind import Kind
from data.storage import AnyPath, write_whole
from trm.show.frames import Frame, crop

GIVEN, CHANGED, WRONG, ALTERED = 1, 2, 4, 8
"""Marks of a cell; sums of them are stored."""

BEGIN, END = '<script type="application/json" id="frames">', "</script>"


def write_page(
    path: AnyPath, kind: Kind, frames: Sequence[Frame], title: str, note: str
) -> None:
    """Write a page that steps through frames by buttons, arrow keys or a slider.

    Args:
        path: of the file.
        kind: of puzzle.
        frames: at least one.
        title: of the page.
        note: a line below the board.
    """
    kind, frames = crop(kind, frames)
    data = json.dumps(_data(kind, frames)).replace("<", "\\u003c")
    page = (
        PAGE.replace("$TITLE", html.escape(title))
        .replace("$NOTE", html.escape(note))
        .replace("$DATA", f"{BEGIN}{data}{END}")
    )
    write_whole(path, page)


def _data(kind: Kind, frames: Sequence[Frame]) -> dict[str, object]:
    """Return the data of the page's script."""
    return {
        "columns": kind.columns,
        "box": kind.box,
        "letters": kind.letters,
        "key": kind.key,
        "fills": kind.fills,
        "wrong": "breaks a rule" if kind.faults else "wrong",
        "frames": [
            {
                "title": frame.title,
                "q": frame.q_halt,
                "verdict": frame.verdict,
                "tokens": frame.tokens.tolist(),
                "marks": np.sum(
                    [
                        GIVEN * frame.given,
                        CHANGED * frame.changed,
                        WRONG * frame.wrong,
                        ALTERED * frame.altered,
                    ],
                    axis=0,
                ).tolist(),
            }
            for frame in frames
        ],
    }


PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$TITLE</title>
<style>
body { font: 16px/1.4 system-ui, sans-serif; color: #000; background: #fff;
  max-width: 34rem; margin: 1rem auto; padding: 0 1rem; }
h1 { font-size: 1.1rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; border: 2px solid #000; }
svg text { text-anchor: middle; dominant-baseline: central; font-size: .58px; }
#state { display: flex; gap: 1rem; flex-wrap: wrap;
  justify-content: space-between; margin: .4rem 0; }
#state > * { white-space: nowrap; }
nav { display: flex; gap: .4rem; align-items: center; margin: .6rem 0; }
nav button { font: inherit; padding: .2rem .7rem; }
nav input { flex: 1; }
meter { width: 7rem; vertical-align: middle; }
.key { display: inline-block; width: 1em; height: 1em; vertical-align: -.15em;
  border: 1px solid #b5b5b5; margin: 0 .3em 0 .8em; }
small { display: block; margin: .4rem 0; }
</style>
<h1>$TITLE</h1>
<div id="state" aria-live="polite"><b id="step"></b>
<span id="halt"></span><span id="verdict"></span></div>
<svg id="board" role="img"></svg>
<nav>
<button id="first" aria-label="first">|&lt;</button>
<button id="back" aria-label="back">&lt;</button>
<button id="play">play</button>
<button id="next" aria-label="next">&gt;</button>
<button id="last" aria-label="last">&gt;|</button>
<input id="bar" type="range" min="0" value="0" aria-label="step">
</nav>
<small id="legend"></small>
<small>$NOTE</small>
<small>Arrow keys step, Home and End go to the ends, the space bar plays.</small>
$DATA
<script>
"use strict";
const data = JSON.parse(document.getElementById("frames").textContent);
const get = (id) => document.getElementById(id);
const svg = get("board"), bar = get("bar"), last = data.frames.length - 1;
const columns = data.columns, rows = data.frames[0].tokens.length / columns;
const GIVEN = 1, CHANGED = 2, WRONG = 4, ALTERED = 8;
let now = 0, timer = null;

function add(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  svg.appendChild(node);
}

function show(index) {
  now = Math.max(0, Math.min(last, index));
  const frame = data.frames[now];
  svg.replaceChildren();
  frame.tokens.forEach((token, i) => {
    const x = i % columns, y = Math.floor(i / columns), mark = frame.marks[i];
    const plain = mark & CHANGED ? "#f7ec9f" : mark & GIVEN ? "#e4e4e4" : "#ffffff";
    const fill = data.fills[token] || plain;
    add("rect", { x, y, width: 1, height: 1, fill,
      stroke: "#b5b5b5", "stroke-width": .02 });
    const kept = now === 0 || (mark & GIVEN && !(mark & ALTERED));
    const ink = kept || data.fills.length ? "#000000" : "#0072b2";
    if (data.letters.length) add("text", { x: x + .5, y: y + .52, fill: ink },
      token in data.letters ? data.letters[token] : "?");
  });
  frame.marks.forEach((mark, i) => {
    const frame = { x: i % columns + .1, y: Math.floor(i / columns) + .1,
      width: .8, height: .8, fill: "none" };
    if (!(mark & WRONG)) return;
    add("rect", { ...frame, stroke: "#fff", "stroke-width": .15 });
    add("rect", { ...frame, stroke: "#d55e00", "stroke-width": .09 });
  });
  for (let i = 0; data.box[0] && i <= rows; i += data.box[0])
    add("path", { d: `M0 ${i}H${columns}`, stroke: "#000", "stroke-width": .06 });
  for (let i = 0; data.box[1] && i <= columns; i += data.box[1])
    add("path", { d: `M${i} 0V${rows}`, stroke: "#000", "stroke-width": .06 });
  bar.value = now;
  get("step").textContent = frame.title + (now ? " of " + last : "");
  get("halt").innerHTML = frame.q === null ? "" :
    `halt ${frame.q.toFixed(3)} <meter value="${frame.q}"></meter>`;
  get("verdict").textContent = frame.verdict;
}

function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => now < last ? show(now + 1) : play(false), 700) : null;
  get("play").textContent = on ? "stop" : "play";
}

function toggle() {
  if (timer === null && now === last) show(0);
  play(timer === null);
}

const go = (index) => { play(false); show(index); };
get("first").onclick = () => go(0);
get("back").onclick = () => go(now - 1);
get("next").onclick = () => go(now + 1);
get("last").onclick = () => go(last);
get("play").onclick = toggle;
bar.max = last;
bar.oninput = () => go(Number(bar.value));
document.onkeydown = (event) => {
  const keys = { ArrowRight: () => go(now + 1), ArrowLeft: () => go(now - 1),
    Home: () => go(0), End: () => go(last), " ": toggle };
  if (!(event.key in keys) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  keys[event.key]();
};

svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
const key = (style, text) => `<span class="key" style="${style}"></span>${text}`;
const plain = data.fills.length ? "" : key("background:#e4e4e4", "given") +
  key("background:#fff", "by the model (blue)") +
  key("background:#f7ec9f", "changed in this step");
get("legend").innerHTML = plain +
  data.key.map(([fill, text]) => key("background:" + fill, text)).join("") +
  key("border:3px solid #d55e00", data.wrong);
show(0);
</script>
</html>
"""
