"""Retrieval over the whole gallery: who holds the attribute of the query among its neighbours.

Of tasks of several categories: who is of the query's category.

Source: Zhao et al., ECCV 2018, Figure 4. The query is left out of its own gallery.
Shapes: N images, T tasks, D embedding, Q queries, K neighbours.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from modlib.arrays import from_json
from modlib.errors import ModlibError

DEPTHS = (1, 5, 10)
MEASURES = (*(f"recall@{depth}" for depth in DEPTHS), "mAP")


def retrieval_scores(
    embeddings_TND: Tensor, labels_NT: Tensor, tasks: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Recall at 1, 5 and 10 and mean average precision of every task.

    Computes :eq:`eq-recall` and :eq:`eq-map` of the book's page on the method.

    Every holder of a task's attribute is a query among all other images; the other holders are
    what it should find. Recall at K is the share of queries with a holder among the K nearest.
    Among categories, every image of a known one is a query among the others that are known, and
    should find those of its category.

    Args:
        embeddings_TND: float32, of length 1 along D.
        labels_NT: bool, or int16 categories with -1 where not known.

    Returns:
        ``{task: {"queries": …, "recall@1": …, "recall@5": …, "recall@10": …, "mAP": …}}``, shares
        from 0 to 1; None in the place of each where no image has another to find.
    """
    return {task: _scores(embeddings_ND, labels_N) for task, embeddings_ND, labels_N in
            zip(tasks, embeddings_TND, labels_NT.T, strict=True)}


def _scores(embeddings_ND: Tensor, labels_N: Tensor) -> dict[str, Any]:
    # Here, as it takes a second to import and is used once a run.
    from torchmetrics.functional import retrieval

    category_N = labels_N.long()
    lowest = 1 if labels_N.dtype == torch.bool else 0  # to lack an attribute is no category
    _, which_N, members = category_N.unique(return_inverse=True, return_counts=True)
    queries = torch.nonzero((category_N >= lowest) & (members[which_N] >= 2)).flatten()
    if len(queries) == 0:
        return {"queries": 0} | dict.fromkeys(MEASURES)
    similarity_QN = embeddings_ND[queries] @ embeddings_ND.T
    total = torch.zeros(len(MEASURES), dtype=torch.float64)
    for query, similarity_N in zip(queries.tolist(), similarity_QN, strict=True):
        others = category_N >= 0
        others[query] = False
        alike = category_N[others] == category_N[query]
        held = alike[similarity_N[others].argsort(descending=True)]
        # Places, not similarities: torchmetrics takes what has 0 or less for not retrieved.
        near = torch.arange(len(held), 0, -1, device=held.device).float()
        found = [retrieval.retrieval_hit_rate(near, held, top_k=depth) for depth in DEPTHS]
        found.append(retrieval.retrieval_average_precision(near, held))
        total += torch.stack(found).double().cpu()
    return {"queries": len(queries)} | dict(
        zip(MEASURES, (total / len(queries)).tolist(), strict=True))


def nearest_neighbours(embeddings_ND: Tensor, query: int, count: int) -> Tensor:
    """The images nearest to one of them, nearest first, itself left out: int64 (K,).

    Raises:
        ModlibError: fewer than ``count`` others.
    """
    if not 1 <= count < len(embeddings_ND):
        raise ModlibError(f"count must be 1 to {len(embeddings_ND) - 1}; given {count}")
    similarity_N = embeddings_ND @ embeddings_ND[query]
    similarity_N[query] = -torch.inf
    return similarity_N.topk(count).indices


def retrieval_table(rows: Mapping[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """Recall at 1, 5 and 10 and mAP of every row in %, averaged over tasks and seeds.

    A dash where no task of a row has queries.
    """
    lines = []
    for name, records in rows.items():
        scores = [score for record in records for score in record["results"]["retrieval"].values()
                  if score["queries"]]
        lines.append({"": name} | {
            measure: f"{100 * np.mean([score[measure] for score in scores]):.1f}" if scores
            else "–" if records else "not run yet" for measure in MEASURES})
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def scores_by_task(
    rows: Mapping[str, list[dict[str, Any]]], measure: Literal["mAP", "recall@1"] = "mAP"
) -> pd.DataFrame:
    """A measure of every task in %, a column a row; and what guessing would give."""
    columns: dict[str, dict[str, str]] = {}
    for name, records in rows.items():
        for task in records[0]["settings"]["tasks"] if records else ():
            found = [record["results"]["retrieval"][task][measure] for record in records]
            if None not in found:
                columns.setdefault(name, {})[task.replace("_", " ")] = f"{100 * np.mean(found):.1f}"
    some = next((records[0] for records in rows.values() if records), None)
    if some is None:
        return pd.DataFrame()
    labels_NT = from_json(some["results"]["test_triplets"]["labels"])
    columns["guessing"] = {task.replace("_", " "): f"{100 * _share_alike(labels_N):.1f}"
                           for task, labels_N in zip(
                               some["settings"]["tasks"], labels_NT.T, strict=True)}
    return pd.DataFrame(columns)


def _share_alike(labels_N: np.ndarray) -> float:
    """How much of the gallery a query should find: the holders, or its category on average."""
    if labels_N.dtype == bool:
        return labels_N.mean()
    members = np.unique(labels_N[labels_N >= 0], return_counts=True)[1]
    queried = members[members >= 2]  # an image alone in its category is no query
    if len(queried) == 0:
        return np.nan
    return float(queried @ (queried - 1) / queried.sum() / (members.sum() - 1))
