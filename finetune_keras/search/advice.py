"""Whether and how to fine-tune, by cheap evidence from the data at hand."""

import time

import keras
import numpy as np

from finetune_keras.arguments import check, integer, part
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.layout import Shown, Table
from finetune_keras.data.task_checks import check_one_label_each
from finetune_keras.models.depths import split_depths
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.plans.phase import Phase
from finetune_keras.plans.plan import Plan
from finetune_keras.plans.strategies import linear_probe
from finetune_keras.results.predicted import predict_all
from finetune_keras.search.candidates import by_name
from finetune_keras.search.gains import losses_around
from finetune_keras.search.proposal import Proposal
from finetune_keras.search.ranking import rank_backbones
from finetune_keras.training.dry_run import duration
from finetune_keras.training.linear_probe import LEAST_GAIN, solve_probe

# Of so many layer groups, counted from the last, the head may read.
_DEPTHS = (1, 2, 4, 7, 10, 15, 25)
# All layers are tried on so many texts: what gains there gains with more.
MOST_TEXTS = 1000


def advise(backbones, data, dropout=0.0, seed=0, verbose=1):
    """Proposes a model and a plan for the data, with the figures behind them.

    It looks at the data, ranks the backbones if there are several, computes
    the features of all depths once, chooses the depths that the head reads by
    cross-validation, and tries what a short training would gain on the
    validation data: of photos that of the last two layer groups, on stored
    activations; of texts that of all layers, on 1,000 of them at most. What is
    not better than the solved head by more than its standard error is left out
    of the plan. The test data are not touched.

    Args:
        backbones: Name of a model in `keras.applications`, which comes with
            its ImageNet weights in the size that they were made for; or a
            `keras.Model`, such as `ft.backbone` and `ft.text_backbone` return;
            or a list, or a dict from names, of several. Photos of another size
            are resized in the model.
        data: `DataSplits`, such as `ft.image_folder` and `ft.from_arrays`
            return. Without validation data no training is tried.
        dropout: Float in [0, 1), before the head of a model that trains more
            than the head. Defaults to `0.0`.
        seed: Integer, of folds and heads. Defaults to `0`.
        verbose: 0 or 1, a line for each step. Defaults to `1`.

    Returns:
        An `Advice`: `print` shows it, `advice.model()` makes the model, and
        `advice.plan` is a plan as any other.

    Raises:
        ValueError: If there is no such backbone, or `data` are no
            `DataSplits`.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    x = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")
    data = ft.from_arrays(x, np.where(x[:, 0] > 0, "yes", "no"), seed=0)
    backbone = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(8, activation="tanh"),
        keras.layers.Dense(8, activation="tanh"),
    ])
    advice = ft.advise(backbone, data, verbose=0)
    print(advice)
    model = advice.model()
    ft.fine_tune(model, advice.plan, data.train, data.validation, verbose=0)
    ```

    Reference:

    - [Evci et al., 2022](https://arxiv.org/abs/2201.03529), features of all
      depths
    - [Kumar et al., 2022](https://arxiv.org/abs/2202.10054), the head first
    """
    check(
        dropout=(dropout, part),
        seed=(seed, integer(0)),
        verbose=(verbose, integer(0)),
    )
    if not isinstance(data, DataSplits):
        raise ValueError(
            "`data` must be `DataSplits`, which know their classes and keep "
            "validation and test apart: `ft.from_arrays(x, y)`, "
            "`ft.image_folder(path)`. "
            f"Received: data of type {type(data).__name__}"
        )
    check_one_label_each(data.task, "advise")
    several = isinstance(backbones, (list, tuple, dict))
    named = by_name(backbones if several else [backbones])
    steps = Steps(data, seed, verbose)
    name = steps.choose_backbone(named)
    proposal = Proposal(named[name], data, dropout)
    steps.look(proposal)
    features = steps.choose_depths(proposal)
    plan = steps.choose_plan(proposal, features)
    return Advice(name, proposal, features, plan, steps)


class Advice(Shown):
    """What `advise` proposes; `print` shows it with its reasons.

    Attributes:
        backbone: String, the name of the chosen one.
        features: Integer, how many layer groups the head reads, counted from
            the last; see `replace_head`.
        plan: A `Plan`.
        rows: List of dicts, one a step: `step`, `found`, `choice`.
        ranking: A `BackboneRanking`, or `None` of one backbone.
        depths: Dict from numbers of layer groups to the log loss (squared
            error) of a head on these, cross-validated.
        seconds: Float, about what the plan takes here, by what the same work
            has taken for the advice.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    data = ft.from_arrays(x, x.sum(axis=1), task="regression", seed=0)
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    advice = ft.advise(backbone, data, verbose=0)
    print(advice.depths, advice.rows[-1]["choice"])
    ```
    """

    def __init__(self, backbone, proposal, features, plan, steps):
        self.backbone, self.features, self.plan = backbone, features, plan
        self.rows, self.ranking = steps.rows, steps.ranking
        self.depths, self.seconds = steps.depths, steps.seconds
        self._proposal = proposal

    def model(self, augmentation=None):
        """Makes the proposed model, uncompiled, with a new head.

        It shares the weights of the backbone that was given.

        Args:
            augmentation: See `image_classifier`. Defaults to `None`.

        Returns:
            A functional `keras.Model`.
        """
        return self._proposal.model(self.features, augmentation)

    def _layout(self):
        cells = [
            [row["step"], row["found"], row["choice"]] for row in self.rows
        ]
        took = f"about {duration(self.seconds)}"
        cells.append(["time", "what the same work took here", took])
        return [Table(["step", "found", "choice"], cells), "", self.plan]


def short_phase(proposal):
    """A short training behind the solved head, which is tried."""
    if proposal.is_text:
        return Phase("all", 5, 1e-4, schedule="cosine", warmup_fraction=0.2)
    groups = min(2, len(layer_groups(proposal.backbone)))
    return Phase(groups, 4, 3e-4, schedule="cosine")


def _behind_head(phase):
    return Plan([*linear_probe(), phase], head_initializer="auto")


class Steps:
    """The steps of an advice, and what each has found."""

    def __init__(self, data, seed, verbose):
        self.data, self.seed, self.verbose = data, seed, verbose
        self.rows, self.ranking, self.depths = [], None, {}
        self.seconds = 0.0

    def note(self, step, found, choice):
        self.rows.append({"step": step, "found": found, "choice": choice})
        if self.verbose:
            print(f"{step}: {found}: {choice}", flush=True)

    def choose_backbone(self, named):
        if len(named) == 1:
            return next(iter(named))
        ranking = rank_backbones(
            named, self.data, seed=self.seed, verbose=self.verbose
        )
        self.ranking, (first, *others) = ranking, ranking.rows
        figure = next(n for n in ("log_loss", "rmse") if n in first)
        found = ", ".join(
            f"{r['name']} {r[figure]:.3f}" for r in (first, *others)
        )
        self.note("backbone", f"{figure} of a probe: {found}", ranking.best)
        return ranking.best

    def look(self, proposal):
        sizes = self.data.sizes
        found = f"{sizes['train']:,} to train, {sizes['validation']:,} to judge"
        if self.data.classes and self.data.task != "regression":
            counts = self.data.counts["train"].values()
            found += f", {min(counts)} to {max(counts)} of a class"
        self.note("data", found, str(self.data.task))
        if proposal.resized:
            given, wanted = proposal.resized
            found = f"photos of {given}, weights of {wanted}"
            self.note("size", found, f"resized to {wanted}")

    def choose_depths(self, proposal):
        """How many groups the head reads, the least loss left out."""
        count = len(split_depths(proposal.backbone, "blocks")[1])
        numbers = sorted({min(n, count) for n in _DEPTHS})
        begun = time.perf_counter()
        x, labels, weight = predict_all(
            proposal.reader(numbers[-1]), self.data.train, "train"
        )
        # The plan passes over the validation data too.
        sizes, pass_ = self.data.sizes, time.perf_counter() - begun
        self.seconds = pass_ * (1 + sizes.get("validation", 0) / sizes["train"])
        y, loss = proposal.targets(labels), proposal.loss
        for n in numbers:
            columns = proposal.width(n)
            probe = solve_probe(
                x[:, -columns:], y, loss, weight=weight, seed=self.seed
            )
            self.depths[n] = float(probe.loss)
        best = min(self.depths, key=self.depths.get)
        if proposal.is_text:
            # The first token alone often tells little, which a few texts do
            # not show.
            most = self.depths[best] + LEAST_GAIN
            best = max(n for n, loss in self.depths.items() if loss < most)
        found = ", ".join(f"{n}: {loss:.3f}" for n, loss in self.depths.items())
        groups = "the last group" if best == 1 else f"the last {best} groups"
        self.note(
            "features", f"loss by groups that the head reads, {found}", groups
        )
        return best

    def choose_plan(self, proposal, features):
        """The head alone, or what a short training has shown to be better."""
        probe = linear_probe()
        if self.data.validation is None:
            self.note("training", "no validation data", "the head alone")
            return probe
        phase, begun = short_phase(proposal), time.perf_counter()
        gain, error = self._gain_of(phase, proposal, features)
        trial = time.perf_counter() - begun
        found = f"{phase.name}: log loss"
        if self.data.task == "regression":
            found = f"{phase.name}: squared error"
        found += f" lower by {gain:.3f} +- {error:.3f} on validation"
        if gain <= error:
            self.note("training", found, "the head alone")
            return probe
        self.note("training", found, f"then {phase.name}")
        self.seconds += trial / (self.share if proposal.is_text else 1)
        return _behind_head(phase)

    @property
    def share(self):
        """The share of the training texts that a trial takes."""
        return min(1, MOST_TEXTS / self.data.sizes["train"])

    def some(self):
        """Batches of as many training texts as a trial takes."""
        batches = int(self.data.train.cardinality())
        return self.data.train.take(max(1, int(self.share * batches)))

    def _gain_of(self, phase, proposal, features):
        """Gain of a phase behind the solved head, and its standard error."""
        train, validation = self.data.train, self.data.validation
        plan = Plan([phase], head_initializer="auto")
        with proposal.as_it_was():
            keras.utils.set_random_seed(self.seed)
            model = proposal.model(features)
            if proposal.is_text:
                # Nothing is stored for all layers, so that the phase on the
                # head costs nothing more; some texts may lack a class, which
                # only epochs can do.
                train, plan = model.tokenize(self.some()), _behind_head(phase)
            before, after = losses_around(
                model, plan, train, validation, calibrated=proposal.is_text
            )
        gains = before - after
        return gains.mean(), gains.std() / np.sqrt(len(gains))
