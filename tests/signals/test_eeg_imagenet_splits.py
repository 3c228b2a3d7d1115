"""EEG-ImageNet's splits: the official ones with their traps, people, images and classes held out."""

import numpy as np
import pytest
import torch
from eeg_imagenet_files import PEOPLE, STD, splits_of

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare
from dreamjax.signals.recordings.corpora import trial_corpora
from dreamjax.signals.recordings.corpora.eeg_imagenet import open_splits, open_trials
from dreamjax.signals.recordings.identity import SplitRequest


def test_the_official_splits_are_those_of_the_file(published, tmp_path):
    wanted = torch.load(published / "block_splits_by_image_all.pth", weights_only=True)["splits"]
    odd = [i for i, n in enumerate(open_trials(published / STD).length) if n > 600]
    for number in (0, 2):
        out = tmp_path / str(number)
        file = str(published / "block_splits_by_image_all.pth")
        prepare([published / STD], out, None, PrepareOptions(workers=0, splits=SplitRequest(file=file, number=number)))
        assert splits_of(out) == {split: sorted(set(indices) - set(odd)) for split, indices in wanted[number].items()}
        facts = records.load_dataset(out)["splitting"]
        assert facts["indices"] == "the whole list"
        assert facts["images_in_train_and_test"] == 0


def test_the_all_splits_with_a_person_are_indexed_before_they_are_filtered(published, opened, said):
    """The trap: filtering first and indexing then gives another split, in which nothing looks wrong."""
    file = str(published / "block_splits_by_image_all.pth")
    (split, *_) = torch.load(file, weights_only=True)["splits"]
    found = trial_corpora.assign(opened, SplitRequest(file=file, subjects=(4,))).split
    own = np.flatnonzero(opened.subject == 4)
    for name, indices in split.items():
        assert np.flatnonzero(found == name).tolist() == sorted(set(indices) & set(own.tolist()))
    wrong = {name: sorted(own[[i for i in indices if i < len(own)]].tolist()) for name, indices in split.items()}
    assert wrong["test"] != np.flatnonzero(found == "test").tolist()
    assert "its indices count the whole list" in said()


def test_the_single_splits_go_with_one_person_and_count_that_persons_trials(published, opened, said):
    file = str(published / "block_splits_by_image_single.pth")
    (split,) = torch.load(file, weights_only=True)["splits"]
    own = np.flatnonzero(opened.subject == 4)
    found = trial_corpora.assign(opened, SplitRequest(file=file, subjects=(4,)))
    for name, indices in split.items():
        assert np.flatnonzero(found.split == name).tolist() == sorted(own[indices].tolist())
    assert found.dropped == {"in no split of the file": len(own) - len(own) // 2}
    assert f"{len(own) // 2} of {len(own)} trials of person 4 are in its split 0" in said()
    for people in ((), (2, 4)):
        with pytest.raises(UserError, match=r"count the trials of one person.*--subject \(published: 4\)"):
            trial_corpora.assign(opened, SplitRequest(file=file, subjects=people))


def test_rejects_split_files_that_do_not_fit(opened, tmp_path):
    n = len(opened)

    def refused(name, split, says, **wanted):
        torch.save({"splits": [split]}, tmp_path / name)
        with pytest.raises(UserError, match=says):
            trial_corpora.assign(opened, SplitRequest(file=str(tmp_path / name), **wanted))

    parts = {"train": list(range(n - 2)), "val": [n - 2], "test": [n - 1]}
    refused("a.pth", {**parts, "test": [n]}, f"index {n} is beyond the {n} trials")
    refused("a.pth", {**parts, "test": [3, n - 1]}, "trial 3 is in train and in test")
    refused("a.pth", {**parts, "test": [n - 1, n - 1]}, "test: some trials are named twice")
    refused("a.pth", {**parts, "test": [-1]}, "the index -1 is below 0")
    refused("a.pth", {**parts, "test": ["x"]}, "test: this is a str, not a whole number")
    refused("a.pth", {"train": [0], "val": [1]}, "it lacks test")
    refused("a.pth", parts, "--split-number 1: .* has the splits 0 to 0", number=1)
    refused("a.pth", parts, "no such person; it has 1, 2, 3, 4", subjects=(9,))
    few = {"train": [0, 1], "val": [2], "test": [3]}
    refused("x_all.pth", few, "by its name its indices count everybody", subjects=(4,))
    refused("x_single.pth", parts, "by its name its indices count one person", subjects=(4,))
    torch.save({"weights": 1}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="this is not a file of splits: it lacks splits and has weights"):
        open_splits(tmp_path / "b.pth")


def test_counts_images_in_train_and_test(opened, tmp_path, said):
    n = len(opened)
    torch.save({"splits": [{"train": list(range(n - 9)), "val": [n - 2], "test": [n - 1]}]}, tmp_path / "a.pth")
    facts = trial_corpora.assign(opened, SplitRequest(file=str(tmp_path / "a.pth"))).description
    assert facts["images_in_train_and_test"] == 1
    assert "of them 1 in train and test: such scores are not held out" in said()


def test_leaving_one_person_out_keeps_people_and_images_apart(opened):
    for held in (1, 4):
        found = trial_corpora.assign(opened, SplitRequest(by="subject", hold_out=(held,)))
        of = {name: found.split == name for name in ("train", "val", "test")}
        people = {name: set(opened.subject[where].tolist()) for name, where in of.items()}
        images = {name: set(opened.image[where].tolist()) for name, where in of.items()}
        assert people["test"] == {held}
        assert len(people["val"]) == 1
        assert len(people["train"]) == PEOPLE - 2
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            assert not people[one] & people[other]
            assert not images[one] & images[other]
        assert {opened.images[i].split("_")[0] for i in images["test"]} == set(opened.labels)  # every class is tested
        assert sum(where.sum() for where in of.values()) + sum(found.dropped.values()) == len(opened)
    again = trial_corpora.assign(opened, SplitRequest(by="block", hold_out=(4,)))  # no block on both sides: the same
    np.testing.assert_array_equal(again.split, found.split)
    chosen = trial_corpora.assign(opened, SplitRequest(by="subject", hold_out=(4, 2)))
    assert set(opened.subject[chosen.split == "val"].tolist()) == {2}


def test_blocks_cannot_be_held_out_within_a_person(opened):
    with pytest.raises(UserError, match=r"a block is a class.*--split-by subject --hold-out N"):
        trial_corpora.assign(opened, SplitRequest(by="block", subjects=(4,)))
    with pytest.raises(UserError, match="needs three people"):
        trial_corpora.assign(opened, SplitRequest(by="subject", subjects=(3, 4), hold_out=(4,)))
    with pytest.raises(UserError, match="wants --hold-out N"):
        trial_corpora.assign(opened, SplitRequest(by="subject"))
    for people, held in (((), (4, 4)), ((1, 2, 3), (4,)), ((), (1, 2, 3))):
        with pytest.raises(UserError, match="one or two different people"):
            trial_corpora.assign(opened, SplitRequest(by="subject", subjects=people, hold_out=held))
    with pytest.raises(UserError, match="--hold-out names people"):
        trial_corpora.assign(opened, SplitRequest(by="image", hold_out=(4,)))
    with pytest.raises(UserError, match="say how its trials are split"):
        trial_corpora.assign(opened, SplitRequest())


def test_images_or_classes_alone_can_be_held_out(opened):
    for by, of in (("image", opened.image), ("class", opened.label)):
        found = trial_corpora.assign(opened, SplitRequest(by=by)).split
        sides = [set(of[found == name].tolist()) for name in ("train", "val", "test")]
        assert all(sides)
        assert sum(map(len, sides)) == len(set.union(*sides)) == len(set(of.tolist()))
        assert (found != "").all()
    assert set(np.unique(trial_corpora.assign(opened, SplitRequest(by="image", subjects=(2,))).split)) > {""}
