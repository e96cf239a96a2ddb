"""How long a latency table is measured. More of each makes it sharper."""

MIN_ROUNDS = 24  # of timing every engine in turns
SECONDS = (8.0, 90.0)  # at least and at most, of timing all groups of models together
ANCHOR_SECONDS = 1.0  # of timing each whole model, at least
