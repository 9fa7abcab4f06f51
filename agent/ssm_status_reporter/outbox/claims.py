"""Claims: what is taken out of the outbox to be worked on. Operations of one transaction; the domain decides.

Rules (numbers as in ARCHITECTURE.md):
  9. A claim is the association's one call slot: what is claimed is due no more until it is settled.
 10. Of a node that is shut nothing is taken but one probe, and a question only in its time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ssm_status_reporter.domain.claim import claimed, questioned
from ssm_status_reporter.domain.entry import Claim, Entry, Policy
from ssm_status_reporter.domain.limits import CLAIM_SCAN_ROWS_MAX
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.outbox.tables import Tables


@dataclass(frozen=True, slots=True)
class Claims:
    """Call slots taken. ``next_due_ms`` (steady) is when more will be due; None when nothing waits."""

    claims: tuple[Claim, ...]
    next_due_ms: int | None


def take_due(
    tables: Tables,
    now: Now,
    policy: Policy,
    slots: int,
    shut_nodes: frozenset[str],
    probed_nodes: Sequence[str],
) -> Claims:
    """Up to ``slots`` due reports: none of a node that is shut, but one of each that is to be probed."""
    probes = (tables.next_probe(now.steady_ms, node) for node in probed_nodes)
    due = islice((entry for entry in probes if entry is not None), slots)
    claims = [_take(tables, claimed(entry, now, policy)) for entry in due]
    scanned = 0
    while len(claims) < slots and scanned < CLAIM_SCAN_ROWS_MAX:
        entries = tables.due(now.steady_ms, slots - len(claims))
        if not entries:
            break
        scanned += len(entries)
        for entry in entries:
            if entry.association.instance_id in shut_nodes:
                tables.hold_back(entry.association)
            else:
                claims.append(_take(tables, claimed(entry, now, policy)))
    return Claims(tuple(claims), tables.next_due_ms())


def take_probe(tables: Tables, now: Now, policy: Policy) -> Claims:
    """One due report, the one that was the probe longest ago."""
    entry = tables.next_probe(now.steady_ms, None)
    claims = () if entry is None else (_take(tables, claimed(entry, now, policy)),)
    return Claims(claims, tables.next_due_ms())


def take_questions(
    tables: Tables,
    now: Now,
    slots: int,
    shut_until_ms: Mapping[str, int],
    next_reconcile_ms: Callable[[], int | None],
) -> Claims:
    """Up to ``slots`` entries at rest that are to be compared with the service; none of a node that is shut.

    Those are put off until then (steady), when one of them may be the probe.
    """
    claims: list[Claim] = []
    for entry in tables.to_reconcile(now.steady_ms, CLAIM_SCAN_ROWS_MAX if shut_until_ms else slots):
        if len(claims) == slots:
            break
        until_ms = shut_until_ms.get(entry.association.instance_id)
        if until_ms is not None:
            tables.reconcile_again(entry.association, until_ms)
            continue
        taken = questioned(entry)
        if taken is not None:
            claims.append(_take(tables, taken))
        tables.reconcile_again(entry.association, next_reconcile_ms())
    return Claims(tuple(claims), tables.next_reconcile_ms())


def _take(tables: Tables, taken: tuple[Entry, Claim]) -> Claim:
    entry, claim = taken
    tables.store(entry)
    return claim
