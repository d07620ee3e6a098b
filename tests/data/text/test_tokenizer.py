import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiktoken

import data.text.bpe
from configs import Shakespeare, TextDataConfig, UserError
from data.text.bpe import FOLDER_VARIABLE, load_bpe
from data.text.tokenizer import GPT2, Characters, Tokenizer

TEXT = "the tab\n\n  é 日本 🙂 the<|endoftext|> end"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dataset").mkdir()
    return tmp_path / "dataset"


# -- characters ------------------------------------------------------------------------


def test_characters_are_numbered_in_order():
    tokenizer = Characters("\nabé🙂")
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("🙂b\na").tolist() == [4, 2, 0, 1]
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.decode([3, 4]) == "é🙂"
    assert tokenizer.decode_bytes(np.array([3])) == "é".encode()


@pytest.mark.parametrize("text", ["ac", "a\U0010ffff", "a\udc80"])
def test_a_character_outside_the_vocabulary_is_named(text):
    with pytest.raises(UserError, match="position 1") as error:
        Characters("ab").encode(text)
    assert repr(text[1]) in str(error.value)


@pytest.mark.parametrize("token", [-1, 2])
def test_a_token_outside_the_vocabulary_is_named(token):
    with pytest.raises(UserError, match=f"got {token}"):
        Characters("ab").decode([0, token])


@pytest.mark.parametrize("characters", ["", "aba"])
def test_a_vocabulary_has_different_characters(characters):
    with pytest.raises(UserError, match="characters: got"):
        Characters(characters)


def test_uint16_limits_the_vocabulary():
    kinds = [chr(i) for i in range(0x10000, 0x20001)]
    assert Characters("".join(kinds[1:])).vocab_size == 65536
    with pytest.raises(UserError, match="characters: got"):
        Characters("".join(kinds))


# -- GPT-2 -----------------------------------------------------------------------------


def test_byte_pairs_from_a_folder(bpe_dir):
    tokenizer = GPT2.load(bpe_dir)
    assert tokenizer.vocab_size == 256 + 7 + 1
    assert tokenizer.encode("the the").tolist() == [257, 258]
    assert tokenizer.encode("the<|endoftext|>").tolist() == [257, tokenizer.end]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    pieces = [tokenizer.decode_bytes([int(t)]) for t in tokenizer.encode("é")]
    assert len(pieces) == 2
    assert b"".join(pieces).decode() == "é"
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_no_part_of_a_document_is_an_end(bpe_dir):
    tokenizer = GPT2.load(bpe_dir)
    tokens = tokenizer.encode_document(TEXT).tolist()
    assert tokens.count(tokenizer.end) == 1
    assert tokens[-1] == tokenizer.end
    assert tokens[:-1] == load_bpe(bpe_dir).encode_ordinary(TEXT)


def test_the_hubs_names_are_known(bpe_dir, folder):
    shutil.copy(Path(bpe_dir, "encoder.json"), folder / "vocab.json")
    shutil.copy(Path(bpe_dir, "vocab.bpe"), folder / "merges.txt")
    assert GPT2.load(str(folder)).encode("the").tolist() == [257]


def test_the_folder_may_come_from_the_environment(bpe_dir, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, bpe_dir)
    assert GPT2("", 264).encode("the").tolist() == [257]


def test_a_run_remembers_the_folder_of_its_byte_pairs(bpe_dir, folder, monkeypatch):
    """Another one may be named; where none is, nothing is at hand."""
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    GPT2.load(bpe_dir).write(folder)
    build = Shakespeare(tokens="gpt2", bpe_dir=bpe_dir)
    made = TextDataConfig(path=str(folder), build=build)
    assert Tokenizer.of(made).at_hand
    assert Tokenizer.of(made).encode("the").tolist() == [257]
    with pytest.raises(UserError, match="elsewhere"):
        Tokenizer.of(made, bpe_dir="elsewhere").encode("the")
    unknown = replace(made, build=replace(build, bpe_dir=""))
    assert not Tokenizer.of(unknown).at_hand
    assert Tokenizer.of(unknown, bpe_dir=bpe_dir).at_hand


def test_no_network_says_what_to_do(monkeypatch):
    def fail(name):
        raise OSError("no route")

    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    data.text.bpe._download.cache_clear()
    with pytest.raises(UserError, match=r"no route.*--bpe-dir"):
        GPT2().encode("a")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("encoder.json", None, "dataset"),
        ("encoder.json", "{", "dataset"),
        ("encoder.json", "[" * 100_000, "dataset"),
        ("encoder.json", "{}", "`encoder.json`"),
        ("vocab.bpe", "#version: 0.2\nt h\n", "`encoder.json`"),
        ("vocab.bpe", "t h\n日 本\n", "`encoder.json`"),
    ],
)
def test_bad_byte_pairs_are_refused(bpe_dir, folder, file, content, message):
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(Path(bpe_dir, name), folder)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        GPT2.load(str(folder))


def test_other_byte_pairs_than_the_datasets_are_refused(bpe_dir):
    with pytest.raises(UserError, match=r"50,257 tokens: got 264"):
        GPT2(bpe_dir).encode("a")
    with pytest.raises(UserError, match="got 264"):
        GPT2.load(bpe_dir).decode([264])


@pytest.mark.skipif(FOLDER_VARIABLE not in os.environ, reason="needs GPT-2's files")
def test_the_tokens_of_gpt2():
    tokens = GPT2().encode("Hello, world! naïve 日本語 🙂 12345\n\n\tx<|endoftext|>")
    assert tokens[:4].tolist() == [15496, 11, 995, 0]
    assert tokens[-1] == 50256
    assert GPT2().vocab_size == 50257


# -- files -----------------------------------------------------------------------------


def test_a_description_is_read_back(bpe_dir, folder):
    Characters("\n é🙂").write(folder)
    assert Tokenizer.read(folder).decode([3, 2, 0]) == "🙂é\n"
    GPT2.load(bpe_dir).write(folder)
    assert bpe_dir not in (folder / "tokenizer.json").read_text()
    tokenizer = Tokenizer.read(folder, bpe_dir)
    assert tokenizer.vocab_size == 264
    assert tokenizer.encode("the").tolist() == [257]


def test_a_folder_without_description_is_gpt2s(folder):
    tokenizer = Tokenizer.read(folder)
    assert isinstance(tokenizer, GPT2)
    assert tokenizer.vocab_size == 50257


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"kind": "word"}',
        '{"kind": "char"}',
        '{"kind": "char", "characters": "aa"}',
        '{"kind": "gpt2", "vocab_size": 0}',
        "[" * 100_000,
    ],
)
def test_a_bad_description_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.read(folder)


def test_a_missing_folder_is_refused(folder):
    with pytest.raises(UserError, match="none"):
        Tokenizer.read(folder / "none")


def test_a_lost_description_does_not_turn_characters_into_gpt2s(folder):
    """Today's code read a dataset of 65 characters as 50,257 byte pairs."""
    (folder / "dataset.json").write_text('{"kind": "char", "vocab_size": 65}')
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.read(folder)
    (folder / "dataset.json").write_text('{"kind": "gpt2", "vocab_size": 264}')
    assert Tokenizer.read(folder).vocab_size == 264


@pytest.mark.parametrize("text", ["[", "[]", "[" * 100_000])
def test_a_damaged_dataset_json_is_refused(folder, text):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json"):
        Tokenizer.read(folder)


# -- nanoGPT's meta.pkl ----------------------------------------------------------------


def write_meta(folder, meta):
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def test_nanogpts_vocabulary_is_read(folder):
    stoi = {"b": 1, "\n": 0, "é": 2}
    itos = {i: c for c, i in stoi.items()}
    write_meta(folder, {"vocab_size": 3, "itos": itos, "stoi": stoi})
    tokenizer = Tokenizer.read(folder)
    assert tokenizer.encode("éb\n").tolist() == [2, 1, 0]
    assert json.dumps(tokenizer.describe())


class Attack:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_calls_is_refused(folder, tmp_path):
    write_meta(folder, {"vocab_size": 1, "stoi": {"a": 0}, "x": Attack(tmp_path / "x")})
    with pytest.raises(UserError, match="mkdir"):
        Tokenizer.read(folder)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "meta",
    [
        [1],
        {"vocab_size": 2},
        {"vocab_size": 2, "stoi": {"a": 0}},
        {"vocab_size": 1, "stoi": {"ab": 0}},
        {"vocab_size": 2, "stoi": {"a": 0, "b": 2}},
        {"vocab_size": 2, "stoi": {"a": 0, 1: 1}},
    ],
)
def test_a_pickle_without_a_vocabulary_is_refused(folder, meta):
    write_meta(folder, meta)
    with pytest.raises(UserError, match=r"meta\.pkl"):
        Tokenizer.read(folder)


def test_a_broken_pickle_is_refused(folder):
    (folder / "meta.pkl").write_bytes(b"\x80\x04}")
    with pytest.raises(UserError, match=r"meta\.pkl"):
        Tokenizer.read(folder)
