"""Valid files made bad: bytes flipped, lines lost, doubled or swapped, numbers and encodings
changed; and values in JSON replaced. Strategies of hypothesis."""

import re
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

NUMBERS = (b"-1", b"0", b"1", b"2", b"7", b"-0", b"+1", b"01", b"1.0", b"1_0", b"1e999", b"nan",
           b"", b"99999999999999999999", b"\xd9\xa1", b"1" * 5000)
ENCODINGS = ("utf-16", "utf-8-sig", "utf-32-le", "utf-7")
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([10**400, [], {}, [[]], {"a": 1}, [None], "nan", "1", 1e308, -1e-9]))


@st.composite
def mutated(draw, valid: bytes, most: int = 3) -> bytes:
    """The bytes of a file with one to ``most`` changes."""
    data = valid
    for _ in range(draw(st.integers(1, most))):
        data = draw(st.sampled_from(CHANGES))(draw, data)
    return data


def _flip(draw, data: bytes) -> bytes:
    if not data:
        return data
    place = draw(st.integers(0, len(data) - 1))
    return data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1:]


def _lines(draw, data: bytes) -> bytes:
    """One line lost, doubled, swapped with another, blank, or with a field more or less."""
    lines = data.split(b"\n")
    one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    how = draw(st.sampled_from(["drop", "double", "swap", "blank", "more", "less", "rotate"]))
    if how == "drop":
        del lines[one]
    elif how == "double":
        lines.insert(other, lines[one])
    elif how == "swap":
        lines[one], lines[other] = lines[other], lines[one]
    elif how == "blank":
        lines.insert(one, b"")
    elif how == "more":
        lines[one] += draw(st.sampled_from([b" 1", b",1", b" -1", b",", b'"', b" x"]))
    elif how == "less":
        lines[one] = re.split(rb"[ ,](?=[^ ,]*$)", lines[one])[0]
    else:  # every value belongs to the name above it
        fields = [line.partition(b" ") for line in lines]
        lines = [name + gap + after[2] for (name, gap, _), after in
                 zip(fields, fields[1:] + fields[:1], strict=True)]
    return b"\n".join(lines)


def _truncate(draw, data: bytes) -> bytes:
    return data[:draw(st.integers(0, len(data)))]


def _encode(draw, data: bytes) -> bytes:
    return data.decode("latin-1").encode(draw(st.sampled_from(ENCODINGS)))


def _line_ends(draw, data: bytes) -> bytes:
    end = draw(st.sampled_from([b"\r\n", b"\r", b"\n\n", b" \n", b"\x0b", b"\x00\n"]))
    return data.replace(b"\n", end, draw(st.sampled_from([1, 2, -1])))


def _number(draw, data: bytes) -> bytes:
    found = list(re.finditer(rb"-?\d+", data))
    if not found:
        return data
    one = draw(st.sampled_from(found))
    return data[:one.start()] + draw(st.sampled_from(NUMBERS)) + data[one.end():]


CHANGES = (_flip, _lines, _truncate, _encode, _line_ends, _number)


@st.composite
def mutated_json(draw, valid: Any) -> Any:
    """A JSON value with one place in it lost, doubled, or replaced by something else."""
    content = deepcopy(valid)
    holder = content
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = draw(st.sampled_from(keys))
        inner = holder[key]
        if isinstance(inner, dict | list) and inner and draw(st.integers(0, 5)):
            holder = inner
            continue
        how = draw(st.sampled_from(["replace", "replace", "replace", "drop", "double"]))
        if how == "replace":
            holder[key] = draw(VALUES)
        elif how == "drop":
            del holder[key]
        elif isinstance(holder, list):
            holder.append(inner)
        else:
            holder[f"{key}2"] = inner
        return content
