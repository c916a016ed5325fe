"""Lets torchvision's wheel, which is built for CUDA, be imported beside a CPU build of torch.

Its compiled operators do not load there, which torchvision survives. Then its Python code registers fakes of two of
them, which fails unless their schemas are known. They are declared here when that code is about to be imported, in
every Python process of the environment: vLLM starts several. No image operation that is used is a compiled one.
"""

import sys
from importlib.abc import MetaPathFinder

ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DeclaresSchemas(MetaPathFinder):
    """Finds no module."""

    library = None  # its declarations last as long as it does

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision._meta_registrations" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                if not hasattr(torch.ops.torchvision, operator):
                    self.library.define(operator + ARGUMENTS)


sys.meta_path.insert(0, DeclaresSchemas())
