"""Vectors of which those that belong together lie near: what encoders give."""

from finetune_keras.data.contrastive import ContrastiveLoss
from finetune_keras.data.task import Task

# What a search is judged by, in the order of the columns of a report.
METRICS = (
    "hit_at_1",
    "recall_at_1",
    "recall_at_5",
    "recall_at_10",
    "mrr",
    "ndcg_at_10",
)


class Vectors(Task):
    """A vector for each input, judged by what a search with it finds.

    In a report each example is a query, with a column for each metric: what
    was reached, and as the truth the most that could be.
    """

    name, activation = "vectors", "linear"
    main_metric, noun = "ndcg_at_10", "metrics"
    more_metrics = ("recall_at_1", "mrr")
    is_judged = has_chances = weighs_classes = False
    is_compared = True

    def compile_arguments(self, one_hot=False):
        return {"loss": ContrastiveLoss()}

    def are_scores(self, outputs):
        return True

    def by_class(self, values):
        return values

    def decide(self, scores, threshold=None):
        return scores

    def plain(self, label):
        return [round(float(value), 4) for value in label]

    def chance(self, scores, true, chosen):
        return None

    def losses(self, y, scores):
        """By how much the metrics of each query fall short of the best."""
        return (y - scores).mean(axis=1)
