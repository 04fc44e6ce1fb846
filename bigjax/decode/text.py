"""The text of a row of tokens as it grows, up to a stop string."""
from collections.abc import Callable, Sequence

BROKEN = '\ufffd'  # what decoders make of bytes that are not yet a character


class GrowingText:
    """The text that new tokens add to a prompt.

    It is what decoding the prompt and the new tokens together adds to the text of the prompt: some tokenizers drop the space
    before the first word of what they decode.

    Args:
      decode: `decode(token numbers) -> text`.
      stop: texts that end it.
      before: the tokens of the prompt; none of an encoder-decoder, whose target is a text of its own.
      eos: tokens that are no part of the text.

    Attributes:
      stopped: whether a stop string has come.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = (), before: Sequence[int] = (),
                 eos: Sequence[int] = ()):
        self._decode, self._stop, self._before, self._eos = decode, stop, [*map(int, before)], frozenset(eos)
        self._begun = decode(self._before) if self._before else ''
        self._tokens, self._shown, self._text, self.stopped = [], 0, '', False

    def add(self, tokens: Sequence[int]) -> int:
        """Adds new tokens; returns how many of them are in the text: all, or those up to the end of a stop string."""
        tokens, count = [*map(int, tokens)], len(tokens)
        self._text = self._with(tokens)
        self.stopped = self._end(self._text) is not None
        if self.stopped:
            count = next(n for n in range(1, count + 1) if self._end(self._with(tokens[:n])) is not None)
        self._tokens += tokens[:count]
        return count

    def part(self, last: bool = False) -> str:
        """The text since the last call, without a stop string, and, but for the `last` part, without what may begin one."""
        end = self._end(self._text)
        if end is None:
            held = 0 if last else len(self._text) - len(self._text.rstrip(BROKEN)) + self._begins()
            end = max(self._shown, len(self._text) - held)
        part, self._shown = self._text[self._shown:end], end
        return part

    def _with(self, tokens: Sequence[int]) -> str:
        found = [token for token in (*self._tokens, *tokens) if token not in self._eos]
        whole = self._decode([*self._before, *found])
        return whole[len(self._begun):] if whole.startswith(self._begun) else self._decode(found)

    def _end(self, text: str) -> int | None:
        """Where the first stop string begins, None without one."""
        return min((at for each in self._stop if (at := text.find(each)) >= 0), default=None)

    def _begins(self) -> int:
        """How many characters at the end of the text may be the beginning of a stop string."""
        return max((n for each in self._stop for n in range(1, len(each)) if self._text.endswith(each[:n])), default=0)
