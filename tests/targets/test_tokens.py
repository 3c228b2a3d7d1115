"""Tokens: equal to transformers' CLIPTokenizer on any text; what is cut off is told; a damaged folder is a sentence."""

import json
import shutil

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.targets import tokens
from dreamjax.targets.tokens import Tokenizer

CAPTIONS = ["a small red circle on the left", "a large blue star at the top right", "don't, naïve café's 12 × 3.5!"]
ODD = [
    "A small RED circle",
    "  odd \t\n space  ",
    "",
    "naïve 12345 don't we'll é e\u0301 ﬁ ǅ İstanbul",
    "日本語のテキスト 🎉👩‍👩‍👧 !!! ???",
    "an end <|endoftext|> inside, and a <|startoftext|> and <|unused0|>",
    "'s 't '' ``¡¿«»",
    "\x00\u200b\ufeff control \x7f",
    "a " * 300,
    "x" * 1000,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokens.train(CAPTIONS, 620, 24).write(folder)
    return folder


def reference(folder, texts):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(str(folder))
    return theirs(texts, padding="max_length", truncation=True, return_tensors="np").input_ids


def edited(folder, target, **fields):
    shutil.copytree(folder, target)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = target / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return target


def test_ids_are_those_of_transformers(folder):
    ours = Tokenizer.open(folder)
    found = ours(ODD + CAPTIONS, warn=False)
    assert found.shape == (len(ODD) + 3, 24)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, reference(folder, ODD + CAPTIONS))
    assert (ours.begin, ours.end, ours.pad, ours.vocabulary) == (618, 619, 619, 620)


def test_stable_diffusion_2_pads_with_an_exclamation_mark(folder, tmp_path):
    """Its file says so; and its id is 0, as the first of CLIP's bytes."""
    sd2 = edited(folder, tmp_path / "sd2", pad_token={"content": "!", "lstrip": False, "__type": "AddedToken"})
    found = Tokenizer.open(sd2)(ODD, warn=False)
    np.testing.assert_array_equal(found, reference(sd2, ODD))
    assert found[2].tolist() == [618, 619] + [0] * 22


def test_a_tokenizer_json_gives_the_same_ids(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.CLIPTokenizer.from_pretrained(str(folder)).save_pretrained(str(tmp_path))
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    assert (tmp_path / "tokenizer.json").exists()
    np.testing.assert_array_equal(Tokenizer.open(tmp_path)(ODD, warn=False), Tokenizer.open(folder)(ODD, warn=False))


def test_reports_truncated_captions(folder, caplog):
    ours = Tokenizer.open(folder, length=7)
    with caplog.at_level("WARNING", logger="dreamjax"):
        assert ours(["a small red circle on the left"])[0].tolist()[-1] == ours.end
    assert "longer than the 7 tokens" in caplog.text
    assert "'the left'" in caplog.text


def test_frequent_words_become_one_token_and_the_same_captions_the_same_tokenizer(folder):
    """Begin, seven words, end."""
    again = tokens.train(CAPTIONS, 620, 24)
    ids = again([CAPTIONS[0]])[0]
    assert ids.tolist().index(again.end) == 8
    np.testing.assert_array_equal(ids, Tokenizer.open(folder)([CAPTIONS[0]])[0])


def test_merges_join_the_most_frequent_pair_first():
    """Sennrich et al. 2016, algorithm 1, by hand: "aaab" x 2 has (a, a) four times; then (aa, a)… of equals by name."""
    found = tokens.train(["aaab aaab"], 514 + 3)
    assert json.loads(found.encoder.to_str())["model"]["merges"] == [["a", "a"], ["a", "b</w>"], ["aa", "ab</w>"]]


def test_a_size_that_cannot_hold_the_bytes_is_refused():
    with pytest.raises(ValueError, match="take 514"):
        tokens.train(CAPTIONS, 500)


def test_reports_damaged_tokenizer_folder(folder, tmp_path):
    with pytest.raises(UserError, match="holds no CLIP tokenizer"):
        Tokenizer.open(tmp_path)
    with pytest.raises(UserError, match=r"bos_token '<s>' is not in its vocabulary"):
        Tokenizer.open(edited(folder, tmp_path / "a", bos_token="<s>"))
    b = edited(folder, tmp_path / "b")
    (b / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(UserError, match="joins two tokens"):
        Tokenizer.open(b)
    (b / "merges.txt").write_text("#version: 0.2\nnowhere tobefound\n")
    with pytest.raises(UserError, match="do not fit"):
        Tokenizer.open(b)
    (b / "vocab.json").write_text("<html>")
    with pytest.raises(UserError, match="web page"):
        Tokenizer.open(b)
