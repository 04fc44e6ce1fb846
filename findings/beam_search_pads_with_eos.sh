#!/usr/bin/env bash
# Expected: generate(pad_token_id=0) fills what follows the end of a text with 0, whichever way it searches.
# What happens: greedy search does; beam search fills with the END token, as 0 counts as "not given" there. With any
#   other padding token both agree.
# Versions: transformers 5.24.0, torch 2.13.0, CPU.
# Why it matters: 0 is the padding token of T5, mT5, BERT and of most home-made vocabularies. A length counted as tokens
#   that are not padding is too long for every beam that ended early, and labels made from beams (distillation), masked
#   where they are padding, teach a model to write the end again and again.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'transformers==5.24.0' 'numpy==2.4.6'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import torch, transformers
transformers.logging.set_verbosity_error()
torch.manual_seed(3)
config = transformers.GPT2Config(vocab_size=12, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5,
                                 bos_token_id=None, eos_token_id=1, pad_token_id=None)
model = transformers.GPT2LMHeadModel(config).eval()
prompts = torch.tensor([[3, 4, 5], [6, 7, 8], [9, 10, 11], [1, 2, 3]])
END, filled = 1, {}
for beams in (1, 3):
    for padding in (0, 2):
        texts = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=10, do_sample=False,
                               num_beams=beams, pad_token_id=padding)[:, 3:].tolist()
        filled[beams, padding] = {token for text in texts if END in text for token in text[text.index(END) + 1:]}
        print(f'{beams} beams, pad_token_id {padding}: {texts}; after the end: {filled[beams, padding]}')
assert filled == {(1, 0): {0}, (1, 2): {2}, (3, 0): {END}, (3, 2): {2}}
PY
