"""`python -m bigjax.bench`: step times of the common cases, beside a peer's."""
import os
import sys

from bigjax.bench.cases import main

if __name__ == '__main__':
    code = main(sys.argv[1:])
    if code:
        os._exit(code)  # a driver that does not answer can hold up the usual end of a program
