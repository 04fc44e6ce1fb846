"""silero-vad's network for 16 kHz: the names of its file of safetensors, and those of its TorchScript program.

The two files of 6.2.3 hold different numbers. Those of the program are read from the state dict of `torch.jit.load`, saved.
"""
import jax.numpy as jnp

from bigjax.weights.families.torch_rnn import PARTS
from bigjax.weights.family import Architecture, Family, Row

FAMILY = Family(
    model='voice.SpeechDetector', architectures={'': Architecture()}, inputs=lambda model: (jnp.zeros((1, model.chunk)),),
    rows=(Row('stft/kernel', 'stft_conv.weight', 'transpose'), Row('conv_{i}/kernel', 'conv{i}.weight', 'transpose'),
          Row('conv_{i}/bias', 'conv{i}.bias'), *(Row(f'rnn/layer_0/{ours}', f'lstm_cell.{theirs}', transform)
                                                   for ours, theirs, transform in PARTS),
          Row('head/kernel', 'final_conv.weight', 'transpose'), Row('head/bias', 'final_conv.bias')),
    renamed=((r'^_model\.stft\.forward_basis_buffer$', 'stft_conv.weight'),
             *((rf'^_model\.encoder\.{i}\.reparam_conv\.', f'conv{i + 1}.') for i in range(4)),
             (r'^_model\.decoder\.rnn\.', 'lstm_cell.'), (r'^_model\.decoder\.decoder\.2\.', 'final_conv.')),
    ignored=(r'_model_8k\..*',))
