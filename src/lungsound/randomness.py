"""Random generators as a function of a seed and a place, never of what was drawn before.

A run that resumes at epoch 7, step 31 draws what it would have drawn without the stop: there is no random state
to save.
"""

import hashlib

import torch


def generator_at(seed: int, purpose: str, *place: int) -> torch.Generator:
    """A CPU generator for one purpose ("order", "patch-mix", ...) at one place (epoch, step, sample)."""
    name = f"{seed}/{purpose}/" + "/".join(str(number) for number in place)
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
