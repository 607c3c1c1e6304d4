"""Tables in, texts and labels out.

Promises texts exactly as the file holds them and every label under one name, with the hash of the
bytes, or one clear sentence that says what is wrong and where. Does not know models or metrics.
"""

from pillion.data.augment import AUGMENTS, augmented
from pillion.data.balance import LabelCount, balance_notes, conflict_notes, label_counts
from pillion.data.contexts import (
    Contexts,
    contexts_of,
    in_context,
    sample_contexts,
    shipped_contexts,
)
from pillion.data.examples import Origin, flat_text, normalised, said_in, with_words, words_in
from pillion.data.file_slices import Slice
from pillion.data.judged_labels import JudgedLabels, Label, SoftLabels, names_of
from pillion.data.labels import LabelSpace
from pillion.data.layout import TableLayout
from pillion.data.rows import Rows, SetFacts, Texts, read_rows, read_texts
from pillion.data.scan import BLOCK_ROWS, Scan, Scanned
from pillion.data.sets import DataSet, join_sets, set_weights
from pillion.data.slices import SlicePlan, hold, plan_slices
from pillion.data.split import split_validation
from pillion.data.text_notes import shared_note, text_notes
from pillion.data.writing import foreign_note, writings

__all__ = [
    "AUGMENTS",
    "BLOCK_ROWS",
    "Contexts",
    "DataSet",
    "JudgedLabels",
    "Label",
    "LabelCount",
    "LabelSpace",
    "Origin",
    "Rows",
    "Scan",
    "Scanned",
    "SetFacts",
    "Slice",
    "SlicePlan",
    "SoftLabels",
    "TableLayout",
    "Texts",
    "augmented",
    "balance_notes",
    "conflict_notes",
    "contexts_of",
    "flat_text",
    "foreign_note",
    "hold",
    "in_context",
    "join_sets",
    "label_counts",
    "names_of",
    "normalised",
    "plan_slices",
    "read_rows",
    "read_texts",
    "said_in",
    "sample_contexts",
    "set_weights",
    "shared_note",
    "shipped_contexts",
    "split_validation",
    "text_notes",
    "with_words",
    "words_in",
    "writings",
]
