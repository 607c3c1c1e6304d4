"""`/v1/probes`: load, unload and swap without a restart."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from client import application, ask, refusal, settings
from starlette.testclient import TestClient

from pillion.backends.fake import FakeBackend
from pillion.errors import MismatchError
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, PlainEngine, with_canaries
from pillion.serve import load_keys, make_policies
from pillion.serve.run import Place, bind, serve
from tiny_models import make_artefact

PROBES = "/v1/probes"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Probes on disk: two of the model, one of another."""
    identity = FakeBackend().identity
    for seed, name in enumerate(("one", "two")):
        make_artefact(name, identity, seed=seed + 5).save(tmp_path / "probes" / name)
    make_artefact("alien", FakeBackend(seed=1).identity).save(tmp_path / "probes" / "alien")
    make_artefact("outside", identity).save(tmp_path / "outside")
    return tmp_path / "probes"


@pytest.fixture(autouse=True)
def _made(tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()


@pytest.fixture
def client(folder: Path) -> Generator[TestClient]:
    backend = FakeBackend()
    policy = {"probe": "kept", "action": "block", "fail": "closed"}
    chosen = settings(probe_folders=(folder,), policies=make_policies({"policies": [policy]}))
    with application(PlainEngine(backend, [make_artefact("kept", backend.identity)]), chosen) as c:
        yield c


def names(client: TestClient) -> list[str]:
    return [entry["id"] for entry in client.get(PROBES).json()["data"]]


def test_a_probe_is_loaded_read_and_unloaded(client: TestClient, folder: Path) -> None:
    answer = client.post(PROBES, json={"path": str(folder / "one")})
    assert answer.status_code == 201, answer.text
    assert answer.json()["labels"] == ["no", "yes"] and answer.json()["object"] == "probe"
    assert names(client) == ["kept", "one"]
    assert list(ask(client, max_tokens=2)["verdicts"]["prompt"]) == ["kept", "one"]

    assert client.delete(f"{PROBES}/one").json()["deleted"] is True
    assert names(client) == ["kept"]
    assert list(ask(client, max_tokens=2)["verdicts"]["prompt"]) == ["kept"]


def test_a_probe_is_loaded_under_a_name_of_choice(client: TestClient) -> None:
    assert client.post(PROBES, json={"path": "one", "name": "uno"}).status_code == 201
    assert names(client) == ["kept", "uno"]
    error = refusal(client, PROBES, {"path": "two", "name": "uno"}, 409)
    assert error["code"] == "probe_exists"


def test_a_swap_changes_the_verdicts_and_keeps_the_name(client: TestClient) -> None:
    before = ask(client, max_tokens=2)["verdicts"]["prompt"]["kept"]["probs"]
    assert client.put(f"{PROBES}/kept", json={"path": "two"}).status_code == 200
    after = ask(client, max_tokens=2)["verdicts"]["prompt"]["kept"]["probs"]
    assert names(client) == ["kept"] and before != after


def test_what_a_policy_needs_stays(client: TestClient) -> None:
    answer = client.delete(f"{PROBES}/kept")
    assert answer.status_code == 409
    assert "Policy 1 (block)" in answer.json()["error"]["message"]
    assert names(client) == ["kept"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("alien", 409, "probe_mismatch"),
        ("nothing", 403, "path_not_allowed"),
        ("../outside", 403, "path_not_allowed"),
        ("/etc", 403, "path_not_allowed"),
        (".", 400, "invalid_value"),
        ("a\0b", 403, "path_not_allowed"),
        ("x" * 5000, 403, "path_not_allowed"),
    ],
)
def test_what_cannot_be_loaded_is_refused_and_changes_nothing(
    client: TestClient, path: str, status: int, code: str
) -> None:
    assert refusal(client, PROBES, {"path": path}, status)["code"] == code
    assert names(client) == ["kept"]


def test_a_link_out_of_the_folder_is_not_followed(client: TestClient, folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent / "outside")
    assert refusal(client, PROBES, {"path": "link"}, 403)["code"] == "path_not_allowed"


def test_a_link_inside_a_probes_folder_is_not_followed_out_of_it(
    client: TestClient, folder: Path
) -> None:
    weights = folder / "one" / "probe.safetensors"
    weights.unlink()
    weights.symlink_to(folder.parent / "outside" / "probe.safetensors")
    assert refusal(client, PROBES, {"path": "one"}, 403)["code"] == "path_not_allowed"
    weights.unlink()
    weights.symlink_to(folder / "two" / "probe.safetensors")  # inside: another probe's weights
    assert "SHA-256" in refusal(client, PROBES, {"path": "one"})["message"]


def test_a_probe_says_which_policies_look_at_it(client: TestClient) -> None:
    client.post(PROBES, json={"path": "one"})
    listed = {one["id"]: one["policies"] for one in client.get(PROBES).json()["data"]}
    assert listed == {"kept": ["block"], "one": []}


def test_a_probe_that_does_not_ride_cannot_be_swapped(client: TestClient) -> None:
    assert client.delete(f"{PROBES}/none").status_code == 404
    assert client.put(f"{PROBES}/none", json={"path": "one"}).status_code == 404
    assert refusal(client, PROBES, {"path": "one", "name": "a b"})["param"] == "name"


def test_only_admins_change_probes(folder: Path) -> None:
    keys = load_keys(None, {"PILLION_API_KEYS": "user", "PILLION_ADMIN_KEYS": "boss"})
    chosen = settings(keys=keys, probe_folders=(folder,))
    with application(PlainEngine(FakeBackend()), chosen) as client:
        user, boss = ({"Authorization": f"Bearer {key}"} for key in ("user", "boss"))
        body = {"path": "one"}
        assert client.get(PROBES, headers=user).status_code == 200
        assert client.post(PROBES, json=body, headers=user).status_code == 403
        assert client.delete(f"{PROBES}/one", headers=user).status_code == 403
        assert client.post(PROBES, json=body, headers=boss).status_code == 201


def spoiled(name: str) -> Artefact:
    """A probe whose card says something else of its canaries than it does."""
    backend = FakeBackend()
    (kept,) = with_canaries(LanguageModel(backend), [make_artefact(name, backend.identity)])
    canaries = kept.card.canaries
    assert canaries is not None
    moved = [
        one.model_copy(update={"logits": tuple(x + 3 for x in one.logits)})
        for one in canaries.texts
    ]
    return kept.revised(canaries=canaries.model_copy(update={"texts": tuple(moved)}))


def test_a_probe_that_says_something_else_here_stays_outside(folder: Path) -> None:
    """What fingerprints cannot see, such as a cache of fewer bits, gave other verdicts."""
    backend = FakeBackend()
    spoiled("odd").save(folder / "odd")
    kept = make_artefact("kept", backend.identity)
    chosen = settings(probe_folders=(folder,))
    with application(PlainEngine(backend, [kept]), chosen) as client:
        answer = client.post(PROBES, json={"path": "odd"})
        assert answer.status_code >= 400
        assert "'odd' does not say here what it said" in answer.json()["error"]["message"]
        assert names(client) == ["kept"]
    unchecked = settings(probe_folders=(folder,), check=False)
    with application(PlainEngine(backend, [kept]), unchecked) as client:
        assert client.post(PROBES, json={"path": "odd"}).status_code == 201


def test_a_server_whose_probe_says_something_else_does_not_start() -> None:
    engine = PlainEngine(FakeBackend(), [spoiled("odd")])
    with pytest.raises(MismatchError, match="by up to 3"), application(engine):
        pass
    place = Place(port=0)
    with (
        bind(place) as bound,
        pytest.raises(MismatchError, match="'odd' does not say here what it said"),
    ):
        serve(PlainEngine(FakeBackend(), [spoiled("odd")]), settings(), place, bound)


def test_a_probe_that_says_what_it_said_is_served(folder: Path) -> None:
    backend = FakeBackend()
    probes = with_canaries(LanguageModel(backend), [make_artefact("good", backend.identity)])
    with application(PlainEngine(backend, probes)) as client:
        assert names(client) == ["good"]
