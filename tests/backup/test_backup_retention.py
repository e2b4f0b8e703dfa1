"""Which backups stay, decided from records alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from flask_dbopt.backup.repository import BackupRecord
from flask_dbopt.backup.retention import DAY, Policy, plan_retention

NOW = 1_800_000_000.0


def point(txid: int, days_ago: float, *, kind: str = "snapshot", proved: bool = True) -> BackupRecord:
    return BackupRecord(
        id=f"b{txid}",
        database="default",
        kind=kind,
        label=None,
        taken_at=NOW - days_ago * DAY,
        pages=1,
        page_size=4096,
        bytes=1,
        source_bytes=4096,
        seconds=0.1,
        verified_at=NOW if proved else None,
        proof="",
        path="",
        txid=txid,
    )


def kept(points: list[BackupRecord], policy: Policy) -> set[str]:
    return {each.point.id for each in plan_retention(points, policy, NOW) if each.keep}


def test_backups_within_the_days_stay_and_older_ones_go() -> None:
    points = [point(1, 40), point(2, 31), point(3, 29), point(4, 1)]
    assert kept(points, Policy(days=30)) == {"b3", "b4"}


def test_every_decision_says_why() -> None:
    decisions = plan_retention([point(1, 40), point(2, 1)], Policy(days=30), NOW)
    assert [each.point.id for each in decisions] == ["b2", "b1"]
    assert [each.reason for each in decisions] == ["younger than 30 days", "older than 30 days"]


def test_the_newest_of_each_week_and_month_stays_longer() -> None:
    points = [point(100 - day, day) for day in range(100)]
    weekly = kept(points, Policy(days=2, weekly=4)) - kept(points, Policy(days=2))
    monthly = kept(points, Policy(days=2, monthly=3)) - kept(points, Policy(days=2))
    assert len(weekly) == 3
    assert len(monthly) == 2


def test_the_last_one_that_proved_stays_however_old_it_is() -> None:
    points = [point(1, 400), point(2, 300, proved=False), point(3, 200, proved=False)]
    assert kept(points, Policy(days=30)) == {"b1", "b3"}


def test_what_a_kept_increment_builds_on_stays_and_what_lies_before_its_snapshot_goes() -> None:
    points = [
        point(1, 50),
        point(2, 49, kind="increment"),
        point(3, 45),
        point(4, 44, kind="increment"),
        point(5, 2, kind="increment"),
    ]
    assert kept(points, Policy(days=30)) == {"b3", "b4", "b5"}


def test_a_clock_set_back_removes_nothing_from_the_future() -> None:
    assert kept([point(1, -500), point(2, -1)], Policy(days=30)) == {"b1", "b2"}


def test_without_backups_there_is_nothing_to_decide() -> None:
    assert plan_retention([], Policy(), NOW) == ()


@given(
    st.lists(
        st.tuples(st.floats(0, 4000), st.sampled_from(["snapshot", "safety", "increment"]), st.booleans()),
        max_size=40,
    ),
    st.builds(Policy, st.floats(0, 400), st.integers(0, 10), st.integers(0, 10)),
)
def test_no_policy_removes_the_last_proved_one_or_breaks_a_chain(
    drawn: list[tuple[float, str, bool]], policy: Policy
) -> None:
    ages = sorted((age for age, _, _ in drawn), reverse=True)
    points = [
        point(txid, age, kind=kind if txid > 1 else "snapshot", proved=proved)
        for txid, (age, (_, kind, proved)) in enumerate(zip(ages, drawn, strict=True), 1)
    ]
    stay = kept(points, policy)
    proved = [each for each in points if each.verified_at is not None]
    assert not proved or proved[-1].id in stay
    for each in points:
        if each.id in stay and each.kind == "increment":
            before = points[each.txid - 2]
            assert before.id in stay
    again = [each for each in points if each.id in stay]
    assert kept([replace(each) for each in again], policy) == stay or policy.weekly or policy.monthly
