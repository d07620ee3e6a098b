"""A PyTorch train step as an arm of a benchmark, whatever the model."""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]


def settle(device: str) -> None:
    """One thread on a CPU, as JAX has; the same fresh weights every time."""
    if device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)


def host(tensor: Any) -> np.ndarray:
    """A tensor as a float32 array of the host, which later steps do not change."""
    return tensor.detach().float().cpu().numpy().copy()


def after_first_step(
    module: Any, optimizer: Any, beta1: float
) -> dict[str, np.ndarray]:
    """Gradients and weights by name; gradients are those that the optimizer saw."""
    found = {}
    for name, parameter in module.named_parameters():
        moment = host(optimizer.state[parameter]["exp_avg"])
        found[f"gradient {name}"] = moment / (1.0 - beta1)
        found[f"weight {name}"] = host(parameter)
    return found


class TorchArm:
    """What PyTorch arms have in common; a subclass has a `step`."""

    def __init__(self, reference: str, device: str, *, compiled: bool):
        """Name the arm and settle PyTorch; `device` is `cpu` or `cuda`."""
        settle(device)
        self.name = f"{reference} {'compiled' if compiled else 'eager'}"
        self.device = device

    def wait(self) -> None:
        """Until the device is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()
