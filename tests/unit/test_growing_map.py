"""A mapping that grows without being changed in place."""

from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.growing_map import GrowingMap


@given(st.lists(st.tuples(st.integers(0, 40), st.integers())))
def test_growing_equals_a_dictionary_after_every_key(pairs: list[tuple[int, int]]) -> None:
    before: GrowingMap[int, int] = GrowingMap()
    known: dict[int, int] = {}
    for key, value in pairs:
        after, expected = before.plus(key, value), {**known, key: value}
        assert dict(before) == known  # the mapping of before stays as it was
        assert dict(after) == expected
        assert (len(after), key in after, after[key]) == (len(expected), True, value)
        before, known = after, expected


def test_thousand_keys_are_in_few_parts() -> None:
    grown: GrowingMap[int, int] = GrowingMap()
    for key in range(1000):
        grown = grown.plus(key, key)
    assert [len(part) for part in grown.parts] == [512, 256, 128, 64, 32, 8]
    assert grown.get(1000) is None
