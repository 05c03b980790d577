"""The shapes that every operation is tested on: (tokens, in_dim, out_dim, group_size)."""

SHAPES = [
    (3, 64, 8, 32),
    (1, 1, 1, 1),
    (2, 7, 3, 1),
    (4, 40, 5, 300),  # a group larger than the row
    (5, 33, 4, 32),  # a ragged last group of one input
    (3, 101, 13, 7),  # primes
    (2, 160, 6, 80),  # groups that fill their bytes
    (0, 64, 8, 32),  # an empty batch
    (3, 64, 0, 32),  # no outputs
    (17, 258, 66, 32),
    (64, 320, 24, 32),
]
