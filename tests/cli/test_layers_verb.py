"""`pillion layers`, and `train --layers auto`."""

from __future__ import annotations

import json
from pathlib import Path

from program import Refused, Run, two_classes, write_rows


def test_it_prints_a_table_and_writes_json_and_a_picture(
    run: Run, data: Path, tmp_path: Path
) -> None:
    out, plot = tmp_path / "layers.json", tmp_path / "layers.png"
    ran = run(*["layers", "--data", data, "--model", "fake"], "--out", out, "--plot", plot)

    assert ran.code == 0, ran
    assert ran.out.count("Recommended") == 1 and "Recommended: --layers 0-3 (auprc" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    study = json.loads(out.read_text())
    assert [row["layer"] for row in study["results"]] == [0, 1, 2, 3]
    assert [row["num_layers"] for row in study["sets"]] == [1, 2, 4]
    assert study["data"][0]["num_rows"] == 40 and study["settings"]["score"] == "auprc"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["layers.json", "layers.png", "rows.jsonl"]


def test_json_is_the_same_study_and_a_gate_adds_its_weights(
    run: Run, data: Path, probe: Path
) -> None:
    words = ["layers", "--data", data, "--model", "fake", "--rows", "30", "--json"]
    plain, with_gate = run(*words).json, run(*words, "--probe", probe).json

    assert plain["data"][0]["num_rows"] == 30
    own = ("weight", "entropy")
    assert {row[name] for row in plain["results"] for name in own} == {None}
    assert abs(sum(row["weight"] for row in with_gate["results"]) - 1) < 1e-4
    assert all(0 < row["entropy"] <= 1 for row in with_gate["results"])
    bare = [{**row, **dict.fromkeys(own)} for row in with_gate["results"]]
    assert bare == plain["results"]


def test_a_gate_adds_its_choices_of_one_layer(run: Run, data: Path, probe: Path) -> None:
    words = ["layers", "--data", data, "--model", "fake"]
    study = run(*words, "--probe", probe, "--json").json
    rows, single = study["results"], study["single"]

    assert rows[single["by_weight"]["layer"]]["weight"] == max(row["weight"] for row in rows)
    assert rows[single["by_entropy"]["layer"]]["entropy"] == min(row["entropy"] for row in rows)
    lost = study["single"]["lost_by_weight"]["value"]
    assert abs(lost - (single["by_sweep"]["score"] - single["by_weight"]["score"])) < 1e-6
    shown, bare = run(*words, "--probe", probe), run(*words)
    assert f"{single['by_weight']['layer']} by the gate's weight (" in shown.out
    assert "the gate's" not in bare.out
    assert max(map(len, shown.out.splitlines())) <= 80


def test_train_reads_the_layers_that_were_chosen(run: Run, data: Path, tmp_path: Path) -> None:
    words = ["train", "--data", data, "--model", "fake", "--layers", "auto"]
    ran = run(*words, "--out", tmp_path / "auto")

    assert ran.code == 0, ran
    assert "Chosen from 32 training rows: layers " in ran.err
    card = run("inspect", tmp_path / "auto", "--json").json
    chosen = ran.err.split("layers ")[1].split(".")[0]
    assert card["layers"] == [int(layer) for layer in chosen.split(", ")]
    live = run(*words, "--live", "--out", tmp_path / "live")
    assert live.code == 0, live
    assert run("inspect", tmp_path / "live", "--json").json["layers"] == card["layers"]


def test_rows_of_one_label_each_give_a_table_with_undefined_silhouettes(
    run: Run, tmp_path: Path
) -> None:
    rows = [{"text": f"text {i}", "label": f"label {i}"} for i in range(12)]
    ran = run("layers", "--data", write_rows(tmp_path / "r.jsonl", rows), "--model", "fake")

    assert ran.code == 0, ran
    assert "undef." in ran.out and "One layer alone: undefined by its silhouette" in ran.out


def test_what_cannot_be_studied_is_refused_in_a_sentence(
    refused: Refused, data: Path, tmp_path: Path
) -> None:
    words = ["layers", "--data", data, "--model", "fake"]
    assert "not there" in refused(*words, "--plot", tmp_path / "no" / "x.png")
    assert "folder" in refused(*words, "--out", tmp_path)
    one = write_rows(tmp_path / "one.jsonl", [r | {"label": "same"} for r in two_classes(20)])
    assert "only 'same'" in refused("layers", "--data", one, "--model", "fake")
    assert "--layers has 'auto'" in refused(
        *["extract", "--data", data, "--model", "fake", "--layers", "auto"],
        *["--out", tmp_path / "states"],
    )


def test_a_probe_without_layer_weights_is_refused(
    run: Run, refused: Refused, data: Path, tmp_path: Path
) -> None:
    words = ["--data", data, "--model", "fake"]
    assert run("train", *words, "--kind", "pooling", "--out", tmp_path / "p").code == 0
    assert "no layer weights" in refused("layers", *words, "--probe", tmp_path / "p")


def test_differences_of_sets_come_with_the_noise_of_the_rows(run: Run, data: Path) -> None:
    study = run("layers", "--data", data, "--model", "fake", "--json").json
    chosen = study["recommended"]
    for one in study["sets"]:
        more = one["more_than_recommended"]
        if one["layers"] == chosen["layers"]:
            assert more is None
        else:
            assert abs(more["value"] - (one["score"] - chosen["score"])) < 1e-6
            assert more["interval"][0] <= more["value"] <= more["interval"][1]
    single = study["single"]
    lost = single["lost_by_silhouette"]
    best, picked = (single[by]["score"] for by in ("by_sweep", "by_silhouette"))
    assert abs(lost["value"] - (best - picked)) < 1e-6
    assert lost["interval"][0] <= lost["value"] <= lost["interval"][1]
