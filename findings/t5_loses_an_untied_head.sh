#!/usr/bin/env bash
# Expected: a T5 whose output head is not its embedding (T5 1.1, mT5: tie_word_embeddings=False) can be built, and
#   keeps its trained head when tokens are added to the vocabulary.
# What happens: T5Config(tie_word_embeddings=False) comes out with True (False now only switches the scaling of the
#   output off), so a new model shares head and embedding. A stored head of its own does load, with the advice to set
#   tie_word_embeddings=False, which has no effect; then resize_token_embeddings replaces that head by the embedding.
# Versions: transformers 5.24.0, torch 2.13.0, CPU.
# Why it matters: adding a few tokens before fine-tuning is routine. All logits change, the file saved next has no head
#   at all, and nothing raises; training from scratch is of a smaller model than its configuration asked for.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'transformers==5.24.0' 'numpy==2.4.6'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import torch, transformers
from safetensors.torch import load_file, save_file
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.manual_seed(0)
config = transformers.T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
                               tie_word_embeddings=False)
new = transformers.T5ForConditionalGeneration(config)
shares = new.lm_head.weight is new.shared.weight
print('asked for tie_word_embeddings False, got', config.tie_word_embeddings, '- a new model shares its head:', shares)

new.save_pretrained('untied')
weights = load_file('untied/model.safetensors')
print('a head in its file:', 'lm_head.weight' in weights)
weights['lm_head.weight'] = head = torch.randn(16, 8)  # as the files of T5 1.1 have one
save_file(weights, 'untied/model.safetensors', metadata={'format': 'pt'})
model = transformers.T5ForConditionalGeneration.from_pretrained('untied').eval()
text = dict(input_ids=torch.tensor([[3, 4, 5]]), decoder_input_ids=torch.tensor([[0, 6]]))
loaded, before = torch.equal(model.lm_head.weight, head), model(**text).logits
model.resize_token_embeddings(20)
kept, embedding = torch.equal(model.lm_head.weight[:16], head), model.lm_head.weight is model.shared.weight
moved = float((model(**text).logits[..., :16] - before).abs().max().detach())
model.save_pretrained('larger')
saved = 'lm_head.weight' in load_file('larger/model.safetensors')
print('a stored head is loaded:', loaded)
print(f'after resize_token_embeddings(20) kept: {kept}, the embedding instead: {embedding}, saved: {saved}')
print(f'logits of the old tokens moved by up to {moved:.2g}')
assert config.tie_word_embeddings and shares and loaded and not kept and embedding and not saved and moved > 0.01
PY
