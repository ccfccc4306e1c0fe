"""The network of every trained method: a multilayer perceptron with (leaky) ReLU units."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from amco_jax.params import Params

_TILE = 16
"""The number of tasks is padded to a multiple of this, because XLA:CPU does not vectorise the remainder."""

Weights = Any
"""A network's parameters, a pytree"""


@jax.custom_vjp
def _product(kernel: Array, x: Array) -> Array:
    """W·x, with a gradient that is fast on CPUs."""
    return kernel @ x


def _product_forward(kernel: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
    return kernel @ x, (kernel, x)


def _product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    kernel, x = saved
    # XLA:CPU has fast code only for W·x. The barrier keeps it from folding the transpose into the product,
    # which would make the product three times slower.
    return gradient @ x.T, lax.optimization_barrier(kernel.T) @ gradient


_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _rectified(leak: float | Array, x: Array) -> Array:
    """(Leaky) ReLU, whose gradient needs only its result, so that the inputs are never written to memory."""
    return jnp.where(x <= 0, leak * x, x)


def _rectified_forward(leak: float | Array, x: Array) -> tuple[Array, tuple[float | Array, Array]]:
    result = _rectified(leak, x)
    return result, (leak, result)


def _rectified_backward(saved: tuple[float | Array, Array], gradient: Array) -> tuple[None, Array]:
    leak, result = saved
    return None, jnp.where(result > 0, gradient, leak * gradient)


_rectified.defvjp(_rectified_forward, _rectified_backward)


class _Layer(nn.Module):
    """W·x + b on arrays `[features, tasks]`, with W `[outputs, features]`.

    Vector instructions run along the tasks, the longer axis. With batches of products this small, this layout
    is about twice as fast on CPUs as `flax.linen.Dense`.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array, shared: Array | None = None) -> Array:
        """Apply the layer to `x`, followed by the features `[shared]` that are the same for all tasks."""
        num_shared = 0 if shared is None else shared.shape[0]
        inputs = x.shape[0]
        kernel = self.param("kernel", nn.initializers.normal(1.0), (self.features, inputs + num_shared))
        bias = self.param("bias", nn.initializers.ones, (self.features,))
        if shared is not None:
            # The shared part is computed once per slot, not once per task.
            kernel, bias = kernel[:, :inputs], bias + kernel[:, inputs:] @ shared
        return _product(kernel, x) + bias[:, None]


class Network(nn.Module):
    """The network of one agent: from the observation [d, Q_0..Q_{B-1}] of a task to `num_outputs` values.

    Kernels are initialised from N(0, 1) and biases to 1; learners scale them.

    Source: AMCoEdge (ICDCS 2024), AEQN; the published implementations of SMCoEdge and DRLCoEdge.
    """

    hidden: tuple[int, ...]
    num_outputs: int
    leak: float = 0.0
    """Slope of the hidden units for negative inputs"""

    @nn.compact
    def __call__(
        self, size: Float[Array, " tasks"], backlog: Float[Array, " servers"] | Float[Array, "servers tasks"]
    ) -> Float[Array, "outputs tasks"]:
        """Compute all outputs for each task.

        Args:
          size: `[tasks]`, Mbit.
          backlog: Gcycles, `[num_servers]` if it is the same for all tasks, else `[num_servers, tasks]`.
        """
        x, shared = (size[None], backlog) if backlog.ndim == 1 else (jnp.vstack([size, backlog]), None)
        for width in self.hidden:
            x, shared = _rectified(self.leak, _Layer(width)(x, shared)), None
        return _Layer(self.num_outputs)(x, shared)


def outputs_of_slot(
    network: Network, weights: Weights, size: Float[Array, " tasks"], backlog: Float[Array, " servers"]
) -> Float[Array, "outputs padded"]:
    """The outputs for the tasks of one slot, followed by meaningless outputs for padding.

    Args:
      weights: weights for unscaled observations, see `fold_scale`.
      size: `[tasks]`, Mbit.
      backlog: `[num_servers]`, Gcycles.
    """
    padded = jnp.pad(size, (0, -size.shape[0] % _TILE))
    return network.apply({"params": weights}, padded, backlog)  # pyright: ignore[reportReturnType]


def input_scale(params: Params) -> Float[Array, " inputs"]:
    """Factors that scale [d, Q_0..Q_{B-1}]: sizes to units of the largest task, backlogs to slots of work."""
    return jnp.append(1 / params.task_size_max, 1 / (params.capacity * params.slot_duration))


def fold_scale(weights: Weights, scale: Float[Array, " inputs"]) -> Weights:
    """Weights that give the same outputs for unscaled observations as `weights` for scaled ones."""
    first = weights["_Layer_0"]
    return weights | {"_Layer_0": first | {"kernel": first["kernel"] * scale}}
