"""`dreamjax compare`: jobs done once, folds of people, refused mistakes, and what a published protocol scores."""

import contextlib
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import dreamjax
from dreamjax.cli.main import main
from dreamjax.comparison import data_settings, jobs, protocols, result, run_folder
from dreamjax.comparison.jobs import Request
from dreamjax.errors import UserError
from dreamjax.storage import locks
from dreamjax.targets import responses
from dreamjax.targets.catalogue import Catalogue, catalogue
from dreamjax.targets.responses import ResponseConfig
from tests import trial_shards
from tests.trial_shards import TrialShards

SMALL = [("shallow.model.width", "8"), ("train.batch_size", "16")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TrialShards:
    return trial_shards.write(tmp_path_factory.mktemp("trials") / "data", people=3, strength=2.0)


@pytest.fixture(scope="module")
def compared(shards: TrialShards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("compare") / "work"
    compare(shards, workdir)
    return workdir


def compare(shards: TrialShards, workdir: Path, **options: object):  # type: ignore[no-untyped-def]
    given = {"seeds": 2, "epochs": 2, "settings": SMALL} | options
    return dreamjax.compare(["ridge", "shallow"], shards.path, shards.bank, workdir, **given)  # type: ignore[arg-type]


def request_of(shards: TrialShards, systems: tuple[str, ...], **options: object) -> Request:
    protocol = protocols.find(str(options.pop("protocol", "honest")))
    people = options.pop("people", protocol.people)
    data = ResponseConfig(path=(shards.path,))
    return Request(systems, data, trial_shards.bank_config(shards), protocol, people, **options)  # type: ignore[arg-type]


def test_scores_every_person_with_every_system(compared: Path) -> None:
    table = json.loads((compared / "comparison.json").read_text())
    assert set(table["systems"]) == {"ridge", "shallow"}
    assert table["persons"] == 3
    ridge = table["systems"]["ridge"]["checkpoints"]
    top = {name: one["top1"]["estimate"] for name, one in ridge.items()}
    assert top["last"] > max(0.5, top["shuffled"] + 0.3)
    assert (compared / "comparison.html").exists()


def test_states_what_decides_the_data(compared: Path, tmp_path: Path) -> None:
    notes = json.loads((compared / "comparison.json").read_text())["notes"]
    stated = "EEG of 6 channels at 100 Hz from -0.1 to 0.3 s after the image's onset, scaled by median and quartiles"
    assert f"{stated}, tested repetitions averaged; image vectors: bank.npz" in notes
    shards = trial_shards.write(tmp_path / "data", modality="meg", settings={"onset": "events", "mvnn": "off"})
    (job, *_) = jobs.jobs(request_of(shards, ("ridge",), protocol="single_trial"))
    words = data_settings.in_words(job)
    assert words.startswith("MEG of 6 channels")
    assert "onsets from events.tsv, MVNN off" in words
    assert "single trials tested" in words


def test_systems_are_compared_only_on_the_same_people(shards: TrialShards, compared: Path, tmp_path: Path) -> None:
    shutil.copytree(compared, tmp_path / "work")
    made = jobs.jobs(request_of(shards, ("ridge", "shallow"), seeds=2, epochs=2, settings=tuple(SMALL)))
    for system, person in (("ridge", 0), ("shallow", 1)):
        gone = [job for job in made if job.system == system][person]
        (run_folder.folder_of(tmp_path / "work", gone) / "job.json").unlink()
    request = request_of(shards, ("ridge", "shallow"), seeds=2, epochs=2, settings=tuple(SMALL))
    assert result.collect(compared, request, made, {}).differences
    table = result.collect(tmp_path / "work", request, made, {})
    assert table.persons == 2
    assert not table.differences


def test_says_which_settings_were_changed(compared: Path) -> None:
    notes = json.loads((compared / "comparison.json").read_text())["notes"]
    assert "with shallow.model.width=8, train.batch_size=16" in notes


def test_the_other_people_have_a_table_where_the_first_one_has_no_trials(tmp_path: Path) -> None:
    shards = trial_shards.write(tmp_path / "data")
    wanted = catalogue((shards.path,)).subjects[0]
    loaded = responses.members

    def without(config: ResponseConfig, known: Catalogue, split: responses.Split) -> object:
        if config.people == (wanted,):
            raise UserError("no trial is in split test")
        return loaded(config, known, split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "members", without)
        table = dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work")
    assert table.persons == 1
    assert "no trial" in table.missing[f"ridge-{wanted[:12]}"]


def test_differences_are_named_by_the_accuracy_that_they_are_of(shards: TrialShards, tmp_path: Path) -> None:
    systems = ["ridge", "ridge:encode"]
    table = dreamjax.compare(systems, shards.path, shards.bank, tmp_path / "work", protocol="neuralbench")
    titles = [section.title for section in table.sections()]
    assert "Paired differences from ridge, in top-5 points; all pairs are in comparison.json" in titles
    assert "By person, top-5 (%)" in titles


def test_smaller_galleries_have_a_table_of_their_own(shards: TrialShards, tmp_path: Path) -> None:
    many = trial_shards.write(tmp_path / "data", tested=14, strength=2.0)
    table = dreamjax.compare(["ridge"], many.path, many.bank, tmp_path / "work")
    (section,) = [one for one in table.sections() if one.title.startswith("Top-1 among N images")]
    assert section.table is not None
    assert section.table.header == ["system", "2", "10"]
    assert section.table.rows[-1] == ["chance", "50", "10"]


def test_finished_jobs_are_not_done_again(shards: TrialShards, compared: Path) -> None:
    files = sorted(compared.glob("jobs/*/job.json"))
    before = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 9  # two systems and the controls, of three people
    compare(shards, compared)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_job_is_a_run_that_opens(compared: Path) -> None:
    run = next(compared.glob("jobs/shallow-*/seed-1"))
    assert (run / "config.json").exists()
    assert (run / "checkpoints").is_dir()


def test_refuses_a_folder_of_another_comparison(shards: TrialShards, compared: Path) -> None:
    with pytest.raises(UserError, match="a comparison with other epochs"):
        compare(shards, compared, epochs=3)


def test_refuses_jobs_of_trials_that_were_prepared_again(tmp_path: Path) -> None:
    for seed, message in ((0, ""), (1, "done with other trials")):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shards = trial_shards.write(tmp_path / "data", people=1, seed=seed)
        with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
            dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work")


def test_refuses_a_folder_that_holds_something_else(shards: TrialShards, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        compare(shards, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_job_in_use_is_left_to_its_process(shards: TrialShards, tmp_path: Path) -> None:
    request = request_of(shards, ("ridge",))
    run_folder.claim(tmp_path / "work", request)
    busy, *others = jobs.jobs(request)
    folder = run_folder.folder_of(tmp_path / "work", busy)
    folder.mkdir(parents=True)
    with locks.held(folder / "lock", "another"):
        table = dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work")
    assert list(table.missing) == [busy.name]
    assert "another process" in table.missing[busy.name]
    assert all(run_folder.result_of(tmp_path / "work", job) for job in others)


def test_a_process_too_many_waits_for_a_job_and_has_a_table(shards: TrialShards, tmp_path: Path) -> None:
    request = request_of(shards, ("ridge",))
    run_folder.claim(tmp_path / "work", request)
    first, *others = (run_folder.folder_of(tmp_path / "work", job) for job in jobs.jobs(request))
    with contextlib.ExitStack() as busy, contextlib.ExitStack() as soon_free:
        for folder in (first, *others):
            folder.mkdir(parents=True)
            (soon_free if folder == first else busy).enter_context(locks.held(folder / "lock", "another"))
        threading.Timer(0.5, soon_free.close).start()
        table = dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work")
    assert set(table.missing) == {folder.name for folder in others}
    assert table.systems.keys() == {"ridge"}


def test_a_job_that_fails_is_named_and_the_others_go_on(shards: TrialShards, tmp_path: Path) -> None:
    table = dreamjax.compare(["ridge", "deep4"], shards.path, shards.bank, tmp_path / "work", seeds=1, epochs=1)
    assert set(table.systems) == {"ridge"}
    assert len(table.missing) == 3
    assert all("samples" in why for why in table.missing.values())


def test_a_folder_in_which_nothing_was_done_takes_another_comparison(shards: TrialShards, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no job of the comparison could be done"):
        dreamjax.compare(["ridge"], shards.path, "hog", tmp_path / "work", images=str(tmp_path))
    assert dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work").systems.keys() == {"ridge"}


def test_each_person_is_tested_by_a_model_of_the_others(shards: TrialShards) -> None:
    people = catalogue((shards.path,)).subjects
    made = jobs.jobs(request_of(shards, ("shallow",), people="leave_one_out", seeds=1))
    assert [job.configs[0].data.test_people for job in made] == [(name,) for name in people]
    for job in made:
        data = job.configs[0].data
        trained = responses.load(data, "train")
        tested = responses.load(data, "test")
        assert not {trained.subjects[i] for i in trained.subject} & {tested.subjects[i] for i in tested.subject}


def test_people_are_not_told_apart_in_neuralbench(shards: TrialShards) -> None:
    (job,) = jobs.jobs(request_of(shards, ("shallow",), protocol="neuralbench", seeds=1))
    data = job.configs[0].data
    assert not data.identified
    assert data.validation == "timeline"
    assert data.repeats == "single"


def test_a_system_keeps_its_kind_of_trials_unless_the_protocol_or_the_user_says_otherwise(shards: TrialShards) -> None:
    request = request_of(shards, ("atm", "nice"), people="joint", seeds=1)
    assert [job.configs[0].data.repeats for job in jobs.jobs(request)] == ["single", "average"]
    averaged = replace(request, settings=(("data.repeats", "average"),))
    assert {job.configs[0].data.repeats for job in jobs.jobs(averaged)} == {"average"}
    alone = replace(request, protocol=protocols.find("single_trial"))
    assert {job.configs[0].data.repeats for job in jobs.jobs(alone)} == {"single"}


def test_a_published_choice_on_the_test_set_is_labelled(shards: TrialShards) -> None:
    made = jobs.jobs(request_of(shards, ("shallow", "nice"), protocol="paper", seeds=1))
    assert {job.system: job.checkpoints for job in made} == {"shallow": ("test", "last"), "nice": ("held_out", "last")}
    assert "not a result" in protocols.in_words("test", "none")
    assert "trained concepts" in protocols.in_words("held_out", "images")


def test_settings_reach_the_systems_that_they_are_meant_for(shards: TrialShards) -> None:
    settings = (("data.tmin", "0"), ("shallow.model.width", "12"))
    ridge, shallow = jobs.jobs(replace(request_of(shards, ("ridge", "shallow"), people="joint"), settings=settings))
    assert ridge.configs[0].data.tmin == shallow.configs[0].data.tmin == 0
    assert shallow.configs[0].model.width == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--systems", "ridgy"], "did you mean ridge"),
        (["--systems", "masked_pretraining"], "retrieves no images"),
        (["--systems", "ridge:fast"], "no preset 'fast'"),
        (["--protocol", "honesty"], "did you mean honest"),
        (["--set", "shallow"], "give it a value"),
        (["--set", "nice.epochs=3"], "neither a system of this comparison"),
        (["--set", "ridge.model.binz=3"], "binz"),
        (["--set", "data.tmn=0"], "did you mean data.tmin"),
        (["--set", "optim.learning_rate=1"], "none of ridge has this setting"),
        (["--set", "data.people=[person0]"], "a comparison chooses it by --people"),
        (["--set", "ridge.data.path=[x]"], "a comparison chooses it by --data"),
        (["--set", "data.test_split=train"], "its trials are trained on"),
        (["--systems", ","], "--systems is empty"),
        (["--distractors", "nosuch"], "neither a split of the dataset (test, train) nor a folder"),
        (["--set", "data.tmin=nan"], "must be finite numbers"),
        (["--set", "data.channels=[E1,E1]"], "data.channels has E1 more than once"),
        (["--corpus", "things_eeg2"], "--corpus and --stimuli describe --path"),
        (["--path", "x"], "one of the two"),
        (["--target", "missing.npz"], "no such file"),
        (["--layer", "3", "--pooling", "pooled"], "pooled is an output of the whole network"),
        (["--data", "x", "x"], "data.path has x more than once"),
    ],
)
def test_reports_mistakes_in_one_sentence(
    shards: TrialShards, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    line = ["compare", "--systems", "ridge", "--data", shards.path, "--target", shards.bank]
    assert main([*line, "--workdir", str(tmp_path / "work"), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (tmp_path / "work" / "comparison.json").exists()


@pytest.mark.parametrize("system", ["ridge", "shallow"])
def test_a_job_of_a_comparison_can_be_evaluated(compared: Path, system: str) -> None:
    run = next(compared.glob(f"jobs/{system}-*/seed-0"))
    table = dreamjax.evaluate(run).as_json()
    top = next(one for one in table["scores"] if one["metric"] == "top-1")  # type: ignore[union-attr]
    assert set(top["scores"]) >= {"shuffled targets", "untrained network"}  # type: ignore[index]
