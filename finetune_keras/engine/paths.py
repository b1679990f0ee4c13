"""Paths of variables, told apart from the numbers that Keras adds."""

import re


def without_numbers(path, number=r"_\d+$"):
    """Cuts off the numbers that layers are counted with."""
    # The name of an adapter is the user's own, number and all.
    return "/".join(
        name if name.startswith("adapter_") else re.sub(number, "", name)
        for name in path.split("/")
    )
