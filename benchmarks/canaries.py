"""What rounding does to verdicts, and what canaries see: `python -m benchmarks.canaries`.

Three probes of the embedded model, trained in fp32 on bundled examples. Their canaries are run with
what may differ and mean nothing (dtype, attention kernel, neighbours in the batch) and with what
must be refused (weights of fewer bits, an adapter, another template, another tokenizer). Then the
verdicts of texts that no probe was trained on, alone and with neighbours in their batch.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.result_file import write_result
from pillion.backends import load_backend
from pillion.backends.transformers import TransformersBackend
from pillion.core import Verdict
from pillion.examples import load_example
from pillion.fit import FitSettings, fit
from pillion.probe import Artefact
from pillion.probe.canaries import TOLERANCES, Canaries
from pillion.runtime import LanguageModel, encode_rows, pad_batch, watch
from pillion.runtime.canaries import canary_rows, differences
from pillion.train import ProbeConfig, TrainSettings

SETS = ("safety", "intent", "answers")
TRAINED = 96
NEIGHBOURS = (1, 7, 15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], help="all by default")
    parser.add_argument("--rows", type=int, default=96, help="read alone and with neighbours")
    options = parser.parse_args()
    sets, num_rows = tuple(options.sets or SETS), options.rows
    torch.manual_seed(0)
    models = {
        "float32": LanguageModel(load_backend("embedded", "float32", "cpu")),
        "bfloat16": LanguageModel(load_backend("embedded", "bfloat16", "cpu")),
    }
    probes = [_trained(models["float32"], name) for name in sets]
    results = [
        *(one for dtype in models for one in _same(dtype, models[dtype], probes)),
        *_others(models["float32"], probes),
        *_neighbours("float32", models["float32"], probes[:1], num_rows),
        *_neighbours("bfloat16", models["bfloat16"], probes, num_rows),
    ]
    settings = {"trained_rows": TRAINED, "read_rows": num_rows, "tolerances": dict(TOLERANCES)}
    write_result("canaries", results, seed=0, settings=settings, data=_data(sets, num_rows))


def _data(sets: Sequence[str], num_rows: int) -> list[dict[str, str]]:
    return [
        {"path": f"examples/{name}.jsonl", "sha256": load_example(name, "train").sha256, "split": s}
        for name in sets
        for s in [f"train, the first {TRAINED + num_rows} rows"]
    ]


def _trained(model: LanguageModel, name: str) -> Artefact:
    rows = load_example(name, "train").some(range(TRAINED))
    settings = FitSettings(train=TrainSettings(epochs=10))
    with tempfile.TemporaryDirectory() as work:
        (best,) = fit(model, rows, None, [ProbeConfig()], Path(work), settings, say=_quiet)
    return Artefact(name, best.artefact.card, best.artefact.network)


def _quiet(_: str) -> None:
    """Training tells nothing here."""


# -- what canaries say


def _off(what: str, model: LanguageModel, probes: Sequence[Artefact]) -> list[dict[str, Any]]:
    """Largest difference of each probe's canaries, a unit of their largest logit."""
    out = list[dict[str, Any]]()
    for probe in probes:
        begin = time.perf_counter()
        canaries = probe.card.canaries
        rows = canary_rows(probe, model.backend)
        assert canaries is not None and rows is not None
        found = model.score_rows(rows, [probe], allow_mismatch=True)
        seconds = time.perf_counter() - begin
        out.append(_entry(what, probe, canaries, [row[probe.name] for row in found], seconds))
    return out


def _entry(
    what: str, probe: Artefact, canaries: Canaries, verdicts: Sequence[Verdict], seconds: float
) -> dict[str, Any]:
    unit = canaries.tolerance("float32") / TOLERANCES["float32"]
    worst = max(differences(probe, canaries, verdicts))
    print(f"{what:<32} {probe.name:<8} {worst / unit:.6f} of {unit:.2f}", flush=True)
    return {
        "metric": "canaries_off",
        "what": what,
        "probe": probe.name,
        "largest_logit": round(unit, 3),
        "value": round(worst, 6),
        "relative": round(worst / unit, 6),
        "seconds": round(seconds, 3),
    }


def _same(dtype: str, model: LanguageModel, probes: Sequence[Artefact]) -> list[dict[str, Any]]:
    """The model as it is, by another attention kernel, and each text in a batch of its own."""
    network: Any = model.backend.model  # type: ignore[attr-defined]
    out = _off(f"{dtype}, sdpa", model, probes)
    network.set_attn_implementation("eager")
    out += _off(f"{dtype}, eager", model, probes)
    network.set_attn_implementation("sdpa")
    for probe in probes:
        canaries, rows = probe.card.canaries, canary_rows(probe, model.backend)
        assert canaries is not None and rows is not None
        found = [model.score_rows([row], [probe], allow_mismatch=True)[0] for row in rows]
        verdicts = [row[probe.name] for row in found]
        out.append(_entry(f"{dtype}, one by one", probe, canaries, verdicts, 0.0))
    return out


def _others(model: LanguageModel, probes: Sequence[Artefact]) -> list[dict[str, Any]]:
    """What must be refused, with the weights in fp32."""
    backend: Any = model.backend
    out = list[dict[str, Any]]()
    changes: dict[str, Callable[[Any], Any]] = {
        "weights of 8 bits a row": lambda network: _rounded(network, 127),
        "weights of 4 bits a row": lambda network: _rounded(network, 7),
        "an adapter merged": _adapted,
    }
    for what, change in changes.items():
        network = change(copy.deepcopy(backend.model))
        other = TransformersBackend(network, backend.tokenizer, "embedded")
        out += _off(what, LanguageModel(other), probes)
    for what, tokenizer in _tokenizers(backend.tokenizer).items():
        other = TransformersBackend(backend.model, tokenizer, "embedded")
        out += _off(what, LanguageModel(other), probes)
    return out


@torch.no_grad()
def _rounded(network: Any, most: int) -> Any:
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            scale = module.weight.abs().amax(1, keepdim=True) / most
            module.weight.copy_((module.weight / scale).round() * scale)
    return network


@torch.no_grad()
def _adapted(network: Any) -> Any:
    """As a LoRA of rank 8 that has moved each query by some 2 %."""
    noise = torch.Generator().manual_seed(0)
    for block in network.model.layers:
        weight = block.self_attn.q_proj.weight
        rows = torch.randn(weight.shape[0], 8, generator=noise)
        delta = rows @ torch.randn(8, weight.shape[1], generator=noise)
        weight += delta * (0.02 * weight.norm() / delta.norm())
    return network


def _tokenizers(tokenizer: Any) -> dict[str, Any]:
    from tokenizers import normalizers

    template, other = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    template.chat_template = "Answer briefly.\n" + tokenizer.chat_template
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    return {"another chat template": template, "a tokenizer that drops case": other}


# -- what neighbours do


def _neighbours(
    dtype: str, model: LanguageModel, probes: Sequence[Artefact], num_rows: int
) -> list[dict[str, Any]]:
    """Verdicts of texts alone and among others: how far logits move, and how many labels flip."""
    out = list[dict[str, Any]]()
    for probe in probes:
        texts = load_example(probe.name, "train").some(range(TRAINED, TRAINED + num_rows)).texts
        rows = encode_rows(model.backend, texts, probe.card.template, "error")
        alone = [_read(model, probe, [row])[0] for row in rows]
        for others in NEIGHBOURS:
            batches = [range(i, i + others + 1) for i in range(0, len(rows), others + 1)]
            among = [one for b in batches for one in _read(model, probe, [rows[i] for i in b])]
            out.append(_flips(dtype, probe, others, torch.stack(alone), torch.stack(among)))
    return out


def _read(model: LanguageModel, probe: Artefact, rows: Sequence[Any]) -> list[torch.Tensor]:
    """Logits of every row of one batch."""
    with watch(model.backend, [probe], allow_mismatch=True) as reading:
        reading.expect(rows)
        model.backend.forward(*pad_batch(rows))
        (probs,) = reading.probabilities().values()
    kept = probs.double().clamp(1e-12, 1 - 1e-12)
    return list(kept.log() if probe.card.task == "multiclass" else kept.logit())


def _flips(
    dtype: str, probe: Artefact, others: int, alone: torch.Tensor, among: torch.Tensor
) -> dict[str, Any]:
    apart = (alone - among).abs().amax(1)
    entry: dict[str, Any] = {"metric": "neighbours", "what": dtype, "probe": probe.name}
    entry |= {"neighbours": others, "rows": len(alone), "largest": round(float(apart.max()), 6)}
    entry["median"] = round(float(apart.median()), 6)
    if probe.card.task == "multiclass":
        flips = (alone.argmax(1) != among.argmax(1)).float()
    else:
        threshold = torch.tensor(probe.card.thresholds or (0.5,)).double().logit()
        flips = ((alone >= threshold) != (among >= threshold)).any(1).float()
        # Where verdicts lie closest: between the two middle texts (of an even number).
        middle = alone.quantile(0.5)
        entry["flips_per_1000_at_the_median"] = round(
            1000 * float(((alone >= middle) != (among >= middle)).float().mean()), 1
        )
    entry["flips_per_1000"] = round(1000 * float(flips.mean()), 1)
    print(entry, flush=True)
    return entry


if __name__ == "__main__":
    main()
