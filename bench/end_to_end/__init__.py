"""Vision-language models with and without pruning, from the pixels to the last new token."""
