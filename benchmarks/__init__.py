"""Every figure of docs/performance.md, measured side by side: `python -m benchmarks`."""
