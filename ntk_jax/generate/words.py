"""Ids to text while they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = '\N{REPLACEMENT CHARACTER}'
_LONGEST = 4  # bytes of a character


class Words:
  """Ids to text as they come: never a part of a character.

  >>> words = Words(lambda ids: bytes(ids).decode(errors='replace'))
  >>> [words.add([each]) for each in 'né'.encode()]
  ['n', '', 'é']
  """

  def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
    """Takes what decodes ids."""
    self._decode = decode
    self._ids: list[int] = []
    self._shown = 0  # how many of the ids kept have been shown

  def add(self, ids: Sequence[int], last: bool = False) -> str:
    """What may be shown of these ids and those held back before.

    An id is decoded after those that were shown with it last, since spaces
    depend on them. What is no character after more ids than one can have
    bytes is shown as it is.
    """
    self._ids += [int(i) for i in ids]
    before = self._decode(self._ids[: self._shown])
    text = self._decode(self._ids)
    held = len(self._ids) - self._shown
    if text.endswith(_REPLACEMENT) and held < _LONGEST and not last:
      return ''
    self._ids, self._shown = self._ids[self._shown :], held
    return text[len(before) :]
