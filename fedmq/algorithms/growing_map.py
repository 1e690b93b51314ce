"""A mapping that grows one key at a time and is never changed in place, at O(log n) copied entries a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class GrowingMap(Mapping[K, V], Generic[K, V]):
    """Dictionaries, each longer than the next: a new key is merged with the shorter ones only.

    After the logarithmic method of Bentley and Saxe (1980), "Decomposable searching problems I". A round of 10,000
    answers copies each of them 13 times; `{**before, key: value}` would copy 5,000 for each answer.
    """

    parts: tuple[dict[K, V], ...] = ()

    def plus(self, key: K, value: V) -> GrowingMap[K, V]:
        """Return the mapping with one more key, or with another value of a key; that copies the part it is in."""
        if key in self:
            return GrowingMap(tuple({**part, key: value} if key in part else part for part in self.parts))
        kept, last = len(self.parts), {key: value}
        while kept and len(self.parts[kept - 1]) <= len(last):
            kept -= 1
            last = {**self.parts[kept], **last}
        return GrowingMap((*self.parts[:kept], last))

    def plus_all(self, more: Mapping[K, V]) -> GrowingMap[K, V]:
        """Return the mapping with more keys, or with other values of keys."""
        grown = self
        for key, value in more.items():
            grown = grown.plus(key, value)
        return grown

    def __getitem__(self, key: K) -> V:
        for part in self.parts:
            if key in part:
                return part[key]
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return any(key in part for part in self.parts)

    def __iter__(self) -> Iterator[K]:
        for part in self.parts:
            yield from part

    def __len__(self) -> int:
        return sum(map(len, self.parts))
