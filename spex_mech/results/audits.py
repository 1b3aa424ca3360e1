"""What an audit says, in sentences: of the pairs that were measured by nobody but the audit.

They stand on the audit's tests alone, which fell on pairs with known chances (``search.audit``).
"""

from typing import Any

CANNOT_TELL = "cannot tell"
EARLIER = (
    "this result's is of an earlier version, whose intervals did not hold where predictions are "
    "wrong; search again to have one that does"
)


def recall_text(audit: dict[str, Any]) -> str:
    """The share of the true top k that was measured, or that the tests cannot tell it."""
    tests, k = count_text(audit["n_tested"], "test"), f"{audit['k']:,}"
    if audit.get("nothing_found"):
        return "nothing was found, so that there is no recall to state"
    interval = f"{audit['recall_low']:.2f} to {audit['recall_high']:.2f}"
    if not audit.get("cannot_tell"):
        return f"{audit['recall']:.2f} of the true top {k} was measured (90 %: {interval})"
    return (
        f"cannot tell from {tests} what share of the true top {k} was measured (90 %: {interval}); "
        f"about {audit['tests_needed']:,} tests would do (audit=)"
    )


def excluded_text(audit: dict[str, Any]) -> str:
    """What sizes the tests exclude."""
    return (
        f"the largest of {count_text(audit['n_tested'], 'random untested pair')} is "
        f"{audit['largest_tested']:.3g}; at most {audit['n_larger']:,} of the other "
        f"{audit['n_untested']:,} are larger (95 %)"
    )


def energy_text(audit: dict[str, Any]) -> str:
    """The sum of squares that was found and missed."""
    return (
        f"energy {audit['energy_found']:.3g} found, some {audit['energy_missed']:.3g} missed and "
        f"at least {audit['energy_low']:.3g} (95 %; more may hide in pairs that no test met)"
    )


def audit_lines(audit: dict[str, Any]) -> list[str]:
    """All of it, a line each."""
    if "largest_tested" not in audit:
        return [f"audit: {EARLIER}"]
    return [f"audit: {recall_text(audit)}", excluded_text(audit), energy_text(audit)]


def count_text(count: int, word: str) -> str:
    """A number of things."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
