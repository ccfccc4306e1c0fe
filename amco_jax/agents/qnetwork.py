"""The Q-network: one hidden stack of ReLU layers for every trained method."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float


class _Layer(nn.Module):
    """W·x + b on features-first arrays `[features, tasks]`, with W `[outputs, features]`.

    A base station's tasks are the long axis, and the one that vector instructions run along: as tiny
    batched products go, this layout is about twice as fast on CPUs as `flax.linen.Dense`.
    """

    features: int

    @nn.compact
    def __call__(self, size_or_hidden: Array, backlog: Array | None = None) -> Array:
        shared = 0 if backlog is None else backlog.shape[0]
        inputs = size_or_hidden.shape[0]
        kernel = self.param("kernel", nn.initializers.normal(1.0), (self.features, inputs + shared))
        bias = self.param("bias", nn.initializers.ones, (self.features,))[:, None]
        if backlog is not None:
            # Shared by all tasks of a slot: one vector, whatever their number.
            column = kernel[:, inputs:] @ backlog
            bias = bias + (column if column.ndim == 2 else column[:, None])
        return kernel[:, :inputs] @ size_or_hidden + bias


class QNetwork(nn.Module):
    """Q-values of one base station's tasks: observation [d, Q_0..Q_{B-1}] → `num_outputs` values.

    Parameters start as N(0, 1) kernels and biases of 1, for `dqn.init` to scale.

    Source: AMCoEdge (ICDCS 2024), AEQN; the published codes of SMCoEdge and DRLCoEdge.
    """

    hidden: tuple[int, ...]
    num_outputs: int

    @nn.compact
    def __call__(
        self, size: Float[Array, " tasks"], backlog: Float[Array, " servers"] | Float[Array, "servers tasks"]
    ) -> Float[Array, "outputs tasks"]:
        """Values of each output for each task.

        Args:
          size: `[tasks]`, Mbit.
          backlog: Gcycles, `[num_servers]` where all tasks see the same, or `[num_servers, tasks]`.
        """
        x: Array = size[None]
        layers = [*(_Layer(width) for width in self.hidden), _Layer(self.num_outputs)]
        for i, layer in enumerate(layers):
            x = layer(x, backlog) if i == 0 else layer(x)
            if i < len(self.hidden):
                x = nn.relu(x)
        return x
