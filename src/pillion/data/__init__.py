"""Tables in, texts and labels out.

Promises texts and labels exactly as the file holds them, with the hash of its bytes, or one clear
sentence that says what is wrong and where. Does not know models, probes or metrics.
"""

from pillion.data.labels import LabelSpace
from pillion.data.rows import Label, Rows, Texts, read_rows, read_texts
from pillion.data.split import split_validation

__all__ = ["Label", "LabelSpace", "Rows", "Texts", "read_rows", "read_texts", "split_validation"]
