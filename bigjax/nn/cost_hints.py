"""The sizes of a model that a plan cannot read off its parameters.

A model may have `cost_hints(*inputs) -> CostHints`, given the shapes of the task's inputs. Plans and logs use nothing else
about a family: without the method the bytes of activations between devices are left out of a plan, and nothing is guessed from
the names of fields.
"""
from typing import NamedTuple


class CostHints(NamedTuple):
    """Sizes of one example inside a model of equal layers.

    Attributes:
      positions: tokens or patches of one example.
      layers, width: the number of layers and of features between them.
      heads, kv_heads: of attention; keys and values have kv_heads / heads of the width.
      experts_per_token: in a mixture of experts; 0 without one.
      vocab_size: the last axis of the logits of a language model; 0 for another.
    """

    positions: int
    layers: int
    width: int
    heads: int = 1
    kv_heads: int = 1
    experts_per_token: int = 0
    vocab_size: int = 0
