"""The operators on the CPU beside what users run today: ``make bench``.

A time is that of one call, tokens and weights given. One that was timed for a wrong selection is reported for peers
only, and says so.
"""
