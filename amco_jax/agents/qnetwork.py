"""The Q-network: one hidden stack of (leaky) ReLU layers for every trained method."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


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


class QNetwork(nn.Module):
    """Q-values of one base station's tasks: observation [d, Q_0..Q_{B-1}] → `num_outputs` values.

    Parameters start as N(0, 1) kernels and biases of 1, for `dqn.init` to scale.

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
