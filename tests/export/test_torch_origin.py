"""What an export says of its origin: the model card, the corpora, and which licences they allow."""

import json

import pytest

from dreamjax.errors import UserError
from dreamjax.export import driver
from dreamjax.export.facts import check_licence
from dreamjax.export.import_checkpoint import import_checkpoint
from dreamjax.storage import manifest
from tests.support import make_shards

from .support import make_run, tiny_config, with_path


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A run over two corpora, one of them restricted, exported from the records' own licences."""
    folder = tmp_path_factory.mktemp("described")
    make_shards(folder / "open", subjects=3, windows=2, samples=64, name="openset")
    make_shards(folder / "closed", subjects=3, windows=2, samples=64, name="closedset")
    dataset = json.loads((folder / "closed" / "dataset.json").read_text())
    dataset["corpora"] = {"closedset": {"licences": ["CC-BY-NC-4.0"], "recordings": 3, "hours": 0.5, "subjects": 1}}
    dataset["corpora"]["closedset"]["recordings_of_unknown_subjects"] = 2
    dataset["settings"] = {"low": 0.5, "high": 75.0, "notch": "auto", "sfreq": 256.0, "reference": "auto"}
    dataset["inputs"] = [{"plan": {"band": [0.5, 75.0], "line": 50.0, "reference": "average"}}] * 3
    manifest.write_json(folder / "closed" / "dataset.json", dataset)
    make_run(folder / "both", with_path(tiny_config(), folder / "open", folder / "closed"))
    make_run(folder / "one", with_path(tiny_config(), folder / "open"))
    return folder


def test_the_card_says_what_a_user_must_know(described, unchecked):
    out = described / "card"
    driver.export(described / "both", out, licence="cc-by-nc-4.0")
    text, config = (out / "README.md").read_text(), json.loads((out / "config.json").read_text())
    front = text.split("---")[1]
    for line in ("license: cc-by-nc-4.0", "pipeline_tag: feature-extraction", "- eeg", "- pytorch"):
        assert line in front
    for said in (
        "| openset | CC0-1.0 |",
        "| closedset | CC-BY-NC-4.0 | 3 | 1 + 2 recordings of unknown subjects | 0.5 |",
        "Subjects unknown: recordings may share people",
        "µV",
        "256 Hz",
        "average (3 recordings)",
        "random, share 0.75 of the patches",
        "[0.5, 75.0] × 3",
        manifest.file_hash(out / "model.safetensors"),
        "| 1 | Fp1 | -0.0309 |",
    ):
        assert said in text, said
    assert str(described) not in text + json.dumps(config)  # no path of the machine it was trained on
    assert config["dreamjax"]["corpora"]["closedset"]["licences"] == ["CC-BY-NC-4.0"]
    assert config["dreamjax"]["sha256"] == manifest.file_hash(out / "model.safetensors")


def test_a_permissive_licence_over_a_restricted_or_unknown_corpus_is_refused(described, exported, unchecked):
    out = described / "refused"
    with pytest.raises(UserError, match=r"closedset \(CC-BY-NC-4.0\)"):
        driver.export(described / "both", out, licence="apache-2.0")
    with pytest.raises(UserError, match="unknown"):
        driver.export(exported[0].parent / "run", out, licence="MIT")
    assert not out.exists()
    driver.export(described / "one", described / "allowed", licence="apache-2.0")
    assert "Subjects of the splits `val` and `test`" in (described / "allowed" / "README.md").read_text()
    import_checkpoint(described / "allowed", described / "again")  # an import keeps what the folder said
    driver.export(described / "again", described / "allowed_again", licence="apache-2.0")


@pytest.mark.parametrize(
    "licence", ["apache-2.0", "MIT", "CC-BY-4.0", "cc0", "Apache 2.0", "bsd-3-clause", "BSD 3-Clause"]
)
def test_permissive_licences_are_recognised_as_people_write_them(licence):
    with pytest.raises(UserError, match="cannot be licensed"):
        check_licence(licence, {"c": {"licences": ["CC-BY-NC-4.0"]}})
    with pytest.raises(UserError, match="unknown"):
        check_licence(licence, None)


@pytest.mark.parametrize("licence", ["CC0-1.0", "CC-BY-4.0", "ODC-By-1.0", "MIT", "BSD-3-Clause", "PDDL-1.0"])
def test_open_corpora_allow_permissive_weights(licence):
    check_licence("apache-2.0", {"c": {"licences": [licence]}})


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "CC-BY-SA-4.0", "CC-BY-ND-4.0", "ODbL-1.0", "unknown", "", "TUH"])
def test_other_corpora_do_not(licence):
    with pytest.raises(UserError, match="cannot be licensed"):
        check_licence("apache-2.0", {"c": {"licences": [licence]}})
    check_licence("CC-BY-NC-ND-4.0", {"c": {"licences": [licence]}})
    check_licence(None, {"c": {"licences": [licence]}})
