"""The whole study of one data set, in the order of time; its result file's content.

Train the probe, the same probe on shuffled labels, and on few rows; read every test text once; ask
the baselines about the same texts; measure all of them on every set. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pillion.data import LabelSpace, Rows, split_validation
from pillion.errors import ConfigError, DataError
from pillion.extract import Progress, silent
from pillion.provenance import provenance
from pillion.runtime import LanguageModel
from pillion_bench.problem import Part
from pillion_bench.real.answers import Answer, scores_to_probs
from pillion_bench.real.baselines import ask_baselines, problem_of
from pillion_bench.real.curve import Pooled, choose_heads, fit_scores
from pillion_bench.real.duplicates import Duplicates, conflicts, find_duplicates, within
from pillion_bench.real.measures import all_results, without_duplicates
from pillion_bench.real.probes import EVERYWHERE, Networks, curve_results, train_all
from pillion_bench.real.reading import Read, read_everything
from pillion_bench.real.sets import TextSet, long_sets, other_set, perturbed_sets, said_by
from pillion_bench.real.settings import Other, RealSettings

KIND = "real"
SHUFFLED = "the probe on shuffled labels"


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
    targets = space.encode(train_rows.labels or ())
    share, seed = settings.validation_share, settings.seed
    fit_ids, held_ids = split_validation(targets, share, seed, train_rows.groups)
    if not len(held_ids):
        raise DataError(f"{train_rows.path}: no label has rows enough to hold some back; add rows.")
    sets = _sets(space, test_rows, others, settings)
    duplicates = find_duplicates(said, sets[0].said)
    say(f"{sum(map(len, sets)):,} texts in {len(sets)} sets will be read.")
    with ExitStack() as opened:
        reading = Read.open(model, train_rows, sets, settings, work, progress, say, opened)
        networks = train_all(
            reading, targets, fit_ids, held_ids, space, settings, work, progress, say
        )
        say("Reading every set.")
        read_everything(reading, networks.by_name, EVERYWHERE, held_ids, space.task, progress)
        say("Fitting closed forms and baselines.")
        pooled = Pooled(reading.train.means, targets)
        answers = _answers(reading, networks, pooled, fit_ids, held_ids, sets, space, settings)
        problem = problem_of(
            space, train_rows.texts, said, targets, fit_ids, held_ids, sets, settings
        )

        def last_states(part: Part) -> Tensor:
            if part.name == "test":
                return reading.asked_last(progress)
            return reading.train.last_states(progress)[part.row_ids]

        answers += ask_baselines(
            settings.baselines, problem, model.backend, last_states, sets, settings.seed, progress
        )
        say("Measuring, with intervals.")
        results = all_results(answers, sets, space.task, settings.seed)
        results += without_duplicates(answers, sets[0], duplicates.near, space.task)
        results += curve_results(
            networks, reading, pooled, fit_ids, held_ids, sets[0], space, answers[0].method
        )
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
        "settings": _facts(settings, networks, answers, len(fit_ids), len(held_ids)),
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


def _answers(
    reading: Read,
    networks: Networks,
    pooled: Pooled,
    fit_ids: np.ndarray,
    held_ids: np.ndarray,
    sets: list[TextSet],
    space: LabelSpace,
    settings: RealSettings,
) -> list[Answer]:
    """The probe, the same on shuffled labels, and the closed forms on all training rows."""
    truth = pooled.targets[held_ids]
    found: list[Answer] = []
    for name, said in ((settings.config.probe, "probe"), (SHUFFLED, "shuffled")):
        held, asked = reading.said[said]
        count = networks.by_name[said].num_parameters
        found.append(Answer.of(name, space.task, held, truth, asked, sets, count))
    train, held_rows = pooled.rows(fit_ids), pooled.rows(held_ids)
    outputs = found[0].validation.shape[1]
    networks.heads = choose_heads(train, held_rows, space.task, outputs)
    asked_rows = Pooled(reading.asked_means(), np.zeros(sum(map(len, sets)), dtype=np.int64))
    for name, head in networks.heads.items():
        scores = [fit_scores(head(), train, rows, outputs) for rows in (held_rows, asked_rows)]
        held, asked = scores_to_probs(space.task, scores[0], truth, scores[1])
        found.append(Answer.of(name, space.task, held, truth, asked, sets, 0))
    return found


def _entry(rows: Rows, use: str) -> dict[str, str]:
    path = Path(rows.path)
    return {"path": f"{path.parent.name}/{path.name}", "sha256": rows.sha256, "split": use}


def _source(rows: Rows) -> str:
    path = Path(rows.path)
    return path.parent.name or path.stem


def _facts(
    settings: RealSettings,
    networks: Networks,
    answers: Sequence[Answer],
    num_fit: int,
    num_held: int,
) -> dict[str, Any]:
    return {
        "probe": settings.config.model_dump(),
        "train": settings.train.model_dump(),
        "best_epochs": networks.best_epochs,
        "template": settings.template,
        "scope": settings.scope,
        "layers": "all" if settings.layers is None else list(settings.layers),
        "rows": {"train": num_fit, "validation": num_held},
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
