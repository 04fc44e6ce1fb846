"""`python -m bigjax.weights ls|convert|diff PLACE [PLACE]`: weights of other libraries, shown, converted, compared."""
import os
import sys

from bigjax.weights.commands import main

if __name__ == '__main__':
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # an accelerator may be busy
    sys.exit(main(sys.argv[1:]))
