//! What guards the end of an attempt: settle, rescue, deadline, second look.

use super::{Guard, NONE};

const STALE: &str = "I9 a stale move changes nothing";
const BUDGETS: &str = "I5 budgets";
const QUIET: &str = "I3 one create or delete in flight";
const EVERY_END: &str = "I1 every sign-up reaches an end";
const IN_ORDER: &str = "I7 each event, those of a run in order";
const CLOSED: &str = "a closed gate lets nothing through";

const GONE: &str = "nothing is made for who is gone";
const GONE_IS_CANCELLED: &[&str] = &["a_run_whose_subject_is_gone_is_cancelled_before_it_makes_anything"];

const SESSION_ENDED: &[&str] = &["a_worker_whose_session_has_ended_loses_its_steps_before_their_leases_end"];

pub const GUARDS: &[Guard] = &[
    Guard {
        name: "claim: whose subject is gone",
        keeps: GONE,
        within: "claim",
        clause: "if 0 = any (positions) then",
        instead: "if false then",
        missed_by: GONE_IS_CANCELLED,
        ..NONE
    },
    Guard {
        name: "end_gone: nobody else's run",
        keeps: GONE,
        within: "end_gone",
        clause: "\n        and run.subject = any (subjects_gone)",
        missed_by: GONE_IS_CANCELLED,
        ..NONE
    },
    Guard {
        name: "end_gone: what would make something",
        keeps: GONE,
        within: "end_gone",
        clause: "\n        and definition.exclusive",
        missed_by: GONE_IS_CANCELLED,
        ..NONE
    },
    Guard {
        name: "settle: the token",
        keeps: STALE,
        within: "settle",
        clause: "and running.token = given.token",
        missed_by: &["a_late_settle_changes_nothing"],
        ..NONE
    },
    Guard {
        name: "settle: due another time",
        keeps: "a hint is good once",
        within: "settle",
        clause: "generation = running.generation + 1, ",
        missed_by: &["a_hint_of_an_earlier_generation_claims_nothing", "a_rescued_step_is_due_at_once_and_once_more"],
        ..NONE
    },
    Guard {
        name: "settle: counts failures",
        keeps: BUDGETS,
        within: "settle",
        clause: "failures = given.failures",
        instead: "failures = running.failures",
        missed_by: &["failures_count_and_end_the_run_at_the_limit"],
        ..NONE
    },
    Guard {
        name: "settle: counts crashes",
        keeps: BUDGETS,
        within: "settle",
        clause: "crashes = given.crashes",
        instead: "crashes = running.crashes",
        missed_by: &["crashes_count_and_end_the_run_at_the_limit"],
        ..NONE
    },
    Guard {
        name: "settle: counts send-backs",
        keeps: BUDGETS,
        within: "settle",
        clause: "then settlement.send_backs else again.send_backs end",
        instead: "then again.send_backs else again.send_backs end",
        missed_by: &["a_run_that_is_sent_back_too_often_dies_and_can_be_revived_to_its_end"],
        ..NONE
    },
    Guard {
        name: "settle: unless it was cancelled",
        keeps: "a cancellation ends its run",
        within: "settle",
        clause: "running.cancel_asked and given.\"then\" <> 'succeed'",
        instead: "false",
        missed_by: &[
            "a_running_step_ends_its_cancelled_run_at_its_settle",
            "a_cancelled_run_whose_worker_crashed_ends_at_the_rescue",
        ],
        ..NONE
    },
    Guard {
        name: "settle: what is kept stays",
        keeps: "memory is merged",
        within: "settle",
        clause: "else held.memory || (moved.settlement).memory",
        instead: "else (moved.settlement).memory",
        missed_by: &["what_a_step_keeps_is_merged_into_what_was_kept"],
        ..NONE
    },
    Guard {
        name: "settle: a final answer frees",
        keeps: "the next attempt waits for nothing",
        within: "settle",
        clause: "when (moved.settlement).quiet then null",
        missed_by: &["a_final_answer_frees_the_resource"],
        ..NONE
    },
    Guard {
        name: "settle: busy for one call more",
        keeps: QUIET,
        within: "settle",
        clause: "else greatest(held.busy_until, now() + quiet_time)",
        instead: "else held.busy_until",
        missed_by: &["a_call_without_an_answer_keeps_the_resource_busy_for_as_long_as_a_call_takes"],
        ..NONE
    },
    Guard {
        name: "settle: due when the resource is quiet",
        keeps: QUIET,
        within: "settle",
        clause: "if moved.free_at > moved.due_at then",
        instead: "if false then",
        missed_by: &["an_exclusive_claim_keeps_the_resource_busy_until_its_lease_would_have_ended"],
        ..NONE
    },
    Guard {
        name: "settle: names what is due by now",
        keeps: "a hint that claims nothing is none",
        within: "settle",
        clause: "if due_moment > now() then",
        instead: "if false then",
        missed_by: &["a_step_that_is_due_later_is_named_by_no_settle"],
        ..NONE
    },
    Guard {
        name: "settle: carried on where no gate counts",
        keeps: CLOSED,
        within: "settle",
        clause: "plain and given.quiet",
        instead: "given.quiet",
        missed_by: &["nobody_goes_on_while_a_gate_counts", "nobody_goes_on_while_a_limit_counts"],
        ..NONE
    },
    Guard {
        name: "settle: carried on where all is quiet",
        keeps: QUIET,
        within: "settle",
        clause: "and given.quiet and given.carry_on",
        instead: "and given.carry_on",
        missed_by: &["nobody_goes_on_while_a_call_may_be_under_way"],
        ..NONE
    },
    Guard {
        name: "push: nothing behind a closed gate",
        keeps: CLOSED,
        within: "may_push",
        clause: "gates.passes and",
        missed_by: &[
            "a_step_behind_a_closed_gate_is_named_by_no_settle",
            "what_a_closed_gate_holds_is_named_by_no_intake",
        ],
        ..NONE
    },
    Guard {
        name: "push: nothing behind a limit",
        keeps: "limits hold exactly",
        within: "may_push",
        clause: "and not gates.limited",
        missed_by: &["a_limited_queue_is_named_by_no_settle", "a_limited_queue_is_named_by_no_intake"],
        ..NONE
    },
    Guard {
        name: "rescue: expired, as it writes",
        keeps: STALE,
        within: "settle",
        clause: "and (not given.expiry or running.lease_until < now())",
        missed_by: &["a_lease_that_was_renewed_is_not_rescued"],
        ..NONE
    },
    Guard {
        name: "rescue: expired, as it reads",
        keeps: STALE,
        within: "expired",
        clause: "and over.lease_until < now()",
        missed_by: &["a_lease_that_has_not_ended_is_not_expired"],
        ..NONE
    },
    Guard {
        name: "rescue: busy until the lease's end",
        keeps: "the next attempt waits for nothing",
        within: "settle",
        clause: "when (moved.settlement).expiry then held.busy_until",
        missed_by: &["a_rescue_keeps_the_resource_busy_no_longer_than_the_lease"],
        ..NONE
    },
    Guard {
        name: "session: a worker that was cut off has its time",
        keeps: BUDGETS,
        within: "end_leases",
        clause: "dead.gone_at < now() - cut_off",
        instead: "dead.gone_at <= now()",
        missed_by: SESSION_ENDED,
        ..NONE
    },
    Guard {
        name: "session: a call has its time",
        keeps: QUIET,
        within: "end_leases",
        clause: "\n      and (held.busy_token is distinct from running.token or held.call_until < now())",
        missed_by: &["a_call_that_creates_has_its_time_though_its_session_has_ended"],
        ..NONE
    },
    Guard {
        name: "session: a call after a renewal has its time",
        keeps: QUIET,
        within: "renew",
        clause: ", call_until = lease_end",
        missed_by: &["a_call_that_creates_has_its_time_after_a_renewal_too"],
        ..NONE
    },
    Guard {
        name: "session: who claims lives",
        keeps: BUDGETS,
        within: "end_leases",
        clause: "\n      and running.started_at < dead.gone_at",
        missed_by: &["a_worker_that_claims_lives_though_it_cannot_renew"],
        ..NONE
    },
    Guard {
        name: "session: who claims is not looked for",
        keeps: BUDGETS,
        within: "sessions_ended",
        clause: "\n    and (dead.gone_at is null or holder.since < dead.gone_at)",
        missed_by: &["a_worker_that_claims_lives_though_it_cannot_renew"],
        ..NONE
    },
    Guard {
        name: "renew: takes nothing back",
        keeps: QUIET,
        within: "renew",
        clause: "least(running.lease_until, now() + make_interval(secs => 2 * lengths[i])),",
        instead: "null,",
        missed_by: &["an_earlier_renewal_that_comes_late_takes_nothing_back"],
        ..NONE
    },
    Guard {
        name: "session: Postgres is up",
        keeps: BUDGETS,
        within: "end_leases",
        clause: "if now() < pg_postmaster_start_time() + interval '4 seconds' then",
        instead: "if false then",
        missed_by: &["an_outage_of_postgres_is_no_crash_of_its_clients"],
        ..NONE
    },
    Guard {
        name: "session: who has none",
        keeps: BUDGETS,
        within: "renew",
        clause: "in_session and ",
        missed_by: &["a_worker_without_a_session_keeps_its_steps_until_their_leases_end"],
        ..NONE
    },
    Guard {
        name: "session: who is back",
        keeps: BUDGETS,
        within: "renew",
        clause: ", gone_at = null",
        missed_by: &["a_worker_whose_connection_was_cut_keeps_its_steps"],
        ..NONE
    },
    Guard {
        name: "session: who is gone lives no more",
        keeps: BUDGETS,
        within: "expired",
        clause: "heartbeat.gone_at is null and ",
        missed_by: SESSION_ENDED,
        ..NONE
    },
    Guard {
        name: "rescue: Postgres is up for a lease",
        keeps: BUDGETS,
        within: "expired",
        clause: "and now() > pg_postmaster_start_time() + definition.lease",
        missed_by: &["an_outage_of_postgres_is_no_crash_of_its_clients"],
        ..NONE
    },
    Guard {
        name: "rescue: a beat that moved no lease",
        keeps: BUDGETS,
        within: "expired",
        clause: "interval '1.2 seconds'",
        instead: "interval '1 millisecond'",
        missed_by: &["a_beat_right_after_a_claim_does_not_say_that_its_worker_lives"],
        ..NONE
    },
    Guard {
        name: "rescue: a worker that lives",
        keeps: BUDGETS,
        within: "expired",
        clause: "heartbeat.beat_at > over.lease_until - definition.lease + interval '1.2 seconds'",
        instead: "false",
        missed_by: &["a_lost_lease_whose_worker_lives_is_no_crash"],
        ..NONE
    },
    Guard {
        name: "deadline: only due steps",
        keeps: STALE,
        within: "exceed",
        clause: "and due.state = 'due'",
        missed_by: &["a_step_in_hand_is_not_judged_by_the_deadline"],
        ..NONE
    },
    Guard {
        name: "deadline: not while it waits its turn",
        keeps: EVERY_END,
        within: "exceed",
        clause: "and due.due_at is not null",
        missed_by: &["a_due_run_past_its_deadline_dies"],
        ..NONE
    },
    Guard {
        name: "deadline: not behind a limit",
        keeps: EVERY_END,
        within: "exceed",
        clause: "and not (gates.limited and due.due_at <= now())",
        missed_by: &["a_step_that_waits_for_its_turn_behind_a_limit_does_not_exceed"],
        ..NONE
    },
    Guard {
        name: "deadline: without the time held",
        keeps: EVERY_END,
        within: "exceed",
        clause: "and greatest(closed.closed_at, run.deadline_from) < least(closed.passed_at, now())",
        instead: "and false",
        missed_by: &["time_that_a_gate_held_does_not_count", "time_that_a_limit_held_does_not_count"],
        ..NONE
    },
    Guard {
        name: "deadline: time behind a limit is noted",
        keeps: EVERY_END,
        within: "note_waits",
        clause: "where state = 'due'",
        instead: "where false",
        missed_by: &["time_behind_a_limit_that_was_taken_away_does_not_count"],
        ..NONE
    },
    Guard {
        name: "deadline: time at a claim is noted",
        keeps: EVERY_END,
        within: "claim",
        clause: "if may and asked.due_at < now() - interval '1 second'",
        instead: "if false and asked.due_at < now() - interval '1 second'",
        missed_by: &["time_that_a_limit_held_does_not_count"],
        ..NONE
    },
    Guard {
        name: "second look: nothing is under way",
        keeps: QUIET,
        within: "look_again",
        clause: "held.doubted_at < now() - sluice.longest_lease(held.doubted_workflow)",
        instead: "held.doubted_at is not null",
        missed_by: &["an_instance_is_not_looked_at_while_a_call_may_be_under_way_there"],
        ..NONE
    },
    Guard {
        name: "second look: only after a success",
        keeps: "I4 no good instance is destroyed",
        within: "look_again",
        clause: "last.state = 'succeeded' and",
        missed_by: &["after_a_cancelled_run_nobody_looks"],
        ..NONE
    },
    Guard {
        name: "second look: only after its own workflow",
        keeps: "I4 no good instance is destroyed",
        within: "look_again",
        clause: "and last.workflow = held.doubted_workflow",
        missed_by: &["after_a_run_of_another_workflow_nobody_looks"],
        ..NONE
    },
    Guard {
        name: "second look: nobody is told",
        keeps: "an internal run is the ledger's own",
        within: "end_runs",
        clause: "ended.internal and to_state = 'succeeded'",
        instead: "false",
        missed_by: &["a_doubted_instance_gets_another_run_when_the_first_has_succeeded"],
        ..NONE
    },
    Guard {
        name: "event: not before the one before it",
        keeps: IN_ORDER,
        within: "claim_events",
        clause: "select before.published_at is not null",
        instead: "select true",
        missed_by: &["the_next_event_of_a_run_waits_until_the_one_before_it_is_confirmed"],
        ..NONE
    },
    Guard {
        name: "event: in nobody's hands",
        keeps: IN_ORDER,
        within: "claim_events",
        clause: "(event.claimed_until is null or event.claimed_until < now())",
        instead: "true",
        missed_by: &["a_claim_of_an_event_is_one_publishers_until_it_ends"],
        ..NONE
    },
    Guard {
        name: "event: given back only by who has it",
        keeps: IN_ORDER,
        within: "publish_events",
        clause: "event.claimed_by = publish_events.publisher",
        instead: "true",
        missed_by: &["a_claim_of_an_event_is_one_publishers_until_it_ends"],
        ..NONE
    },
];
