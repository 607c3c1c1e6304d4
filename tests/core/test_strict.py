"""What is wrong with a record is one sentence that names the place."""

from __future__ import annotations

import pytest
from pydantic import ValidationError, field_validator

from pillion.core.strict import Strict, first_fault, sentence


class Inner(Strict):
    size: int

    @field_validator("size")
    @classmethod
    def _even(cls, size: int) -> int:
        if size % 2:
            raise ValueError(f"size {size} is odd")
        return size


class Outer(Strict):
    inner: Inner
    share: float = 0.5
    of: float | str = 1.0


def fault_of(**values: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return caught.value


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"inner": {"size": 3}}, "file.inner.size: size 3 is odd."),
        ({"inner": {"size": 2}, "share": float("nan")}, "file.share: Input should be a finite"),
        ({}, "file.inner: Field required."),
        ({"inner": {"size": 2}, "of": []}, "file.of: Input should be a valid number."),
        ({"iner": {}}, "Unknown key 'iner'; known: inner, of, share. Did you mean 'inner'?"),
    ],
)
def test_the_first_fault_is_told_with_its_place(values: dict[str, object], said: str) -> None:
    """Of a key that is unknown and one that is missing, the unknown one says more."""
    assert sentence(fault_of(**values), "file", "key", Outer.model_fields).startswith(said)


def test_a_fault_has_what_was_got() -> None:
    fault = first_fault(fault_of(inner={"size": "three"}))
    assert (fault.place, fault.value) == ("inner.size", "three")


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner(size=2).size = 4  # type: ignore[misc]
