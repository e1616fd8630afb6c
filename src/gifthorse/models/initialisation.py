"""How the weights of networks for small images start."""

from torch import nn


def he_normal(network: nn.Module) -> None:
    """Draw every convolution's weights as He et al. 2015 do, by its outgoing connections; in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
