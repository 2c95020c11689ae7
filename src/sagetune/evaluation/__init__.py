"""What a model can do: token figures, parsed calls, scored actions."""
