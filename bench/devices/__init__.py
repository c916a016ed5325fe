"""The devices that the operators are timed on, each with its timer and what only it knows.

A time is that of one call, tokens and weights given. One that was timed for a wrong selection is reported for peers
only, and says so.
"""
