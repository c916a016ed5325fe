"""The backends. Each offers what ``dispatch.Backend`` names: operators, and the parts of a distributed selection.

A compiled backend also offers ``declare``, which compares what it has compiled with the declaration.
"""
