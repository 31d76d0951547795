"""Rows or files in, the same rows with their scores out (python -m liquidity.scoring)."""
