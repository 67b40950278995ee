"""What `tokpress new` writes: real code, checked like the rest of the package.

In the copy `new_pruner` and `NewPruner` are replaced by the chosen name.
"""
