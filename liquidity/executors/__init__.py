"""Where a job computes: on this machine, or on a Dask cluster."""

LOCAL = "local"
