"""Metrics of decoded sequences: exact match.

Glossary: N examples of a split · T target tokens, `bos` and `eos` included · L decoded tokens.
"""
import numpy as np


def after_eos(tokens, eos: int, pad: int = 0) -> np.ndarray:
    """[N, L] with everything after the first `eos` of a row replaced by `pad`."""
    tokens = np.asarray(tokens)
    before = np.cumsum(tokens == eos, axis=1) - (tokens == eos)
    return np.where(before > 0, pad, tokens)


def exact_match(outputs, examples, target: str = 'target', eos: int = 2, pad: int = 0) -> dict[str, float]:
    """{'exact_match': the share of sequences that are decoded without any error}.

    Args:
      outputs: decoded tokens [N, L], without `bos`. A sequence that does not end is wrong.
      examples: with the targets [N, T], `bos` first.
    """
    decoded, truth = after_eos(outputs, eos, pad), after_eos(np.asarray(examples[target])[:, 1:], eos, pad)
    width = max(decoded.shape[1], truth.shape[1])
    decoded, truth = (np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=pad) for a in (decoded, truth))
    return {'exact_match': float(np.all(decoded == truth, axis=1).mean())}
