"""The model file ``model.medseg3d``: weights with their description, no code.

A stored zip with the weights (safetensors), all that ``predict`` needs beside them (network
and options, plan, labels, normalization, scores, versions, digests of the training cases) and
the SHA-256 of both. Opening one never runs code from it and never writes anything. A file that
is not exactly what :func:`save_bundle` writes is refused whole, in one sentence, before memory
is taken for what it claims to hold.

::

    model_file   saving and loading, put together from
      layout       the bytes around the members
      archive      members into a file, and out of one that is not trusted
      description  what the weights are
      tensors      weights as safetensors
      network      whether they fit the network
      diagnosis    what another file is instead
"""

from medseg3d.bundle.description import Bundle
from medseg3d.bundle.model_file import (
    BEST,
    FILE_NAME,
    SUFFIX,
    Contents,
    inspect_bundle,
    load_bundle,
    load_network,
    read_bundle,
    save_bundle,
)
from medseg3d.bundle.network import load_weights

__all__ = [
    "BEST",
    "FILE_NAME",
    "SUFFIX",
    "Bundle",
    "Contents",
    "inspect_bundle",
    "load_bundle",
    "load_network",
    "load_weights",
    "read_bundle",
    "save_bundle",
]
