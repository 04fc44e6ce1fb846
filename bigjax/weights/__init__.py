"""Weights in the formats of other libraries, read into our models and written from them.

    model, variables, tokenizer = weights.load('hf:FOLDER')    config.json and safetensors; or an id of the hub
    weights.load('timm:FOLDER')                                the same, of timm's image models
    weights.load('torch:FILE', model=GPT(…))                   a state dict, whose model has to be given
    weights.load('pip:silero-vad')                             of a package that is installed
    weights.save(model, variables, 'hf:FOLDER')                what transformers reads; 'timm:FOLDER': what timm reads
    weights.save(model, variables, 'npz:FILE')                 any model, by our own names

A family is data in one file of `families/`. Every array of a file and every parameter of a model is accounted for: what is
missing or has no place is refused by name; a head of another size is initialised anew, and reported.
"""
from bigjax.weights.place import is_place
from bigjax.weights.reader import check, into, load
from bigjax.weights.writer import save

__all__ = ['check', 'into', 'is_place', 'load', 'save']
