"""Plans of an evaluation: chunks that fill a machine and fit its memory."""

import math
from typing import NamedTuple

from hvi_tf.inference.methods import Counts, Method

# Rows of the conditional network per call: enough to fill the machine, some 20 MB an
# activation.
ROWS = 16_384
# Pairs of a z and a psi that all z share, per call: 8 MB in float64.
PAIRS = 2**20


class Plan(NamedTuple):
    """The chunks of an evaluation: a function of its counts alone, not of the machine."""

    M: int
    K: int  # psi scored for each z besides psi_0
    L: int
    images: int  # per call
    chunk_m: int  # draws of z per chunk
    chunk_k: int  # draws of psi per chunk, 0 if K is 0
    chunk_l: int  # draws of zeta per chunk
    group: int = 0  # draws of z that share psi, 0 if each has its own
    tile: int = 0  # psi_0 whose densities under a mixture of a group's z are computed per call

    @property
    def groups(self) -> int:
        """Groups over m that share psi; the last may be partly masked."""
        return -(-self.M // self.group)

    def identity(self) -> dict[str, int]:
        """Returns the fields that scores depend on; those of groups only if psi are shared."""
        of_groups = ("group", "tile")
        return {name: n for name, n in self._asdict().items() if n or name not in of_groups}

    @property
    def m_chunks(self) -> int:
        """Chunks over m; the last may be partly masked."""
        return -(-self.M // self.chunk_m)

    @property
    def k_chunks(self) -> int:
        """Chunks over k; the last may be partly masked."""
        return -(-self.K // self.chunk_k) if self.chunk_k else 0

    @property
    def l_chunks(self) -> int:
        """Chunks over l; the last may be partly masked."""
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

    The chunks hold images first, then m, then k and l.

    Where z share psi, they come in equal groups of at most `method.mixture_size`, and a chunk of
    psi makes at most about `pairs` pairs. The z of a group are kept in memory.

    Args:
        method: the row of the table.
        counts: numbers of draws, K as the method counts them.
        rows: of the networks per call.
        pairs: of z and shared psi per call.
        max_images: per call.
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
    """Returns the largest number of z of an image that share their psi in one call."""
    each = max(1, K)
    most = math.isqrt(PAIRS // each) if method.shared == "MK" else PAIRS // each
    return max(1, min(most, method.mixture_size or most))


def _even_chunk(total: int, largest: int) -> int:
    """Returns the chunk size that cuts `total` into the fewest, nearly equal, chunks."""
    chunks = -(-total // largest)
    return -(-total // chunks)
