"""What is learned: liquidity of the same row, or of the same coin some days later.

A task brings the rows to learn from, their folds, and what is particular to it: how intervals are
calibrated, how the test rows are judged, and what a summary says of it.
"""
