import gzip
import hashlib
import io
import json
import os
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import data.text.reading
import data.text.shakespeare
from configs import OpenWebText, Shakespeare, TextFiles, UserError
from data.build import prepare
from data.prepare import main
from data.text import files as text_files
from data.text import openwebtext
from data.text.dataset import TokenDataset
from data.text.openwebtext import Documents, write_documents
from data.text.reading import between, cut, read_text
from data.text.tokenizer import GPT2, Tokenizer

TEXT = "First Citizen:\nBefore we the the tab é 日本 🙂\n\n  the end.\n" * 9


def write(path, text=TEXT):
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def tokens(folder, split):
    return np.fromfile(folder / f"{split}.bin", "<u2").tolist()


def about(folder):
    return json.loads((folder / "dataset.json").read_text())


def in_chunks(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


# -- characters ------------------------------------------------------------------------


def test_characters_as_nanogpt_writes_them(tmp_path, capsys):
    config = Shakespeare(input=write(tmp_path / "input.txt"))
    prepare(config, out := tmp_path / "out")
    numbers = {c: i for i, c in enumerate(sorted(set(TEXT)))}
    n = int(len(TEXT) * 0.9)
    assert tokens(out, "train") == [numbers[c] for c in TEXT[:n]]
    assert tokens(out, "val") == [numbers[c] for c in TEXT[n:]]
    assert Tokenizer.read(out).decode(tokens(out, "val")) == TEXT[n:]
    assert about(out)["train_bytes"] == len(TEXT[:n].encode())
    assert about(out)["val_bytes"] == len(TEXT[n:].encode())
    printed = capsys.readouterr().out
    assert f"train: {n} tokens" in printed
    assert "note: " in printed, "it is another text"
    known = about(out)
    assert known["source"] == "input.txt"
    assert known["vocab_size"] == len(numbers)
    assert known["content_hash"] in printed
    assert str(tmp_path) not in json.dumps(known)


def test_the_vocabulary_covers_both_splits(tmp_path):
    config = TextFiles(
        input=(write(tmp_path / "a.txt", "ab"), write(tmp_path / "b.gz", "cd")),
        val_input=(write(tmp_path / "c.txt", "xa"),),
        tokens="char",
    )
    text_files.build(config, out := tmp_path / "out")
    assert tokens(out, "train") == [0, 1, 2, 3]
    assert tokens(out, "val") == [4, 0]
    assert about(out)["source"] == "a.txt, b.gz, c.txt"


def test_the_tokens_of_a_run(tmp_path, capsys):
    """Or of a dataset; what the vocabulary lacks is left out and counted."""
    first, run = tmp_path / "first", tmp_path / "run"
    (source := tmp_path / "source").mkdir()
    prepare(TextFiles(input=(write(source / "a.txt"),), tokens="char"), first)
    run.mkdir()
    data = {"path": str(first), "build": None}
    (run / "config.json").write_text(json.dumps({"data": data}))
    other = write(tmp_path / "b.txt", "XtheX\nend.Y é" * 9)
    for number, like in enumerate((first, run)):
        out = tmp_path / f"out{number}"
        prepare(TextFiles(input=(other,), like=str(like)), out)
        tokenizer = Tokenizer.read(out)
        assert tokenizer.describe() == Tokenizer.read(first).describe()
        text = "".join(tokenizer.decode(tokens(out, name)) for name in ("train", "val"))
        assert text == "the\nend. é" * 9
        assert "27 characters" in (printed := capsys.readouterr().out)
        assert "'X' (18), 'Y' (9)" in printed
    for record in (json.dumps({"data": {"paths": ["puzzles"]}}), "{"):
        (run / "config.json").write_text(record)
        with pytest.raises(UserError, match=r"names no text"):
            prepare(TextFiles(input=(other,), like=str(run)), tmp_path / "no")


def test_the_content_hash_is_of_the_content(tmp_path):
    def build(name, text, val):
        files = {"input": (write(tmp_path / "a.txt", text),)}
        files["val_input"] = (write(tmp_path / "b.txt", val),)
        text_files.build(TextFiles(**files, tokens="char"), tmp_path / name)
        return about(tmp_path / name)["content_hash"]

    first = build("1", "abc", "ab")
    assert build("2", "abc", "ab") == first
    others = [build("3", "abca", "b"), build("4", "xyz", "xy"), build("5", "ab", "cab")]
    assert len({first, *others}) == 4


# -- byte pairs ------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_byte_pairs_as_the_whole_would_encode(
    tmp_path, bpe_dir, monkeypatch, processes
):
    monkeypatch.setattr(data.text.reading, "CHUNK", 100)
    monkeypatch.setattr(text_files, "PIECE", 20)
    text = TEXT + "<|endoftext|>\n" + TEXT
    config = TextFiles(
        input=(write(tmp_path / "a.txt", text),),
        val_input=(write(tmp_path / "b.txt.gz"),),
        bpe_dir=bpe_dir,
        processes=processes,
    )
    text_files.build(config, out := tmp_path / "out")
    tokenizer = GPT2.load(bpe_dir)
    assert tokens(out, "train") == tokenizer.encode(text).tolist()
    assert tokens(out, "val") == tokenizer.encode(TEXT).tolist()
    assert tokens(out, "train").count(tokenizer.end) == 1
    assert bpe_dir not in (out / "tokenizer.json").read_text() + json.dumps(about(out))
    assert TokenDataset(out, "val", block_size=4, batch_size=2).vocab_size == 264


def test_shakespeare_in_byte_pairs(tmp_path, bpe_dir):
    path = write(tmp_path / "input.txt")
    out = tmp_path / "out"
    args = ["shakespeare", "--input", path, "--bpe-dir", bpe_dir, "--out", str(out)]
    main(args)
    n = int(len(TEXT) * 0.9)
    assert tokens(out, "train") == GPT2.load(bpe_dir).encode(TEXT[:n]).tolist()


PARTS = [*"  \n\n\t\r\x1c\x85\xa0\u3000\u200b", "a", "th", "1", "'", "'s", "!", "é"]
PARTS += ["日", "🙂", "<|endoftext|>", "<|endof", "\n\n", "  "]


def test_pieces_encode_as_the_whole(bpe_dir):
    """Also next to white space that Python and GPT-2's pattern see differently."""
    tokenizer, rng, pieces = GPT2.load(bpe_dir), np.random.default_rng(0), 0
    for _ in range(3000):
        text = "".join(rng.choice(PARTS, rng.integers(1, 30)))
        chunks = in_chunks(text, int(rng.integers(1, 9)))
        found = list(cut(chunks, int(rng.integers(1, 6))))
        assert "".join(found) == text
        joined = np.concatenate([tokenizer.encode(piece) for piece in found])
        assert joined.tolist() == tokenizer.encode(text).tolist(), found
        pieces += len(found)
    assert pieces > 6000


def test_text_without_a_place_to_cut_stays_whole():
    assert list(cut(["ab", "cd\n", "\n", " "], 1)) == ["abcd\n\n "]
    assert list(cut([], 1)) == []


# -- reading ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
def test_files_are_read_in_chunks(tmp_path, monkeypatch, name, chunk):
    monkeypatch.setattr(data.text.reading, "CHUNK", chunk)
    path = write(tmp_path / name, "é\r\n日本\n🙂\r")
    assert "".join(read_text([path, path])) == "é\n日本\n🙂\n" * 2


def test_a_range_of_characters():
    for size in (1, 3, 100):
        for start, stop in ((0, 10), (3, 7), (0, 0), (9, 10), (4, 99)):
            found = between(in_chunks("0123456789", size), start, stop)
            assert "".join(found) == "0123456789"[start:stop]


def test_a_byte_order_mark_is_no_character(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text("the tab", encoding="utf-8-sig")
    assert "".join(read_text(paths)) == "the tabthe tab"


@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize(
    ("content", "byte"),
    [
        (b"abc\xff", 3),
        ("日é".encode() + b"\xe6\x97a", 5),
        (b"\xc3", 0),
        (b"\xef\xbb\xbfab\xff", 5),
    ],
)
def test_a_file_that_is_no_utf8_is_named(tmp_path, monkeypatch, chunk, content, byte):
    monkeypatch.setattr(data.text.reading, "CHUNK", chunk)
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.txt .*byte {byte} "):
        list(read_text([path]))


def test_a_damaged_gzip_is_named(tmp_path):
    whole = gzip.compress(TEXT.encode())
    for content in (b"plain text", whole[:-9], whole[:20] + b"\xff" * 20):
        (tmp_path / "bad.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.gz"):
            list(read_text([tmp_path / "bad.gz"]))


# -- errors ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["char", "gpt2"])
@pytest.mark.parametrize("text", ["", "a"])
def test_too_little_text_is_refused(tmp_path, bpe_dir, kind, text):
    path = write(tmp_path / "a.txt", text)
    config = TextFiles(input=(path,), tokens=kind, bpe_dir=bpe_dir)
    with pytest.raises(UserError, match="text"):
        text_files.build(config, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_an_empty_file_to_validate_on_is_refused(tmp_path, bpe_dir):
    files = {"input": (write(tmp_path / "a.txt"),)}
    files["val_input"] = (write(tmp_path / "b.txt", ""),)
    with pytest.raises(UserError, match="val"):
        text_files.build(TextFiles(**files, bpe_dir=bpe_dir), tmp_path / "out")


def test_too_many_characters_are_refused(tmp_path):
    text = "".join(map(chr, range(0x10000, 0x20001)))
    config = TextFiles(input=(write(tmp_path / "a.txt", text),), tokens="char")
    with pytest.raises(UserError, match="got 65,537"):
        text_files.build(config, tmp_path / "out")


def test_nothing_is_left_of_a_failure(tmp_path, bpe_dir, monkeypatch):
    def fail(self, text):
        raise UserError("stop")

    monkeypatch.setattr(GPT2, "encode", fail)
    config = TextFiles(input=(write(tmp_path / "a.txt"),), bpe_dir=bpe_dir)
    with pytest.raises(UserError, match="stop"):
        text_files.build(config, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "args",
    [
        ["shakespeare-char"],
        ["shakespeare"],
        ["openwebtext"],
        ["text", "--input", "none.txt"],
    ],
)
def test_an_output_in_use_is_refused(tmp_path, args):
    write(tmp_path / "a.txt")
    with pytest.raises(UserError, match=str(tmp_path)):
        main([*args, "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["text"], "got none"),
        (["text", "--input", "none.txt", "--tokens", "char"], r"none\.txt"),
        (["shakespeare-char", "--input", "none.txt"], r"none\.txt"),
        (["openwebtext", "--processes", "0"], "got 0"),
    ],
)
def test_errors_are_the_users(tmp_path, args, message):
    with pytest.raises(UserError, match=message):
        main([*args, "--out", str(tmp_path / "out")])


# -- downloads -------------------------------------------------------------------------


def serve(monkeypatch, content):
    def urlopen(url, timeout):
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_shakespeare_is_downloaded(tmp_path, monkeypatch):
    content = TEXT.encode()
    serve(monkeypatch, content)
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(data.text.shakespeare, "SHA256", digest)
    prepare(Shakespeare(), tmp_path / "out")
    assert about(tmp_path / "out")["source"] == "input.txt"


def test_another_text_than_shakespeare_is_refused(tmp_path, monkeypatch):
    serve(monkeypatch, TEXT.encode())
    with pytest.raises(UserError, match=r"sha256.*--input"):
        prepare(Shakespeare(), tmp_path / "out")


def test_no_network_says_what_to_do(tmp_path, monkeypatch):
    serve(monkeypatch, urllib.error.URLError("no route"))
    with pytest.raises(UserError, match=r"no route.*--input FILE"):
        prepare(Shakespeare(), tmp_path / "out")


# -- OpenWebText -----------------------------------------------------------------------

DOCUMENTS = ["the the", "", "a<|endoftext|>b", "日本\n\n"] * 5


def batches(documents, size=3):
    return [documents[i : i + size] for i in range(0, len(documents), size)]


@pytest.mark.parametrize("processes", [1, 2])
def test_documents_end_with_an_end(tmp_path, bpe_dir, processes):
    splits = {
        "train": Documents(len(DOCUMENTS), batches(DOCUMENTS)),
        "val": Documents(1, [["the"]]),
    }
    config = OpenWebText(source="somewhere", processes=processes)
    out, tokenizer = tmp_path / "out", GPT2.load(bpe_dir)
    write_documents(splits, tokenizer, out, config)
    expected = [tokenizer.encode_document(text) for text in DOCUMENTS]
    assert tokens(out, "train") == np.concatenate(expected).tolist()
    assert tokens(out, "val") == [257, tokenizer.end]
    size = sum(len(text.encode()) for text in DOCUMENTS)  # ends have no bytes
    assert (about(out)["train_bytes"], about(out)["val_bytes"]) == (size, 3)
    assert about(out)["source"] == "somewhere"


def test_a_missing_package_names_the_extra(tmp_path, bpe_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"\[openwebtext\]"):
        prepare(OpenWebText(bpe_dir=bpe_dir), tmp_path / "out")


class FakeDataset:
    """As much of `datasets.Dataset` as is used."""

    def __init__(self, texts, column="text"):
        self.texts, self.column_names = texts, [column]

    def __len__(self):
        return len(self.texts)

    def iter(self, batch_size):
        return ({"text": batch} for batch in batches(self.texts, batch_size))

    def train_test_split(self, *, test_size, seed, shuffle):
        assert (test_size, seed, shuffle) == (0.0005, 2357, True)
        return {"train": FakeDataset(self.texts[1:]), "test": FakeDataset(["the"])}


def install(monkeypatch, load_dataset):
    module = type("datasets", (), {"load_dataset": staticmethod(load_dataset)})
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_openwebtext_is_split_as_nanogpt_splits_it(tmp_path, bpe_dir, monkeypatch):
    def load_dataset(source, *, split, num_proc):
        assert (source, split, num_proc) == ("Skylion007/openwebtext", "train", 1)
        return FakeDataset(DOCUMENTS)

    install(monkeypatch, load_dataset)
    monkeypatch.setattr(openwebtext, "BATCH", 3)
    prepare(OpenWebText(bpe_dir=bpe_dir, processes=1), out := tmp_path / "out")
    assert tokens(out, "train").count(263) == len(DOCUMENTS) - 1
    assert tokens(out, "val") == [257, 263]


def test_a_dataset_that_does_not_load_is_refused(tmp_path, bpe_dir, monkeypatch):
    def fail(source, **options):
        raise RuntimeError("scripts are no longer supported")

    install(monkeypatch, fail)
    with pytest.raises(UserError, match=r"no longer supported.*local folder"):
        prepare(OpenWebText(bpe_dir=bpe_dir), tmp_path / "out")
    install(monkeypatch, lambda source, **options: FakeDataset(["a"], "content"))
    with pytest.raises(UserError, match=r"`text`.* content"):
        prepare(OpenWebText(bpe_dir=bpe_dir), tmp_path / "out")


def test_a_folder_of_parquet_files(tmp_path, bpe_dir, monkeypatch):
    pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    if not hasattr(pytest.importorskip("datasets"), "load_dataset"):
        pytest.skip("the package `datasets` is not installed")
    import pyarrow

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "own").mkdir()
    table = pyarrow.table({"text": [f"{i} {text}" for i, text in enumerate(DOCUMENTS)]})
    parquet.write_table(table, tmp_path / "own" / "a.parquet")
    config = OpenWebText(source=str(tmp_path / "own"), bpe_dir=bpe_dir, processes=1)
    prepare(config, out := tmp_path / "out")
    ends = Counter(tokens(out, "train"))[263], Counter(tokens(out, "val"))[263]
    assert ends == (len(DOCUMENTS) - 1, 1)
    assert about(out)["source"] == "own"


# -- the real files --------------------------------------------------------------------

REAL = Path(os.environ.get("TEXT_DATA", ""))
needs_real = pytest.mark.skipif(
    "TEXT_DATA" not in os.environ,
    reason="TEXT_DATA names no folder of `shakespeare/input.txt` and `gpt2-bpe`",
)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@needs_real
@pytest.mark.parametrize(
    ("kind", "counts", "train", "val"),
    [
        (
            "char",
            (1003854, 111540),
            "6ec305602a99ac2802745a134e1f5e33e2231b4855525b00b9aebb730ac2626f",
            "d37d30cc0c8327c270d493299c3dca54135f6d5f1c9ef60cda78076e311204b1",
        ),
        (
            "gpt2",
            (301966, 36059),
            "502a2bdc8210d1ac5d5674867cb74467dd31db575d25cf6dbb08c8bdbea8680f",
            "68a53422394c26a655ebe641f5c6f49888e8f4e45fe5d6f02abda63ba3ebd65b",
        ),
    ],
)
def test_shakespeare_is_nanogpts_bit_for_bit(tmp_path, kind, counts, train, val):
    """The sums are of the files that nanoGPT's `prepare.py` writes."""
    config = Shakespeare(
        tokens=kind,
        input=str(REAL / "shakespeare" / "input.txt"),
        bpe_dir=str(REAL / "gpt2-bpe"),
    )
    prepare(config, out := tmp_path / "out")
    found = about(out)
    assert (found["train_tokens"], found["val_tokens"]) == counts
    assert (sha256(out / "train.bin"), sha256(out / "val.bin")) == (train, val)
