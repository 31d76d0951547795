"""What people look at: figures, tables, rankings, numbers as people write them."""
