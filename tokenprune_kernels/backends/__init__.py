"""The backends. Each offers ``unavailable(device_type)`` and ``operator(name, overload)``; see ``dispatch.Backend``.

A compiled backend also offers ``declare``, which compares what it has compiled with the declaration.
"""
