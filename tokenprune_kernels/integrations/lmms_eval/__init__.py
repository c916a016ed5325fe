"""A model of lmms-eval that prunes its visual tokens: ``lmms-eval --model tokenprune``.

lmms-eval finds it by the entry point of this package. ``docs/accuracy.md`` has the commands.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval reads to know the model. Nothing else here is imported before the model is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="tokenprune", chat_class_path=f"{__name__}.model.Tokenprune")
