#!/usr/bin/env bash
# Expected: the files of one release of silero-vad hold one network: what is converted from silero_vad_16k.safetensors gives
#   the probabilities of silero_vad.jit, which the package runs (load_silero_vad()).
# What happens: shapes and the fixed spectrum are the same, and every trained array differs, by 8 to 48 % of its norm. Put
#   into the same program, the two give probabilities of speech that differ by up to .4 for one and the same sound.
# Versions: silero-vad 6.2.3, torch 2.13.0, safetensors 0.8.0, CPU.
# Why it matters: a port to another framework takes the file that needs no TorchScript and is then checked against the
#   package. The difference looks like an error in the port; thresholds tuned with one file are those of another network.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'numpy==2.4.6' 'safetensors==0.8.0'
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps 'silero-vad==6.2.3'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import importlib.util, pathlib
import torch
from safetensors.torch import load_file

package = importlib.util.find_spec('silero_vad').submodule_search_locations[0]
folder = pathlib.Path(package) / 'data'
program = torch.jit.load(str(folder / 'silero_vad.jit')).eval()
stored = load_file(folder / 'silero_vad_16k.safetensors')
SAME = {'_model.stft.forward_basis_buffer': 'stft_conv.weight', '_model.decoder.decoder.2.weight': 'final_conv.weight',
        '_model.decoder.decoder.2.bias': 'final_conv.bias'}
for kind in ('weight', 'bias'):
    SAME |= {f'_model.encoder.{i}.reparam_conv.{kind}': f'conv{i + 1}.{kind}' for i in range(4)}
for kind in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh'):
    SAME[f'_model.decoder.rnn.{kind}'] = f'lstm_cell.{kind}'
own = program.state_dict()
assert set(SAME.values()) == set(stored) and all(own[a].shape == stored[b].shape for a, b in SAME.items())
far = {b: float((own[a] - stored[b]).norm() / own[a].norm()) for a, b in SAME.items()}
print('arrays:', len(far), '- distance relative to the norm of silero_vad.jit:', {k: round(v, 3) for k, v in far.items()})

def probabilities():
    program.reset_states()
    with torch.no_grad():
        return torch.tensor([program(part, 16_000).item() for part in sound.split(512)])

# A voice-like sound: pulses at 120 Hz through three resonances, loud for half a second in every second.
torch.manual_seed(0)
time = torch.arange(32_000) / 16_000
pulses = ((time * 120) % 1 < 0.05).float()
sound = 0.01 * torch.randn(len(time))
for hertz in (500, 1500, 2500):
    decay = torch.exp(-torch.arange(400) / 120) * torch.sin(6.2832 * hertz * torch.arange(400) / 16_000)
    sound += 0.05 * torch.nn.functional.conv1d(pulses[None, None], decay.flip(0)[None, None], padding=399)[0, 0, :len(time)]
sound = (sound * (0.1 + (time % 1 < 0.5).float())).contiguous()
sound = torch.nn.functional.pad(sound, (0, -len(sound) % 512))
with_jit = probabilities()
for a, b in SAME.items():
    own[a].copy_(stored[b])
with_safetensors = probabilities()
print('largest difference of a probability:', round(float((with_jit - with_safetensors).abs().max()), 3),
      '- means:', round(float(with_jit.mean()), 3), round(float(with_safetensors.mean()), 3))
spectrum, trained = far.pop('stft_conv.weight'), far
assert spectrum < 1e-3 and min(trained.values()) > 0.05
assert (with_jit - with_safetensors).abs().max() > 0.1
PY
