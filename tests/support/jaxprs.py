"""Walks through jaxprs by what they have in every version of JAX."""


def inner_jaxprs(eqn):
    """The jaxprs among the parameters of an equation: of a call, a loop, a branch."""
    for value in eqn.params.values():
        for inner in value if isinstance(value, list | tuple) else [value]:
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner
