"""A device without kernels, on which a test can see when the host waits."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
WAIT = "wait"
COPY = "copy that does not wait"
READS = {"item", "_local_scalar_dense", "is_nonzero"}


class DeviceLog(TorchDispatchMode):
    """Records the operators on the device, and `WAIT` for each one that waits for it: a read or most copies.

    Every number that is read from the device is 1.
    """

    def __init__(self):
        super().__init__()
        self.events = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        values = tree_leaves((args, kwargs))
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        name = function.overloadpacket.__name__
        devices = {tensor.device for tensor in tensors} | {value for value in values if isinstance(value, torch.device)}
        if DEVICE not in devices:
            return function(*args, **(kwargs or {}))
        if name in READS:
            self.events.append(WAIT)
            return True
        if len(devices) == 1:
            self.events.append(name)
            return function(*args, **(kwargs or {}))
        names = [argument.name for argument in function._schema.arguments]
        arguments = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        self.events.append(COPY if arguments.get("non_blocking") else WAIT)
        (tensor,) = tensors
        if tensor.device == DEVICE:
            return torch.ones(tensor.shape, dtype=tensor.dtype)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
