"""`python -m bigjax.compare DIR …`: one table and one plot over several runs."""
import sys

from bigjax.report.compare import main

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
