//! What guards the end of an attempt: settle, rescue, deadline.

use super::{Guard, NONE};

pub const GUARDS: &[Guard] = &[
    Guard {
        name: "settle: the token",
        keeps: "I9 a stale move changes nothing",
        statement: "ended.to_state",
        clause: "step.token = ended.token",
        instead: "true",
        missed_by: &["a_late_settle_changes_nothing"],
        ..NONE
    },
    Guard {
        name: "settle: running",
        keeps: "I9 a stale move changes nothing",
        statement: "ended.to_state",
        clause: "step.state = 'running'",
        instead: "true",
        schema: "alter table sluice.attempt alter worker drop not null, alter started_at drop not null",
        missed_by: &["an_inner_step_moves_as_the_state_machine_says"],
    },
    Guard {
        name: "settle: counts failures",
        keeps: "I5 budgets",
        statement: "ended.to_state",
        clause: "failures = ended.failures",
        instead: "failures = step.failures",
        missed_by: &["failures_count_and_end_the_run_at_the_limit"],
        ..NONE
    },
    Guard {
        name: "settle: counts crashes",
        keeps: "I5 budgets",
        statement: "ended.to_state",
        clause: "crashes = ended.crashes",
        instead: "crashes = step.crashes",
        missed_by: &["crashes_count_and_end_the_run_at_the_limit"],
        ..NONE
    },
    Guard {
        name: "settle: counts send-backs",
        keeps: "I5 budgets",
        statement: "send_backs = case",
        clause: "send_backs = case when position = $2 then $3 else send_backs end",
        instead: "send_backs = least($3::integer, send_backs)",
        missed_by: &["a_run_that_is_sent_back_too_often_dies_and_can_be_revived_to_its_end"],
        ..NONE
    },
    Guard {
        name: "settle: unless it was cancelled",
        keeps: "a cancellation ends its run",
        statement: "as cancelled",
        clause: "cancel_by is not null",
        instead: "false",
        missed_by: &[
            "a_running_step_ends_its_cancelled_run_at_its_settle",
            "a_cancelled_run_whose_worker_crashed_ends_at_the_rescue",
        ],
        ..NONE
    },
    Guard {
        name: "rescue: expired, as it writes",
        keeps: "I9 a stale move changes nothing",
        statement: "ended.to_state",
        clause: "(not ended.expiry or step.lease_until < now())",
        instead: "true",
        missed_by: &["a_lease_that_was_renewed_is_not_rescued"],
        ..NONE
    },
    Guard {
        name: "rescue: expired, as it reads",
        keeps: "I9 a stale move changes nothing",
        statement: "pg_postmaster_start_time",
        clause: "step.lease_until < now()",
        instead: "true",
        missed_by: &["a_lease_that_has_not_ended_is_not_expired"],
        ..NONE
    },
    Guard {
        name: "rescue: Postgres is up for a lease",
        keeps: "I5 budgets",
        statement: "pg_postmaster_start_time",
        clause: "now() > pg_postmaster_start_time()",
        instead: "now() > to_timestamp(0)",
        missed_by: &["an_outage_of_postgres_is_no_crash_of_its_clients"],
        ..NONE
    },
    Guard {
        name: "rescue: a worker that lives",
        keeps: "I5 budgets",
        statement: "pg_postmaster_start_time",
        clause: "heartbeat.beat_at - step.lease_until",
        instead: "null::interval",
        missed_by: &["a_lost_lease_whose_worker_lives_is_no_crash"],
        ..NONE
    },
    Guard {
        name: "deadline: only due steps",
        keeps: "I9 a stale move changes nothing",
        statement: "range_agg",
        clause: "step.state = 'due'",
        instead: "true",
        missed_by: &["a_step_in_hand_is_not_judged_by_the_deadline"],
        ..NONE
    },
    Guard {
        name: "deadline: not behind a limit",
        keeps: "I1 every sign-up reaches an end",
        statement: "range_agg",
        clause: "or (step.due_at <= now() and (gate.rate is not null or gate.concurrency is not null))",
        instead: "",
        missed_by: &["a_step_that_waits_for_its_turn_behind_a_limit_does_not_exceed"],
        ..NONE
    },
    Guard {
        name: "deadline: without the time held",
        keeps: "I1 every sign-up reaches an end",
        statement: "range_agg",
        clause: "greatest(shut.since, run.deadline_from) < least(shut.until, now())",
        instead: "false",
        missed_by: &["time_that_a_gate_held_does_not_count", "time_that_a_limit_held_does_not_count"],
        ..NONE
    },
    Guard {
        name: "deadline: not while it waits its turn",
        keeps: "I1 every sign-up reaches an end",
        statement: "range_agg",
        clause: "and step.due_at is not null",
        instead: "",
        missed_by: &["a_due_run_past_its_deadline_dies"],
        ..NONE
    },
    Guard {
        name: "second look: nothing is under way",
        keeps: "I3 one create in flight per name",
        statement: "resource.doubted_at <",
        clause: "resource.doubted_at < now() - make_interval(secs => $1)",
        instead: "resource.doubted_at is not null and $1 is not null",
        missed_by: &["an_instance_is_not_looked_at_while_a_call_may_be_under_way_there"],
        ..NONE
    },
    Guard {
        name: "second look: only after a success",
        keeps: "I4 no good instance is destroyed",
        statement: "resource.doubted_at <",
        clause: "last.state = 'succeeded'",
        instead: "true",
        missed_by: &["after_a_cancelled_run_nobody_looks"],
        ..NONE
    },
    Guard {
        name: "second look: only after a sign-up's run",
        keeps: "I4 no good instance is destroyed",
        statement: "resource.doubted_at <",
        clause: "last.workflow = $3",
        instead: "$3::text is not null",
        missed_by: &["after_a_run_of_another_workflow_nobody_looks"],
        ..NONE
    },
];
