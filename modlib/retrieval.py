"""Retrieval over the whole gallery: who holds the attribute of the query among its neighbours.

Source: Zhao et al., ECCV 2018, Figure 4. The query is left out of its own gallery.
Shapes: N images, T tasks, D embedding, Q queries, K neighbours.
"""

from typing import Any

import torch
from torch import Tensor

from modlib.errors import ModlibError

DEPTHS = (1, 5, 10)


def retrieval_scores(
    embeddings_TND: Tensor, labels_NT: Tensor, tasks: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Recall at 1, 5 and 10 and mean average precision of every task.

    Every holder of a task's attribute is a query among all other images; the other holders are
    what it should find. Recall at K is the share of queries with a holder among the K nearest.

    Args:
        embeddings_TND: float32, of length 1 along D.
        labels_NT: bool.

    Returns:
        ``{task: {"queries": …, "recall@1": …, "recall@5": …, "recall@10": …, "mAP": …}}``, shares
        from 0 to 1; None in the place of each where fewer than two images hold the attribute.
    """
    return {task: _scores(embeddings_ND, labels_N) for task, embeddings_ND, labels_N in
            zip(tasks, embeddings_TND, labels_NT.T, strict=True)}


def _scores(embeddings_ND: Tensor, labels_N: Tensor) -> dict[str, Any]:
    # Here, as it takes a second to import and is used once a run.
    from torchmetrics.functional import retrieval

    queries = torch.nonzero(labels_N).flatten()
    names = [*(f"recall@{depth}" for depth in DEPTHS), "mAP"]
    if len(queries) < 2:
        return {"queries": 0} | dict.fromkeys(names)
    similarity_QN = embeddings_ND[queries] @ embeddings_ND.T
    total = torch.zeros(len(names), dtype=torch.float64)
    for query, similarity_N in zip(queries.tolist(), similarity_QN, strict=True):
        others = torch.arange(len(labels_N), device=labels_N.device) != query
        near, held = similarity_N[others], labels_N[others]
        found = [retrieval.retrieval_hit_rate(near, held, top_k=depth) for depth in DEPTHS]
        found.append(retrieval.retrieval_average_precision(near, held))
        total += torch.stack(found).double().cpu()
    return {"queries": len(queries)} | dict(
        zip(names, (total / len(queries)).tolist(), strict=True))


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
