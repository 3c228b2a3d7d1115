"""What decides the data of a comparison, in one sentence below its table."""

import dataclasses

from dreamjax.comparison.jobs import Job
from dreamjax.targets import responses
from dreamjax.targets.catalogue import catalogue

FROM = {"trigger": "from the trigger channel", "events": "from events.tsv"}
MVNN = {"train": "fitted on training trials", "as_released": "fitted on tested trials too, as released", "off": "off"}
SCALED = {"none": "not scaled", "zscore": "scaled by mean and SD", "robust": "scaled by median and quartiles"}


def in_words(job: Job) -> str:
    """Return the sensors, rate, window and preparation of a job's trials, and what its image vectors are."""
    data, target = job.configs[0].data, job.configs[0].target
    known = catalogue(data.path)
    person = (data.test_people or data.people or known.subjects)[:1]
    trials = responses.load(dataclasses.replace(data, test_people=person, scaling="none"), "test")
    end = trials.tmin + trials.signal.shape[-1] / trials.sfreq
    what = trials.modality.upper() if trials.modality in ("eeg", "meg") else trials.modality
    parts = [
        f"{what} of {len(trials.ch_names)} channels at {trials.sfreq:g} Hz from {trials.tmin:g} to {end:.4g} s after "
        "the image's onset"
    ]
    for key, words, label in (("onset", FROM, "onsets"), ("mvnn", MVNN, "MVNN")):
        chosen = dict.fromkeys(str(one[key]) for one in known.settings if one.get(key))
        parts += [f"{label} {' and '.join(words.get(value, value) for value in chosen)}"] if chosen else []
    parts.append(SCALED[data.scaling])
    parts.append("tested repetitions averaged" if data.test_repeats == "average" else "single trials tested")
    return f"{', '.join(parts)}; image vectors: {target.words}"
