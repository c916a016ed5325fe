"""The Triton kernels: plan of a ragged batch, row norms, similarity tiles, greedy selection.

Every kernel runs over "segments": the items of a batch, or the segments of a packed ragged batch. A segment's rows
start at ``first_row`` of the tokens and at ``workspace_row`` of the workspaces, in which the segments of one slice lie
one after the other, each padded to a multiple of ROW_ALIGNMENT rows. A batch is sliced by ``group`` segments, a ragged
batch by its plan; then ``group``, ``count`` and ``k`` are 0. The sizes that may change from call to call are
plain arguments, never specialised; strides come in units of ALIGNMENT or ROW_ALIGNMENT elements, so that the compiler
sees their divisibility all the same and moves 16 bytes at a time.
"""

import triton
import triton.language as tl

CHUNK = tl.constexpr(1024)
"""D is summed in chunks of this many elements, each added in float32 outside the tensor core.

This bounds the tensor core's truncation and fixes the order of the sum, whatever the tile.
"""

NORM_BLOCK_N = tl.constexpr(16)
NORM_BLOCK_D = tl.constexpr(256)
"""The block of the row norms: not a knob, because it fixes the order of their sums."""
_NORM_FOLDS = tl.constexpr(8)  # log2(NORM_BLOCK_D)

ROW_ALIGNMENT = tl.constexpr(4)
"""Float32 elements in 16 bytes: what rows and columns of the workspaces are padded to."""

SCALE_BLOCK_N = tl.constexpr(1024)
"""Rows whose importance is scaled at a time."""

PLAN_COLUMNS = tl.constexpr(6)

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# The interpreter's products are numpy's, whose order of summation changes with the shape: float64 hides it.
_ACCUMULATOR = tl.constexpr(tl.float64 if triton.knobs.runtime.interpret else tl.float32)

# Keys beside those of scores: a row that cannot be picked (any more), a non-finite one, one not bounded yet.
_PICKED = tl.constexpr(-(2**31))
_NON_FINITE = tl.constexpr(-0x7F800001)  # the key of -inf
_UNBOUNDED = tl.constexpr(2**31 - 1)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit(
    do_not_specialize=["segments", "rows", "total_k", "max_seqlen", "slice_rows"],
    do_not_specialize_on_alignment=["cu_seqlens", "cu_k"],
)
def plan_kernel(
    cu_seqlens,
    cu_k,
    plan,
    segments,
    rows,
    total_k,
    max_seqlen,
    slice_rows,
    BLOCK_S: tl.constexpr,
):
    """One program plans first row, length, k, first slot, slice and workspace row (padded, in its slice) of segments.

    A segment whose prefix sums break the contract gets length 0 and k 0, one that keeps too many rows its length.
    """
    highest_slot = tl.full([], 0, tl.int64)
    used = tl.full([], 0, tl.int64)
    for begin in range(0, segments, BLOCK_S):
        s = begin + tl.arange(0, BLOCK_S)  # [BLOCK_S]
        inside = s < segments
        start = tl.load(cu_seqlens + s, mask=inside, other=0).to(tl.int64)
        end = tl.load(cu_seqlens + s + 1, mask=inside, other=0).to(tl.int64)
        slot = tl.load(cu_k + s, mask=inside, other=0).to(tl.int64)
        slot_end = tl.load(cu_k + s + 1, mask=inside, other=0).to(tl.int64)
        # Slots below an earlier boundary belong to an earlier segment.
        slot_before = tl.maximum(highest_slot, tl.associative_scan(slot, 0, _larger))
        valid = inside & (start >= 0) & (end >= start) & (end <= rows) & (end - start <= max_seqlen)
        valid = valid & (slot_end >= slot) & (slot_end <= total_k) & (slot == slot_before)
        valid = valid & ((s > 0) | ((start == 0) & (slot == 0)))
        length = tl.where(valid, end - start, 0)
        padded = tl.cdiv(length, ROW_ALIGNMENT)
        workspace_row = used + tl.cumsum(padded, 0) - padded
        columns = plan + s.to(tl.int64) * PLAN_COLUMNS
        tl.store(columns, start, mask=inside)
        tl.store(columns + 1, length, mask=inside)
        tl.store(columns + 2, tl.where(valid, tl.minimum(slot_end - slot, length), 0), mask=inside)
        tl.store(columns + 3, slot, mask=inside)
        tl.store(columns + 4, workspace_row // slice_rows, mask=inside)
        tl.store(columns + 5, workspace_row % slice_rows, mask=inside)
        used += tl.sum(padded, axis=0)
        highest_slot = tl.maximum(highest_slot, tl.max(slot, axis=0))


@triton.jit
def _segment(plan, number, slice_number, group, count, k, VARLEN: tl.constexpr):
    """Which segment is the slice's ``number``-th; its first row, length, k, first slot and workspace row.

    A segment of another slice has length 0 and k 0.
    """
    segment = slice_number.to(tl.int64) * group + number
    if VARLEN:
        columns = plan + segment * PLAN_COLUMNS
        in_slice = tl.load(columns + 4) == slice_number
        first_row = tl.load(columns)
        length = tl.where(in_slice, tl.load(columns + 1), 0)
        kept = tl.where(in_slice, tl.load(columns + 2), 0)
        slot = tl.load(columns + 3)
        workspace_row = tl.load(columns + 5) * ROW_ALIGNMENT
    else:
        first_row = segment * 0
        length = segment * 0 + count
        kept = segment * 0 + k
        slot = segment * k
        workspace_row = number * tl.cdiv(count, ROW_ALIGNMENT) * ROW_ALIGNMENT
    return segment, first_row, length, kept, slot, workspace_row


@triton.jit(
    do_not_specialize=["slice_number", "group", "count", "depth", "blocks", "stride_xb", "stride_xn"],
    do_not_specialize_on_alignment=["weight"],
)
def row_norm_kernel(
    x,
    weight,
    plan,
    reciprocal_norm,
    importance,
    slice_number,
    group,
    count,
    depth,
    blocks,
    stride_xb,
    stride_xn,
    HAS_WEIGHT: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """``1 / max(|x|, 1e-12)`` of a block of rows, 0 marking a non-finite row, and their weights in float32."""
    program = tl.program_id(0).to(tl.int64)
    segment, first_row, length, _, _, workspace_row = _segment(
        plan, program // blocks, slice_number, group, count, 0, VARLEN
    )
    n = (program % blocks) * NORM_BLOCK_N + tl.arange(0, NORM_BLOCK_N)  # [NORM_BLOCK_N]
    inside = n < length
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    rows = x + segment * stride_xb * ALIGNMENT + (first_row + n) * stride_n
    width = depth * ALIGNMENT
    squares = tl.zeros([NORM_BLOCK_N, NORM_BLOCK_D], tl.float32)
    for begin in range(0, width, NORM_BLOCK_D):
        d = begin + tl.arange(0, NORM_BLOCK_D)  # [NORM_BLOCK_D]
        mask = inside[:, None] & (d < width)[None, :]
        values = tl.load(rows[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
        squares += values * values
    # Folded by pairs, because the order of a longer reduction depends on the layout, and that on the alignment of x.
    for fold in tl.static_range(_NORM_FOLDS):
        squares = tl.sum(tl.reshape(squares, [NORM_BLOCK_N, 2, NORM_BLOCK_D >> (fold + 1)]), axis=1)
    sum_of_squares = tl.reshape(squares, [NORM_BLOCK_N])
    # Not finite whenever an element is not: products and sums keep Inf and NaN.
    finite = sum_of_squares < float("inf")
    if HAS_WEIGHT:
        weights = tl.load(weight + segment * count + first_row + n, mask=inside, other=0.0).to(tl.float32)
        finite = finite & (tl.abs(weights) < float("inf"))
        tl.store(importance + workspace_row + n, tl.where(finite, weights, 0.0), mask=inside)
    norm = tl.maximum(tl.sqrt_rn(sum_of_squares), 1e-12)
    tl.store(reciprocal_norm + workspace_row + n, tl.where(finite, tl.div_rn(1.0, norm), 0.0), mask=inside)


@triton.jit
def _load_block(rows, inside, d, width, EVEN_D: tl.constexpr):
    """Elements d of the given rows, ``[BLOCK_N, BLOCK_D]``; zeros outside."""
    if EVEN_D:
        return tl.load(rows[:, None] + d[None, :], mask=inside[:, None], other=0.0)
    return tl.load(rows[:, None] + d[None, :], mask=inside[:, None] & (d < width)[None, :], other=0.0)


@triton.jit
def _similarity(dot, reciprocal_norm_i, reciprocal_norm_j):
    """Symmetric in i and j: the two reciprocal norms are multiplied first. -inf where a row is non-finite.

    Clamped, because the dot product of two rows whose sums of squares are next to the largest float can be infinite.
    """
    scale = reciprocal_norm_i[:, None] * reciprocal_norm_j[None, :]
    finite = (reciprocal_norm_i != 0.0)[:, None] & (reciprocal_norm_j != 0.0)[None, :]
    return tl.where(finite, tl.minimum(tl.maximum(dot * scale, -1.0), 1.0), float("-inf"))


@triton.jit(
    do_not_specialize=[
        "slice_number",
        "group",
        "count",
        "depth",
        "tiles",
        "capacity",
        "stride_xb",
        "stride_xn",
        "stride_sn",
    ]
)
def similarity_kernel(
    x,
    plan,
    reciprocal_norm,
    similarity,
    row_maximum,
    slice_number,
    group,
    count,
    depth,
    tiles,
    capacity,
    stride_xb,
    stride_xn,
    stride_sn,
    WITH_ROW_MAXIMUM: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One tile of a segment's similarities, and for each of its rows the maximum over the tile's other rows."""
    program = tl.program_id(0).to(tl.int64)
    tile_i = program % (tiles * tiles) // tiles
    tile_j = program % tiles
    segment, first_row, length, _, _, workspace_row = _segment(
        plan, program // (tiles * tiles), slice_number, group, count, 0, VARLEN
    )
    if (tile_i * BLOCK_N < length) & (tile_j * BLOCK_N < length):
        i = tile_i * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
        j = tile_j * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
        stride_n = stride_xn.to(tl.int64) * ALIGNMENT
        base = x + segment * stride_xb * ALIGNMENT + first_row * stride_n
        rows_i = base + i * stride_n
        rows_j = base + j * stride_n
        width = depth * ALIGNMENT
        dot = tl.zeros([BLOCK_N, BLOCK_N], tl.float32)
        for chunk in range(0, width, CHUNK):
            partial = tl.zeros([BLOCK_N, BLOCK_N], _ACCUMULATOR)
            for begin in range(chunk, tl.minimum(chunk + CHUNK, width), BLOCK_D):
                d = begin + tl.arange(0, BLOCK_D)  # [BLOCK_D]
                a = _load_block(rows_i, i < length, d, width, EVEN_D)  # [BLOCK_N, BLOCK_D]
                b = _load_block(rows_j, j < length, d, width, EVEN_D)  # [BLOCK_N, BLOCK_D]
                if _INTERPRETED:
                    # The interpreter would multiply the bits of bfloat16 operands.
                    a = a.to(tl.float32).to(_ACCUMULATOR)
                    b = b.to(tl.float32).to(_ACCUMULATOR)
                partial = tl.dot(a, tl.trans(b), partial, input_precision="ieee", out_dtype=_ACCUMULATOR)
            dot += partial.to(tl.float32)
        norm_i = tl.load(reciprocal_norm + workspace_row + i, mask=i < length, other=0.0)
        norm_j = tl.load(reciprocal_norm + workspace_row + j, mask=j < length, other=0.0)
        values = _similarity(dot, norm_i, norm_j)  # [BLOCK_N, BLOCK_N]
        offsets = (workspace_row + i)[:, None] * (stride_sn.to(tl.int64) * ROW_ALIGNMENT) + j[None, :]
        tl.store(similarity + offsets, values, mask=(i < length)[:, None] & (j < length)[None, :])
        if WITH_ROW_MAXIMUM:
            others = tl.where(i[:, None] == j[None, :], float("-inf"), values)
            of_tile = row_maximum + tile_j * capacity * ROW_ALIGNMENT + workspace_row + i
            tl.store(of_tile, tl.max(others, axis=1), mask=i < length)


@triton.jit
def _key(score):
    """Scores as integers of the same order."""
    score = tl.where(score == 0.0, 0.0, score)  # -0.0 ties with 0.0
    bits = score.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _score_of(key):
    bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _scale_to_relevance(importance, reciprocal_norm, length):
    """Scales the importance of finite rows to [0, 1], in place; to 0 everywhere if its range overflows."""
    largest = tl.full([SCALE_BLOCK_N], float("-inf"), tl.float32)
    smallest = tl.full([SCALE_BLOCK_N], float("inf"), tl.float32)
    for begin in range(0, length, SCALE_BLOCK_N):
        n = begin + tl.arange(0, SCALE_BLOCK_N)  # [SCALE_BLOCK_N]
        weights = tl.load(importance + n, mask=n < length, other=0.0)
        finite = tl.load(reciprocal_norm + n, mask=n < length, other=0.0) != 0.0
        largest = tl.maximum(largest, tl.where(finite, weights, float("-inf")))
        smallest = tl.minimum(smallest, tl.where(finite, weights, float("inf")))
    lowest = tl.min(smallest, axis=0)
    span = tl.broadcast_to(tl.max(largest, axis=0) - lowest, [SCALE_BLOCK_N])
    for begin in range(0, length, SCALE_BLOCK_N):
        n = begin + tl.arange(0, SCALE_BLOCK_N)  # [SCALE_BLOCK_N]
        weights = tl.load(importance + n, mask=n < length, other=0.0)
        finite = tl.load(reciprocal_norm + n, mask=n < length, other=0.0) != 0.0
        scaled = tl.div_rn(weights - lowest, span + 1e-6)
        tl.store(importance + n, tl.where(finite & (span < float("inf")), scaled, 0.0), mask=n < length)
    # Other threads read what these have written.
    tl.debug_barrier()


@triton.jit
def _score(maximum, relevance, relevance_weight, redundancy_weight, METHOD: tl.constexpr):
    """The scores of rows, ``[BLOCK_N]``, from their largest similarity to a selected row."""
    if METHOD == "divprune":
        return 1.0 - maximum
    # Bounded, because no redundancy at all, times the -inf of a non-finite row, would be NaN.
    return relevance_weight * relevance - redundancy_weight * tl.maximum(maximum, -1.0)


@triton.jit(
    do_not_specialize=[
        "slice_number",
        "group",
        "count",
        "k",
        "capacity",
        "stride_sn",
        "relevance_weight",
        "redundancy_weight",
    ]
)
def greedy_kernel(
    similarity,
    row_maximum,
    reciprocal_norm,
    importance,
    plan,
    indices,
    scores,
    slice_number,
    group,
    count,
    k,
    capacity,
    stride_sn,
    relevance_weight,
    redundancy_weight,
    METHOD: tl.constexpr,
    WITH_SCORES: tl.constexpr,
    VARLEN: tl.constexpr,
    RELEVANCE_ON_CHIP: tl.constexpr,
    TILE_N: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program selects from one segment, whose rows' keys stay in registers from the first to the last pick.

    A row's key is that of the lowest score it has had, which is the score of its running maximum similarity: scores
    only fall as that rises, and rounding keeps the order.
    """
    _, first_row, length, kept, slot, workspace_row = _segment(
        plan, tl.program_id(0).to(tl.int64), slice_number, group, count, k, VARLEN
    )
    n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    inside = n < length
    # Whole 16-byte words are loaded from the padded workspaces; what the padding holds is never looked at.
    padded = n < tl.cdiv(length, ROW_ALIGNMENT) * ROW_ALIGNMENT
    relevance = tl.zeros([BLOCK_N], tl.float32)
    if METHOD == "divprune":
        nearest = tl.full([BLOCK_N], float("-inf"), tl.float32)
        for tile in range(0, tl.cdiv(length, TILE_N)):
            of_tile = row_maximum + tile * capacity * ROW_ALIGNMENT + workspace_row + n
            nearest = tl.maximum(nearest, tl.load(of_tile, mask=padded))
        first_score = _score(nearest, relevance, relevance_weight, redundancy_weight, METHOD)
    else:
        if METHOD == "idpruner":
            _scale_to_relevance(importance + workspace_row, reciprocal_norm + workspace_row, length)
        relevance = tl.load(importance + workspace_row + n, mask=padded)
        first_score = relevance
    finite = tl.load(reciprocal_norm + workspace_row + n, mask=padded) != 0.0
    key = tl.where(inside, tl.where(finite, _key(first_score), _NON_FINITE), _PICKED)
    for step in range(0, kept):
        # Two integer reductions, each one instruction a warp, cost fewer registers than one over (score, index).
        best = tl.max(key, axis=0)
        pick = tl.min(tl.where(key == best, n, BLOCK_N), axis=0)
        tl.store(indices + slot + step, first_row + pick)
        if WITH_SCORES:
            tl.store(scores + slot + step, _score_of(best))
        # The first score bounds no other.
        key = tl.where((step == 0) & (key > _NON_FINITE), _UNBOUNDED, key)
        key = tl.where(n == pick, _PICKED, key)
        row = similarity + (workspace_row + pick) * stride_sn * ROW_ALIGNMENT + n
        similarities = tl.load(row, mask=padded)  # [BLOCK_N]
        if not RELEVANCE_ON_CHIP:
            relevance = tl.load(importance + workspace_row + n, mask=padded)
        score = _score(similarities, relevance, relevance_weight, redundancy_weight, METHOD)
        key = tl.minimum(key, _key(score))
