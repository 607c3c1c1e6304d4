"""From texts and labels to trained probes: encode, split, extract, train, choose thresholds.

The whole of `pillion train` in the order of time; each step is another part's. Knows no command
line.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from pydantic import JsonValue

from pillion.core import (
    SCOPES,
    OnTooLong,
    Scope,
    Template,
    Text,
    Tokens,
    defaults,
    last_role,
    scope_of_ends,
)
from pillion.data import (
    Contexts,
    JudgedLabels,
    LabelSpace,
    Rows,
    SetFacts,
    augmented,
    balance_notes,
    conflict_notes,
    flat_text,
    label_counts,
    said_in,
    set_weights,
    shared_note,
    split_validation,
    text_notes,
    writings,
)
from pillion.errors import ConfigError, DataError, unknown_name
from pillion.extract import (
    LiveSource,
    Progress,
    SelectedRows,
    StateSource,
    by_beginning,
    cache_key,
    kept_states,
    silent,
)
from pillion.metrics import evaluate
from pillion.probe import Artefact
from pillion.runtime import (
    LanguageModel,
    encode_rows,
    place_rows,
    sift_rows,
    taken_contexts,
    with_canaries,
)
from pillion.select import MAX_ROWS, Targets, choose_layers, sample
from pillion.train import (
    AUTO,
    Examples,
    ProbeConfig,
    Trained,
    TrainSettings,
    check_depths,
    choose_probe,
    choose_thresholds,
    counts_of,
    evaluate_source,
    train,
)

NONE_HELD = (
    "No row can be held out (every label has a single one): thresholds and metrics are of the "
    "training rows themselves."
)

Say = Callable[[str], object]
"""Takes a sentence for the user."""


@dataclass(frozen=True)
class FitSettings:
    """How a fit reads states.

    Attributes:
        template: how a text is wrapped.
        scope: which turns the probe reads; None: see `default_scope`.
        contexts: turns that rows are put behind, two training rows of three and every validation
            row, which is read alone too; None to read rows as they are.
        augment: changes of `pillion.data.AUGMENTS`: every training row is learnt from once more,
            changed by one of them.
        layers: those to read; None for all, embeddings included; `auto` for those that
            `pillion.select` chooses on training rows.
        depths: layers up to which probes learn to be read out, too, see `TrainSettings.depths`;
            `auto` for three that part the model's blocks into four.
        read: `states` of these layers alone, or beside them the logits of every `router` of a
            mixture of experts.
        on_too_long: what happens to a text beyond the context window.
        validation_share: of the training rows, where no validation rows are given; None: a tenth,
            or a fifth where rows are few and a tenth would say little.
        positive: which of two labels is the positive one; None to tell by their names.
        live: run the model in every epoch instead of keeping states on disk.
        cache: folder that keeps the states for later fits; None for the work folder.
        train: of the training itself; where it leaves `prefixes` open, probes that read responses
            learn from prefixes, and others from whole rows.

    Raises:
        ConfigError: a value that is none of those known, or layers that are no numbers.
    """

    template: Template = defaults.TEMPLATE
    scope: Scope | None = None
    contexts: Contexts | None = None
    augment: tuple[str, ...] = ()
    layers: tuple[int, ...] | Literal["auto"] | None = None
    depths: tuple[int, ...] | Literal["auto"] = ()
    read: Literal["states", "router"] = defaults.READ
    on_too_long: OnTooLong = defaults.ON_TOO_LONG
    validation_share: float | None = None
    positive: str | None = None
    live: bool = False
    cache: Path | None = None
    train: TrainSettings = field(default_factory=TrainSettings)

    def __post_init__(self) -> None:
        choices = {
            "template": get_args(Template),
            "scope": SCOPES,
            "on_too_long": get_args(OnTooLong),
        }
        for name, known in choices.items():
            given = getattr(self, name)
            if given is not None and given not in known:
                raise unknown_name(name.replace("_", " "), str(given), known)
        if self.layers in ("auto", None):
            return
        whole = all(isinstance(one, Integral) and one >= 0 for one in self.layers)
        if not self.layers or not whole or len(set(self.layers)) < len(self.layers):
            raise ConfigError(
                f"The layers are {list(self.layers)}; give numbers from 0 (the embeddings) on, "
                "each once, such as [0, 4, 8], or 'auto', or None for all."
            )

    def plain(self, training: Shaped[np.ndarray, "row ..."]) -> Shaped[np.ndarray, "kept ..."]:
        """Of training rows or their targets those that are no changed copies."""
        return training[: len(training) // 2] if self.augment else training

    def held_share(self, num_rows: int) -> float:
        """Share of so many rows that is held back for validation."""
        is_few = num_rows < defaults.FEW_ROWS
        usual = defaults.HELD_SHARE_OF_FEW if is_few else defaults.HELD_SHARE
        return usual if self.validation_share is None else self.validation_share


@dataclass(frozen=True)
class Fitted:
    """A trained configuration.

    Attributes:
        artefact: the probe, ready to save.
        trained: its curve of validation metrics.
    """

    artefact: Artefact
    trained: Trained


def fit(
    model: LanguageModel,
    rows: Rows,
    validation: Rows | None,
    configs: Sequence[ProbeConfig],
    work: Path,
    settings: FitSettings | None = None,
    progress: Progress = silent,
    say: Say = print,
) -> list[Fitted]:
    """Trains every configuration on the states of labelled rows; the best on validation first.

    Args:
        model: whose states are read; it stays frozen.
        rows: with labels, to train on.
        validation: rows that choose the epoch and the thresholds; None takes a stratified share.
        configs: one or more; all are trained while each batch of states is read once. `auto`
            stands alone, and gives the one probe that it chose.
        work: folder for what an interrupted run leaves, states too if `settings` names no cache;
            the caller's to delete.
        settings: how states are read.
        progress: told of every batch.
        say: told how large the states are before any is written.

    Raises:
        ConfigError: `auto` beside other probes, or routers of a model that has none.
        DataError: labels that cannot be learnt, texts that do not fit the model.
        StorageError: no room for the states.
        Interrupted: by Ctrl-C; the same call resumes from `work`.
    """
    _check_sets(rows, validation)
    if len(configs) > 1 and any(config.probe == AUTO for config in configs):
        raise ConfigError("Probe 'auto' chooses among probes by itself; name no other beside it.")
    if settings and settings.augment and any(config.probe == AUTO for config in configs):
        raise ConfigError(
            "Probe 'auto' leaves rows out in turns, and a changed copy would tell of its row; name "
            "a probe, or learn from rows as they are."
        )
    settings, identity = settings or FitSettings(), model.backend.identity
    if settings.read == "router" and not identity.num_routers:
        raise ConfigError(
            f"Model {identity.name!r} shows no routers of a mixture of experts (a dense model has "
            "none); read its states alone."
        )
    scope = settings.scope or default_scope(rows.texts, settings.template)
    settings = replace(settings, scope=scope, train=_prefixes_settled(settings.train, scope))
    _check_layers(model, settings)
    _check_depths(model, configs, settings)
    space = _space(rows, settings)
    with ExitStack() as opened:
        reader = _Reader(model, work, settings, progress, say, opened)
        placed = _placed(reader, space, rows, validation)
        training, held_out = _examples(reader, space, *placed)
        times = 1 if settings.contexts is None else 2
        learning = _at_depths(settings, training.source.layers)
        told = _told(rows, space, settings.plain(training.targets), held_out, times, say)
        notes = [*reader.notes, *told["notes"]]
        told |= _texts_told(rows, validation, scope, notes, say)
        trained, chosen, learning = _trained(
            reader, training, held_out, times, space, configs, learning
        )
        facts = _facts(model, rows, validation, training, settings, space, learning)
        facts["data"] |= told
        facts["shared"] |= chosen
        artefacts = [_artefact(one, held_out, facts, times) for one in trained]
        kept = with_canaries(model, artefacts)
        fitted = [Fitted(*pair) for pair in zip(kept, trained, strict=True)]
    return sorted(fitted, key=_rank)


def _check_sets(rows: Rows, validation: Rows | None) -> None:
    """Refuses validation rows of no set: labels not judged there would count as a no."""
    masked = any(isinstance(label, JudgedLabels) for label in rows.labels or ())
    if rows.sets and rows.several and masked and validation is not None and not validation.sets:
        raise DataError(
            f"{validation.path} belongs to none of the sets {', '.join(s.name for s in rows.sets)}"
            ", which were judged on different labels; join it as a set of one of these names."
        )


def _trained(
    reader: _Reader,
    training: Examples,
    held_out: Examples,
    times: int,
    space: LabelSpace,
    configs: Sequence[ProbeConfig],
    settings: TrainSettings,
) -> tuple[list[Trained], dict[str, Any], TrainSettings]:
    """The probes, what the card says of their choice, and the settings for so many rows.

    Each validation row is there so many `times`.
    """
    device = reader.model.backend.device
    settled = settings.for_rows(len(training.targets), len(held_out.targets) // times)
    task, num_labels, checkpoint = space.task, len(space.names), reader.work / "checkpoint"
    if configs[0].probe == AUTO:
        _check_auto(training, held_out)
        found = choose_probe(
            *(training, held_out, task, num_labels, settings, configs[0].seed),
            *(reader.progress, checkpoint, device, reader.states_key, times),
        )
        return [found.trained], {"auto": found.facts}, settled
    rows_a_step = settled.rows_a_step(len(training.targets))
    every = [config.at_batch(rows_a_step) for config in configs]
    trained = train(
        *(training, held_out, task, num_labels, every, settled, reader.progress),
        checkpoint=checkpoint,
        device=device,
        states=reader.states_key,
    )
    return trained, {}, settled


def _check_auto(*parts: Examples) -> None:
    """Refuses what closed forms and neighbours do not know."""
    if any(one.weights is not None or one.goals is not None for one in parts):
        raise ConfigError(
            "Probe 'auto' compares probes that know neither weights of sets nor probabilities as "
            "labels; name a probe."
        )


def _rank(fitted: Fitted) -> float:
    metrics = fitted.artefact.card.metrics
    best = metrics["auprc"] if metrics["auprc"] is not None else metrics["accuracy"]
    return -(best or 0.0)


@dataclass(frozen=True)
class _Reader:
    """How rows of tokens become sources of states in this run."""

    model: LanguageModel
    work: Path
    settings: FitSettings
    progress: Progress
    say: Say
    opened: ExitStack
    keys: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    def note(self, sentence: str) -> None:
        """Says a sentence that the card keeps, too."""
        self.say(sentence)
        self.notes.append(sentence)

    @property
    def states_key(self) -> str:
        """What the states that were asked for depend on: model, template, tokens and scope."""
        return " ".join(self.keys)

    def encode(self, rows: Rows) -> list[Tokens]:
        how = self.settings
        with _naming(rows):
            return encode_rows(
                self.model.backend,
                rows.texts,
                how.template,
                how.on_too_long,
                scopes=[_scope(how)],
                numbers=rows.numbers,
            )

    def fits(self, text: Text) -> bool:
        """Whether a text is within the model's context window."""
        how = self.settings
        backend = self.model.backend
        return not sift_rows(backend, [text], how.template, scopes=[_scope(how)])[1]

    def choosing(
        self,
        space: LabelSpace,
        ids: Shaped[np.ndarray, "row ..."],
        tokens: Sequence[Tokens],
        groups: Int[np.ndarray, " row"] | None,
    ) -> _Reader:
        """The same with the layers that suit some training rows, where they are chosen by data."""
        if self.settings.layers != "auto":
            return self
        taken = sample(len(ids), MAX_ROWS)
        own = None if groups is None else groups[taken]
        targets = Targets(ids[taken], space.task, len(space.names), own)
        chosen = [tokens[row] for row in taken]
        layers = choose_layers(
            self.model.backend, chosen, targets, self.progress, _scope(self.settings)
        )
        self.say(f"Chosen from {len(taken):,} training rows: layers {', '.join(map(str, layers))}.")
        return replace(self, settings=replace(self.settings, layers=layers))

    def source(self, tokens: Sequence[Tokens], name: str) -> StateSource:
        backend, layers = self.model.backend, _layers(self.model, self.settings)
        template, on_too_long = self.settings.template, self.settings.on_too_long
        scope = _scope(self.settings)
        self.keys.append(f"{cache_key(backend.identity, template, on_too_long, tokens)} {scope}")
        if self.settings.live:
            return LiveSource(backend, tokens, layers, scope)
        folder = (self.settings.cache or self.work) / name
        # Rows that begin alike lie together, so that what they begin with is run once a batch.
        in_contexts = self.settings.contexts is not None
        order = by_beginning(tokens) if in_contexts else range(len(tokens))
        source = kept_states(
            backend,
            [tokens[row] for row in order],
            layers,
            folder,
            template,
            on_too_long,
            self.progress,
            self.say,
            scope,
        )
        self.opened.enter_context(source.reader)
        return SelectedRows(source, np.argsort(order)) if in_contexts else source


def _space(rows: Rows, settings: FitSettings) -> LabelSpace:
    """The labels of all rows: a part of them may hold fewer, or look like another task."""
    with _naming(rows):
        return LabelSpace.of(_labels(rows), settings.positive, rows.several)


def _placed(
    reader: _Reader, space: LabelSpace, rows: Rows, validation: Rows | None
) -> tuple[Rows, Rows | None]:
    """Training and validation rows as they are read: changed copies, contexts; both settled then.

    Copies are of training rows alone. Rows are encoded as they are before, so that errors name them
    by their own numbers.

    Raises:
        ConfigError: the model does not take the contexts, or the scope would read them.
    """
    how, backend = reader.settings, reader.model.backend
    if how.contexts is None and not how.augment:
        return rows, validation
    contexts, note = None, None
    if how.contexts is not None:
        contexts, note = taken_contexts(backend, how.contexts, how.template, _scope(how))
    if note is not None:
        reader.say(note)
    for some in (rows, validation):
        if some is not None:
            reader.encode(some)
    if validation is None:
        rows, validation = _parted(rows, space, how)
        if validation is rows:
            reader.note(NONE_HELD)
    if how.augment:
        rows = augmented(rows, how.augment, _scope(how), reader.fits)
    if contexts is None:
        return rows, validation
    return (
        place_rows(backend, rows, contexts, seed=0, placing="some"),
        place_rows(backend, validation, contexts, seed=1, placing="both"),
    )


def _parted(rows: Rows, space: LabelSpace, settings: FitSettings) -> tuple[Rows, Rows]:
    """The rows that are trained on and those held back; all of them twice if none can be."""
    ids, share = space.encode(_labels(rows)), settings.held_share(len(rows))
    train_ids, held_ids = split_validation(ids, share, groups=rows.groups)
    return (rows.some(train_ids), rows.some(held_ids)) if len(held_ids) else (rows, rows)


def _examples(
    reader: _Reader, space: LabelSpace, rows: Rows, validation: Rows | None
) -> tuple[Examples, Examples]:
    """Training and validation rows as states and label ids; all are checked before a pass runs."""
    ids, tokens = space.encode(_labels(rows)), reader.encode(rows)
    if validation is None:
        share = reader.settings.held_share(len(rows))
        train_ids, held_ids = split_validation(ids, share, groups=rows.groups)
        some = [tokens[row] for row in train_ids]
        reader = reader.choosing(space, ids[train_ids], some, _groups(rows, train_ids))
        source = reader.source(tokens, "train")
        if not len(held_ids):
            reader.note(NONE_HELD)
            training = _part(source, space, rows, train_ids)
            return training, training
        held_out = _part(source, space, rows, held_ids)
        return _part(source, space, rows, train_ids), held_out
    with _naming(validation):
        space.encode(_labels(validation), validation.numbers)
    held_tokens = reader.encode(validation)
    # A changed copy would tell of its row, which is left out in turns.
    own = reader.settings.plain(np.arange(len(ids)))
    some = [tokens[row] for row in own]
    reader = reader.choosing(space, ids[own], some, _groups(rows, own))
    both = set_weights(rows, validation)
    training = _of_rows(reader.source(tokens, "train"), space, rows, both)
    behind = None if both is None else both[len(rows) :]
    held_out = _of_rows(reader.source(held_tokens, "validation"), space, validation, behind)
    return training, held_out


@contextmanager
def _naming(rows: Rows) -> Generator[None]:
    """Says which of the files an error is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{rows.path}: {error}") from error


def _labels(rows: Rows) -> tuple[Any, ...]:
    if rows.labels is None:
        raise DataError(f"{rows.path} has no labels; training needs a label for every text.")
    return rows.labels


def _groups(rows: Rows, row_ids: Int[np.ndarray, " some"]) -> Int[np.ndarray, " some"] | None:
    return None if rows.groups is None else np.array(rows.groups)[row_ids]


def _part(
    source: StateSource, space: LabelSpace, rows: Rows, row_ids: Int[np.ndarray, " some"]
) -> Examples:
    both = set_weights(rows)
    own = None if both is None else both[row_ids]
    return _of_rows(SelectedRows(source, row_ids), space, rows.some(row_ids), own)


def _of_rows(
    source: StateSource, space: LabelSpace, rows: Rows, both: Float[np.ndarray, " some"] | None
) -> Examples:
    """Rows as states and label ids.

    Args:
        source: of their states.
        space: of their labels.
        rows: that they are.
        both: what they count among the rows of both sides, where these begin with them.
    """
    labels, groups = _labels(rows), _groups(rows, np.arange(len(rows)))
    together = None if both is None else both[: len(rows)]
    weights, goals = set_weights(rows), space.goals(labels)
    return Examples(source, space.encode(labels), weights, goals, groups, together)


def all_layers(model: LanguageModel) -> tuple[int, ...]:
    """Every layer of a model, embeddings included."""
    return tuple(range(model.backend.identity.num_layers + 1))


def default_scope(texts: Sequence[Text], template: Template) -> Scope:
    """Turns that a probe of such rows reads: of texts the user's, of answered prompts the answer.

    Args:
        texts: of the rows.
        template: how they are wrapped; a raw text has no turns, and is read as a whole.
    """
    return scope_of_ends({last_role(text) for text in texts}, template)


def _prefixes_settled(settings: TrainSettings, scope: Scope) -> TrainSettings:
    """A verdict on an answer is asked after each of its tokens: it is learnt that way, too."""
    if settings.prefixes is not None:
        return settings
    return settings.model_copy(update={"prefixes": "uniform" if scope == "response" else "none"})


def _check_layers(model: LanguageModel, settings: FitSettings) -> None:
    """Refuses layers that the model does not have before any state is extracted."""
    if settings.layers in ("auto", None):
        return
    identity, highest = model.backend.identity, max(settings.layers)
    last = identity.num_layers
    if highest > last + identity.num_routers:
        raise ConfigError(f"Layer {highest} is not of this model, which has layers 0 to {last}.")


def _check_depths(
    model: LanguageModel, configs: Sequence[ProbeConfig], settings: FitSettings
) -> None:
    """Refuses depths before any state is extracted, as far as that can be told."""
    if not (settings.depths or settings.train.depths):
        return
    if settings.read == "router":
        raise ConfigError(
            "Routers are read behind the last layer, where no text has left; read states alone, or "
            "give no depths."
        )
    for config in configs:
        if config.probe == AUTO:
            raise ConfigError(
                "Probe 'auto' may choose one that has no read-outs at depths; name a gate, or "
                "leave the depths out."
            )
        check_depths(config.probe)
    if settings.layers != "auto":
        layers = _layers(model, settings)
        counts_of(_at_depths(settings, layers).depths, layers)


def _at_depths(settings: FitSettings, layers: Sequence[int]) -> TrainSettings:
    """How probes are trained that read these layers, with the depths that are asked for.

    Those of `auto` are the highest layers read up to a quarter, half and three quarters of them.
    """
    if settings.depths != "auto":
        depths = settings.depths or settings.train.depths
    else:
        wanted = (layers[-1] * part // 4 for part in (1, 2, 3))
        below = [[layer for layer in layers[:-1] if layer <= depth] for depth in wanted]
        depths = tuple(sorted({some[-1] for some in below if some}))
        if not depths:
            raise ConfigError("No layer is read below the last; read more of them, or no depths.")
    return settings.train.model_copy(update={"depths": depths})


def _scope(settings: FitSettings) -> Scope:
    assert settings.scope is not None  # `fit` has settled it
    return settings.scope


def _layers(model: LanguageModel, settings: FitSettings) -> tuple[int, ...]:
    assert settings.layers != "auto"  # `_Reader.choosing` has replaced it
    layers = settings.layers or all_layers(model)
    if settings.read == "states":
        return layers
    identity = model.backend.identity
    first = identity.num_layers + 1
    return (*layers, *range(first, first + identity.num_routers))


def _facts(
    model: LanguageModel,
    rows: Rows,
    validation: Rows | None,
    training: Examples,
    settings: FitSettings,
    space: LabelSpace,
    learning: TrainSettings,
) -> dict[str, Any]:
    """What the card says of every configuration of this run."""
    num_rows = len(settings.plain(training.targets))
    is_cut = validation is None and num_rows < len(rows)
    share = f"{1 - settings.held_share(len(rows)):.0%} of the rows, stratified"
    return {
        "task": space.task,
        "labels": space.names,
        "layers": training.source.layers,
        "template": settings.template,
        "scope": _scope(settings),
        "model": model.backend.identity,
        "data": {
            "sha256": rows.sha256,
            "path": rows.path,
            "num_rows": num_rows,
            "split": share if is_cut else "all rows",
            "validation_sha256": validation.sha256 if validation else None,
            "sets": [_set_facts(one) for one in rows.sets],
        },
        "depths": learning.depths,
        "shared": learning.model_dump(exclude={"depths"})
        | {"batch_size": learning.rows_a_step(len(training.targets))}
        | _contexts_facts(settings),
    }


def _set_facts(one: SetFacts) -> dict[str, Any]:
    """What a card says of one of several sets."""
    known = asdict(one)
    return {"weight": known.pop("share"), **known}


def _told(
    rows: Rows,
    space: LabelSpace,
    training: Shaped[np.ndarray, "kept ..."],
    held_out: Examples,
    times: int,
    say: Say,
) -> dict[str, Any]:
    """The balance of the labels for the card; what is worth a word is said before any training."""
    assert rows.labels is not None
    once = held_out.targets[: len(held_out.targets) // times]  # those alone come first
    counts = label_counts(space, training, once)
    notes = [*balance_notes(counts), *conflict_notes(rows.texts, rows.labels, rows.numbers)]
    for note in notes:
        say(note)
    # Of the path the card keeps the name alone.
    folder = rows.path.removesuffix(PurePath(rows.path).name)
    found = [note.removeprefix(folder) for note in rows.notes]
    return {"labels": [one._asdict() for one in counts], "notes": [*found, *notes]}


def _texts_told(
    rows: Rows, validation: Rows | None, scope: Scope, notes: Sequence[str], say: Say
) -> dict[str, Any]:
    """Languages and scripts for the card, and notes on the words that are read, said as well."""
    words = [said_in(text, scope) for text in rows.texts]
    shares = writings(words)
    own = text_notes(words, shares)
    if validation is not None:
        shared = shared_note(*([flat_text(t) for t in some.texts] for some in (rows, validation)))
        own += [] if shared is None else [shared]
    for note in own:
        say(note)
    return {"notes": [*notes, *own], "writings": shares}


def _contexts_facts(settings: FitSettings) -> dict[str, JsonValue]:
    """Which contexts rows stood behind and how copies were changed; nothing for none."""
    found: dict[str, JsonValue] = {}
    if settings.contexts is not None:
        found["contexts"] = dict(settings.contexts.facts)
    if settings.augment:
        found["augment"] = [*settings.augment]
    return found


def _artefact(trained: Trained, held_out: Examples, facts: dict[str, Any], times: int) -> Artefact:
    """The probe with its thresholds and validation metrics.

    Args:
        trained: the configuration.
        held_out: rows that choose.
        facts: what the card says of all configurations.
        times: how often each validation row is among them.
    """
    task, config = facts["task"], trained.config
    probs = evaluate_source(trained.unbiased, held_out.source, task).cpu()
    thresholds = choose_thresholds(task, probs, held_out.targets, times)
    metrics = evaluate(probs.numpy(), held_out.targets, task, thresholds)
    return Artefact.of(
        config.probe,
        trained.network.to(torch.device("cpu")),
        probe=config.probe,
        seed=config.seed,
        thresholds=thresholds,
        metrics=metrics,
        training=facts["shared"] | _learning(trained),
        **{name: value for name, value in facts.items() if name != "shared"},
    )


def _learning(trained: Trained) -> dict[str, JsonValue]:
    """How the weights were found, and whether validation rows taught them, too."""
    config, found = trained.config, dict[str, JsonValue]()
    # Not what the settings say: `auto` does so by itself, and there may be no other rows.
    found["refit"] = trained.unbiased is not trained.network
    if trained.solved:
        return found | {"solved": True}
    return found | {
        "learning_rate": config.rate,
        "weight_decay": config.weight_decay,
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
    }
