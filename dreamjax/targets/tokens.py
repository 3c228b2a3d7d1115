"""Prompts ⇄ token ids, as CLIP counts them: byte-pair encoding of lower-cased words (Radford et al. 2021, section 2.4).

    tokenizer = Tokenizer.open(pipeline.path("tokenizer"))
    ids = tokenizer(["a small red circle on the left"])     # int32 [1, 77]: begin, text, end, padding

The ids are those of transformers' CLIPTokenizer. `train` makes such a tokenizer for a small vocabulary.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from dreamjax.console import log
from dreamjax.errors import UserError, missing_package
from dreamjax.storage import paths, presence, sniffing
from dreamjax.typing import JsonDict

VOCABULARY, MERGES, WHOLE, CONFIG = "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"
ROLES = "special_tokens_map.json"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
POSITIONS = 77  # of CLIP, if a folder does not say
# what counts as a word; between its alternatives, white space is dropped
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SPECIAL = {"bos_token": BEGIN, "eos_token": END, "pad_token": END, "unk_token": END}
SMALLEST = 2 * 256 + 2
Pair = tuple[str, str]
WARNED = 3  # cut texts that one call warns of


@dataclass(frozen=True)
class Tokenizer:
    """Texts → ids. `length`: of every text, with `begin` and `end`; `pad`: the id that fills it up."""

    encoder: Any  # tokenizers.Tokenizer
    length: int
    begin: int
    end: int
    pad: int

    @classmethod
    def open(cls, folder: epath.PathLike, length: int | None = None) -> "Tokenizer":
        """Open that of a folder with vocab.json and merges.txt, or tokenizer.json; `length` overrides the folder's.

        Raises UserError for a folder without such a tokenizer.
        """
        folder = epath.Path(folder)
        vocabulary, merges = _vocabulary_and_merges(folder)
        config, special = _special(folder)
        for role, token in special.items():
            if _content(token) not in vocabulary:
                raise UserError(f"{folder}: the {role} {_content(token)!r} is not in its vocabulary; fetch it again")
        longest = config.get("model_max_length")
        longest = longest if isinstance(longest, int) and 2 < longest < 1 << 20 else POSITIONS  # 1e30 if never set
        return _built(vocabulary, merges, special, length or longest)

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.encoder.get_vocab_size()

    def __call__(self, texts: Sequence[str], warn: bool = True) -> Int[np.ndarray, "B T"]:
        """Return the ids of `texts`. The end of a text that is too long is cut off, with a warning."""
        rows = np.full((len(texts), self.length), self.pad, np.int32)
        room, lost = self.length - 2, []
        for row, text, encoded in zip(rows, texts, self.encoder.encode_batch(list(texts)), strict=True):
            if len(encoded.ids) > room:
                lost.append(text[encoded.offsets[room][0] :])
            ids = [self.begin, *encoded.ids[:room], self.end]
            row[: len(ids)] = ids
        if warn:
            for end in lost[:WARNED]:
                log.warning("a text is longer than the %d tokens that CLIP reads here; lost: %r", self.length, end)
            if len(lost) > WARNED:
                log.warning("… and so are %d others", len(lost) - WARNED)
        return rows

    def write(self, folder: epath.PathLike) -> None:
        """Write a folder that `Tokenizer.open` and transformers' CLIPTokenizer.from_pretrained read."""
        model = json.loads(self.encoder.to_str())["model"]
        names = {i: token for token, i in self.encoder.get_vocab(with_added_tokens=True).items()}
        special = {
            "bos_token": names[self.begin],
            "eos_token": names[self.end],
            "pad_token": names[self.pad],
            "unk_token": model["unk_token"],
        }
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.length, "do_lower_case": True}
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VOCABULARY).write_text(json.dumps(model["vocab"], ensure_ascii=False))
        (folder / MERGES).write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
        (folder / CONFIG).write_text(json.dumps(special | config, indent=1, sort_keys=True))
        (folder / ROLES).write_text(json.dumps(special, indent=1, sort_keys=True))


def train(captions: Iterable[str], size: int, length: int = POSITIONS) -> Tokenizer:
    """Return a tokenizer of exactly `size` ids whose merges are learned from `captions`, deterministically.

    CLIP's order: 256 bytes, 256 bytes at the end of a word, the merges, begin, end. Where the captions give fewer
    merges, ids stay unused, so that begin and end are always `size` - 2 and `size` - 1. For small vocabularies: each
    merge counts all pairs again. Raises ValueError for a size that does not hold the bytes.
    """
    if size < SMALLEST:
        raise ValueError(f"a tokenizer of {size} ids is too small; all bytes, begin and end take {SMALLEST}")
    bytes_ = sorted(_tokenizers().pre_tokenizers.ByteLevel.alphabet())
    names = [*bytes_, *(f"{byte}</w>" for byte in bytes_)]
    merges = _learn(_words(captions), size - SMALLEST)
    names += [left + right for left, right in merges]
    names += [f"<|unused{i}|>" for i in range(size - 2 - len(names))]
    vocabulary = {name: i for i, name in enumerate([*names, BEGIN, END])}
    return _built(vocabulary, merges, SPECIAL, length)


def _words(captions: Iterable[str]) -> Counter[tuple[str, ...]]:
    """Return how often each word occurs; words are the bytes that BPE starts from."""
    normalizer, pre_tokenizer = _normalizer(), _pre_tokenizer()
    words: Counter[tuple[str, ...]] = Counter()
    for caption, count in Counter(captions).items():
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(caption)):
            words[(*word[:-1], f"{word[-1]}</w>")] += count
    return words


def _learn(words: Mapping[tuple[str, ...], int], most: int) -> list[Pair]:
    """Return at most so many merges: each time the most frequent pair, of equals the first by name."""
    merges: list[Pair] = []
    while len(merges) < most:
        pairs: Counter[Pair] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merged(word, best): count for word, count in words.items()}
    return merges


def _merged(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    done: list[str] = []
    for piece in word:
        # `piece` cannot be the left half of a pair that it just ended: "aaa" becomes "aa", "a"
        if done and (done[-1], piece) == pair:
            done[-1] = done[-1] + piece
        else:
            done.append(piece)
    return tuple(done)


def _content(token: object) -> str:
    """Return the text of a token, which is a text in a config or an object with `content`."""
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token)


def _special(folder: epath.Path) -> tuple[JsonDict, JsonDict]:
    """Return (tokenizer_config.json, role → token). As in transformers, an older file of roles takes precedence."""
    config = sniffing.read_json(folder / CONFIG) if presence.exists(folder / CONFIG) else {}
    roles = config
    if presence.exists(folder / ROLES) and "added_tokens_decoder" not in config:
        roles = config | sniffing.read_json(folder / ROLES)
    return config, {role: roles.get(role) or default for role, default in SPECIAL.items()}


def _vocabulary_and_merges(folder: epath.Path) -> tuple[dict[str, int], list[Pair]]:
    if presence.exists(folder / VOCABULARY) and presence.exists(folder / MERGES):
        vocabulary = sniffing.read_json(folder / VOCABULARY)
        paths.refuse_special(folder / MERGES)
        lines = (folder / MERGES).read_bytes().decode(errors="replace").split("\n")
        if lines and lines[0].startswith("#version"):
            lines = lines[1:]
        pairs: Sequence[Any] = [line for line in lines if line.strip()]
        source = folder / MERGES
    elif presence.exists(folder / WHOLE):
        model = sniffing.read_json(folder / WHOLE).get("model")
        if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE" or "merges" not in model:
            raise UserError(
                f"{folder / WHOLE} is not a byte-pair encoding, as CLIP's tokenizer is; name a CLIP tokenizer"
            )
        vocabulary, pairs, source = model.get("vocab") or {}, model["merges"], folder / WHOLE
    else:
        raise UserError(f"{folder} holds no CLIP tokenizer: it has neither {VOCABULARY} and {MERGES} nor {WHOLE}")
    if not isinstance(vocabulary, dict) or not all(type(i) is int and 0 <= i < 1 << 32 for i in vocabulary.values()):
        raise UserError(f"{source}: its vocabulary does not give a number for each token; fetch it again")
    if not isinstance(pairs, list):
        raise UserError(f"{source}: its merges are not a list; fetch it again")
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
    for pair in merges:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(token, str) for token in pair):
            wrong = " ".join(map(str, pair)) if isinstance(pair, list) else pair
            raise UserError(f"{source}: a merge joins two tokens, but one is {wrong!r:.200}")
    return vocabulary, [(left, right) for left, right in merges]


def _built(vocabulary: dict[str, int], merges: list[Pair], special: Mapping[str, object], length: int) -> Tokenizer:
    """Return transformers' CLIPTokenizer, whose encoder is without begin and end: they are added after cutting."""
    tokenizers = _tokenizers()
    try:
        model = tokenizers.models.BPE(
            vocab=vocabulary,
            merges=merges,
            dropout=None,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=_content(special["unk_token"]),
        )
    except Exception as problem:  # its error class says which token a merge misses
        raise UserError(f"the tokenizer's vocabulary and merges do not fit ({problem}); fetch them again") from problem
    encoder = tokenizers.Tokenizer(model)
    encoder.normalizer = _normalizer()
    encoder.pre_tokenizer = _pre_tokenizer()
    encoder.decoder = tokenizers.decoders.ByteLevel()
    flags = ("lstrip", "rstrip", "normalized", "single_word")
    for token in special.values():
        set_ = {flag: bool(token[flag]) for flag in flags if flag in token} if isinstance(token, Mapping) else {}
        encoder.add_special_tokens([tokenizers.AddedToken(_content(token), special=True, **set_)])
    ends = (vocabulary[_content(special[role])] for role in ("bos_token", "eos_token", "pad_token"))
    return Tokenizer(encoder, length, *ends)


def _normalizer() -> Any:
    normalizers, regex = _tokenizers().normalizers, _tokenizers().Regex
    return normalizers.Sequence([normalizers.NFC(), normalizers.Replace(regex(r"\s+"), " "), normalizers.Lowercase()])


def _pre_tokenizer() -> Any:
    pre, regex = _tokenizers().pre_tokenizers, _tokenizers().Regex
    split = pre.Split(regex(WORDS), behavior="removed", invert=True)
    return pre.Sequence([split, pre.ByteLevel(add_prefix_space=False)])


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as e:
        raise missing_package("tokenizers", "data", "reading prompts") from e
    return tokenizers
