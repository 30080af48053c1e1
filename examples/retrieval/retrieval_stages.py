"""The stages of retrieval.yaml: load functions, choose queries, count words, rank in three ways."""

import ast
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from crucible_core import Context, stage


@stage
def load_functions(ctx: Context) -> Context:
    """Reads the docstrings of the standard library's public functions from their source."""
    library = Path(sysconfig.get_path("stdlib"))
    functions = [
        function
        for file in sorted(library.glob("[!_]*.py"))
        for function in _documented_functions(ast.parse(file.read_text("utf-8")), file.stem)
    ]
    return ctx.assign(examples=functions).put_metric("python", platform.python_version())


@stage
def choose_queries(ctx: Context) -> Context:
    """Keeps the functions whose summary has exactly one right answer, and one that must be searched for."""
    functions = ctx.assigns["examples"]
    uses = Counter(function["summary"] for function in functions)
    chosen = [
        function
        for function in functions
        if function["explanation"]
        and uses[function["summary"]] == 1
        and function["summary"] not in function["explanation"]
    ]
    return (
        ctx.assign(functions=chosen)
        .put_metric("queries", len(chosen))
        .decide(
            f"ask for {len(chosen)} of {len(functions)} functions",
            "the others explain nothing, share their summary with another function, or repeat it in the explanation",
            alternatives=["ask for every function that has an explanation"],
        )
    )


@stage
def count_words(ctx: Context) -> Context:
    """Counts each word in every query (a summary) and in every document (an explanation)."""
    functions = ctx.assigns["functions"]
    counter = CountVectorizer()
    documents = counter.fit_transform(function["explanation"] for function in functions)
    queries = counter.transform(function["summary"] for function in functions)
    return ctx.assign(queries=queries, documents=documents)


@stage
def word_overlap(ctx: Context) -> Context:
    """Scores a document by how many different words it shares with the query."""
    queries, documents = ctx.assigns["queries"], ctx.assigns["documents"]
    scores = queries.sign() @ documents.sign().T
    return _add_ranks(ctx, "word_overlap", scores.toarray())


@stage
def tf_idf(
    ctx: Context,
    *,
    sublinear: Annotated[bool, Field(description="Count a repeated word only by the logarithm of its count.")] = False,
) -> Context:
    """Scores a document by the cosine between its weighted words and the query's; rare words weigh more."""
    weighting = TfidfTransformer(sublinear_tf=sublinear).fit(ctx.assigns["documents"])
    scores = weighting.transform(ctx.assigns["queries"]) @ weighting.transform(ctx.assigns["documents"]).T
    return _add_ranks(ctx, "tf_idf", scores.toarray())


@stage
def bm25(
    ctx: Context,
    *,
    saturation: Annotated[float, Field(gt=0, description="k1: a larger value makes repeated words count more.")] = 1.2,
    length_normalization: Annotated[
        float, Field(ge=0, le=1, description="b: how strongly scores are normalized by document length.")
    ] = 0.75,
) -> Context:
    """Scores a document by Okapi BM25 (Robertson & Zaragoza 2009), with Lucene's weight for rare words."""
    counts = ctx.assigns["documents"].toarray()
    lengths = counts.sum(axis=1, keepdims=True)
    holders = (counts > 0).sum(axis=0)
    rarity = np.log(1 + (len(counts) - holders + 0.5) / (holders + 0.5))
    length_factor = 1 - length_normalization + length_normalization * lengths / lengths.mean()
    weights = rarity * counts / (counts + saturation * length_factor)
    return _add_ranks(ctx, "bm25", ctx.assigns["queries"].sign() @ weights.T)


def _documented_functions(node: ast.Module | ast.ClassDef, path: str) -> Iterator[dict[str, str]]:
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef) or child.name.startswith("_"):
            continue
        name = f"{path}.{child.name}"
        if isinstance(child, ast.ClassDef):
            yield from _documented_functions(child, name)
        elif docstring := ast.get_docstring(child):
            summary, _, explanation = docstring.partition("\n\n")
            yield {"name": name, "summary": " ".join(summary.split()), "explanation": " ".join(explanation.split())}


def _add_ranks(ctx: Context, ranker: str, scores: NDArray[Any]) -> Context:
    """Row i of `scores` belongs to query i, column j to document j, and document i is the answer to query i.

    Ties count against the ranker: a document that scores as high as the answer comes before it.
    """
    answers = scores.diagonal()[:, np.newaxis]
    ranks = (scores >= answers).sum(axis=1)
    reciprocal_ranks = (1 / ranks).tolist()
    outputs = [
        {
            "query": function["name"],
            "module": function["name"].partition(".")[0],
            "ranker": ranker,
            "reciprocal_rank": reciprocal_rank,
        }
        for function, reciprocal_rank in zip(ctx.assigns["functions"], reciprocal_ranks, strict=True)
    ]
    return ctx.add_outputs(outputs).put_metric(f"{ranker}_mean_reciprocal_rank", fmean(reciprocal_ranks))
