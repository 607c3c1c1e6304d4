"""What is pulled is what was pushed, or a sentence says what is wrong; none is met by halves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from pillion.backends.fake import FakeBackend
from pillion.errors import ArtefactError, ConfigError, RunError
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, resolve
from pillion.sharing import MANIFEST_NAME, model_page, open_store, pull, push
from pillion.sharing.hub import HubStore
from pillion.sharing.share import probe_name
from tiny_models import make_artefact

FILES = {"card.json", "probe.safetensors", "README.md", "manifest.json"}


def made(name: str = "mood", seed: int = 0) -> Artefact:
    return make_artefact(name, FakeBackend().identity, seed=seed, template="chat")


def says(artefact: Artefact) -> Any:
    return LanguageModel(FakeBackend()).score(["how are you?"], [artefact])[0][artefact.name].probs


class Hub:
    """What `HfApi` does of a hub, in memory: repositories of commits, each with all files."""

    def __init__(self) -> None:
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.fail: Exception | None = None

    def model_info(self, repo: str, revision: str | None = None) -> Any:
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        self._check()
        if repo not in self.repos:
            raise RepositoryNotFoundError("404", response=response(404))
        commits = self.repos[repo]
        number = len(commits) - 1 if revision is None else int(revision.removeprefix("c"))
        if not 0 <= number < len(commits):
            raise RevisionNotFoundError("404", response=response(404))
        files = [SimpleNamespace(rfilename=name) for name in commits[number]]
        return SimpleNamespace(sha=f"c{number}", siblings=files)

    def hf_hub_download(self, repo: str, name: str, revision: str, local_dir: str) -> str:
        self._check()
        path = Path(local_dir) / name
        path.write_bytes(self.repos[repo][int(revision.removeprefix("c"))][name])
        return str(path)

    def create_repo(self, repo: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self._check()
        self.private[repo] = private
        self.repos[repo] = [{".gitattributes": b""}]

    def create_commit(
        self, repo: str, operations: Any, commit_message: str, parent_commit: str | None
    ) -> None:
        self._check()
        assert commit_message == "Probe mood"
        assert parent_commit in (None, f"c{len(self.repos[repo]) - 1}")
        new = {one.path_in_repo: one.path_or_fileobj for one in operations}
        self.repos[repo].append({**self.repos[repo][-1], **new})

    def _check(self) -> None:
        if self.fail is not None:
            raise self.fail


def response(status: int) -> Any:
    return SimpleNamespace(
        status_code=status, headers={}, request=SimpleNamespace(method="GET", url="x")
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    import huggingface_hub

    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: fake)
    return fake


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(params=["hub", "file", "memory"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, hub: Hub, memory: Any
) -> tuple[str, Callable[[str, bytes | None], None]]:
    """A URL, and a hand that changes (or, with None, removes) a file that lies there."""

    def in_hub(name: str, content: bytes | None) -> None:
        files = hub.repos["me/mood"][-1]
        files.pop(name)
        if content is not None:
            files[name] = content

    def in_folder(name: str, content: bytes | None) -> None:
        file = tmp_path / "shared" / "mood" / name
        file.unlink()
        if content is not None:
            file.write_bytes(content)

    def in_memory(name: str, content: bytes | None) -> None:
        memory.rm(f"/bucket/mood/{name}")
        if content is not None:
            memory.pipe_file(f"/bucket/mood/{name}", content)

    return {
        "hub": ("hf://me/mood", in_hub),
        "file": (f"file://{tmp_path}/shared/mood", in_folder),
        "memory": ("memory://bucket/mood", in_memory),
    }[request.param]


def test_a_probe_comes_back_as_it_went(place: Any, tmp_path: Path) -> None:
    url, _ = place
    sent = push(made(), url)
    assert open_store(url).names() >= FILES
    got = pull(url, tmp_path / "mine", wanted_sha256=sent.sha256)
    assert got.sha256 == sent.sha256
    loaded = Artefact.load(tmp_path / "mine", "mood")
    assert loaded.card == made().card
    assert says(loaded) == says(made())
    assert {file.name for file in (tmp_path / "mine").iterdir()} == {
        "card.json",
        "probe.safetensors",
    }


def test_a_probe_is_replaced_only_where_that_is_asked_for(place: Any, tmp_path: Path) -> None:
    url, _ = place
    first = push(made(), url)
    with pytest.raises(ConfigError, match=r"A probe lies at .* already; have it replaced"):
        push(made(seed=1), url)
    pull(url, tmp_path / "mine")
    second = push(made(seed=1), url, replace=True)
    assert first.sha256 != second.sha256
    with pytest.raises(ConfigError, match="is there already"):
        pull(url, tmp_path / "mine")
    assert says(Artefact.load(tmp_path / "mine", "mood")) == says(made())
    pull(url, tmp_path / "mine", replace=True)
    assert says(Artefact.load(tmp_path / "mine", "mood")) == says(made(seed=1))


@pytest.mark.parametrize("name", ["card.json", "probe.safetensors"])
def test_a_file_that_was_changed_is_refused_and_nothing_is_left(
    place: Any, tmp_path: Path, name: str
) -> None:
    url, change = place
    push(made(), url)
    change(name, b"{}")
    with pytest.raises(ArtefactError, match=f"{name} from .* is not the file that was shared"):
        pull(url, tmp_path / "mine")
    change(name, None)
    with pytest.raises(ArtefactError, match=f"{name} is gone from"):
        pull(url, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No shared probe lies at"),
        (b"[", "cannot be read"),
        (b'{"format": 2, "files": {}}', "cannot be read .format"),
        (b'{"format": 1, "files": {}}', "lacks card.json"),
        (
            b'{"format": 1, "files": {"../x": {"sha256": "0", "bytes": 1}}}',
            "names '../x', which is no file of a probe",
        ),
    ],
)
def test_a_manifest_that_says_nothing_of_use_is_refused(
    place: Any, tmp_path: Path, content: bytes | None, why: str
) -> None:
    url, change = place
    push(made(), url)
    change(MANIFEST_NAME, content)
    with pytest.raises(ArtefactError, match=why):
        pull(url, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_another_probe_than_the_one_asked_for_is_refused(place: Any, tmp_path: Path) -> None:
    url, _ = place
    sent = push(made(), url)
    push(made(seed=1), url, replace=True)
    with pytest.raises(ArtefactError, match="is another one: its SHA-256 is"):
        pull(url, tmp_path / "mine", wanted_sha256=sent.sha256)


def test_a_manifest_of_false_files_is_no_way_in(place: Any, tmp_path: Path) -> None:
    """Hashes that fit say who sent it, not that it is a probe."""
    from pillion.sharing.manifest import manifest_of

    url, change = place
    push(made(), url)
    card = json.dumps({"format": 99}).encode()
    weights = open_store(url).read("probe.safetensors")
    assert weights is not None
    change("card.json", card)
    change(MANIFEST_NAME, manifest_of({"card.json": card, "probe.safetensors": weights}))
    with pytest.raises(ArtefactError, match="format 99"):
        pull(url, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "url", ["hf://me/mood", "hf://me/mood@v1/", "hf://me/mood@refs/pr/1", "s3://a@b/c/mood/"]
)
def test_a_shared_probe_has_the_name_of_its_place(url: str) -> None:
    """Of a revision with parts of its own the last one signed its verdicts."""
    assert probe_name(url) == "mood"


def test_a_probe_is_read_by_its_url_and_fetched_once(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, change = place
    monkeypatch.setenv("PILLION_CACHE", str(tmp_path / "cache"))
    push(made(), url)
    assert resolve(url).name == "mood"
    assert says(resolve(url)) == says(made())
    weights = open_store(url).read("probe.safetensors")
    change("probe.safetensors", b"damaged")
    assert says(resolve(url)) == says(made())  # from the cache: the manifest is the same
    change("probe.safetensors", weights)
    push(made(seed=1), url, replace=True)
    assert says(resolve(url)) == says(made(seed=1))


def test_nothing_lies_where_nothing_was_pushed(tmp_path: Path, hub: Hub, memory: Any) -> None:
    for url in (f"file://{tmp_path}/none", "memory://none"):
        with pytest.raises(ArtefactError, match="No shared probe lies at"):
            pull(url, tmp_path / "mine")
    with pytest.raises(ArtefactError, match="There is no repository 'me/none' on the hub"):
        pull("hf://me/none", tmp_path / "mine")


def test_a_place_of_other_things_is_left_alone(tmp_path: Path, hub: Hub, memory: Any) -> None:
    memory.pipe_file("/bucket/mood/model.bin", b"x")
    hub.repos["me/mood"] = [{".gitattributes": b"", "model.safetensors": b"x"}]
    (tmp_path / "mood").mkdir()
    (tmp_path / "mood" / "notes.txt").write_text("mine")
    for url in ("memory://bucket/mood", "hf://me/mood", f"file://{tmp_path}/mood"):
        with pytest.raises(ConfigError, match="which is no file of a probe, and is left as it is"):
            push(made(), url, replace=True)


def test_a_push_that_stops_half_way_leaves_no_manifest(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(made(), "memory://bucket/mood")
    write = type(memory).pipe_file
    seen: list[str] = []

    def fail(self: Any, path: str, value: bytes, **kwargs: Any) -> None:
        seen.append(path)
        if len(seen) == 2:
            raise OSError("the line is dead")
        write(self, path, value, **kwargs)

    monkeypatch.setattr(type(memory), "pipe_file", fail)
    with pytest.raises(RunError, match=r"could not be reached \(the line is dead\)"):
        push(made(seed=1), "memory://bucket/mood", replace=True)
    with pytest.raises(ArtefactError, match="or one is being written"):
        pull("memory://bucket/mood", tmp_path / "mine")


# --- the hub


def test_a_new_repository_is_private_unless_it_is_to_be_public(hub: Hub) -> None:
    push(made(), "hf://me/mood")
    push(made(), "hf://me/open", public=True)
    assert hub.private == {"me/mood": True, "me/open": False}
    assert len(hub.repos["me/mood"]) == 2  # one commit holds all


def test_a_pull_reads_one_commit_whatever_is_pushed_meanwhile(hub: Hub, tmp_path: Path) -> None:
    push(made(), "hf://me/mood")
    store = HubStore("hf://me/mood", hub)
    store.read(MANIFEST_NAME)
    push(made(seed=1), "hf://me/mood", replace=True)
    pull(store, tmp_path / "mine")
    assert says(Artefact.load(tmp_path / "mine", "mood")) == says(made())


def test_an_earlier_revision_can_be_pulled_and_none_pushed_to(hub: Hub, tmp_path: Path) -> None:
    push(made(), "hf://me/mood")
    push(made(seed=1), "hf://me/mood", replace=True)
    pull("hf://me/mood@c1", tmp_path / "mine")
    assert says(Artefact.load(tmp_path / "mine", "mood")) == says(made())
    with pytest.raises(ArtefactError, match="no revision 'c9'"):
        pull("hf://me/mood@c9", tmp_path / "other")
    with pytest.raises(ConfigError, match="names a revision"):
        push(made(), "hf://me/mood@c1", replace=True)


@pytest.mark.parametrize("url", ["hf://mood", "hf://a/b/c", "hf://", "hf://a/b c"])
def test_a_name_that_no_repository_has_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="write hf://OWNER/NAME"):
        open_store(url)


def test_faults_of_the_hub_are_sentences(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import errors

    faults: list[tuple[Exception, str]] = [
        (ConnectionError("name or service not known"), "could not be reached for 'me/mood'"),
        (errors.OfflineModeIsEnabled("offline mode is on"), "could not be reached.*offline"),
        (errors.GatedRepoError("403", response=response(403)), "log in"),
        (errors.HfHubHTTPError("401", response=response(401)), "does not let us into"),
        (errors.HfHubHTTPError("busy", response=response(500)), "answered with an error"),
    ]
    for error, why in faults:
        hub.fail = error
        with pytest.raises(RunError, match=why):
            pull("hf://me/mood", tmp_path / "mine")
        with pytest.raises(RunError, match=why):
            push(made(), "hf://me/mood")
    hub.fail = errors.HfHubHTTPError("moved", response=response(412))
    with pytest.raises(RunError, match="changed 'me/mood' meanwhile; push again"):
        push(made(), "hf://me/mood")


@pytest.mark.parametrize("url", ["nosuch://place/mood", "s4://x"])
def test_an_unknown_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_store(url)


# --- the page


def test_the_page_says_what_the_card_knows_and_nothing_becomes_markup() -> None:
    artefact = made("mo|od <b>")
    page = model_page(artefact, "hf://me/mood")
    head, body = page.split("---\n", 2)[1:]
    assert "library_name: pillion" in head and "base_model" not in head
    assert body.startswith("\n# mo\\|od \\<b\\>\n")
    for words in ("## Intended use", "## Data", "## Numbers", "## Limits", "pull hf://me/mood"):
        assert words in body
    assert all(f"`{label}`" in body for label in artefact.card.labels)


def test_the_page_names_languages_the_hub_model_and_intervals() -> None:
    from pillion.probe.card import LabelRows, make_card

    plain = made()
    data = plain.card.data.model_copy(
        update={
            "writings": {"English": 0.9, "Latin": 0.09, "German": 0.01},
            "notes": ("Only 40 rows: *few*.",),
            "labels": (LabelRows(label="no", train=30, validation=10),),
        }
    )
    card = plain.card.model_dump() | {
        "data": data.model_dump(),
        "metrics": {"accuracy": 0.9, "auprc": 0.8, "f1": None},
        "model": plain.card.model.__dict__ | {"name": "owner/model"},
    }
    artefact = Artefact("mood", make_card(**card), plain.network)
    page = model_page(artefact, "hf://me/mood")
    assert "language: [en]" in page and 'base_model: "owner/model"' in page
    assert "English 90%, not told (Latin letters) 9%, German 1%" in page
    assert "- Only 40 rows: \\*few\\*." in page
    assert "| accuracy | 0.900 | [0.596, 0.982] |" in page  # of ten rows
    assert "| auprc | 0.800 | not known |" in page and "| f1 |" not in page
    assert '--text "..." --model owner/model`' in page


def test_measured_numbers_stand_with_their_intervals_and_foreign_ones_are_refused() -> None:
    artefact = made()
    result = {
        "kind": "evaluation",
        "labels": list(artefact.card.labels),
        "data": [{"path": "test.csv", "sha256": "ab" * 32}],
        "results": [{"metric": "f1", "value": 0.75, "interval": [0.7, 0.8], "rows": 120}],
    }
    page = model_page(artefact, "hf://me/mood", result)
    assert "Measured on 120 rows of `test.csv`" in page
    assert "| f1 | 0.750 | [0.700, 0.800] |" in page and "they flatter" not in page
    with pytest.raises(ConfigError, match="not of this probe"):
        model_page(artefact, "hf://me/mood", result | {"labels": ["other"]})


@pytest.mark.parametrize("refit", [True, False])
def test_rows_that_were_learnt_from_are_told_of_numbers_and_of_thresholds(refit: bool) -> None:
    """Thresholds were always said to be of other rows, and of a second fit only its first rows."""
    plain, held = made(), "ab" * 32
    line = {"label": "yes", "threshold": 0.5, "fpr": 0.1, "recall": 0.9, "precision": None}
    data = {"path": "held.csv", "sha256": held, "num_rows": 40}
    artefact = plain.revised(
        data=plain.card.data.model_copy(update={"validation_sha256": held}),
        training={"refit": refit},
        decisions={"data": data, "thresholds": [line]},
    )
    told = model_page(artefact, "hf://me/mood")
    wanted = " that the probe has learnt from (the numbers flatter):"
    assert f"40 rows of `held.csv`{wanted if refit else ' that it has not learnt from:'}" in told
    result = {
        "kind": "evaluation",
        "labels": list(artefact.card.labels),
        "data": [data],
        "results": [{"metric": "f1", "value": 0.75, "interval": None, "rows": 40}],
    }
    learnt, chosen = "the probe has learnt from", "its thresholds or calibration were chosen on"
    page = model_page(artefact, "hf://me/mood", result)
    assert f"that {learnt if refit else chosen} (the numbers flatter), intervals by" in page


def test_validation_numbers_of_a_calibrated_probe_are_said_to_be_from_before() -> None:
    """F1 at thresholds that are gone stood above those that the probe has now."""
    plain, said = made(), "as training left it, before it was calibrated"
    data = {"path": "held.csv", "sha256": "ab" * 32, "num_rows": 40}
    assert said not in model_page(plain, "hf://me/mood")
    assert said in model_page(plain.revised(decisions={"data": data}), "hf://me/mood")


def test_numbers_of_another_probe_with_the_same_labels_are_refused() -> None:
    """They stood on the page as this probe's own; so did those from before it was calibrated."""
    artefact = made()
    card = artefact.card.model_dump(mode="json")
    facts = {name: card[name] for name in ("probe", "settings", "layers", "thresholds", "data")}
    told = {"name": "mood", **facts, "model": artefact.card.model.name, "parameters": 3}
    result: dict[str, Any] = {
        "kind": "evaluation",
        "labels": list(artefact.card.labels),
        "settings": {"probe": told},
        "data": [{"path": "train.csv", "sha256": artefact.card.data.sha256}],
        "results": [{"metric": "f1", "value": 0.75, "interval": None, "rows": 120}],
    }
    page = model_page(artefact, "hf://me/mood", result)
    assert "that the probe has learnt from (the numbers flatter)" in page
    rows = {"num_rows": card["data"]["num_rows"]}
    older = {**told, "settings": {**facts["settings"], "gone": 1}, "data": rows}
    model_page(artefact, "hf://me/mood", result | {"settings": {"probe": older}})
    others = {"layers": [0], "thresholds": [0.9], "model": "other", "data": {"sha256": "0"}}
    for name, value in others.items():
        other = {"probe": {**told, name: value}}
        with pytest.raises(ConfigError, match=f"not of this probe as it is now: {name} on its"):
            model_page(artefact, "hf://me/mood", result | {"settings": other})
