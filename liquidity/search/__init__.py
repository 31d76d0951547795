"""The pipeline that is tuned and the search that tunes it."""
