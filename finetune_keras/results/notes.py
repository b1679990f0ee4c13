"""What to know before one reads the numbers of a report."""


def notes_of(predictions, results):
    notes = []
    if predictions.task.is_dense:
        notes += predictions.notes()
    elif results["per_class"] and predictions.task.has_chances:
        notes += _missing_classes(predictions)
        notes += _never_predicted(predictions)
    if results["metrics"].get("r2", 0) is None:
        notes.append("R2 is undefined: the true values are all the same.")
    late = [
        name
        for name, value in results["intervals"].items()
        if value is None and results["metrics"][name] is not None
    ]
    if late:
        notes.append(
            f"No interval of {', '.join(late)}: too many examples times "
            "classes times resamples. Pass a smaller `bootstrap`."
        )
    if predictions.sample_weight is not None:
        notes.append("Metrics and intervals are weighted by sample.")
    return notes


def _missing_classes(predictions):
    member = predictions.membership
    notes = []
    for found, word in (
        (member.any(axis=0), "no"),
        (~member.all(axis=0), "only"),
    ):
        if not found.all():
            notes.append(
                f"ROC-AUC and PR-AUC are undefined: {word} examples of "
                f"{_shown(predictions.classes, ~found)} in the data."
            )
    return notes


def _never_predicted(predictions):
    """A note on classes that occur, and that the model never names."""
    member = predictions.membership
    chosen = predictions.task.members(predictions.y_pred)
    never = member.any(axis=0) & ~chosen.any(axis=0)
    if not never.any():
        return []
    return [
        f"Never predicted: {_shown(predictions.classes, never)}, true of "
        f"{member[:, never].any(axis=1).sum():,} of {len(member):,} examples. "
        "Try more of their examples, `class_weight`, or for labels "
        '`ft.calibrate(metric="f1")`.'
    ]


def _shown(classes, chosen):
    """Names of the first of the chosen classes, and how many more."""
    names = [n for n, good in zip(classes, chosen, strict=True) if good]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more
