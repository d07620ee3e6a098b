"""`python -m trm.solve`, from a run on disk to text, pictures and pages."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file

from configs import GeneratedSudoku, MeshConfig, RunConfig, TrainTRM, UserError
from data.build import prepare
from data.puzzles.arc.grid import to_tokens
from data.puzzles.dataset import Puzzle
from data.puzzles.kind import Kind, render_numbers
from data.puzzles.kinds import kind_of
from data.puzzles.questions import Question, table_rows
from data.puzzles.sudoku.kind import faults
from data.puzzles.symmetry import Symmetry
from tests import runs
from tests.golden import Golden
from tests.official import write_official
from tests.runs import TINY, finish, start
from tests.tiny import assert_equal
from train import push, solving
from train.mesh import make_mesh
from train.models import build_model
from train.presets import TRM_PRESETS
from train.runs.checkpoint import Checkpoints
from train.runs.experiments import name_of
from train.runs.integrity import fingerprint
from train.runs.loading import LoadedRun, load_run
from train.runs.run_dir import RunDir
from train.state import init_state, new_state
from train.table import make_table
from train.trm import TRMExperiment
from trm import solve
from trm.act import Halting, init_carry, refill
from trm.objective import evaluate
from trm.official.infer import Given
from trm.show import page
from trm.show import pictures as draw
from trm.show.frames import Solution, crop, draw_text, frames_of

SIZES = {"vocab": 6, "seq": 16, "puzzles": 1}
BOARDS = ("12..34..21..43..", "1.34............", "0000000000000004")


def config(folder: Path) -> TrainTRM:
    """A tiny model of 4x4 Sudoku, of which the dataset is not at hand."""
    preset = TRM_PRESETS["quickstart"][1]
    small = replace(preset.model, dim=16, puzzle_dim=16, layers=1)
    data = replace(preset.data, paths=(str(folder / "missing"),))
    run_dir = str(folder / "run")
    return replace(preset, model=small, data=data, run_dir=run_dir)


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, one_device: Mesh) -> Path:
    """A run whose model says something else after each step, and knows no answer."""
    settings = config(tmp_path_factory.mktemp("solve"))
    opened = RunDir(settings, "test", {"kind": "trm", "sizes": SIZES, "data_hash": "a"})
    opened.write_config()
    opened.close()

    def fresh():
        model, table = build_model(settings, SIZES)
        halt = jax.random.normal(jax.random.key(1), model.halt_head.weight.shape)
        model = eqx.tree_at(
            lambda m: (m.halt_head.weight, m.halt_head.bias, m.head.weight),
            model,
            (halt, jnp.zeros(2), 5 * model.head.weight),
        )
        return new_state(model, table + 0.1, (), optax.sgd(0.1), ema=True)

    folder = Path(settings.run_dir)
    checkpoints = Checkpoints(folder / "checkpoints", RunConfig(), scores={})
    checkpoints.save(init_state(fresh, one_device))
    checkpoints.close()
    return folder


@pytest.fixture(scope="session")
def run(run_dir: Path) -> LoadedRun:
    return load_run(run_dir)


@pytest.fixture(scope="session")
def solution(run: LoadedRun) -> Solution:
    (found,) = solve.solve(run, BOARDS[0], steps=5)
    return found


# -- from Python -----------------------------------------------------------------------


def test_text_tokens_and_questions_are_the_same(run: LoadedRun) -> None:
    """And an answer does not depend on what else is asked."""
    found = solve.solve(run, "\n".join(BOARDS))
    tokens = np.stack([one.question.tokens for one in found])
    for others in (
        solve.solve(run, tokens),
        solve.solve(run, [one.question for one in found]),
    ):
        for one, other in zip(found, others, strict=True):
            assert_equal(one.answer, other.answer)
    (alone,) = solve.solve(run, BOARDS[1])
    for frame, other in zip(alone.frames, found[1].frames, strict=True):
        assert_equal(frame.tokens, other.tokens)
    assert len(alone.frames) == 1 + run.config.act.max_steps


def test_the_surest_attempt_is_taken(run: LoadedRun) -> None:
    """Each is the answer to the turned puzzle, turned back."""
    kind = solve.run_kind(run)
    tokens = np.stack([kind.read(board)[0].tokens for board in BOARDS])
    views = kind.views(3, seed=0)
    told = []
    for view in map(Symmetry, views.cells, views.tokens):
        turned = solve.think(run, view.apply(tokens))
        told.append((turned.q_halt[-1], view.inverse().apply(turned.answers[-1])))
    found = solve.solve(run, tokens, attempts=3)
    best = np.argmax([q_halt for q_halt, _ in told], axis=0)
    for i, one in enumerate(found):
        assert_equal(one.answer, told[best[i]][1][i])
    assert_equal(told[0][1], solve.think(run, tokens).answers[-1])


def test_answers_are_those_of_evaluation(run: LoadedRun) -> None:
    """With the averaged weights and the row of the table that the run has."""
    (found,) = solve.solve(run, BOARDS[0])
    tokens = jnp.asarray(found.question.tokens)[None]
    puzzle = Puzzle(tokens, tokens, jnp.zeros(1, jnp.int32))
    carry = refill(run.model, init_carry(run.model, 1, 16), puzzle)
    rows = run.table.rows[jnp.zeros(1, jnp.int32)]
    assert bool((rows != 0).any())
    _, told = evaluate(run.model, rows, carry, config=run.config.act, early=False)
    assert_equal(found.answer, np.argmax(told.logits[0], axis=-1))


class Hasty(TRMExperiment):
    """An experiment that would stop after the second step."""

    @property
    def halting(self) -> Halting:
        rule = lambda prediction, steps: (steps > 0, steps + 1)
        return Halting(rule, jnp.int32(0))


def test_a_run_is_solved_with_its_own_experiment(run_dir: Path, tmp_path: Path) -> None:
    """Its class is imported by the name in `config.json`."""
    tree = json.loads((run_dir / "config.json").read_text())
    tree["recorded"]["experiment"] = name_of(Hasty)
    (tmp_path / "config.json").write_text(json.dumps(tree))
    (tmp_path / "checkpoints").symlink_to(run_dir / "checkpoints")
    run = load_run(tmp_path / "checkpoints" / "0")
    assert run.experiment is Hasty
    trace = solve.think(run, np.zeros((2, 16), np.int32), steps=3)
    assert trace.halts.tolist() == [[False] * 2, [True] * 2, [True] * 2]


def test_an_official_checkpoint_answers_as_the_official_code(tmp_path: Path) -> None:
    """The golden evaluation, all supervision steps."""
    golden = Golden("trm_attention")
    path = str(write_official(tmp_path, golden))
    run = solve.load_official(path, Given(seq=16))
    batch = golden.batch("step5/batch")
    ids = np.asarray(batch.puzzle_id)
    told = solve.think(run, np.asarray(batch.inputs), ids=ids)
    expected = golden.tree("eval")
    assert_equal(told.answers[-1], expected["preds"])
    right = 1 / (1 + np.exp(-expected["q_halt_logits"].astype(np.float64)))
    np.testing.assert_allclose(told.q_halt[-1], right, atol=1e-4)


# -- published models ------------------------------------------------------------------


@pytest.fixture(scope="session")
def published(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as a published model, packaged under the name `ours`."""
    folder = tmp_path_factory.mktemp("packaged") / "ours"
    push.main([str(run_dir), "--out", str(folder)])
    return folder


def test_a_published_model_is_that_of_the_run(published: Path, run: LoadedRun) -> None:
    """On one device and on eight, where the table is padded."""
    found = load_run(published)
    assert found.config == replace(run.config, run_dir="")
    assert (found.kind, found.sizes) == (run.kind, run.sizes)
    assert found.step == run.step
    assert_equal((found.model, found.table), (run.model, run.table))
    mesh = make_mesh(MeshConfig(data=4, model=2))
    spread = load_run(published, mesh=mesh)
    assert len(spread.table.rows) == 8
    assert fingerprint((spread.model, spread.table)) == fingerprint(
        (run.model, run.table)
    )


def test_weights_of_16_bits(run_dir: Path, run: LoadedRun, tmp_path: Path) -> None:
    push.main([str(run_dir), "--out", str(tmp_path / "half"), "--dtype", "bfloat16"])
    half = load_run(tmp_path / "half").model
    expected = jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(a.dtype), run.model)
    assert_equal(half, expected)


def test_a_packaged_model_answers_its_kind(
    published: Path,
    solution: Solution,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("train.runs.published.PACKAGED", published.parent)
    for words in ([], ["--run-dir", "ours"]):
        solve.main([BOARDS[0], "--steps", "5", "--show", "line", *words])
        assert capsys.readouterr().out.strip() == solution.kind.show(solution.answer)
    with pytest.raises(UserError, match=r"there are ours\."):
        solve.main(["." * 36])


def test_the_hub(
    run_dir: Path, run: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder stands in for the hub: what is uploaded there is read from there."""
    hub = tmp_path / "hub"
    api = huggingface_hub.HfApi
    told = lambda *_, **options: f"{options['private']}"
    monkeypatch.setattr(api, "create_repo", told)
    copy = lambda _, repo_id, folder_path: shutil.copytree(folder_path, hub / repo_id)
    monkeypatch.setattr(api, "upload_folder", copy)
    down = lambda name, allow_patterns: str((hub / name).resolve(strict=True))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", down)
    push.main([str(run_dir), "--out", str(tmp_path / "a"), "--hub", "me/mine"])
    assert_equal(load_run("me/mine").model, run.model)
    with pytest.raises(UserError, match="me/other"):
        load_run("me/other")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(api, "create_repo", refuse)
    with pytest.raises(UserError, match=r"no network.* is complete"):
        push.main([str(run_dir), "--out", str(tmp_path / "b"), "--hub", "me/mine"])


def test_damaged_weights(published: Path, run_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "published")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-4])
    with pytest.raises(UserError, match="Could not read"):
        load_run(folder)
    arrays = load_file(published / "model.safetensors")
    save_file(arrays | {"table": arrays["table"][:, 1:]}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"1 differ, `table`"):
        load_run(folder)
    with pytest.raises(UserError, match="is a published model"):
        push.main([str(folder), "--out", str(tmp_path / "again")])
    words = [str(run_dir), "--out", str(tmp_path / "new")]
    with pytest.raises(UserError, match="must be a result"):
        push.main([*words, "--evaluations", str(folder / "config.json")])


def test_a_card_has_scores_with_their_interval(run_dir: Path, tmp_path: Path) -> None:
    values = {"values": {"exact_accuracy": 0.5, "steps": 32.0}, "scored": 100}
    settings = {"data": ["mine"], "rollouts": {"number": None}}
    (tmp_path / "scores").write_text(
        json.dumps({"settings": settings, "results": [values]})
    )
    (tmp_path / "notes").write_text("It cannot solve mazes.")
    words = [str(run_dir), "--out", str(tmp_path / "new")]
    words += ["--evaluations", str(tmp_path / "scores")]
    push.main([*words, "--notes", str(tmp_path / "notes")])
    card = (tmp_path / "new" / "README.md").read_text()
    assert "| mine | 100 | 32 | 1 | 50.0% (40.4% to 59.6%) |" in card
    assert "It cannot solve mazes." in card


@pytest.mark.slow
def test_more_puzzles_than_go_at_once(
    run: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = solve.think(run, np.full((5, 16), 1, np.int32) + np.eye(5, 16, dtype=int))
    monkeypatch.setattr(solving, "MOST_AT_ONCE", 2)
    jax.clear_caches()
    parts = solve.think(run, np.full((5, 16), 1, np.int32) + np.eye(5, 16, dtype=int))
    assert whole.answers.shape == (run.config.act.max_steps, 5, 16)
    assert_equal(whole.answers, parts.answers)


def test_the_kind_is_that_of_the_dataset_if_it_is_at_hand(
    run: LoadedRun, tmp_path: Path
) -> None:
    assert solve.run_kind(run).box == (2, 2), "guessed"
    prepare(GeneratedSudoku(size=4, train=8, test=4), tmp_path / "data")
    path = tmp_path / "data" / "train" / "dataset.json"
    path.write_text(path.read_text().replace('"sudoku"', '"latin"'))
    data = replace(run.config.data, paths=(str(tmp_path / "data"),))
    other = replace(run, config=replace(run.config, data=data))
    assert solve.run_kind(other).faults is None
    sizes = {"vocab": 11, "seq": 81, "puzzles": 1}
    assert solve.run_kind(replace(other, sizes=sizes)).box == (3, 3), "of other sizes"


@pytest.mark.parametrize(
    ("puzzles", "message"),
    [
        ("", "puzzle"),
        ("1" * 17, "16.*17"),
        ("9" + "." * 15, "9"),
        (np.zeros((2, 9), np.int32), "puzzle 1 is 9"),
        (np.full((1, 16), 6), "puzzle 1 is 16 of 6 .. 6"),
        ([Question("mine", np.full(16, -1))], "mine is 16 of -1 .. -1"),
    ],
)
def test_no_puzzle(run: LoadedRun, puzzles, message: str) -> None:
    with pytest.raises(UserError, match=message):
        solve.solve(run, puzzles)


def test_a_kind_of_ones_own(run: LoadedRun) -> None:
    """Letters, colors and a rule (no two equal neighbours in a row) from a caller."""
    clash = lambda inputs, answers: answers == np.roll(answers, 1, axis=1)
    mine = Kind(
        columns=8,
        signs=tuple("_abcde"),
        letters=tuple("_abcde"),
        fills=("#ffffff", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9"),
        read=lambda text, name="": [Question("mine", np.arange(16) % 6)],
        render=render_numbers,
        faults=clash,
    )
    (found,) = solve.solve(run, "", kind=mine)
    assert found.question.name == "mine"
    assert_equal(found.frames[3].wrong, clash(None, found.frames[3].tokens[None])[0])
    sheet = draw.draw_sheet(found.kind, found.frames)
    assert pixels(sheet) >= {mine.fills[token] for token in found.answer}


def test_a_gpt_solves_nothing(run: LoadedRun) -> None:
    with pytest.raises(UserError, match=r"`train.gpt`"):
        solve.solve(replace(run, kind="gpt"), BOARDS[0])


# -- what is to be seen ----------------------------------------------------------------


def made(question: str, *answers: str) -> Solution:
    """A solution of these boards."""
    kind = kind_of("sudoku", 16, 6)
    (asked,) = kind.read(question)
    boards = np.stack([kind.read(answer)[0].tokens for answer in answers])
    q = np.linspace(0.2, 0.9, len(boards))
    return Solution(kind, asked, frames_of(kind, asked, boards, q))


RIGHT = "1234341221434321"


def test_frames_tell_what_changed_and_what_is_wrong() -> None:
    found = made("12..34..21..43..", "1234341221434324", "2234341221434321", RIGHT)
    asked, first, second, last = found.frames
    assert [frame.step for frame in found.frames] == [0, 1, 2, 3]
    assert (asked.q_halt, asked.verdict, asked.solved) == (None, "", False)
    assert not first.changed.any(), "there is nothing before"
    assert np.flatnonzero(second.changed).tolist() == [0, 15]
    assert np.flatnonzero(second.altered).tolist() == [0]
    assert (first.kept, second.kept, last.kept) == (True, False, True)
    boards = np.stack([frame.tokens for frame in found.frames[1:]])
    wrong = faults(np.broadcast_to(asked.tokens, boards.shape), boards)
    assert_equal(np.stack([frame.wrong for frame in found.frames[1:]]), wrong)
    assert (second.solved, last.solved, found.solved) == (False, True, True)
    assert found.conclusion == (
        "step 3; halting probability 0.900; the rules hold; givens kept"
    )


@pytest.mark.parametrize(
    ("question", "answers", "words"),
    [
        ("1...............", [RIGHT, RIGHT], ["rules hold", "first after step 1"]),
        ("11..............", [RIGHT], ["1 cell breaks", "not kept", "contradict"]),
        ("123....4........", [RIGHT], ["breaks a rule", "it has no solution"]),
        ("12..34..21..43..", ["1" * 16], ["16 cells break a rule", "givens not kept"]),
    ],
)
def test_the_rules_check_and_not_an_answer(
    question: str, answers: list[str], words: list[str]
) -> None:
    """What is asked may have many solutions, or none."""
    said = made(question, *answers).conclusion
    for word in words:
        assert word in said


def test_boards_side_by_side_fit_the_width() -> None:
    found = made("12..34..21..43..", "1234341221434324", RIGHT)
    wide = draw_text(found.kind, found.frames, 100).splitlines()
    assert re.split(r" {4,}", wide[0].strip()) == ["question", "step 1", "step 2"]
    assert re.split(r" {4,}", wide[2].strip()) == ["4 wrong", "solved"]
    assert "4!3 | 2 4!    4 3 | 2 1" in wide[-1]
    narrow = draw_text(found.kind, found.frames, 20)
    assert max(map(len, narrow.splitlines())) <= 20
    assert narrow.count("step") == 2
    assert str(found).endswith(found.conclusion)


def test_a_kind_without_rules_says_nothing_of_them() -> None:
    kind = kind_of("numbers", 4, 9)
    frames = frames_of(
        kind, Question("q", np.ones(4, int)), np.ones((2, 4), int), np.ones(2)
    )
    found = Solution(kind, Question("q", np.ones(4, int)), frames)
    assert found.conclusion == "step 2; halting probability 1.000"
    assert not found.solved


def test_a_known_answer_of_a_kind_without_rules() -> None:
    kind = kind_of("numbers", 4, 9)
    asked = Question("q", np.ones(4, int), np.array([1, 2, 3, 4]))
    boards = np.array([[1, 2, 3, 3], [1, 2, 3, 4]])
    _, first, last = frames_of(kind, asked, boards, np.ones(2))
    assert (first.verdict, last.verdict) == ("1 wrong cell", "as the known answer")
    assert (first.solved, last.solved) == (False, True)


def test_pictures_leave_out_what_is_blank_throughout() -> None:
    """Here 3 rows of 4 columns, the border included; the terminal keeps the canvas."""
    kind = kind_of("arc", 900, 12)
    grid = lambda *rows: to_tokens(np.array(rows, np.uint8)).astype(np.int32)
    asked = Question("q", grid([1, 2, 3]))
    frames = frames_of(kind, asked, grid([4], [5])[None], np.ones(1))
    cut, shown = crop(kind, frames)
    assert cut.columns == 4
    assert shown[0].tokens.tolist() == [3, 4, 5, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert shown[1].tokens.tolist() == [6, 1, 0, 0, 7, 1, 0, 0, 1, 0, 0, 0]
    assert len(frames[0].tokens) == 900
    colors = pixels(draw.draw_sheet(kind, frames))
    assert colors >= {kind.fills[token] for token in (1, 3, 4, 5, 6, 7)}


def test_a_task_has_its_row_of_the_puzzle_table(run: LoadedRun, tmp_path: Path) -> None:
    """By `identifiers.json`; what has none gets the blank row, and a warning."""
    names = ["<blank>", "one", "two"]
    (tmp_path / "identifiers.json").write_text(json.dumps(names))
    assert table_rows(["two", "", "one"], tmp_path, 3).tolist() == [2, 0, 1]
    with pytest.warns(UserWarning, match="three"):
        assert table_rows(["three", "two"], tmp_path, 3).tolist() == [0, 2]
    with pytest.warns(UserWarning, match="one"):
        assert table_rows(["one"], tmp_path / "missing", 3).tolist() == [0]
    with pytest.warns(UserWarning, match="one"):
        assert table_rows(["one"], tmp_path, 4).tolist() == [0], "of other puzzles"
    data = replace(run.config.data, paths=(str(tmp_path),))
    own = run.table.rows
    table = make_table(jnp.concatenate([own, own + 5, own]))
    other = replace(run, config=replace(run.config, data=data), table=table)
    asked = [Question(name, np.ones(16, int), None, name) for name in ("one", "two")]
    one, two = (found.frames[-1].q_halt for found in solve.solve(other, asked))
    assert one != two
    told = solve.think(other, np.ones((2, 16), int), ids=np.array([0, 1]))
    assert (told.q_halt[:, 0] != told.q_halt[:, 1]).any()


# -- pictures --------------------------------------------------------------------------


def pixels(image: Image.Image) -> set[str]:
    found = image.convert("RGB").getcolors(1 << 24)
    assert found is not None
    colors: Any = [color for _, color in found]
    return {"#{:02x}{:02x}{:02x}".format(*color) for color in colors}


def test_a_picture_has_all_marks() -> None:
    """In the colors that its legend gives them."""
    found = made("12..34..21..43..", "1234341221434324", RIGHT)
    sheet = draw.draw_sheet(found.kind, found.frames)
    assert pixels(sheet) >= {draw.GIVEN, draw.CHANGED, draw.WRONG, draw.INK}
    assert sheet.width < draw.WIDEST + 100


def test_a_picture_tells_when_it_was_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is wide enough for that."""
    written = []
    draw_text = ImageDraw.ImageDraw.text

    def note(self: Any, corner: Any, text: str, *args: Any, **options: Any) -> None:
        width = self.textlength(text, args[1]) if text else 0.0
        written.append((text, corner[0] + width <= self.im.size[0]))
        draw_text(self, corner, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    found = made("1...............", RIGHT, RIGHT)
    draw.draw_sheet(found.kind, found.frames)
    assert written[-1] == ("solved first after step 1", True)


def test_a_picture_of_many_steps_shows_some() -> None:
    sizes = []
    for boards in (draw.MOST_BOARDS - 1, 40):
        found = made("12..34..21..43..", *[RIGHT] * boards)
        sizes.append(draw.draw_sheet(found.kind, found.frames).size)
    assert sizes[0] == sizes[1]


def test_an_animation_has_a_frame_a_step(tmp_path: Path, solution: Solution) -> None:
    draw.write_animation(tmp_path / "a.gif", solution.kind, solution.frames)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == len(solution.frames) == 6  # pyright: ignore
        assert gif.info["loop"] == 0
        seen = []
        for i in range(6):
            gif.seek(i)
            seen.append(gif.convert("RGB").tobytes())
    assert len(set(seen)) == 6


def frames_on(path: Path) -> dict:
    text = path.read_text()
    return json.loads(text.split(page.BEGIN)[1].split(page.END)[0])


def test_a_page_holds_all_steps(tmp_path: Path, solution: Solution) -> None:
    path = tmp_path / "a.html"
    page.write_page(path, solution.kind, solution.frames, "</script><b>", "note & all")
    data = frames_on(path)
    assert [frame["tokens"] for frame in data["frames"]] == [
        frame.tokens.tolist() for frame in solution.frames
    ]
    for stored, frame in zip(data["frames"], solution.frames, strict=True):
        marks = np.array(stored["marks"])
        for bit, flag in (
            (page.GIVEN, frame.given),
            (page.CHANGED, frame.changed),
            (page.WRONG, frame.wrong),
            (page.ALTERED, frame.altered),
        ):
            assert_equal((marks & bit) > 0, flag)
        assert (stored["q"], stored["verdict"]) == (frame.q_halt, frame.verdict)
    text = path.read_text()
    assert "<title>&lt;/script&gt;&lt;b&gt;</title>" in text
    assert "note &amp; all" in text


def test_a_page_needs_nothing_else(tmp_path: Path, solution: Solution) -> None:
    """No address but the name of SVG's elements, and nothing to fetch."""
    path = tmp_path / "a.html"
    page.write_page(path, solution.kind, solution.frames, "a", "b")
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?:|//\w|src=|<link|@import|url\(|fetch\(", text)


def test_pictures_need_pillow(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    monkeypatch.setattr(draw, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="Pillow"):
        solve.main(["--run-dir", str(run_dir), BOARDS[0], "--out", "x"])


# -- the command -----------------------------------------------------------------------


@pytest.fixture
def command(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    monkeypatch.setattr(solve, "start", lambda *_: None)

    def call(*words: str) -> str:
        solve.main(["--run-dir", str(run_dir), *words])
        return capsys.readouterr().out

    return call


def test_puzzles_from_arguments_files_and_standard_input(
    command: Callable[..., str],
    run: LoadedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One after another; `--show line` prints what other programs can read."""
    file = tmp_path / "puzzles.txt"
    file.write_text(f"{BOARDS[1]}\n\n{BOARDS[2]}\n", encoding="utf-8-sig")
    lines = command("--show", "line", BOARDS[0], str(file)).splitlines()
    kind = solve.run_kind(run)
    wanted = [kind.show(one.answer) for one in solve.solve(run, "\n".join(BOARDS))]
    assert lines == wanted
    with file.open() as text:
        monkeypatch.setattr("sys.stdin", text)
        assert command("--show", "line").splitlines() == wanted[1:]


def test_every_step_is_printed(command: Callable[..., str]) -> None:
    out = command(BOARDS[0], "--steps", "20")
    assert [f"step {i}" in out for i in (1, 20, 21)] == [True, True, False]
    assert out.count("halt 0.") + out.count("halt 1.") == 20
    assert "step 20; halting probability" in out
    short = command(BOARDS[0], "--steps", "20", "--show", "answer")
    assert re.findall(r"step \d+", short) == ["step 20", "step 20"]


def test_a_checkpoint_is_named_by_its_step(command: Callable[..., str]) -> None:
    words = ("--show", "line", BOARDS[0])
    assert command("--checkpoint", "0", *words) == command(*words)
    with pytest.raises(UserError, match="0"):
        command("--checkpoint", "2", *words)
    with pytest.raises(SystemExit, match="2"):
        command("--checkpoint", "last", *words)


def test_pictures_are_written(command: Callable[..., str], tmp_path: Path) -> None:
    command(*BOARDS[:2], "--out", str(tmp_path / "new"), "--steps", "2")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [
        f"puzzle-{i}.{end}" for i in (1, 2) for end in ("gif", "html", "png")
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run-dir", "", "1" * 15], "No packaged model"),
        (["--official", "x", BOARDS[0]], "got both"),
        ([BOARDS[0], "--steps", "-1"], "`steps`.*-1"),
        (["missing.txt"], r"missing\.txt"),
        (["a/b"], "a/b"),
        (["missing"], "16.*7"),
        (["." * 5000], "16.*5000"),
    ],
)
def test_wrong_words(
    command: Callable[..., str], words: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        command(*words)


def test_a_file_that_is_no_text(command: Callable[..., str], tmp_path: Path) -> None:
    for name in ("x", "x.gz"):
        (tmp_path / name).write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match=name):
            command(str(tmp_path / name))
    (tmp_path / "y.gz").write_bytes(gzip.compress(BOARDS[0].encode()))
    assert command(str(tmp_path / "y.gz"), "--show", "line")


@pytest.mark.slow
def test_from_training_to_a_solved_puzzle(tmp_path: Path) -> None:
    """Commands alone: train, solve from standard input's file, wrong input."""
    prepare(GeneratedSudoku(size=4, train=256, test=16), tmp_path / "data")
    settings = {
        **TINY,
        "data.paths": tmp_path / "data",
        "run-dir": tmp_path / "run",
        "batch-size": 32,
        "epochs": 60,
        "eval.epochs": 60,
        "run.save-every": 1000,
        "run.log-every": 100,
        "optim.lr": 0.01,
        "optim.warmup": 20,
    }
    finish(start("train.trm", runs.words("quickstart", settings)))
    tokens = np.load(tmp_path / "data" / "test" / "all__inputs.npy")
    text = "\n".join("".join(".1234"[t - 1] for t in row) for row in tokens)
    (tmp_path / "puzzles").write_text(text)
    argv = ["--run-dir", str(tmp_path / "run"), str(tmp_path / "puzzles")]
    out, _ = finish(start("trm.solve", argv))
    assert out.count("the rules hold; givens kept") >= 8, out
    _, err = finish(start("trm.solve", [*argv[:2], "123"]), status=2)
    assert err.startswith("error:")
    assert "Traceback" not in err
