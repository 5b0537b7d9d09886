//! What guards the start of a run, its turn, its dispatch and what a person does to it.

use super::{Guard, NONE};

pub const GUARDS: &[Guard] = &[
    Guard {
        name: "start: one unfinished run",
        keeps: "I2 one unfinished run, one at a time",
        statement: "on conflict (workflow, subject)",
        clause: "on conflict (workflow, subject) where state in ('active', 'dead') do nothing",
        instead: "",
        schema: "drop index sluice.run_one_unfinished",
        missed_by: &[
            "starting_again_joins_the_run_that_is_there",
            "starting_again_joins_a_dead_run_and_does_not_revive_it",
        ],
    },
    Guard {
        name: "start: the turn is free",
        keeps: "I2 one unfinished run, one at a time",
        statement: "as first",
        clause: "and held.run_id is null",
        instead: "",
        missed_by: &["runs_on_one_resource_take_turns_in_order"],
        ..NONE
    },
    Guard {
        name: "start: due only at its turn",
        keeps: "I2 one unfinished run, one at a time",
        statement: "insert into sluice.step (run_id, position, name, priority, due_at)\n         select run.id, 0",
        clause: "case when held.run_id = run.id then now() end",
        instead: "now()",
        missed_by: &["runs_on_one_resource_take_turns_in_order"],
        ..NONE
    },
    Guard {
        name: "turn: the holder has ended",
        keeps: "I2 one unfinished run, one at a time",
        statement: "with turn as",
        clause: "and not exists (select from sluice.run where run.id = resource.run_id and run.state = 'active')",
        instead: "",
        missed_by: &["a_revived_run_waits_for_its_turn"],
        ..NONE
    },
    Guard {
        name: "intake: rows in other hands",
        keeps: "I1 every sign-up reaches an end",
        statement: "as seconds_old",
        clause: "skip locked",
        instead: "",
        missed_by: &["a_row_in_its_users_hands_is_passed_over"],
        ..NONE
    },
    Guard {
        name: "dispatch: due",
        keeps: "I9 a stale move changes nothing",
        statement: "with picked as",
        clause: "state = 'due'",
        instead: "state <> 'cancelled'",
        missed_by: &["a_due_step_is_dispatched_once"],
        ..NONE
    },
    Guard {
        name: "dispatch: its moment has come",
        keeps: "I5 budgets",
        statement: "with picked as",
        clause: "and due_at <= now()",
        instead: "",
        missed_by: &["a_failed_step_waits_out_its_delay"],
        ..NONE
    },
    Guard {
        name: "dispatch: one relay per queue",
        keeps: "I1 every sign-up reaches an end",
        statement: "null::float8 as open_for",
        clause: "skip locked",
        instead: "",
        missed_by: &["a_queue_in_another_relays_hands_is_passed_over"],
        ..NONE
    },
    Guard {
        name: "dispatch: steps in other hands",
        keeps: "I1 every sign-up reaches an end",
        statement: "with picked as",
        clause: "skip locked",
        instead: "",
        missed_by: &["a_step_in_other_hands_is_not_dispatched"],
        ..NONE
    },
    Guard {
        name: "dispatch: the queue's gate",
        keeps: "a closed gate lets nothing through",
        statement: "null::float8 as open_for",
        clause: "paused_at is not null or coalesce(hold_until > now(), false) as closed",
        instead: "false as closed",
        missed_by: &["a_paused_step_is_not_dispatched"],
        ..NONE
    },
    Guard {
        name: "dispatch: the workflow's gate",
        keeps: "a closed gate lets nothing through",
        statement: "with picked as",
        clause: "and (gate.paused_at is not null or gate.hold_until > now())",
        instead: "and false",
        missed_by: &["a_paused_workflow_is_not_dispatched_and_others_are"],
        ..NONE
    },
    Guard {
        name: "dispatch: the host's hold",
        keeps: "a closed gate lets nothing through",
        statement: "= gate.probe_run",
        clause: "coalesce(hold_until > now(), false)",
        instead: "false",
        missed_by: &["a_held_host_is_not_dispatched_to_until_the_hold_is_over", "what_the_host_asks_for_holds_it"],
        ..NONE
    },
    Guard {
        name: "dispatch: the host's breaker",
        keeps: "a closed gate lets nothing through",
        statement: "= gate.probe_run",
        clause: "or breaker = 'open'",
        instead: "",
        missed_by: &["three_runs_that_fail_open_the_breaker"],
        ..NONE
    },
    Guard {
        name: "dispatch: one run at a half-open one",
        keeps: "a closed gate lets nothing through",
        statement: "= gate.probe_run",
        clause: "breaker = 'half_open' and (",
        instead: "false and (",
        missed_by: &["a_half_open_breaker_lets_one_untried_run_through"],
        ..NONE
    },
    Guard {
        name: "dispatch: untried runs first",
        keeps: "a closed gate lets nothing through",
        statement: "with picked as",
        clause: "and run_id <> all($3::uuid[])",
        instead: "and ($3::uuid[]) is not null",
        missed_by: &["a_half_open_breaker_lets_one_untried_run_through"],
        ..NONE
    },
    Guard {
        name: "revive, discard: one at a time",
        keeps: "I6 who did it, once",
        statement: "select state, subject from sluice.run",
        clause: "for no key update",
        instead: "",
        missed_by: &["of_a_revival_and_a_discard_at_once_one_is_done"],
        ..NONE
    },
    Guard {
        name: "revive: only the dead step",
        keeps: "I9 a stale move changes nothing",
        statement: "due_at = null, failures = 0",
        clause: "and state = 'dead'",
        instead: "",
        missed_by: &["a_revived_run_keeps_its_outputs_and_gets_a_fresh_budget"],
        ..NONE
    },
    Guard {
        name: "cancel: only what has not ended",
        keeps: "I6 who did it, once",
        statement: "set state = 'cancelled'",
        clause: "and step.state in ('due', 'dispatched', 'dead')",
        instead: "",
        missed_by: &["an_inner_step_moves_as_the_state_machine_says"],
        ..NONE
    },
    Guard {
        name: "breaker: reports one after another",
        keeps: "a closed gate lets nothing through",
        statement: "as failing_for, probes",
        clause: "for no key update",
        instead: "",
        missed_by: &["failures_reported_at_once_are_all_heard"],
        ..NONE
    },
    Guard {
        name: "breaker: one probe at a time",
        keeps: "a closed gate lets nothing through",
        statement: "set probes = probes + 1",
        clause: "and coalesce(probe_at, now()) <= now()",
        instead: "",
        missed_by: &["one_process_at_a_time_may_probe"],
        ..NONE
    },
];
