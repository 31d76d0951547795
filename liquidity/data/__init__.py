"""Market data: files to cells, cells to checked frames, frames to tables to learn from."""
