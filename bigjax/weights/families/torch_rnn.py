"""torch's nn.LSTM and nn.GRU between an embedding and a linear layer, under the names that programs give them."""
from bigjax.weights.family import Architecture, Family, Row

PARTS = (('input_kernel', 'weight_ih', 'transpose'), ('recurrent_kernel', 'weight_hh', 'transpose'),
         ('input_bias', 'bias_ih', 'same'), ('recurrent_bias', 'bias_hh', 'same'))
ROWS = (Row('embed/embedding', 'embed.weight'),
        *(Row(f'rnn/layer_{{i}}{way}/{ours}', f'rnn.{theirs}_l{{i}}{way}', transform)
          for way in ('', '_reverse') for ours, theirs, transform in PARTS))
HEAD = (Row('head/kernel', 'head.weight', 'transpose'), Row('head/bias', 'head.bias'))
NAMES = ((r'^(lstm|gru)\.', 'rnn.'), (r'^(embedding|emb)\.', 'embed.'),
         (r'^(linear|fc|out|output|classifier|decoder)\.', 'head.'))
LOSS = (r'similarity_(weight|bias)',)  # of the loss of a speaker encoder (Wan et al. 2018), which are kept beside the network
FAMILIES = {f'torch {name}': Family(f'rnn.{name}', architectures={'': Architecture(heads=HEAD)}, rows=ROWS, renamed=NAMES,
                                   spare=LOSS) for name in ('RNNClassifier', 'CharLSTM')}
