import json
from pathlib import Path

import pytest
import tokenizers

from data.text.hugging_face import write_tokenizer
from data.text.tokenizer import GPT2, Characters

TEXT = "a tab\t\n\n  é 日本 🙂  the"
MORE = [TEXT, "", " ", "\n", "the the\r\n", "🙂" * 3]


def test_gpt2s_files_come_out_as_they_went_in(tmp_path, bpe_dir):
    """Merges are found again from the tokens alone, as after a download."""
    write_tokenizer(GPT2.load(bpe_dir), tmp_path, 64)
    read = lambda path: path.read_text(encoding="utf-8")
    names = [json.loads(read(tmp_path / "vocab.json"))]
    assert names == [json.loads(read(Path(bpe_dir) / "encoder.json"))]
    assert read(tmp_path / "merges.txt") == read(Path(bpe_dir) / "vocab.bpe")
    assert GPT2.load(str(tmp_path)).decode([0, 1]) == GPT2.load(bpe_dir).decode([0, 1])
    config = json.loads(read(tmp_path / "tokenizer_config.json"))
    assert config["model_max_length"] == 64


def test_characters_are_read_by_tokenizers(tmp_path):
    ours = Characters("".join(sorted(set("".join(MORE)))))
    write_tokenizer(ours, tmp_path, 64)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == ours.vocab_size
    for text in MORE:
        tokens = ours.encode(text).tolist()
        assert theirs.encode(text).ids == tokens
        assert theirs.decode(tokens) == text
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("X")


@pytest.mark.parametrize("kind", ["char", "gpt2"])
def test_auto_tokenizer_reads_them(tmp_path, bpe_dir, kind):
    from transformers import AutoTokenizer  # which takes its time

    characters = "".join(sorted(set("".join(MORE))))
    ours = Characters(characters) if kind == "char" else GPT2.load(bpe_dir)
    write_tokenizer(ours, tmp_path, 64)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.vocab_size, theirs.model_max_length) == (ours.vocab_size, 64)
    for text in MORE:
        tokens = ours.encode(text).tolist()
        assert theirs(text)["input_ids"] == tokens
        assert theirs.decode(tokens) == text
