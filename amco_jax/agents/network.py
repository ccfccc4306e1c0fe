"""The network of every trained method: a hidden stack of (leaky) ReLU layers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from amco_jax.params import Params

_TILE = 16
"""Tasks are padded to a multiple: XLA:CPU multiplies what is left over of whole vectors one by one."""

Weights = Any
"""A network's parameters, a pytree"""


@jax.custom_vjp
def _product(kernel: Array, x: Array) -> Array:
    """W·x."""
    return kernel @ x


def _product_forward(kernel: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
    return kernel @ x, (kernel, x)


def _product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    kernel, x = saved
    # XLA:CPU has fast code for W·x alone. The barrier keeps it from folding the transpose into the product,
    # which would then be three times slower.
    return gradient @ x.T, lax.optimization_barrier(kernel.T) @ gradient


_product.defvjp(_product_forward, _product_backward)


class _Layer(nn.Module):
    """W·x + b on features-first arrays `[features, tasks]`, with W `[outputs, features]`.

    A base station's tasks are the long axis, and the one that vector instructions run along: as tiny
    batched products go, this layout is about twice as fast on CPUs as `flax.linen.Dense`.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array, shared: Array | None = None) -> Array:
        """Features that all tasks share, `[shared]`, come after those of `x`."""
        num_shared = 0 if shared is None else shared.shape[0]
        inputs = x.shape[0]
        kernel = self.param("kernel", nn.initializers.normal(1.0), (self.features, inputs + num_shared))
        bias = self.param("bias", nn.initializers.ones, (self.features,))
        if shared is not None:
            # One vector for the whole slot, whatever the number of its tasks.
            kernel, bias = kernel[:, :inputs], bias + kernel[:, inputs:] @ shared
        return _product(kernel, x) + bias[:, None]


class Network(nn.Module):
    """Values for one base station's tasks: observation [d, Q_0..Q_{B-1}] → `num_outputs` values.

    Parameters start as N(0, 1) kernels and biases of 1, for learners to scale.

    Source: AMCoEdge (ICDCS 2024), AEQN; the published codes of SMCoEdge and DRLCoEdge.
    """

    hidden: tuple[int, ...]
    num_outputs: int
    leak: float = 0.0
    """Slope of the hidden units below 0"""

    @nn.compact
    def __call__(
        self, size: Float[Array, " tasks"], backlog: Float[Array, " servers"] | Float[Array, "servers tasks"]
    ) -> Float[Array, "outputs tasks"]:
        """Values of each output for each task.

        Args:
          size: `[tasks]`, Mbit.
          backlog: Gcycles, `[num_servers]` where all tasks see the same, or `[num_servers, tasks]`.
        """
        x, shared = (size[None], backlog) if backlog.ndim == 1 else (jnp.vstack([size, backlog]), None)
        for width in self.hidden:
            x, shared = _Layer(width)(x, shared), None
            x = nn.leaky_relu(x, self.leak) if self.leak else nn.relu(x)
        return _Layer(self.num_outputs)(x, shared)


def of_slot(
    network: Network, weights: Weights, size: Float[Array, " tasks"], backlog: Float[Array, " servers"]
) -> Float[Array, "outputs padded"]:
    """The outputs for the tasks of one slot, and for some more behind them, which mean nothing.

    Args:
      weights: for observations as they are, see `fold_scale`.
      size: `[tasks]`, Mbit.
      backlog: `[num_servers]`, Gcycles.
    """
    padded = jnp.pad(size, (0, -size.shape[0] % _TILE))
    return network.apply({"params": weights}, padded, backlog)  # pyright: ignore[reportReturnType]


def input_scale(params: Params) -> Float[Array, " inputs"]:
    """Factors of [d, Q_0..Q_{B-1}]: sizes in units of the largest task, backlogs in slots of work."""
    return jnp.append(1 / params.task_size_max, 1 / (params.capacity * params.slot_duration))


def fold_scale(weights: Weights, scale: Float[Array, " inputs"]) -> Weights:
    """Weights of the network that sees the observation as it is and computes what the scaled one does."""
    first = weights["_Layer_0"]
    return weights | {"_Layer_0": first | {"kernel": first["kernel"] * scale}}
