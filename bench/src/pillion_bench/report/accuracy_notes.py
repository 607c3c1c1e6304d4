"""What has to be known to read a table of accuracies, a sentence a line.

What is not flattering stands beside what is: thresholds that chose nothing, how often test rows
were read, which probe validation would choose. Promises the same sentences for the same file.
"""

from __future__ import annotations

from collections.abc import Iterator

from pillion_bench.report.accuracy_result import TITLES, AccuracyResult


def notes_of(result: AccuracyResult) -> list[str]:
    """The sentences below the table of a data set."""
    return [
        *_best_baseline(result),
        *_best_probe(result),
        *_reads(result),
        *_positives(result),
        *_nothing_chosen(result),
        *_undefined(result),
        *_bare_pass(result),
        *_not_measured(result),
    ]


def _best_baseline(result: AccuracyResult) -> Iterator[str]:
    lead = result.leading[0]
    best = {
        found["baseline"]
        for name in result.methods()
        if (found := result.entry(name, f"{result.split}_{lead}")) and "baseline" in found
    }
    if best:
        yield (
            f"The best baseline by {TITLES[lead]} on the {result.split} rows is "
            f"{', '.join(sorted(best))}; in brackets the paired bootstrap interval (95 %)."
        )


def _best_probe(result: AccuracyResult) -> Iterator[str]:
    """Validation's choice; a file that does not say it gives the means to find it."""
    settings = result.content["settings"]
    if found := settings.get("best_probe"):
        wins = ", ".join(
            f"`{name}` {share:.0%}" for name, share in found["share_of_draws"].items() if share
        )
        by = f"`{found['method']}` ({found['by']})"
        yield f"Best probe: {by}; validation rows drawn anew choose {wins}."
        return
    lead = result.leading[0]
    of = {
        name: value
        for name in result.methods()
        if result.role(name) == "probe"
        and (value := result.value(name, f"validation_{lead}")) is not None
    }
    if of and result.split == "test":
        rows = settings["rows"]["validation"]
        best = max(of, key=of.__getitem__)
        yield f"By {TITLES[lead]} the {rows:,} validation rows would choose `{best}` of the probes."


def _reads(result: AccuracyResult) -> Iterator[str]:
    reads = result.content.get("reads", [])
    if reads:
        last = reads[-1]
        commit = f", at commit {last['commit'][:12]}" if last.get("commit") else ""
        times = "once" if len(reads) == 1 else f"{len(reads)} times"
        yield f"Test rows were read {times} for this table, last on {last['date']}{commit}."


def _positives(result: AccuracyResult) -> Iterator[str]:
    share = result.content["settings"].get("positives", {}).get(result.split)
    if share is not None:
        yield f"{share:.1%} of the {result.split} rows are positive: the AUPRC of chance."


def _nothing_chosen(result: AccuracyResult) -> Iterator[str]:
    if not result.is_binary:
        return
    for name in result.methods():
        if result.value(name, f"{result.split}_f1") == 0:
            yield (
                f"{name} finds no positive row: the threshold that validation gave it chose "
                "nothing, and its accuracy is the share of negatives."
            )


def _undefined(result: AccuracyResult) -> list[str]:
    return sorted(
        {
            f"{TITLES[metric]}: {reason}."
            for metric in result.metrics()
            for name in result.methods()
            if (reason := result.reason(name, metric))
        }
    )


def _bare_pass(result: AccuracyResult) -> Iterator[str]:
    bare = [e["bare_ms"] for e in result.content["results"] if e["metric"] == "added_ms"]
    if bare:
        middle = sorted(bare)[len(bare) // 2]
        yield f"The bare pass takes {middle:.0f} ms a text (median, one text at a time)."


def _not_measured(result: AccuracyResult) -> Iterator[str]:
    for name, facts in result.content["settings"]["methods"].items():
        if "not_measured" in facts:
            yield f"{name}: not measured. {facts['not_measured']}"
