"""Keras' recurrent classifiers, as Sequential writes them: Embedding, LSTM or GRU layers, Dense, numbered by class.

An LSTM has its gates in the order of ours, input, forget, cell, output, and one bias. A GRU has them in the order update,
reset, new, with a bias of the input and one of the state (reset_after=True, the default).
"""
from bigjax.weights.family import Architecture, Family, Row

TRANSFORMS = {'lstm': ('same', 'sum'), 'gru': ('gru', 'gru_biases')}


def layer(ours: str, theirs: str, cell: str) -> tuple[Row, ...]:
    """The arrays of one direction of one layer."""
    kernel, bias = TRANSFORMS[cell]
    return (Row(f'{ours}/input_kernel', f'{theirs}/cell/vars/0', kernel),
            Row(f'{ours}/recurrent_kernel', f'{theirs}/cell/vars/1', kernel),
            Row((f'{ours}/input_bias', f'{ours}/recurrent_bias'), f'{theirs}/cell/vars/2', bias))


def family(model: str, cell: str, both: bool) -> Family:
    """The models of one cell, in one direction or both."""
    one = layer('rnn/layer_{i}', f'{cell}_{{i}}', cell)
    two = (*layer('rnn/layer_{i}', 'bidirectional_{i}/forward_layer', cell),
           *layer('rnn/layer_{i}_reverse', 'bidirectional_{i}/backward_layer', cell))
    head = (Row('head/kernel', 'dense_0/vars/0'), Row('head/bias', 'dense_0/vars/1'))
    return Family(model, architectures={'': Architecture(heads=head)},
                  rows=(Row('embed/embedding', 'embedding_0/vars/0'), *(two if both else one)),
                  suits=lambda model: model.cell == cell and getattr(model, 'bidirectional', False) == both)


FAMILIES = {f'keras {name} {cell}{" both ways" * both}': family(f'rnn.{name}', cell, both)
            for name in ('RNNClassifier', 'CharLSTM') for cell in TRANSFORMS for both in (False, True)}
