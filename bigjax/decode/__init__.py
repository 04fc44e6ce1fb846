"""Generation with a cache: greedy, sampled, by beams, speculated; at once (`generate`, `run`) or as it grows (`stream`)."""
from bigjax.decode.generation import Generated as Generated
from bigjax.decode.generation import generate as generate
from bigjax.decode.generation import run as run
from bigjax.decode.stream import stream as stream
