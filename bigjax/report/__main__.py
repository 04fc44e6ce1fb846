"""`python -m bigjax.report DIR`: writes the page of a finished run anew."""
import sys

from bigjax.report.html import main

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
