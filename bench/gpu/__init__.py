"""``make gpu``: everything that a short visit to a GPU should find out, in stages.

A stage is a process of its own with a limit of its own. It writes each finding at once, and later stages run whatever
earlier ones said. docs/gpu-status.md says what each stage tells.
"""
