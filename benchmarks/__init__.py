"""Every figure that README quotes, measured side by side: `python -m benchmarks`."""
