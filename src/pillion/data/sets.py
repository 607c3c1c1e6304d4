"""Several sets of labelled rows as one: labels under common names, each set with its share.

Promises that labels which a set does not ask for count as not judged: they are masked in its
rows. Knows no files and no model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

import numpy as np
from jaxtyping import Float

from pillion.core import FailedRow
from pillion.data.cells import is_broken
from pillion.data.examples import Origin, normalised, plain_turns
from pillion.data.judged_labels import JudgedLabels, Label, SoftLabels, judged, names_of
from pillion.data.rows import Rows, SetFacts
from pillion.errors import ConfigError, DataError, unknown_name

_NUM_NAMED = 5


@dataclass(frozen=True)
class DataSet:
    """One of several sets.

    Attributes:
        name: what its mapping and share are given by; each set has its own.
        rows: with labels.
        renamed: label of the rows -> what it is called in all sets; others keep their names.
        share: of the loss, above 0 and below 1; None: its rows count as much as those of the other
            sets without a share.
    """

    name: str
    rows: Rows
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    share: float | None = None


def join_sets(sets: Sequence[DataSet], training: Rows | None = None) -> Rows:
    """The rows of all sets, one set after the other.

    Where every row has one name and all sets have the same labels (or two in all), rows keep their
    one name. Otherwise they are marks: a row has its names, lacks the other labels of its own set,
    and labels that only other sets have are not judged in its rows. Rows of several sets that are
    the same text are one group, which a split does not part.

    Args:
        sets: one or more.
        training: joined rows that these validate: each set is one of theirs by its name, and takes
            labels and mapping from there.

    Raises:
        ConfigError: a name that is used twice, a missing label or set, or shares that do
            not add up.
        DataError: rows without labels, or a set that shares no label with another one.
    """
    _check_names(sets)
    if training is None:
        sets = [replace(one, rows=_renamed(one)) for one in sets]
        facts = [_facts(one) for one in sets]
        _check_shared(facts)
        _check_shares(sets)
    else:
        facts = [_facts_of(one, training) for one in sets]
        pairs = zip(sets, facts, strict=True)
        sets = [replace(one, rows=_with_names(one, known.renamed)) for one, known in pairs]
    single = _is_single(sets, facts) if training is None else not training.several
    labels = [_marked(one.rows, known, single) for one, known in zip(sets, facts, strict=True)]
    own = [note.removeprefix(_folder(one.rows)) for one in sets for note in one.rows.notes]
    return Rows(
        tuple(text for one in sets for text in one.rows.texts),
        tuple(label for some in labels for label in some),
        _digest(facts),
        " + ".join(PurePath(one.rows.path).name for one in sets),
        several=not single,
        origins=_origins(sets),
        groups=_groups(sets),
        files=tuple(file for one in sets for file in one.rows.files),
        failed=_failed(sets),
        notes=(*own, *([] if training else _notes(facts, single))),
        sets=tuple(facts),
        set_ids=tuple(at for at, one in enumerate(sets) for _ in one.rows.texts),
    )


def set_weights(rows: Rows, *others: Rows) -> Float[np.ndarray, " row"] | None:
    """What each row counts in the loss, 1 on average; None where all count the same.

    The rows of a set together count its share; what sets with a share leave is dealt to the rows of
    the others alike.

    Args:
        rows: of several sets.
        others: rows that are learnt from beside them, behind them; None is given where some are of
            no set of theirs.
    """
    if rows.set_ids is None or all(one.share is None for one in rows.sets):
        return None
    places = {one.name: at for at, one in enumerate(rows.sets)}
    whose = list[int]()
    for part in (rows, *others):
        own = [places.get(one.name, -1) for one in part.sets] or [-1]
        whose += [own[at] for at in part.set_ids or [0] * len(part)]
    if min(whose) < 0:
        return None
    counts = np.bincount(whose, minlength=len(rows.sets))
    given = np.array([one.share or 0.0 for one in rows.sets])
    free = np.array([one.share is None for one in rows.sets])
    shares = np.where(free, (1 - given.sum()) * counts / max(counts[free].sum(), 1), given)
    each = shares / np.maximum(counts, 1)
    # A set may have no row on this side of a split: the others then count all there is.
    return each[whose] * len(whose) / shares[counts > 0].sum()


def _check_names(sets: Sequence[DataSet]) -> None:
    twice = [name for name, times in Counter(one.name for one in sets).items() if times > 1]
    if twice:
        paths = " and ".join(one.rows.path for one in sets if one.name == twice[0])
        raise ConfigError(
            f"Two sets are called {twice[0]!r} ({paths}); give one another name, as NAME=PATH."
        )
    for name in (name for one in sets for name in (one.name, *one.renamed.values())):
        if is_broken(name):
            raise ConfigError(f"The name {name!r} of a set or label is no UTF-8; give another one.")


def _labels(rows: Rows) -> tuple[Label, ...]:
    if rows.labels is None:
        raise DataError(f"{rows.path} has no labels; training needs a label for every text.")
    return rows.labels


def _renamed(one: DataSet) -> Rows:
    """The rows under common names, the mapping checked."""
    there = {name for label in _labels(one.rows) for name in judged(label)}
    for name in one.renamed:
        if name not in there:
            raise ConfigError(f"Set {one.name!r}: {unknown_name('label', name, sorted(there))}")
    for name, common in one.renamed.items():
        if common in there and common not in one.renamed:
            raise ConfigError(
                f"Set {one.name!r} calls {name!r} {common!r}, and has a label of that name; map "
                f"{common!r} too (to itself, to make them one), or choose another name."
            )
    return _with_names(one, one.renamed)


def _with_names(one: DataSet, renamed: Mapping[str, str]) -> Rows:
    return replace(one.rows, labels=tuple(_rename(each, renamed) for each in _labels(one.rows)))


def _rename(label: Label, renamed: Mapping[str, str]) -> Label:
    """A label under common names.

    Of several that become one a row has it if it has any, and lacks it if it was judged to lack
    all.
    """
    if isinstance(label, str):
        return renamed.get(label, label)
    if isinstance(label, SoftLabels):
        return label.renamed(lambda name: renamed.get(name, name))
    has = tuple(dict.fromkeys(renamed.get(name, name) for name in label))
    if not isinstance(label, JudgedLabels):
        return has
    open_still = {common for name, common in renamed.items() if name not in label.lacks}
    lacks = {renamed.get(name, name) for name in label.lacks}
    return JudgedLabels(has, sorted(lacks - open_still))


def _facts(one: DataSet) -> SetFacts:
    names = sorted({name for label in _labels(one.rows) for name in judged(label)})
    return SetFacts(
        one.name,
        PurePath(one.rows.path).name,
        one.rows.sha256,
        len(one.rows),
        tuple(names),
        dict(one.renamed),
        one.share,
    )


def _facts_of(one: DataSet, training: Rows) -> SetFacts:
    """Facts of validation rows: labels and mapping of the training set of the same name."""
    known = {each.name: each for each in training.sets}
    if one.name not in known:
        raise unknown_name("set", one.name, known)
    return replace(
        known[one.name],
        path=PurePath(one.rows.path).name,
        sha256=one.rows.sha256,
        num_rows=len(one.rows),
    )


def _check_shared(facts: Sequence[SetFacts]) -> None:
    """Refuses a set that is alone with its labels: a mapping was forgotten."""
    for one in facts:
        others = {name for other in facts if other is not one for name in other.labels}
        if len(facts) > 1 and not others & set(one.labels):
            raise DataError(
                f"Set {one.name!r} ({_listed(one.labels)}) shares no label with the other sets "
                f"({_listed(sorted(others))}); map its labels to theirs."
            )


def _check_shares(sets: Sequence[DataSet]) -> None:
    given = [one.share for one in sets if one.share is not None]
    for one in sets:
        if one.share is not None and not 0 < one.share <= 1:
            raise ConfigError(
                f"Set {one.name!r} has the weight {one.share:g}; give a share of the loss between "
                "0 and 1."
            )
    total, all_given = sum(given), len(given) == len(sets)
    if given and (abs(total - 1) > 1e-6 if all_given else total >= 1):
        wanted = "1 where every set has one" if all_given else "less than 1, a rest for the others"
        raise ConfigError(f"The weights of sets add up to {total:g}; wanted {wanted}.")


def _is_single(sets: Sequence[DataSet], facts: Sequence[SetFacts]) -> bool:
    """Whether rows can keep their one name: no set asks what another one does not."""
    names = {frozenset(one.labels) for one in facts}
    every = [label for one in sets for label in _labels(one.rows)]
    plain = all(
        isinstance(one, str) or (isinstance(one, SoftLabels) and one.is_pair) for one in every
    )
    if any(isinstance(one, SoftLabels) for one in every):
        return plain and len(frozenset().union(*names)) == 2
    # Of two labels a row has one or the other, whichever of them its set holds.
    return plain and (len(names) == 1 or len(frozenset().union(*names)) == 2)


def _marked(rows: Rows, facts: SetFacts, single: bool) -> list[Label]:
    if single:
        return list(_labels(rows))
    return [
        label
        if isinstance(label, JudgedLabels)
        else JudgedLabels(
            names_of(label), [one for one in facts.labels if one not in names_of(label)]
        )
        for label in _labels(rows)
    ]


def _folder(rows: Rows) -> str:
    """What comes before the name of the file: no part of a note that is kept."""
    return rows.path.removesuffix(PurePath(rows.path).name)


def _digest(facts: Sequence[SetFacts]) -> str:
    """Of the sets' digests and names: the same rows under other labels are other data."""
    parts = [(one.sha256, sorted(one.renamed.items())) for one in facts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _starts(sets: Sequence[DataSet]) -> list[int]:
    """Rows of the data before each set, those that failed among them."""
    counts = [sum(count for _, count in one.rows.files) or len(one.rows) for one in sets]
    return [sum(counts[:at]) for at in range(len(counts))]


def _origins(sets: Sequence[DataSet]) -> tuple[Origin, ...]:
    return tuple(
        origin._replace(row=start + origin.row)
        for start, one in zip(_starts(sets), sets, strict=True)
        for origin in one.rows.origins or [Origin(row + 1) for row in range(len(one.rows))]
    )


def _failed(sets: Sequence[DataSet]) -> tuple[FailedRow, ...]:
    return tuple(
        replace(failed, row=start + failed.row)
        for start, one in zip(_starts(sets), sets, strict=True)
        for failed in one.rows.failed
    )


def _groups(sets: Sequence[DataSet]) -> tuple[int, ...] | None:
    """Groups of all rows, those joined that hold a text which stands in several sets."""
    whose: dict[tuple[int, int], tuple[int, int]] = {}

    def root(one: tuple[int, int]) -> tuple[int, int]:
        while whose.get(one, one) != one:
            one = whose[one]
        return one

    same: dict[str, list[tuple[int, int]]] = {}
    keys: list[tuple[int, int]] = []
    for at, one in enumerate(sets):
        own = one.rows.groups or range(len(one.rows))
        for text, number in zip(one.rows.texts, own, strict=True):
            key = (at, number)
            keys.append(key)
            said = normalised(json.dumps(plain_turns(text)))
            same.setdefault(said, []).append(key)
    for first, *others in same.values():
        if any(at != first[0] for at, _ in others):
            for other in others:
                whose[root(other)] = root(first)
    numbers: dict[tuple[int, int], int] = {}
    groups = tuple(numbers.setdefault(root(key), len(numbers)) for key in keys)
    return groups if len(numbers) < len(groups) else None


def _notes(facts: Sequence[SetFacts], single: bool) -> list[str]:
    """What joining makes of the task, and labels that rows of other sets are not judged on."""
    if single:
        return []
    missing = [
        f"{one.name!r} on {_listed(own)}"
        for one in facts
        if (own := sorted({name for each in facts for name in each.labels} - set(one.labels)))
    ]
    if not missing:
        return []
    return [
        "Sets have different labels: the probe is multi-label, and no row was judged of "
        f"{'; '.join(missing)}."
    ]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NUM_NAMED
    shown = ", ".join(repr(name) for name in names[:_NUM_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown or "none"
