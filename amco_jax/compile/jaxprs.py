"""What interpreters of jaxprs share: how programs nest, and which primitives work element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.extend.core as jex
import numpy as np

_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
}

# fmt: off
ELEMENTWISE = {
    "abs", "add", "and", "atan2", "cbrt", "ceil", "clamp", "clz", "convert_element_type", "copy",
    "cos", "div", "eq", "erf", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow",
    "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg",
    "nextafter", "not", "or", "population_count", "pow", "rem", "round", "rsqrt", "select_n",
    "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sqrt", "square",
    "stop_gradient", "sub", "tan", "tanh", "xor",
}
"""Primitives each element of whose result depends on the same element of the operands"""
# fmt: on


def evaluate(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any],
    apply: Callable[[Any, list[Any]], list[Any]],
    held: Callable[[Any], Any] = lambda value: value,
) -> list[Any]:
    """The outputs of a jaxpr.

    Args:
      apply: computes the outputs of an equation from its inputs.
      held: how an interpreter holds a constant of the program.
    """
    env: dict[Any, Any] = {}

    def read(var: Any) -> Any:
        if isinstance(var, jex.Literal):
            return held(np.asarray(var.val, var.aval.dtype))  # pyright: ignore
        return env[var]

    env.update(zip(jaxpr.constvars, map(held, consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, apply(eqn, [read(v) for v in eqn.invars]), strict=True))
    return [read(v) for v in jaxpr.outvars]


def bind(eqn: Any, args: Sequence[Any]) -> list[Any]:
    """The outputs of an equation's primitive."""
    outs = eqn.primitive.bind(*args, **eqn.params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def inner_program(eqn: Any) -> jex.ClosedJaxpr | None:
    """The jaxpr of a scan or a call, closed over its constants; JAX 0.11 stores one without constants."""
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return None if inner is None or eqn.primitive.name not in _CALLS | {"scan"} else closed(inner)


def closed(program: Any) -> jex.ClosedJaxpr:
    """A jaxpr with its constants, which it may have already."""
    return program if isinstance(program, jex.ClosedJaxpr) else jex.ClosedJaxpr(program, ())


def scan_arity(eqn: Any) -> tuple[int, int]:
    """The numbers of constants and carries of a scan; they precede the scanned inputs in this order."""
    inner = inner_program(eqn)
    assert inner is not None
    # JAX 0.10 and 0.11 store these numbers differently; in both, only scanned arrays have an extra axis.
    n_xs, n_ys = (
        sum(outer.aval.ndim > step.aval.ndim for outer, step in zip(outside, inside, strict=True))
        for outside, inside in ((eqn.invars, inner.jaxpr.invars), (eqn.outvars, inner.jaxpr.outvars))
    )
    n_carry = len(eqn.outvars) - n_ys
    return len(eqn.invars) - n_carry - n_xs, n_carry


def scan_options(eqn: Any) -> dict[str, Any]:
    """The length, direction and unrolling of a scan, as `lax.scan` takes them."""
    return {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
