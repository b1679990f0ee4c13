"""A plan: which layers train when, at which rates, as plain data."""

import os

from finetune_keras.data.atomic import write_text
from finetune_keras.data.facts import reading
from finetune_keras.data.layout import Shown, Table
from finetune_keras.engine.packages import yaml
from finetune_keras.plans.phase import Phase, check_groups
from finetune_keras.plans.phase_checks import checked
from finetune_keras.plans.plan_checks import (
    check_something_new,
    warn_of_high_rate,
)
from finetune_keras.plans.plan_yaml import read_dict, read_yaml, yaml_path


class Plan(Shown):
    """A list of phases: a whole fine-tuning, as plain data.

    A plan shows as a table, compares, evaluates back from its `repr`, and is
    kept as YAML. It knows no model: it names layers, and `check` tells whether
    a model has them. The strategies of the literature are in `ft.plans`.

    Args:
        phases: List of `Phase`s, in the order in which they run.
        head_initializer: `"logistic"`, `"ridge"` or `"lda"`: solve the linear
            head on the features of the backbone before the first phase.
            `"auto"` does so where the head is one dense layer under a
            cross-entropy (by logistic regression or ridge, whichever is better
            in cross-validation) or the squared error of values (by ridge); a
            first phase that trains the head alone is then done, and left out.
            `None` starts from the head as it is. Defaults to `None`.

    Raises:
        ValueError: If `phases` holds something else, or `head_initializer` is
            unknown.

    Example:

    ```python
    import pathlib, tempfile
    import finetune_keras as ft

    plan = ft.Plan([
        ft.Phase("head", epochs=5, learning_rate=1e-3),
        ft.Phase(2, epochs=10, learning_rate=1e-4, patience=2),
        ft.Phase("all", epochs=20, learning_rate=3e-5,
                 layerwise_lr_decay=0.8, patience=3),
    ])
    print(plan)
    path = pathlib.Path(tempfile.mkdtemp(), "plan.yaml")
    plan.save(path)
    assert ft.Plan.load(path) == plan
    ```
    """

    def __init__(self, phases, head_initializer=None):
        self.phases = _phases(phases)
        self.head_initializer = checked("head_initializer", head_initializer)

    def __len__(self):
        return len(self.phases)

    def __iter__(self):
        return iter(self.phases)

    def __getitem__(self, index):
        return self.phases[index]

    def __eq__(self, other):
        if not isinstance(other, Plan):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __repr__(self):
        name = self.head_initializer
        start = f", head_initializer={name!r}" if name else ""
        return f"Plan({list(self.phases)!r}{start})"

    def _layout(self):
        epochs = sum(phase.epochs for phase in self)
        plural = "" if len(self) == 1 else "s"
        title = f"Plan: {len(self)} phase{plural}, at most {epochs} epochs"
        if self.head_initializer:
            title += f", head initializer: {self.head_initializer}"
        rows = [_cells(number, phase) for number, phase in enumerate(self, 1)]
        rows = [_COLUMNS, *rows]
        # Most plans leave the last ones alone.
        used = [
            column
            for number, column in enumerate(zip(*rows, strict=True))
            if number < _ALWAYS or {*column[1:]} - {"-"}
        ]
        names, *rows = zip(*used, strict=True)
        return [title, Table(names, rows)]

    def check(self, groups):
        """Tells whether the plan makes sense for a model, before any training.

        The model is left as it is.

        Args:
            groups: The `LayerGroups` of the model.

        Raises:
            ValueError: If the plan is empty, a phase selects nothing that can
                train in the model, a phase does nothing new against the one
                before, or `head_initializer` meets a model without a head.

        Warns:
            UserWarning: If a later phase adds layers at a higher learning rate
                than the first phase has.

        Example:

        ```python
        import keras, finetune_keras as ft

        model = keras.applications.MobileNet(alpha=0.25, weights=None)
        ft.plans.linear_probe_then_full().check(ft.layer_groups(model))
        ```
        """
        check_groups(groups)
        if not self.phases:
            raise ValueError(
                "The plan is empty: nothing would be trained. Give it at least "
                "one `Phase`. Received: phases=[]"
            )
        needs_head = self.head_initializer not in (None, "auto")
        if needs_head and not groups.head:
            raise ValueError(
                "The plan solves the head before the first phase, and the "
                "model has no head. Add one with `replace_head`, or leave "
                "`head_initializer` out. Received: head_initializer="
                f"{self.head_initializer!r}"
            )
        selections = []
        for number, phase in enumerate(self, 1):
            try:
                selections.append(set(phase.select(groups)))
                for layers in phase.multipliers or ():
                    groups.select(layers)
            except ValueError as error:
                raise ValueError(
                    f"Phase {number} of the plan ({phase.layers!r}) does not "
                    f"fit the model. {error}"
                ) from error
        for index in range(1, len(self)):
            check_something_new(self, selections, index)
            warn_of_high_rate(self, selections, index)

    def to_dict(self):
        """Returns the plan as a dict of plain values, for JSON or YAML."""
        return {
            "head_initializer": self.head_initializer,
            "phases": [phase.to_dict() for phase in self],
        }

    @classmethod
    def from_dict(cls, data):
        """Makes a plan from what `to_dict` returns.

        Args:
            data: Dict with `phases`, a list of dicts of the arguments of
                `Phase`, and optionally `head_initializer`.

        Returns:
            A `Plan`.

        Raises:
            ValueError: If a key is unknown or missing, or a value is wrong. The
                message names the phase.
        """
        return cls(*read_dict(data))

    def to_yaml(self):
        """Returns the plan as YAML text, all values written out."""
        return yaml.safe_dump(
            self.to_dict(), sort_keys=False, allow_unicode=True
        )

    @classmethod
    def from_yaml(cls, text):
        """Makes a plan from YAML text, your own or that of `to_yaml`.

        Arguments that a phase leaves out have the defaults of `Phase`.

        Args:
            text: String, a mapping with `phases` and optionally
                `head_initializer`.

        Returns:
            A `Plan`.

        Raises:
            ValueError: If the text is no YAML, or no plan. The message names
                the line and the key.

        Example:

        ```python
        import finetune_keras as ft

        plan = ft.Plan.from_yaml('''
        phases:
        - {layers: head, epochs: 5, learning_rate: 1e-3}
        - {layers: 2, epochs: 10, learning_rate: 1e-4, patience: 2}
        ''')
        print(plan)
        ```
        """
        return read_yaml(cls, text, "<string>")

    def save(self, path):
        """Writes the plan to a YAML file.

        Args:
            path: String or `pathlib.Path` that ends in `.yaml` or `.yml`.

        Raises:
            ValueError: If `path` ends in something else.
        """
        write_text(yaml_path(path), self.to_yaml())

    @classmethod
    def load(cls, path):
        """Reads a plan from a YAML file.

        Args:
            path: String or `pathlib.Path` that ends in `.yaml` or `.yml`.

        Returns:
            A `Plan`.

        Raises:
            ValueError: If the file holds no plan. The message names the file,
                the line and the key.
        """
        path = yaml_path(path)
        with reading(path):
            text = path.read_text(encoding="utf-8")
        return read_yaml(cls, text, str(path))


def check_plan(plan, *data):
    """Refuses what is no plan, where one is expected.

    Args:
        plan: What was given for it.
        *data: What was given for the data.

    Raises:
        ValueError: If it is no `Plan`.
    """
    if isinstance(plan, Plan):
        return
    phases = plan if isinstance(plan, (list, tuple)) else [plan]
    cure = "Make one by `ft.Plan([...])` or `ft.plans`"
    if any(isinstance(one, Plan) for one in data):
        cure = "It stands in the place of the data: the plan comes first"
    elif phases and all(isinstance(one, Phase) for one in phases):
        cure = "Make one of the phases: `ft.Plan([...])`"
    elif isinstance(plan, dict):
        cure = "Read it by `ft.Plan.from_dict`"
    elif isinstance(plan, (str, os.PathLike)):
        cure = "Read a file by `ft.Plan.load`, a text by `ft.Plan.from_yaml`"
    elif hasattr(plan, "layers"):
        cure = "This is a model, which comes first"
    elif callable(plan):
        cure = "Call it: its value is the plan"
    text = repr(plan)
    text = text if len(text) < 80 else f"a {type(plan).__name__}"
    raise ValueError(f"`plan` must be an `ft.Plan`. {cure}. Received: {text}")


def _phases(phases):
    try:
        phases = tuple(phases)
    except TypeError:
        phases = (phases,)
    for phase in phases:
        if not isinstance(phase, Phase):
            raise ValueError(
                "`phases` must be a list of `Phase`s. A dict is read by "
                "`Plan.from_dict`, a YAML text by `Plan.from_yaml`, a file by "
                f"`Plan.load`. Received: {phase!r} of type "
                f"{type(phase).__name__}"
            )
    return phases


_COLUMNS = ["phase", "trains", "epochs", "learning rate", "schedule"]
_COLUMNS += ["decay", "patience", "batch norm"]
_ALWAYS = len(_COLUMNS)
_COLUMNS += ["multipliers", "weight decay", "optimizer", "best restored"]


def _cells(number, phase):
    return (
        number,
        phase.name,
        phase.epochs,
        _figure(
            phase.learning_rate, "its own" if phase.optimizer else "as compiled"
        ),
        _schedule(phase),
        _figure(phase.layerwise_lr_decay, "-"),
        _figure(phase.patience, "-"),
        phase.batch_norm,
        _multipliers(phase),
        _figure(phase.weight_decay, "-"),
        phase.optimizer_name or "-",
        {None: "-", True: "yes", False: "no"}[phase.restore_best_weights],
    )


def _multipliers(phase):
    factors = phase.multipliers or {}
    return ", ".join(f"{n} {x:g}" for n, x in factors.items()) or "-"


def _schedule(phase):
    share = phase.warmup_fraction
    warmup = "" if share is None else f", warm-up {share:.3g}"
    return f"{phase.schedule}{warmup}"


def _figure(value, missing):
    return missing if value is None else f"{value:g}"
