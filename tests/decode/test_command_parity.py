"""The text that the command prints beside `transformers.generate` and its `decode`, from folders with a trained tokenizer."""
import functools

import pytest

from bigjax.decode.__main__ import main
from tests.tiers import first

pytestmark = pytest.mark.parity
CORPUS = ['The quick brown fox jumps over the lazy dog, and the dog sleeps.', 'Où est la bibliothèque ? Elle est là-bas.',
          'Once upon a time there was a small fox who liked the brown dog.', 'Tokens 12, 345 and 678 are numbers; so is 0.'] * 4
PROMPTS = ('Once upon a time', 'Où est le fox ?', 'a dog of 345')
NEW, V = 16, 300
SHARED = {'bos_token_id': 0, 'eos_token_id': 1, 'pad_token_id': 2}
MODELS = {  # tokenizer, class of theirs, sizes
    'gpt2': ('bytes', 'GPT2LMHeadModel', {'n_embd': 32, 'n_layer': 2, 'n_head': 4, 'n_positions': 96}),
    'llama': ('pieces', 'LlamaForCausalLM', {
        'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'intermediate_size': 48,
        'max_position_embeddings': 96, 'tie_word_embeddings': False}),
    't5': ('unigram', 'T5ForConditionalGeneration', {
        'd_model': 32, 'd_kv': 8, 'd_ff': 48, 'num_layers': 2, 'num_heads': 4, 'decoder_start_token_id': 2,
        'initializer_factor': 6.0})}


def trained(kind):
    """A tokenizer of the library, trained on the corpus."""
    library = pytest.importorskip('tokenizers', reason="tokenizers is not installed: pip install 'bigjax[text]'")
    how = {'vocab_size': V, 'special_tokens': ['<s>', '</s>', '<pad>', '<unk>'], 'show_progress': False}
    before, after = library.pre_tokenizers, library.decoders
    made = library.Tokenizer(library.models.Unigram() if kind == 'unigram' else library.models.BPE())
    if kind == 'bytes':
        made.pre_tokenizer, made.decoder = before.ByteLevel(add_prefix_space=False), after.ByteLevel()
        how['initial_alphabet'] = before.ByteLevel.alphabet()
    else:  # a space is a character of the word after it, and the first word has one, too
        made.pre_tokenizer, made.decoder = before.Metaspace(), after.Metaspace()
    unigram = lambda: library.trainers.UnigramTrainer(unk_token='<unk>', **how)
    trainer = unigram() if kind == 'unigram' else library.trainers.BpeTrainer(**how)
    made.train_from_iterator(CORPUS, trainer)
    if kind == 'unigram':
        made.post_processor = library.processors.TemplateProcessing(single='$A </s>', special_tokens=[('</s>', 1)])
    return made


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A function of a name to (the folder, their model, their tokenizer)."""
    torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    library = pytest.importorskip('transformers', reason='transformers is not installed: pip install bigjax[parity]')

    @functools.cache
    def made(name):
        kind, architecture, sizes = MODELS[name]
        spread = {} if name == 't5' else {'initializer_range': 0.3}
        tokenizer = library.PreTrainedTokenizerFast(tokenizer_object=trained(kind), bos_token='<s>', eos_token='</s>',
                                                    pad_token='<pad>', unk_token='<unk>')
        config = library.AutoConfig.for_model(name, vocab_size=len(tokenizer) + 9, **SHARED, **spread, **sizes)
        torch.manual_seed(1)
        model, place = getattr(library, architecture)(config).eval(), tmp_path_factory.mktemp(name)
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        return place, model, tokenizer

    return made


@pytest.mark.parametrize('name, how', first(5, [
    *((name, {}) for name in MODELS), ('t5', {'num_beams': 3}), ('llama', {'repetition_penalty': 1.5}),
    ('gpt2', {'num_beams': 3}), ('llama', {'num_beams': 3}), ('gpt2', {'repetition_penalty': 1.5}),
    ('t5', {'repetition_penalty': 1.5})]), ids=lambda value: value if isinstance(value, str) else ' '.join(value) or 'greedy')
def test_the_command_prints_the_text_of_transformers(name, how, folder, capsys):
    import torch
    place, model, tokenizer = folder(name)
    prompt = PROMPTS[list(MODELS).index(name)]
    given = tokenizer(prompt, return_tensors='pt')
    with torch.inference_mode():
        tokens = model.generate(input_ids=given['input_ids'], attention_mask=given['attention_mask'], do_sample=False,
                                max_new_tokens=NEW, **how)
    expected = tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert main([f'hf:{place}', f'--prompt={prompt}', f'--tokens={NEW}', '--temperature=0',
                 *(f'--{key}={value}' for key, value in how.items())]) == 0
    out, _ = capsys.readouterr()
    assert out == expected + '\n' and len(expected) > 10
