"""Reads a plan from plain data and YAML, and says where a fault is."""

import math
import pathlib

from finetune_keras.arguments import nearest
from finetune_keras.engine.packages import yaml
from finetune_keras.plans.phase import Phase
from finetune_keras.plans.phase_checks import CHECKS, PlanError, checked


def read_dict(data):
    """Checks the dict of a plan, with all keys at hand for messages.

    Args:
        data: Dict, as of `Plan.to_dict`.

    Returns:
        `(phases, head_initializer)`.
    """
    if isinstance(data, dict) and "head_start" in data:
        # What it was called before.
        data = {**data, "head_initializer": data["head_start"]}
        del data["head_start"]
    _check_keys(data, ("head_initializer", "phases"), "phases")
    if not isinstance(data["phases"], (list, tuple)):
        raise PlanError(
            "`phases` must be a list with one dict for each phase. "
            f"Received: phases={data['phases']!r}",
            "phases",
        )
    phases = []
    for index, values in enumerate(data["phases"]):
        _check_keys(values, CHECKS, "layers", "phases", index)
        for name, value in values.items():
            checked(name, value, "phases", index, name)
        phases.append(Phase(**values))
    name = "head_initializer"
    return phases, checked(name, data.get(name), name)


def _check_keys(data, known, required, *path):
    if not isinstance(data, dict):
        raise PlanError(
            f"Expected a dict with the keys {list(known)}. "
            f"Received: {data!r} of type {type(data).__name__}",
            *path,
        )
    for key in data:
        if key not in known:
            raise PlanError(
                f"The key {key!r} is unknown.{nearest(key, known)} Known "
                f"keys: {list(known)}.",
                *path,
                str(key),
            )
    if required not in data:
        raise PlanError(
            f"The key {required!r} is missing. Received: the keys {list(data)}",
            *path,
        )


def yaml_path(path):
    """Returns a path that ends as a YAML file does, or refuses it."""
    path = pathlib.Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(
            'A plan is kept as YAML: the path must end in ".yaml" or ".yml". '
            f"Received: path={str(path)!r}"
        )
    return path


def read_yaml(cls, text, source):
    """Makes a plan of YAML text.

    Args:
        cls: `Plan`.
        text: String.
        source: String, the name of the file, for messages.

    Returns:
        A `Plan`.
    """
    root = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        for node in _mappings(root):
            _prepare(node, source)
        return cls.from_dict(_construct(loader, root, source) if root else {})
    except PlanError as error:
        line = _line_of(root, error.path)
        mark = ", " if error.path else ": "
        raise ValueError(f"{source}, line {line}{mark}{error}") from None
    except RecursionError as error:
        raise ValueError(
            f"{source}: this is no plan: it is nested too deeply."
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"{source}{line}: this is not YAML: "
            f"{getattr(error, 'problem', None) or error}. Look here and in the "
            "line before for a missing colon, quote or bracket, a tab, or a "
            "wrong indentation."
        ) from error


def _construct(loader, root, source):
    """Reads the values, some of which may be no dates or numbers at all."""
    try:
        return loader.construct_document(root)
    except (ValueError, LookupError, AttributeError, OverflowError) as error:
        node = next(x for x in _scalars(root, set()) if not _reads(loader, x))
        raise ValueError(
            f"{source}, line {node.start_mark.line + 1}: The value "
            f"{node.value!r} cannot be read as what it looks like. Put it in "
            f"quotes if it is a text. {error}"
        ) from error


def _scalars(node, seen):
    if id(node) in seen:
        return
    seen.add(id(node))
    if node.id == "scalar":
        yield node
        return
    for child in node.value:
        for one in child if isinstance(child, tuple) else [child]:
            yield from _scalars(one, seen)


def _reads(loader, node):
    try:
        type(loader)("").construct_document(node)
    except (ValueError, LookupError, AttributeError, OverflowError):
        return False
    return True


def _mappings(root):
    """Lists the mappings of a plan's YAML: its own, and one for each phase."""
    if root is None or root.id != "mapping":
        return []
    lists = [node.value for _, node in root.value if node.id == "sequence"]
    nodes = [node for nodes in lists for node in nodes]
    return [root, *(node for node in nodes if node.id == "mapping")]


def _prepare(node, source):
    """Refuses a key that stands twice, and reads 1e-3 as a number.

    YAML keeps the last of two equal keys in silence, and its version 1.1 takes
    a number without a decimal point for a string.
    """
    lines = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        name = str(key.value)
        if name in lines:
            raise ValueError(
                f"{source}, line {line}, key {name!r}: The key stands twice, "
                f"before in line {lines[name]}. Remove one."
            )
        lines[name] = line
        numbers = [value] if name in _NUMBERS else []
        if name == "multipliers" and value.id == "mapping":
            numbers = [factor for _, factor in value.value]
        for one in numbers:
            if one.tag.endswith(":str") and _is_float(one.value):
                one.tag = "tag:yaml.org,2002:float"


_NUMBERS = ("learning_rate", "layerwise_lr_decay", "warmup_fraction")
_NUMBERS += ("weight_decay",)


def _is_float(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _line_of(node, path):
    """Finds the line of the last key or position of a path that exists."""
    line = node.start_mark.line + 1 if node else 1
    for part in path:
        if node.id == "mapping":
            pairs = [pair for pair in node.value if pair[0].value == part]
        else:
            pairs = [(one, one) for one in node.value[part : part + 1]]
        if not pairs:
            break
        key, node = pairs[0]
        line = key.start_mark.line + 1
    return line
