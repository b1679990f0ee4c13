"""What a search may vary, as plain data."""

import contextlib

from finetune_keras.arguments import nearest
from finetune_keras.data.layout import Shown, Table
from finetune_keras.search.space_parts import (
    CONDITIONS,
    FIT_PARTS,
    PLAN_PARTS,
    check_known,
    check_whole_plans,
    conditional,
    in_order,
    named_plans,
    standard,
)
from finetune_keras.search.space_values import (
    checked,
    declare,
    default,
    joined,
    listed,
    shown,
)


class SearchSpace(Shown):
    """What a search may vary. `print` shows it as a table with its size.

    Made by `search_space`, which tells what the values mean.

    Args:
        parts: Dict from name to values.
        when: Dict from name to `(parent, values)`: the part counts only where
            the parent has one of the values. Defaults to `{}`.
        plans: Dict from name to `Plan`, the choices of the part `plan`.
            Defaults to `{}`.

    Example:

    ```python
    import finetune_keras as ft

    space = ft.search_space(groups=[1, 2], dropout=(0.0, 0.3))
    space = space.change(epochs=5).without("order")
    print(space)
    print(space.size, ft.search_space(plan={"probe": ft.plans.linear_probe()}))
    ```
    """

    def __init__(self, parts, when=None, plans=None):
        self.plans = dict(plans or {})
        self.own_when = dict(when or {})
        names = in_order(parts, self.own_when)
        self.parts = {n: check_known(n, checked(n, parts[n])) for n in names}
        self.when = {**self._known_conditions(), **self.own_when}
        self._check_conditions()

    def change(self, **parts):
        """Returns a space with parts added or replaced.

        Args:
            **parts: As in `search_space`.

        Returns:
            A `SearchSpace`; this one stays as it is.

        Raises:
            ValueError: If a value is none of the kinds that parts may have.
        """
        kept, when, plans = dict(self.parts), dict(self.own_when), self.plans
        if parts.get("plan") not in (None, False):
            plans = named_plans(parts["plan"])
            parts = {**parts, "plan": list(plans)}
            check_whole_plans(parts)
            kept = {k: v for k, v in kept.items() if k not in PLAN_PARTS}
        for name, values in parts.items():
            when.pop(name, None)
            if values is None or values is False:
                kept.pop(name, None)
                continue
            if isinstance(values, dict):
                values, when[name] = conditional(name, values)
            kept[name] = standard(name) if values is True else values
        return SearchSpace(kept, when, plans)

    def without(self, *names):
        """Returns a space without some parts, which then have their defaults.

        Args:
            *names: Strings.

        Returns:
            A `SearchSpace`; this one stays as it is.

        Raises:
            ValueError: If there is no such part.
        """
        for name in names:
            if name not in self.parts:
                raise ValueError(
                    f"The space has no such part. It has {list(self.parts)}."
                    f"{nearest(name, self.parts)} Received: {name!r}"
                )
        return self.change(**dict.fromkeys(names))

    @property
    def size(self):
        """Integer, the number of combinations, or `"continuous"`."""
        return "continuous" if self._ranges() else self.combinations()

    def combinations(self, points=1):
        """Counts the combinations.

        Args:
            points: Integer, how many values of a range of floats to count.
                Defaults to `1`.

        Returns:
            Integer.
        """
        return self._count(list(self.parts), {}, points)

    def to_dict(self):
        """Returns the space as a dict of plain values, for JSON or YAML."""
        return {
            "parts": {
                name: list(v) if isinstance(v, tuple) else v
                for name, v in self.parts.items()
            },
            "when": {name: list(pair) for name, pair in self.when.items()},
            "plans": {name: p.to_dict() for name, p in self.plans.items()},
        }

    def __contains__(self, name):
        return name in self.parts

    def __eq__(self, other):
        if not isinstance(other, SearchSpace):
            return NotImplemented
        names = ("parts", "when", "plans")
        return all(getattr(self, n) == getattr(other, n) for n in names)

    def _layout(self):
        ranges = self._ranges()
        count = f"{self.combinations():,} combinations"
        if ranges:
            plural = "s" if len(ranges) > 1 else ""
            count = (
                f"continuous: {len(ranges)} range{plural}, and {count} of the "
                "rest"
            )
        alive = self._alive()
        plural = "" if len(alive) == 1 else "s"
        title = f"Search space: {len(alive)} part{plural}, {count}"
        if not alive:
            return [title]
        rows = [self._row(name) for name in alive]
        columns = ["part", "values", "first", "where"]
        return [title, Table(columns, rows)]

    # === For a search ===

    def declare(self, hp):
        """Declares all parts.

        Args:
            hp: A `keras_tuner.HyperParameters`.
        """
        for name, values in self._alive().items():
            with contextlib.ExitStack() as scopes:
                for parent, wanted in self._conditions(name):
                    scope = hp.conditional_scope(parent, wanted)
                    scopes.enter_context(scope)
                declare(hp, name, values)

    def values(self, hp):
        """Reads the values of a trial.

        Args:
            hp: A `keras_tuner.HyperParameters`, or a dict of values.

        Returns:
            Dict from name to value, of the parts that count.
        """
        given, found = hp, {}
        if not isinstance(hp, dict):  # one by one: a search sees what is read
            given = {name: hp[name] for name in self.parts if name in hp}
        for name in self.parts:
            if self._is_active(name, found):
                found[name] = given.get(name, self.default(name))
        return found

    def default(self, name):
        """Returns the value of a part that is tried first."""
        return default(self.parts[name])

    # === Inside ===

    def _known_conditions(self):
        """What depends on what, of the parts that have a meaning here."""
        found = {}
        for name, (parent, test) in CONDITIONS.items():
            if name not in self.parts or parent not in self.parts:
                continue
            choices = listed(self.parts[parent])
            wanted = [value for value in choices if test(value)]
            # Where the parent itself may not count, neither does this.
            depends = parent in found or parent in self.own_when
            if depends or len(wanted) < len(choices):
                found[name] = parent, wanted
        return found

    def _check_conditions(self):
        names = list(self.parts)
        for name, (parent, wanted) in self.when.items():
            known = parent in names and names.index(parent) < names.index(name)
            if not known or not set(wanted) <= set(listed(self.parts[parent])):
                raise ValueError(
                    f"{name!r} depends on {parent!r}, which must be in the "
                    "space, with these values, and not depend on it in turn. "
                    f"Received: when={parent!r}: {wanted!r}, and the parts "
                    f"{self.parts}"
                )

    def _conditions(self, name):
        if name not in self.when:
            return []
        parent, wanted = self.when[name]
        return [*self._conditions(parent), (parent, wanted)]

    def _is_active(self, name, values):
        return all(
            parent in values and values[parent] in wanted
            for parent, wanted in self._conditions(name)
        )

    def _count(self, names, values, points):
        if not names:
            return 1
        name, *rest = names
        if not self._is_active(name, values):
            return self._count(rest, values, points)
        if any(parent == name for parent, _ in self.when.values()):
            return sum(
                self._count(rest, {**values, name: value}, points)
                for value in listed(self.parts[name])
            )
        count = len(listed(self.parts[name])) or points
        return count * self._count(rest, values, points)

    def _alive(self):
        """Parts that count for some values of the others."""
        return {
            name: values
            for name, values in self.parts.items()
            if all(wanted for _, wanted in self._conditions(name))
        }

    def _ranges(self):
        return [name for name, v in self._alive().items() if not listed(v)]

    def _row(self, name):
        values, condition = self.parts[name], ""
        if name in self.when:
            parent, wanted = self.when[name]
            condition = f"{parent} is {joined(wanted)}"
        return name, shown(values), joined([default(values)]), condition


def search_space(**parts):
    """Makes a search space of what fine-tuning is made of.

    Without arguments it has what makes a plan, and the batch size. All else is
    there on request: `True` stands for the values below, `False` leaves a part
    out. A part that depends on another counts only where it has a meaning:
    `boundary` where there are several phases, `rank` where there is LoRA.

    Args:
        **parts: Values of a part: a list of choices, the first of which is
            tried first; a range `(low, high)`, of integers if both are;
            `(low, high, "log")`, even over the orders of magnitude;
            `(low, high, step)`; one value, which is then fixed; or a dict with
            such `values` and with `when`, a dict from one other part to the
            list of its values for which this one counts. These have a meaning:
            - `groups`: Integers, how many groups below the head train at the
              end; 0 is the head alone, and more than there are is all.
              Defaults to `[2, 0, 1, 4]`.
            - `phases`: Integers. With several, the head trains alone first.
              Defaults to `[2, 1, 3]`.
            - `boundary`: Share of the epochs before the last phase. Defaults
              to `(0.2, 0.6)`.
            - `order`: Of three phases or more: `"unfreeze"`, each adds groups
              below, or `"chain"`, each trains its own alone and the last one
              all of them. Defaults to both.
            - `learning_rate`: While the head, or adapters, train. Defaults to
              `(1e-4, 1e-2, "log")`.
            - `backbone_factor`: Factor on it once groups below the head train
              too. Defaults to `(0.01, 0.3, "log")`.
            - `decay`: Factor on it for each group further from the head.
              Defaults to `[1.0, 0.8, 0.6]`.
            - `epochs`: Of all phases together. Defaults to `[10, 5, 20]`.
            - `batch_size`: Defaults to `[32, 16, 64]`.
            - `schedule`, on request: Of each phase. `True` is `["constant",
              "cosine", "one_cycle"]`.
            - `warmup_fraction`, on request: Of each phase. `True` is
              `[0.0, 0.1, 0.3]`.
            - `head_factor`, on request: Factor on the rate of the head while
              groups below it train. `True` is `[1.0, 3.0, 10.0]`.
            - `weight_decay`, on request: Of the AdamW that a model which is
              not compiled gets. `True` is `[0.0, 1e-4, 1e-2]`.
            - `adapter`, on request: `"none"`, `"lora"`, `"bottleneck"`,
              `"ia3"` and `"bitfit"`, added to what `build` makes. `True` is
              all, and `rank`.
            - `rank`, on request: Of LoRA, or the units of a bottleneck. `True`
              is `[8, 4, 16]`.
            - `plan`, on request: Dict from name to `Plan`: whole plans, in
              the place of all the parts of one.
            - `augmentation`, `pooling`, `features` (the last n layer groups;
              0 is the last output alone), `hidden_units` (0 is no hidden
              layer), `dropout`, `l1` and `l2`, on request: For the model;
              `build` takes them by `model_options(hp)`.
            - `backbone`, on request: Strings, for `build`.
            - any other name: for your own `build`, which reads `hp[name]`.

    Returns:
        A `SearchSpace`.

    Raises:
        ValueError: If a value is none of these kinds.

    Example:

    ```python
    import finetune_keras as ft

    print(ft.search_space())
    space = ft.search_space(
        groups=[1, 2],                              # narrower
        learning_rate=(1e-5, 1e-1, "log"),          # wider
        order=False,                                # left out
        epochs=8,                                   # fixed
        dropout=True,                               # on request
        width={"values": [16, 32], "when": {"groups": [2]}},    # your own
    )
    print(space.size)
    ```
    """
    if parts.get("adapter") is True:
        parts.setdefault("rank", True)
    if parts.get("plan") not in (None, False):
        return SearchSpace(FIT_PARTS).change(**parts)
    return SearchSpace({**PLAN_PARTS, **FIT_PARTS}).change(**parts)
