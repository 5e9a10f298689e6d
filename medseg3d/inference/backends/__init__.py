"""What computes the network: one class per backend, one file per class.

::

    opening      which backend and arithmetic to take, and what to do when one fails
    registered   the list of backends, and what each must offer
    eager compiled openvino onnx     the backends
    source       a model file whose weights are read only if somebody needs them
    conversion   a network in the form of another library, compared with the network
    cache        conversions kept beside the model file
"""

from medseg3d.inference.backends.eager import Eager
from medseg3d.inference.backends.opening import BESIDE_GPU, open_network, window_bytes
from medseg3d.inference.backends.registered import BACKENDS

__all__ = ["BACKENDS", "BESIDE_GPU", "Eager", "open_network", "window_bytes"]
