"""What a run was: a record for programs, a card for people."""

import hashlib
import json
import pathlib
from urllib.parse import quote

import keras
import numpy as np

from finetune_keras.data.atomic import replacing, write_text
from finetune_keras.data.printable import as_file_name, as_markdown
from finetune_keras.data.table import format_table
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.models.summary import TrainableSummary
from finetune_keras.results.bundle_facts import describe_environment
from finetune_keras.results.render_text import metric_table


def save_record(folder, model, history, plan=None, data=None, reports=None):
    """Writes `record.json` and `MODEL_CARD.md` of a run.

    Together they say what a result came from: data, weights, plan, phases as
    they happened, environment, metrics with their intervals. Figures lie
    beside them where matplotlib is installed. TensorBoard and CSV files come
    from Keras's own callbacks, `fine_tune(..., callbacks=[...])`.

    Args:
        folder: String, made where it is not there; the `checkpoint_dir` of
            the run is a good place.
        model: The `keras.Model` that was fine-tuned.
        history: The `FineTuneHistory` of the run.
        plan: Its `Plan`. Defaults to `None`.
        data: `DataSplits`, for counts and fingerprint. Defaults to `None`.
        reports: Dict from a name, such as `"test"`, to a `Report`. Defaults
            to `None`. Where a name cannot be part of the name of a file, its
            figure gets a name that can.

    Returns:
        Dict, what `record.json` holds.

    Example:

    ```python
    import json, pathlib
    import keras, numpy as np
    import finetune_keras as ft

    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    model = ft.replace_head(backbone, 2)
    x, y = np.random.normal(size=(40, 4)), np.arange(40) % 2
    plan = ft.plans.linear_probe(epochs=2)
    history = ft.fine_tune(model, plan, (x, y), verbose=0)
    report = ft.evaluate(model, (x, y), verbose=0)
    ft.save_record("run", model, history, plan, reports={"training": report})
    print(pathlib.Path("run/MODEL_CARD.md").read_text())
    ```

    Reference:

    - [Mitchell et al., 2019](https://arxiv.org/abs/1810.03993), model cards
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "model": _describe_model(model),
        "data": data and _describe_data(data),
        "plan": plan and plan.to_dict(),
        "history": history.get_config(),
        "reports": {
            name: {"metrics": report.metrics, "intervals": report.intervals}
            for name, report in (reports or {}).items()
        },
        "environment": describe_environment(),
    }
    figures = _save_figures(folder, history, reports or {})
    text = json.dumps(record, indent=1, default=str)
    write_text(folder / "record.json", text)
    card = _card(record, model, history, plan, reports or {}, figures)
    write_text(folder / "MODEL_CARD.md", card)
    return record


def describe_weights(variables):
    """Returns a digest of the values of variables, in order."""
    digest = hashlib.sha256()
    for variable in variables:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(values.tobytes())
    return digest.hexdigest()


def _describe_model(model):
    groups = layer_groups(model)
    body = [v for group in groups.backbone for v in group.variables]
    summary = TrainableSummary(groups)
    return {
        "name": model.name,
        "parameters": summary.num_params,
        "trainable": summary.num_trainable,
        "groups": [group.name for group in groups],
        "inputs": [f"{x.name}: {x.shape}, {x.dtype}" for x in model.inputs],
        "weights_sha256": describe_weights(model.weights),
        "backbone_sha256": describe_weights(body),
    }


def _describe_data(data):
    return {
        "fingerprint": data.fingerprint,
        "task": str(data.task),
        "classes": data.classes,
        "sizes": data.sizes,
        "counts": data.counts,
        "bad_files": [list(map(str, pair)) for pair in data.bad_files],
        "duplicates": len(data.duplicates),
    }


def _save_figures(folder, history, reports):
    """Saves figures; returns their names, none without matplotlib."""
    figures = {}
    try:
        figures["history.png"] = history.plot()
        files = _file_names(reports)
        for name, report in reports.items():
            if report.confusion is not None:
                figures[f"{files[name]}_confusion.png"] = (
                    report.plot_confusion()
                )
    except ImportError:
        return []
    for name, figure in figures.items():
        with replacing(folder / name) as file:
            figure.savefig(file, format="png", dpi=100)
    return list(figures)


def _file_names(names):
    """Dict from names to names that files can have, all different."""
    found = {}
    for name in names:
        file = unique = as_file_name(str(name))
        number = 1
        # Some file systems do not tell capitals apart.
        while unique.lower() in map(str.lower, found.values()):
            number += 1
            unique = f"{file}_{number}"
        found[name] = unique
    return found


def _card(record, model, history, plan, reports, figures):
    facts, data = record["model"], record["data"]
    lines = [
        f"# Model card: {as_markdown(model.name)}",
        "",
        f"Fine-tuned with Keras: {facts['parameters']:,} parameters, of which "
        f"{facts['trainable']:,} trained in the last phase. Best epoch: "
        f"{_best(history)}.",
        "",
    ]
    if data:
        lines += ["## Data", "", f"Fingerprint `{data['fingerprint']}`.", ""]
        lines += [_code(_counts(data)), ""]
    if plan is not None:
        lines += ["## Plan", "", _code(str(plan)), ""]
    lines += ["## Training, as it happened", "", _code(_phases(history)), ""]
    lines += [f"- {as_markdown(one)}" for one in history.findings]
    lines += [""]
    for name, report in reports.items():
        lines += [f"## Metrics: {as_markdown(str(name))}", ""]
        lines += [_code(metric_table(report)), ""]
        lines += [*(f"- {as_markdown(note)}" for note in report.notes), ""]
    lines += [f"![{n}]({quote(n)})" for n in figures]
    lines += ["", "## Use and limits", "", _TO_FILL_IN, ""]
    environment = json.dumps(record["environment"], indent=1)
    lines += ["## Environment", "", _code(environment), ""]
    return "\n".join(lines)


_TO_FILL_IN = (
    "To be filled in by hand: what the model is for, what it must not be used "
    "for, whom errors would hurt, and how the data were collected."
)


def _best(history):
    if history.best_epoch is None:
        return "the last one"
    value = f"{as_markdown(history.monitor)} {history.best_value:.4g}"
    return f"{history.best_epoch + 1} ({value})"


def _counts(data):
    splits = [name for name, size in data["sizes"].items() if size]
    if not data["classes"]:
        rows = [[name, data["sizes"][name]] for name in splits]
        return format_table(["split", "examples"], rows)
    rows = [
        [label, *(data["counts"][name].get(label, 0) for name in splits)]
        for label in data["classes"]
    ]
    return format_table(["class", *splits], rows)


def _phases(history):
    rows = []
    for index, phase in enumerate(history.phases):
        epochs = [row for row in history.epochs if row["phase"] == index]
        seconds = sum(row["seconds"] for row in epochs)
        rows.append(
            [phase["name"], len(epochs), f"{seconds:.1f}", phase["cache"]]
        )
    return format_table(["phase", "epochs", "seconds", "prefix cache"], rows)


def _code(text):
    # A fence longer than any in the text cannot be closed by it.
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
