"""The whole study of one data set, in the order of time; its result file's content.

Train the probe, the same probe on shuffled labels, and on few rows; read every test text once; ask
the baselines about the same texts; measure all of them on every set. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pillion.data import LabelSpace, Rows, split_validation
from pillion.errors import ConfigError, DataError
from pillion.extract import Progress, silent
from pillion.provenance import provenance
from pillion.runtime import LanguageModel
from pillion_bench.baselines import Workplace
from pillion_bench.problem import Part, Problem
from pillion_bench.real.answers import Answer
from pillion_bench.real.duplicates import Duplicates, conflicts, find_duplicates, within
from pillion_bench.real.measures import all_results, without_duplicates
from pillion_bench.real.methods import Said, Trained, train_probes
from pillion_bench.real.sets import TextSet, long_sets, other_set, perturbed_sets, said_by
from pillion_bench.real.settings import Other, RealSettings
from pillion_bench.states import States
from pillion_bench.suite import DataSpec

KIND = "real"


def study(
    model: LanguageModel,
    train_rows: Rows,
    test_rows: Rows,
    others: Sequence[Other],
    work: Path,
    settings: RealSettings,
    progress: Progress = silent,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """The content of the result file.

    Args:
        model: whose states are read.
        train_rows: to learn from; a share of them is held back for validation.
        test_rows: of the same source.
        others: sets of other sources.
        work: folder for what an interrupted run leaves; the caller's to delete.
        settings: what is studied.
        progress: told of every batch.
        say: told what begins.

    Raises:
        ConfigError: a scope of turns for raw texts.
        DataError: labels that cannot be learnt or matched, texts that do not fit the model or have
            no turn of the scope.
        Interrupted: by Ctrl-C; states and training go on from `work`.
    """
    if settings.scope != "all" and settings.template == "raw":
        raise ConfigError(
            f"The scope is {settings.scope!r}, and raw texts have no turns; read them with the "
            "template chat."
        )
    space = _space(train_rows, settings)
    said = said_by(train_rows.texts, settings.scope, train_rows.path)
    chosen_on = _chosen_on(space, train_rows, said, settings)
    sets = _sets(space, test_rows, others, settings)
    problem, asked = _problem(space, train_rows, chosen_on, sets, settings)
    duplicates = find_duplicates(said, sets[0].said)
    say(f"{sum(map(len, sets)):,} texts in {len(sets)} sets will be read.")
    folder = settings.cache or work
    # A cache that was asked for may hold the test too; else it is read once, live.
    live = {part.store for part in asked.values()} - ({"test"} if settings.cache else set[str]())
    with States(model.backend, problem, folder, progress, say, live, by_scope=False) as states:
        place = Workplace(problem, states, work, progress)
        trained = train_probes(place, settings, say)
        methods = Said(trained, asked)
        say("Reading every set.")
        methods.ask_probes(settings.config.probe)
        say("Fitting closed forms and baselines.")
        methods.ask_others(settings.baselines, settings.seed)
        say("Measuring, with intervals.")
        answers = methods.answers
        results = all_results(answers, sets, space.task, settings.seed)
        results += without_duplicates(answers, sets[0], duplicates.near, space.task)
        results += methods.curves()
    return {
        "name": f"{KIND}-{_source(train_rows)}",
        "kind": KIND,
        **provenance(),
        "seed": settings.seed,
        "data": [
            _entry(train_rows, "train"),
            _entry(test_rows, "test"),
            *(_entry(other.rows, other.name) for other in others),
        ],
        "settings": _facts(settings, trained, answers),
        "task": space.task,
        "labels": list(space.names),
        "duplicates": _duplicate_facts(said, sets[0].said, train_rows.labels or (), duplicates),
        "results": results,
    }


def _space(rows: Rows, settings: RealSettings) -> LabelSpace:
    space = LabelSpace.of(rows.labels or (), settings.positive, rows.several)
    if space.task == "multilabel":
        raise DataError(
            f"{rows.path} has rows with several labels, or none; a study is of data with one label "
            "a row."
        )
    return space


def _sets(
    space: LabelSpace, test_rows: Rows, others: Sequence[Other], settings: RealSettings
) -> list[TextSet]:
    """The test first, then other sources, changed texts and long texts."""
    truth = space.encode(test_rows.labels or ())
    texts, seed, scope = test_rows.texts, settings.seed, settings.scope
    found = [TextSet("test", "test", texts, said_by(texts, scope, test_rows.path), truth)]
    found += [other_set(one.name, one.rows, space, one.groups, scope) for one in others]
    if settings.sample:
        found += perturbed_sets(texts, truth, settings.sample, seed, scope)
    if settings.needles and space.task == "binary":
        found += long_sets(texts, truth, settings.words, settings.needles, seed, scope)
    return found


def _chosen_on(
    space: LabelSpace, rows: Rows, said: Sequence[str], settings: RealSettings
) -> tuple[Part, Part]:
    """The training rows as those to learn from and those to choose on."""
    targets = space.encode(rows.labels or ())
    split = split_validation(targets, settings.validation_share, settings.seed, rows.groups)
    if not len(split[1]):
        raise DataError(f"{rows.path}: no label has rows enough to hold some back; add rows.")
    train, validation = (
        Part(name, tuple(said[int(row)] for row in ids), targets[ids], "train", ids)
        for name, ids in zip(("train", "validation"), split, strict=True)
    )
    return train, validation


def _problem(
    space: LabelSpace,
    rows: Rows,
    chosen_on: tuple[Part, Part],
    sets: Sequence[TextSet],
    settings: RealSettings,
) -> tuple[Problem, dict[str, Part]]:
    """The study as a problem whose test is the first set, and all sets as parts by name."""
    # Numbered, as a set may be called like the training rows.
    stores = ["test", *(f"set-{number}" for number in range(1, len(sets)))]
    asked = {
        one.name: Part(store, one.said, one.targets, store, np.arange(len(one)))
        for store, one in zip(stores, sets, strict=True)
    }
    spec = DataSpec(
        train="train",
        test="test",
        template=settings.template,
        scope=settings.scope,
        on_too_long=settings.on_too_long,
        layers=settings.layers,
    )
    names = dict(zip(stores, (one.name for one in sets), strict=True))
    texts = dict(zip(stores, (one.texts for one in sets), strict=True))
    problem = Problem(
        "study",
        spec,
        space,
        *chosen_on,
        asked[sets[0].name],
        stores={"train": rows.texts, **texts},
        files=(),
        paths={"train": rows.path, **names},
    )
    return problem, asked


def _entry(rows: Rows, use: str) -> dict[str, str]:
    path = Path(rows.path)
    return {"path": f"{path.parent.name}/{path.name}", "sha256": rows.sha256, "split": use}


def _source(rows: Rows) -> str:
    path = Path(rows.path)
    return path.parent.name or path.stem


def _facts(settings: RealSettings, trained: Trained, answers: Sequence[Answer]) -> dict[str, Any]:
    problem = trained.place.problem
    return {
        "probe": settings.config.model_dump(),
        "train": settings.train.model_dump(),
        "best_epochs": trained.best_epochs,
        "template": settings.template,
        "scope": settings.scope,
        "layers": "all" if settings.layers is None else list(settings.layers),
        "rows": {part.name: len(part) for part in problem.chosen_on},
        "sample": settings.sample,
        "needles": settings.needles,
        "words": list(settings.words),
        "curve_seeds": settings.curve_seeds,
        "methods": [
            {
                "method": answer.method,
                "parameters": answer.parameters,
                "thresholds": answer.thresholds and list(answer.thresholds),
            }
            for answer in answers
        ],
        "chosen_on": "validation: epochs, layers of closed forms, penalties, thresholds",
    }


def _duplicate_facts(
    train: Sequence[str], test: Sequence[str], labels: Sequence[Any], found: Duplicates
) -> dict[str, Any]:
    """Counts, and the test rows (from 1) that stand in the training set, without their texts."""
    return {
        "test_rows": len(test),
        "in_train": found.counts(),
        "within_train": within(train),
        "within_test": within(test),
        "conflicting_labels_in_train": conflicts(train, labels),
        "near_rows": (np.flatnonzero(found.near) + 1).tolist()[:1000],
    }
