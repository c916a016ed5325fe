"""Bindings to other libraries; nothing here is imported by tokenprune_kernels itself."""
