"""Plans of an evaluation, in chunks that fill a machine and fit its memory."""

import math
from typing import NamedTuple

from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import Method

# Rows of the conditional network per call. They fill the machine and take about 20 MB for an
# activation.
ROWS = 16_384
# Pairs of a z and a shared psi per call. They take 8 MB in float64.
PAIRS = 2**20


class Plan(NamedTuple):
    """The chunks of an evaluation, which depend on its counts and not on the machine.

    Attributes:
        M: draws of z for each observation.
        K: psi that score each z besides psi_0.
        L: draws of zeta for each z.
        images: observations per call.
        chunk_m: draws of z per chunk.
        chunk_k: draws of psi per chunk. 0 if K is 0.
        chunk_l: draws of zeta per chunk.
        group: draws of z that share psi. 0 if each z has its own psi.
        tile: psi_0 per call whose densities under the mixture of a group are computed.
    """

    M: int
    K: int
    L: int
    images: int
    chunk_m: int
    chunk_k: int
    chunk_l: int
    group: int = 0
    tile: int = 0

    @property
    def groups(self) -> int:
        """The number of groups over m that share psi. The last may be partly masked."""
        return -(-self.M // self.group)

    def identity(self) -> dict[str, int]:
        """Returns the fields that scores depend on, without those of groups if there are none."""
        group_fields = ("group", "tile")
        return {name: n for name, n in self._asdict().items() if n or name not in group_fields}

    @property
    def m_chunks(self) -> int:
        """The number of chunks over m. The last may be partly masked."""
        return -(-self.M // self.chunk_m)

    @property
    def k_chunks(self) -> int:
        """The number of chunks over k. The last may be partly masked."""
        return -(-self.K // self.chunk_k) if self.chunk_k else 0

    @property
    def l_chunks(self) -> int:
        """The number of chunks over l. The last may be partly masked."""
        return -(-self.L // self.chunk_l)


def make(
    method: Method,
    counts: Counts,
    *,
    rows: int = ROWS,
    pairs: int = PAIRS,
    max_images: int = 250,
) -> Plan:
    """Cuts an evaluation into chunks of about `rows` rows of a network.

    A chunk extends over k and l first, then over m and then over images.

    If z share psi, they come in equal groups of at most `method.mixture_size`. A chunk of psi
    makes at most about `pairs` pairs. All z of a group are in memory.

    Args:
        method: the method.
        counts: numbers of draws.
        rows: the number of rows of a network per call.
        pairs: the number of pairs of a z and a shared psi per call.
        max_images: the largest number of observations per call.
    """
    K, M, L = method.psi_per_z(counts), counts.M, counts.L
    if method.shares_psi:
        group = _even_chunk(M, method.mixture_size or M)
        images = max(1, min(max_images, rows // max(group, K, L), pairs // (group * max(K, L))))
        at_once = max(1, min(rows, pairs // group) // images)
        m = _even_chunk(group, max(1, rows // images))
        k = _even_chunk(K, at_once) if K else 0
        tile = _even_chunk(group, at_once)
        return Plan(M, K, L, images, m, k, _even_chunk(L, at_once), group, tile)
    images = max(1, min(max_images, rows // (M * max(K + 1, L))))
    m = _even_chunk(M, max(1, rows // (images * max(K + 1, L))))
    k = _even_chunk(K, max(1, rows // (images * m))) if K else 0
    return Plan(M, K, L, images, m, k, _even_chunk(L, max(1, rows // (images * m))))


def most_at_once(method: Method, K: int) -> int:
    """Returns the largest number of z of one image that can share psi in one call.

    Args:
        method: a method whose z share psi.
        K: draws of psi besides psi_0.
    """
    psi = max(1, K)
    most = math.isqrt(PAIRS // psi) if method.shares_psi_of_all else PAIRS // psi
    return max(1, min(most, method.mixture_size or most))


def _even_chunk(total: int, largest: int) -> int:
    """Returns the size of the fewest, nearly equal chunks of at most `largest`."""
    chunks = -(-total // largest)
    return -(-total // chunks)
