"""Statistics of rollouts: who gets which arm, how many users it takes, what the counts say, and which arm to try next.

Nothing here reads, writes or waits. What is to be kept is small: counts and sums, which add up whichever router saw them.
"""
