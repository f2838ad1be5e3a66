"""The pairs of a stored adapter, and what is wrong with them whatever base they are for."""

import math

import torch
from torch import Tensor

from eomt.verification.findings import Finding
from eomt.verification.stored.adapter import StoredAdapter
from eomt.verification.stored.low_rank import Pair

RESAVE = "save the adapter again from the training's last checkpoint"
GATHER = "gather the parts of sharded parameters (DeepSpeed ZeRO-3: GatheredParameters) before saving"


def stored_pairs(stored: StoredAdapter) -> tuple[list[Pair], list[Finding]]:
    """Return the pairs of a file, and a finding for each that is not whole.

    Raises:
        UserError: If a pattern of adapter_config.json is no regular expression.
    """
    pairs, findings = [], []
    for (path, adapter), roles in stored.parts.items():
        pair = _pair(stored, path, adapter, roles)
        if isinstance(pair, Finding):
            findings.append(pair)
        else:
            pairs.append(pair)
    return pairs, findings


def _pair(stored: StoredAdapter, path: str, adapter: str, roles: dict[str, str]) -> Pair | Finding:
    tensors = {role.removeprefix("table_"): stored.tensors[name] for role, name in roles.items()}
    if missing := [half for half in "ab" if half not in tensors]:
        there = next(iter(roles.values()))
        seen = f"has no lora_{missing[0].upper()}, only {there.rpartition(path)[2].strip('.') or there}"
        return Finding("half_pair", path, seen, f"half an update is none: {RESAVE}")
    a, b = tensors["a"], tensors["b"]
    start = (tensors.get("initial_a"), tensors.get("initial_b"))
    if start[0] is not None and start[1] is not None and (start[0].shape, start[1].shape) == (a.shape, b.shape):
        a, b = torch.cat([a, start[0]]), torch.cat([b, -start[1]], 1)
    if not a.numel() or not b.numel():
        return Finding(
            "empty_tensor",
            path,
            f"has a pair of shapes {list(a.shape)} and {list(b.shape)}: no values",
            GATHER,
        )
    blocks = _blocks(a, b, tensors.get("mid"), stored.bare_halves)
    if blocks is None:
        return Finding(
            "pair_does_not_fit",
            path,
            f"has A {list(a.shape)} {a.dtype} and B {list(b.shape)} {b.dtype}, which are no low-rank pair",
            RESAVE,
        )
    is_table = "table_a" in roles
    out, inner = sum(block.shape[0] for _, block in blocks), blocks[0][0].shape[1]
    shape: tuple[int, ...] = (inner, out) if is_table else (0 if len(blocks) > 1 else out, inner)
    if a.ndim > 2 and len(blocks) == 1:
        shape = (out, a.shape[1], *a.shape[2:])
    return Pair(
        path=path,
        adapter=adapter,
        blocks=blocks,
        weight_shape=shape,
        factor=_factor(stored, path, sum(block.shape[0] for block, _ in blocks), tensors.get("alpha")),
        magnitude=tensors.get("magnitude"),
        # PEFT's tables begin with A of zeros
        starts_at_zero="A" if is_table else "B",
        has_start="initial_a" in tensors,
    )


def _blocks(a: Tensor, b: Tensor, mid: Tensor | None, bare: bool) -> list[tuple[Tensor, Tensor]] | None:
    """Return the matrices A (r, in) and B (out, r) of each slice; None if the shapes are of no low-rank pair."""
    if not a.is_floating_point() or not b.is_floating_point() or a.ndim < 2 or b.ndim < 2:
        return None
    if bare is False and a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0] and a.shape[1] == b.shape[2]:
        return list(zip(a, b, strict=True))
    columns = b.flatten(1)
    if mid is not None:
        # the core of a Tucker decomposition: W[o, i, k] = sum of B[o, p] M[p, q, k] A[q, i]
        if mid.ndim < 3 or mid.shape[1] != a.shape[0] or a.numel() != a.shape[0] * a.shape[1]:
            return None
        rows = torch.einsum("pqk,qi->pik", mid.float().flatten(2), a.float().flatten(1)).flatten(1)
    else:
        rows = a.flatten(1)
    if rows.shape[0] == columns.shape[1]:
        return [(rows, columns)]
    # loralib's fused layers: slices of the output with a rank each
    groups = rows.shape[0] // columns.shape[1]
    if not bare or rows.shape[0] % columns.shape[1] or columns.shape[0] % groups:
        return None
    return list(zip(rows.chunk(groups), columns.chunk(groups), strict=True))


def _factor(stored: StoredAdapter, path: str, rank: int, alpha: Tensor | None) -> float | None:
    if alpha is not None and alpha.numel() == 1:
        return float(alpha) / rank
    return stored.rank_and_factor(path)[1]


def pair_findings(stored: StoredAdapter, pairs: list[Pair]) -> list[Finding]:
    """Return what is wrong with the values and sizes of pairs.

    Raises:
        UserError: If a pattern of adapter_config.json is no regular expression.
    """
    findings = []
    finite = []
    for pair in pairs:
        if pair.is_finite():
            finite.append(pair)
            continue
        findings.append(
            Finding("non_finite", pair.path, "holds NaN or infinity", "take a checkpoint from before the loss diverged")
        )
    findings += _zero_findings(finite) + _length_findings(stored, finite)
    for pair in pairs:
        rank, _ = stored.rank_and_factor(pair.path)
        # a record counts each slice, adapter_config.json all of them
        own = pair.rank // len(pair.blocks) // (1 + pair.has_start) if stored.record is not None else pair.rank
        if rank is not None and rank != own:
            where = "the record" if stored.record is not None else "adapter_config.json"
            seen = f"has rank {own}, but {rank} in {where}"
            findings.append(Finding("rank_mismatch", pair.path, seen, "put both files of one training together"))
        if pair.factor is not None and (pair.factor == 0 or not math.isfinite(pair.factor)):
            seen = f"is multiplied with {pair.factor:g} (alpha / rank)"
            findings.append(Finding("alpha_is_zero", pair.path, seen, "train with another alpha"))
    if pairs and (unscaled := [pair for pair in pairs if pair.factor is None]):
        seen = f"{len(unscaled)} of {len(pairs)} pairs have no alpha in the file: norms are those of B A alone"
        findings.append(Finding("no_alpha", "", seen, "keep the configuration of the training beside it", "warning"))
    return findings


def _zero_findings(pairs: list[Pair]) -> list[Finding]:
    """Return a finding for all pairs whose zero half never moved, together or by name, and for other zeros."""
    untrained = [pair for pair in pairs if pair.is_zero(pair.starts_at_zero)]
    seen_already = {id(pair) for pair in untrained}
    others = [pair for pair in pairs if id(pair) not in seen_already and pair.is_zero(pair.other_half)]
    remedy = "find out what the optimizer was given and whether the loss reaches these layers; audit the model itself"
    if untrained and len(untrained) == len(pairs):
        seen = f"{untrained[0].starts_at_zero} is zero in all {len(pairs)} pairs: the adapter was never trained"
        return [Finding("b_is_zero", "", seen, remedy)]
    found = [
        Finding("b_is_zero", pair.path, f"has {_article(pair.starts_at_zero)} of zeros: it was never trained", remedy)
        for pair in untrained
    ]
    return found + [
        Finding("a_is_zero", pair.path, "has a half of zeros, through which the other gets no gradient", RESAVE)
        for pair in others
    ]


def _article(half: str) -> str:
    return f"an {half}" if half == "A" else f"a {half}"


def _length_findings(stored: StoredAdapter, pairs: list[Pair]) -> list[Finding]:
    """Return a finding for each pair whose DoRA lengths are all zero, or not as many as its weight has."""
    findings = []
    for pair in pairs:
        if pair.magnitude is None:
            continue
        out, inner = sum(b.shape[0] for _, b in pair.blocks), pair.blocks[0][0].shape[1]
        # other writers than PEFT also keep lengths of columns
        sizes = (out,) if stored.config is not None else (out, inner, *pair.weight_shape[:2])
        count = pair.magnitude.numel()
        if count not in sizes:
            findings.append(Finding("dora_mismatch", pair.path, f"has {count} lengths, but {out} outputs", RESAVE))
        elif not pair.magnitude.any():
            seen = "has lengths of zero: the layer's output does not depend on its input"
            findings.append(Finding("dora_mismatch", pair.path, seen, RESAVE))
    return findings
