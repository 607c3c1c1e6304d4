# pyright: reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false
"""One token of each answer through all gates at once: a Triton kernel in the place of forty.

A program takes an answer and a network: it merges the token's values into the answer's row and into
its open page's piece, layer by layer, and reads out the row on the way. What it computes is written
in plain words in `GateFold` (`of_tokens`, `merge`, `finish`), which tests hold it to.
"""

from __future__ import annotations

import triton
import triton.language as tl

FIELDS = tl.constexpr(17)
"""Numbers of a network; see `fused`."""


@triton.jit
def tanh(x):
    """Triton has none of its own."""
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def shares(top, score):
    """The higher of two scores, and what both count once it is subtracted."""
    now = tl.maximum(top, score)
    return now, tl.exp(top - now), tl.exp(score - now)


@triton.jit
def merge(piece, at, token, held, written, FLOOR: tl.constexpr):
    """A token's values into a piece of one layer, in memory; `GateFold.merge` of two pieces.

    Args:
        piece: where it is.
        at: where in it highest scores, sums of weights, weighed scores of layers and weighed values
            of labels are.
        token: its scores, scores of layers and values of labels.
        held: heads, and labels of them, of which the piece holds anything.
        written: those that are written.
        FLOOR: less than any score.

    Returns:
        The sums: of weights, of scores of layers, of values of labels.
    """
    score, of_layer, of_class = token
    now, before, new = shares(tl.load(piece + at[0], mask=held[0], other=FLOOR), score)
    weight = tl.load(piece + at[1], mask=held[0], other=0.0) * before + new
    layer = tl.load(piece + at[2], mask=held[0], other=0.0) * before + of_layer * new
    label = tl.load(piece + at[3], mask=held[1], other=0.0) * before[:, None]
    label += of_class * new[:, None]
    tl.store(piece + at[0], now, mask=written[0])
    tl.store(piece + at[1], weight, mask=written[0])
    tl.store(piece + at[2], layer, mask=written[0])
    tl.store(piece + at[3], label, mask=written[1])
    return weight, layer, label


@triton.jit
def gates(
    units,  # annotations are Triton's: it looks their names up
    numbers,
    places,
    out,
    HEADS: tl.constexpr,
    LABELS: tl.constexpr,
    FLOOR: tl.constexpr,
):
    """Grid: answers, networks.

    Args:
        units: int64, `FIELDS` of each network.
        numbers: int64: of each group where its lists begin, how long they are and where its logits
            go; then the lists: slots, rows, places of pieces.
        places: int32, of every slot the place of its values.
        out: fp32 logits.
        HEADS: of a network, at least; a power of 2.
        LABELS: outputs of one, at least; a power of 2.
        FLOOR: less than any score.
    """
    answer, unit = tl.program_id(0), units + tl.program_id(1) * FIELDS
    group = numbers + tl.load(unit) * 3
    begin, count, out_at = tl.load(group), tl.load(group + 1), tl.load(group + 2)
    if answer < count:
        rows = tl.load(unit + 1).to(tl.pointer_type(tl.float32))
        pages = tl.load(unit + 2).to(tl.pointer_type(tl.float32))
        values = tl.load(unit + 3).to(tl.pointer_type(tl.float32))
        by_layer, by_token = tl.load(unit + 4), tl.load(unit + 5)
        num_layers, all_heads, all_columns = tl.load(unit + 6), tl.load(unit + 7), tl.load(unit + 8)
        head, heads, column = tl.load(unit + 9), tl.load(unit + 10), tl.load(unit + 11)
        labels, bounded, outputs = tl.load(unit + 12), tl.load(unit + 13), tl.load(unit + 14)
        bias = tl.load(unit + 15).to(tl.pointer_type(tl.float32))
        size = num_layers * (2 * all_heads + all_columns)

        slot = tl.load(numbers + begin + answer)
        row = rows + tl.load(numbers + begin + count + answer) * size
        # Even: a piece that goes on; odd: one that begins; negative: none is kept.
        place = tl.load(numbers + begin + 2 * count + answer)
        page = pages + (place // 2) * size
        value = values + tl.load(places + slot).to(tl.int64) * by_token

        each = tl.arange(0, HEADS)
        label = tl.arange(0, LABELS)
        is_head = each < heads
        is_class = is_head[:, None] & (label < labels)[None, :]
        # Of a piece that begins there is nothing to load.
        of_answer = each < heads * (1 - place % 2)
        has_class = of_answer[:, None] & (label < labels)[None, :]
        classes = column + heads + each[:, None] * labels + label[None, :]
        highest = tl.full([HEADS], FLOOR, tl.float32)
        total = tl.zeros([HEADS], tl.float32)
        mixed = tl.zeros([HEADS, LABELS], tl.float32)
        for layer in range(num_layers):
            own = value + layer * by_layer
            score = tl.load(own + head + each, mask=is_head, other=0.0)
            if bounded != 0:
                score = tanh(score)
            of_layer = tl.load(own + all_heads + column + each, mask=is_head, other=0.0)
            of_class = tl.load(own + all_heads + classes, mask=is_class, other=0.0)

            at_head = layer * all_heads + head + each
            at_weight = num_layers * all_heads + at_head
            at_sum = 2 * num_layers * all_heads + layer * all_columns
            at = at_head, at_weight, at_sum + column + each, at_sum + classes
            token, written = (score, of_layer, of_class), (is_head, is_class)
            weight, layers, sums = merge(row, at, token, written, written, FLOOR)
            if place >= 0:
                merge(page, at, token, (of_answer, has_class), written, FLOOR)
            weight = tl.maximum(weight, 1.1754943508222875e-38)
            layers = layers / weight
            if bounded != 0:
                layers = tanh(layers)
            highest, before, new = shares(highest, layers)
            total = total * before + new
            mixed = mixed * before[:, None] + (sums / weight[:, None]) * new[:, None]
        mixed = tl.where(is_class, mixed / total[:, None], 0.0)
        logits = tl.sum(mixed, 0) + tl.load(bias + label, mask=label < labels, other=0.0)
        place_of_logits = out_at + answer * outputs + tl.load(unit + 16)
        tl.store(out + place_of_logits + label, logits, mask=label < labels)
