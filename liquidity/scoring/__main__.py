"""The program `python -m liquidity.scoring`."""

import sys

from liquidity.processes import loading

with loading():
    from liquidity.scoring.job import main

if __name__ == "__main__":
    sys.exit(main())
