"""python -m liquidity.monitor forecast|check."""

import sys

from liquidity.processes import loading

with loading():
    from liquidity.monitor.job import main

if __name__ == "__main__":
    sys.exit(main())
