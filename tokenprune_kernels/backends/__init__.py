"""The backends. Each offers ``unavailable(device_type)`` and ``operator(name, overload)``; see ``dispatch.Backend``."""
