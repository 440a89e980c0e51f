"""Plans of chunks and tiles stay within their limits of rows and pairs."""

import pytest

from hvi_tf.inference import plans
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(("M", "K"), [(1, 0), (1, 50), (100, 20), (5000, 100), (7, 40_000)])
def test_a_chunk_is_at_most_twice_the_limit_of_rows(M, K):
    plan = plans.make(METHODS["diwhvi"], Counts(K=K, M=M))
    assert plan.images * plan.chunk_m * (plan.chunk_k + 1) <= 2 * plans.ROWS
    assert plan.m_chunks * plan.chunk_m >= M > (plan.m_chunks - 1) * plan.chunk_m
    assert plan.k_chunks * plan.chunk_k >= K


@pytest.mark.parametrize("name", ["diwhvi-mixture", "sivi-equicomp", "sivi-equisample"])
@pytest.mark.parametrize(("M", "K"), [(1, 0), (7, 1), (100, 1_000), (5_000, 0), (5_000, 100)])
@pytest.mark.parametrize("limits", [{}, dict(rows=163, pairs=10_485, max_images=1)])
def test_a_tile_is_at_most_the_limit_of_pairs(name, M, K, limits):
    method = METHODS[name]
    plan = plans.make(method, Counts(K=K, M=M), **limits)
    most = limits.get("pairs", plans.PAIRS)
    assert plan.images * plan.group * max(plan.chunk_k, plan.tile) <= most
    assert plan.groups * plan.group >= M > (plan.groups - 1) * plan.group
    assert plan.k_chunks * plan.chunk_k >= plan.K
    at_once = plans.most_at_once(method, K)
    assert at_once * method.psi_per_z(Counts(K=K, M=at_once)) <= plans.PAIRS
