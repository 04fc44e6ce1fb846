#!/usr/bin/env bash
# Expected: a tokenizer that was saved and loaded has the scores it was saved with, and saves to the same file.
# What happens: the file holds every digit of a Unigram model's scores, but loading it puts about one score in eight off
#   by its last bit (Python's json reads all of them exactly). The two files differ, and so does a tokenizer that went
#   through pickle, as the arguments of a worker process do.
# Versions: tokenizers 0.23.3.
# Why it matters: a hash of the tokenizer, with which caches of tokenized data and records of a run are labelled, is
#   another one after the first load: the run that trained the vocabulary never finds its own data again.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'tokenizers==0.23.3'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import hashlib, itertools, json, math, pickle
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
trained = Tokenizer(models.Unigram())
trained.pre_tokenizer = pre_tokenizers.Whitespace()
stems, ends = 'read writ walk look turn call play show talk work'.split(), ['', 's', 'ed', 'ing', 'er', 'ers', 'able']
words = [stem + end for stem, end in itertools.product(stems, ends)]
text = [' '.join(words[i * j % len(words)] for j in range(1, 30)) for i in range(200)]
trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=['<unk>'], unk_token='<unk>', show_progress=False)
trained.train_from_iterator(text, trainer)

trained.save('first.json')
loaded = Tokenizer.from_file('first.json')
loaded.save('second.json')
scores = lambda text: [score for _, score in json.loads(text)['model']['vocab']]
first, second = open('first.json').read(), open('second.json').read()
off = [pair for pair in zip(scores(first), scores(second)) if pair[0] != pair[1]]
pickled = pickle.loads(pickle.dumps(trained)).to_str() == trained.to_str()
print(f'{len(off)} of {len(scores(first))} scores differ after one load, for example {off[:2]}')
rest = [{**json.loads(text), 'model': None} for text in (first, second)]
hashes = [hashlib.sha256(text.encode()).hexdigest()[:8] for text in (first, second)]
print('all outside the model is equal:', rest[0] == rest[1], '- equal after pickle:', pickled, '- hashes:', *hashes)
assert off and not pickled and all(b in (math.nextafter(a, 0), math.nextafter(a, -math.inf)) for a, b in off)
PY
