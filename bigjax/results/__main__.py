"""`python -m bigjax.results [--check]`: writes the tables of the READMEs from the run records."""
import sys

from bigjax.report.tables import main

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
