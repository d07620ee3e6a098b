import pickle
import threading

import numpy as np
import pytest

from configs import UserError
from data.text.dataset import TokenDataset
from data.text.tokenizer import Characters

LETTERS = "abcdefghij"
FIRST = [34, 11, 607, 239, 362, 110]
LATER = [30, 1, 13, 16, 37, 29]


@pytest.fixture
def folder(tmp_path):
    """A dataset of ten characters in which position i holds a token made from i."""
    write(tmp_path, "train", np.arange(1000) * 7 % 10)
    write(tmp_path, "val", np.arange(60) * 3 % 10)
    Characters(LETTERS).write(tmp_path)
    return tmp_path


def write(folder, split, tokens):
    np.asarray(tokens).astype("<u2").tofile(folder / f"{split}.bin")


def load(folder, split="train", *, block_size=8, batch_size=6, **settings):
    settings = {"block_size": block_size, "batch_size": batch_size, **settings}
    return TokenDataset(folder, split, **settings)


def starts(folder, split="train", step=0, **settings):
    """Return the first positions of a batch's sequences."""
    for name, count in (("train", 1000), ("val", 60)):
        write(folder, name, np.arange(count))
    (folder / "tokenizer.json").unlink(missing_ok=True)  # each token is its position
    return load(folder, split, **settings).batch(step).inputs[:, 0].tolist()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# -- batches ---------------------------------------------------------------------------


def test_a_split_says_what_it_is(folder):
    dataset = load(folder)
    assert (dataset.vocab_size, dataset.num_tokens) == (10, 1000)
    assert load(folder, "val").num_tokens == 60
    assert dataset.tokenizer.decode([0, 9]) == "aj"


def test_targets_are_the_next_tokens(folder):
    # All tokens differ here, so that a token says where it stands.
    write(folder, "train", np.arange(50000))
    (folder / "tokenizer.json").unlink()
    inputs, targets = load(folder, batch_size=64).batch(3)
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.shape == targets.shape == (64, 8)
    assert np.array_equal(inputs, inputs[:, :1] + np.arange(8))
    assert np.array_equal(targets, inputs + 1)


def test_a_batch_depends_on_seed_split_and_step_alone(folder):
    write(folder, "val", np.arange(1000) * 7 % 10)
    dataset = load(folder, seed=3)
    batches = [dataset.batch(step) for step in range(20)]
    other = load(folder, seed=3)
    for step in np.random.default_rng(0).permutation(20):
        assert same(other.batch(int(step)), batches[step])
    drawn = [starts(folder, seed=3, step=step) for step in range(20)]
    drawn += [starts(folder, seed=seed) for seed in (0, 4, 2**64 - 1)]
    drawn += [starts(folder, "val", seed=3)]
    assert len({tuple(firsts) for firsts in drawn}) == 24


def test_batches_stay_what_they_are(folder):
    """So that a run goes on exactly with a later version of this code or of NumPy."""
    assert starts(folder) == FIRST
    assert starts(folder, "val", seed=1337, step=5) == LATER


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_rows_of_all_processes_make_the_global_batch(folder, processes):
    whole = load(folder)
    parts = [load(folder, rows=own) for own in np.split(np.arange(6), processes)]
    for step in range(5):
        joined = zip(*(part.batch(step) for part in parts), strict=True)
        assert same([np.concatenate(field) for field in joined], whole.batch(step))


def test_rows_come_in_the_order_asked_for(folder):
    some = load(folder, rows=np.array([4, 1], np.uint8)).batch(2)
    assert same(some, [field[[4, 1]] for field in load(folder).batch(2)])


def test_every_place_is_drawn_as_often(folder):
    counts = np.bincount(starts(folder, "val", block_size=50, batch_size=10000))
    assert len(counts) == 60 - 50  # the last sequence's last target is the last token
    assert counts.min() > 850
    assert counts.max() < 1150


def test_the_shortest_file_has_one_sequence(folder):
    inputs, targets = load(folder, "val", block_size=59).batch(0)
    expected = np.arange(60) * 3 % 10
    assert (inputs == expected[:-1]).all()
    assert (targets == expected[1:]).all()


def test_threads_may_share_a_dataset(folder):
    dataset, found = load(folder), {}
    expected = [dataset.batch(step) for step in range(40)]

    def work(first):
        for step in range(first, 40, 4):
            found[step] = dataset.batch(step)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[step], expected[step]) for step in range(40))


# -- nanoGPT's folders -----------------------------------------------------------------


def test_nanogpts_characters_load(folder):
    (folder / "tokenizer.json").unlink()
    stoi = {letter: i for i, letter in enumerate(LETTERS)}
    itos = dict(enumerate(LETTERS))
    meta = {"vocab_size": 10, "itos": itos, "stoi": stoi}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    dataset = load(folder)
    assert dataset.vocab_size == 10
    assert dataset.tokenizer.encode("cab").tolist() == [2, 0, 1]


def test_nanogpts_byte_pairs_load(folder):
    (folder / "tokenizer.json").unlink()
    write(folder, "train", [50256] * 20)
    dataset = load(folder)
    assert dataset.vocab_size == 50257
    assert (dataset.batch(0).inputs == 50256).all()


# -- errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "train, val: got 'test'"),
        ({"block_size": 0}, "`block_size`.* got 0"),
        ({"batch_size": 0}, "`batch_size`.* got 0"),
        ({"seed": -1}, "`seed`"),
        ({"seed": 2**64}, "`seed`"),
        ({"rows": np.array([6])}, "`rows`"),
        ({"rows": np.array([-1])}, "`rows`"),
        ({"block_size": 1000}, "got 1,000"),
    ],
)
def test_arguments_out_of_range_are_refused(folder, settings, message):
    with pytest.raises(UserError, match=message):
        load(folder, **settings)


def test_a_negative_step_is_refused(folder):
    with pytest.raises(UserError, match="`step`"):
        load(folder).batch(-1)


def test_missing_files_are_refused(folder):
    with pytest.raises(UserError, match="none"):
        load(folder / "none")
    (folder / "val.bin").unlink()
    with pytest.raises(UserError, match=r"val\.bin"):
        load(folder, "val")


def test_half_a_token_is_refused(folder):
    with (folder / "train.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="got 2,001"):
        load(folder)


def test_an_empty_file_is_refused(folder):
    (folder / "train.bin").write_bytes(b"")
    with pytest.raises(UserError, match="got 0"):
        load(folder)


def test_a_token_outside_the_vocabulary_is_named(folder):
    tokens = np.zeros(30)
    tokens[17] = 10
    write(folder, "train", tokens)
    with pytest.raises(UserError, match=r"train\.bin .*10 at position 17"):
        load(folder, batch_size=64).batch(0)


def test_opening_reads_no_tokens(folder):
    tokens = np.zeros(1 << 20)
    tokens[-1] = 10
    write(folder, "train", tokens)
    dataset = load(folder)
    assert (dataset.batch(0).inputs == 0).all()


@pytest.mark.parametrize(
    "text",
    [
        "1 0 1 1 0 0 ",
        "a\nb\nb\n",
        "a",
        "ab",
        "a  b",
        "the tab\n\n",
        "0100",
        "\n" * 9 + "a",
    ],
)
def test_tokens_of_real_text_are_never_refused(tmp_path, text):
    tokenizer = Characters("".join(sorted(set(text))))
    tokenizer.write(tmp_path)
    write(tmp_path, "train", tokenizer.encode(text * 3000))
    assert load(tmp_path).num_tokens == 3000 * len(text)


def test_gpt2s_tokens_need_no_file(tmp_path):
    write(tmp_path, "train", np.random.default_rng(0).zipf(1.5, 5000) % 50257)
    write(tmp_path, "val", [0, 5] * 40)
    assert load(tmp_path).vocab_size == load(tmp_path, "val").vocab_size == 50257


# -- identity --------------------------------------------------------------------------


def test_a_content_hash_is_recorded_or_sampled(folder):
    first = load(folder).content_hash
    assert first.startswith("sampled-")
    assert load(folder, "val", seed=3).content_hash == first
    write(folder, "val", np.arange(60) * 7 % 10)
    assert load(folder).content_hash != first
    (folder / "dataset.json").write_text('{"kind": "char", "content_hash": "abc"}')
    assert load(folder).content_hash == "abc"
