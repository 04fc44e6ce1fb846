"""`python -m bigjax.checkpoint ls|verify|cat|diff`: a look into checkpoints."""
import os
import sys

from bigjax.checkpoint.commands import main

if __name__ == '__main__':
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # an accelerator may be busy with the run itself
    sys.exit(main(sys.argv[1:]))
