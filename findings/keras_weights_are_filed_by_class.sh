#!/usr/bin/env bash
# Expected: the groups of a .weights.h5 file have the names its layers were given, as they had in Keras 2.
# What happens: they are named by class and a counter: layers called 'reader' and 'summary' are filed as 'lstm' and
#   'lstm_1'. The given name is only an attribute of the group 'vars' inside, and load_weights does not look at it: into
#   a model with the same two layers in the other order, weights load crosswise. (It is documented that loading goes by
#   topology; how the file names its groups is not.)
# Versions: keras 3.15.1 with jax 0.10.2, h5py 3.16.0.
# Why it matters: a converter that looks groups up by layer name finds none, and one written against one file reads
#   other layers once an LSTM is put in front, since every counter after it moves.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'keras==3.15.1' 'jax==0.10.2' 'h5py==3.16.0' 'numpy==2.4.6'
cd "$place"
KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$place/venv/bin/python" - <<'PY'
import h5py, keras, numpy as np
def model(*names):
    layers = [keras.layers.LSTM(4, name=name, return_sequences=True) for name in names]
    return keras.Sequential([keras.Input((5, 4)), *layers])

def filed(path):
    with h5py.File(path) as file:
        return {group: file['layers'][group]['vars'].attrs['name'] for group in file['layers']}

one, longer, other = model('reader', 'summary'), model('front', 'reader', 'summary'), model('summary', 'reader')
one.save_weights('one.weights.h5')
longer.save_weights('longer.weights.h5')
groups, shifted = filed('one.weights.h5'), filed('longer.weights.h5')
print('group: name of the layer', groups, 'with one more in front', shifted)
other.load_weights('one.weights.h5')
same = lambda a, b: bool(np.array_equal(one.get_layer(a).cell.kernel, other.get_layer(b).cell.kernel))
straight, crossed = same('reader', 'reader'), same('reader', 'summary')
print('layers in the other order: reader has the weights of reader:', straight, '- summary has them:', crossed)
assert groups == {'lstm': 'reader', 'lstm_1': 'summary'} and shifted['lstm_1'] == 'reader' and crossed and not straight
PY
