"""The 1,000 classes of ImageNet (Russakovsky et al. 2015) in words: synsets of WordNet 3.0.

WordNet 3.0 is Copyright 2006 by Princeton University; its licence lets its words be copied with this notice.
"""
import functools
import pathlib
from collections.abc import Sequence


@functools.cache
def synsets() -> dict[str, str]:
    """{synset: its first word} in the order of the classes, such as 'n02124075': 'Egyptian cat'; the two cranes have more."""
    text = pathlib.Path(__file__).with_suffix('.txt').read_text('utf-8')
    return dict(line.split(' ', 1) for line in text.splitlines())


def words(classes: Sequence[str]) -> tuple[str, ...]:
    """The classes of a data set as an answer names them: words for the numbers or synsets of ImageNet's, others as they are."""
    known = synsets()
    if list(classes) == [str(k) for k in range(len(known))]:
        return tuple(known.values())
    return tuple(known.get(name, name) for name in map(str, classes))
