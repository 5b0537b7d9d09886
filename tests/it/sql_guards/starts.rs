//! What guards the start of a run, its turn, intake, and what is named to be pushed.

use super::{Guard, NONE};

const ONE_RUN: &str = "I2 one unfinished run, one at a time";
const QUIET: &str = "I3 one create or delete in flight";
const EVERY_END: &str = "I1 every sign-up reaches an end";
const CLOSED: &str = "a closed gate lets nothing through";

pub const GUARDS: &[Guard] = &[
    Guard {
        name: "start: one unfinished run",
        keeps: ONE_RUN,
        within: "start_runs",
        clause: "on conflict (workflow, subject) where state in ('active', 'dead') do nothing",
        schema: "drop index sluice.run_one_unfinished",
        missed_by: &[
            "starting_again_joins_the_run_that_is_there",
            "starting_again_joins_a_dead_run_and_does_not_revive_it",
        ],
        ..NONE
    },
    Guard {
        name: "start: the resource's own subject",
        keeps: "I3 one instance per user",
        within: "start_runs",
        clause: "\n      and held.subject = begun.subject",
        missed_by: &["a_name_of_another_subject_is_refused"],
        ..NONE
    },
    Guard {
        name: "start: the turn is free",
        keeps: ONE_RUN,
        within: "start_runs",
        clause: "set run_id = coalesce(held.run_id, excluded.run_id)",
        instead: "set run_id = excluded.run_id",
        missed_by: &["runs_on_one_resource_take_turns_in_order"],
        ..NONE
    },
    Guard {
        name: "start: due only at its turn",
        keeps: ONE_RUN,
        within: "start_runs",
        clause: "case when held.run_id = begun.id then greatest(now(), held.busy_until) end",
        instead: "now()",
        missed_by: &["runs_on_one_resource_take_turns_in_order"],
        ..NONE
    },
    Guard {
        name: "start: due when the resource is quiet",
        keeps: QUIET,
        within: "start_runs",
        clause: "case when held.run_id = begun.id then greatest(now(), held.busy_until) end",
        instead: "case when held.run_id = begun.id then now() end",
        missed_by: &["a_new_run_waits_until_its_resource_is_quiet"],
        ..NONE
    },
    Guard {
        name: "turn: of a run that nobody ends meanwhile",
        keeps: ONE_RUN,
        within: "give_turn",
        clause: "\n  for no key update",
        missed_by: &["a_turn_is_not_given_to_a_run_that_is_cancelled_meanwhile"],
        ..NONE
    },
    Guard {
        name: "turn: the holder has ended",
        keeps: ONE_RUN,
        within: "give_turn",
        clause: "and held.run_id is null",
        missed_by: &["a_revived_run_waits_for_its_turn"],
        ..NONE
    },
    Guard {
        name: "turn: due when the resource is quiet",
        keeps: QUIET,
        within: "give_turn",
        clause: "greatest(now(), free_at)",
        instead: "now()",
        missed_by: &["a_run_whose_turn_comes_waits_until_its_resource_is_quiet"],
        ..NONE
    },
    Guard {
        name: "turn: given up at the run's end",
        keeps: EVERY_END,
        within: "end_runs",
        clause: "perform sluice.give_turn(waited_for);",
        instead: "null;",
        missed_by: &["a_dead_run_gives_up_its_turn", "a_cancelled_run_gives_up_its_turn"],
        ..NONE
    },
    Guard {
        name: "intake: rows in other hands",
        keeps: EVERY_END,
        within: "take_sign_ups",
        clause: "skip locked",
        missed_by: &["a_row_in_its_users_hands_is_passed_over"],
        ..NONE
    },
    Guard {
        name: "intake: requests in other hands",
        keeps: EVERY_END,
        within: "take_requests",
        clause: "skip locked",
        missed_by: &["a_request_in_another_relays_hands_is_passed_over"],
        ..NONE
    },
    Guard {
        name: "intake: a request never revives",
        keeps: "I6 who did it, once",
        within: "take_requests",
        clause: "elsif taken.outcome = 'dead' then",
        instead: "elsif taken.outcome = 'dead' and sluice.revive_run(taken.run_id, 'sql', null) then",
        missed_by: &["a_request_never_revives_a_dead_run"],
        ..NONE
    },
    Guard {
        name: "waiting: due",
        keeps: "what runs is pushed no more",
        within: "waiting",
        clause: "\n        and due.state = 'due'\n        and due.due_at <= now()\n        and not (traced",
        instead: "\n        and due.due_at <= now()\n        and not (traced",
        missed_by: &["a_due_step_waits_until_it_is_claimed"],
        ..NONE
    },
    Guard {
        name: "waiting: its moment has come",
        keeps: "I5 budgets",
        within: "waiting",
        clause: "\n        and due.due_at <= now()\n        and not (traced",
        instead: "\n        and not (traced",
        missed_by: &["a_failed_step_waits_out_its_delay"],
        ..NONE
    },
    Guard {
        name: "waiting: the gates before the queue",
        keeps: CLOSED,
        within: "waiting",
        clause: "continue when not gates.passes;",
        missed_by: &[
            "a_paused_step_does_not_wait_to_be_pushed",
            "nothing_waits_for_a_held_host_until_the_hold_is_over",
        ],
        ..NONE
    },
    Guard {
        name: "waiting: the workflow's gate",
        keeps: CLOSED,
        within: "waiting",
        clause: "and (closed = '{}' or run.workflow <> all (closed))",
        missed_by: &["a_paused_workflow_does_not_wait_and_others_do"],
        ..NONE
    },
    Guard {
        name: "waiting: one hint at a half-open breaker",
        keeps: CLOSED,
        within: "waiting",
        clause: "capacity := case when gates.half_open then 1 end;",
        instead: "capacity := null;",
        missed_by: &["a_half_open_breaker_names_few_to_be_pushed"],
        ..NONE
    },
    Guard {
        name: "waiting: untried runs first",
        keeps: CLOSED,
        within: "waiting",
        clause: "and due.run_id = any (half.failing_runs)",
        instead: "and false",
        missed_by: &["a_half_open_breaker_lets_one_untried_run_through"],
        ..NONE
    },
    Guard {
        name: "waiting: hints behind a limit are few",
        keeps: "limits hold exactly",
        within: "waiting",
        clause: "capacity := least(capacity, greatest(floor(room), 0)::integer);",
        instead: "null;",
        missed_by: &["a_limit_says_how_many_hints_may_lie_about"],
        ..NONE
    },
    Guard {
        name: "gates: the step's",
        keeps: CLOSED,
        within: "gate_state",
        clause: "or (gate.scope = 'step' and gate.name = gate_state.step)",
        missed_by: &["a_paused_step_does_not_wait_to_be_pushed"],
        ..NONE
    },
    Guard {
        name: "gates: the host's",
        keeps: CLOSED,
        within: "gate_state",
        clause: "or (gate.scope = 'host' and gate.name = gate_state.host)",
        missed_by: &["nothing_waits_for_a_held_host_until_the_hold_is_over", "what_the_host_asks_for_holds_it"],
        ..NONE
    },
    Guard {
        name: "gates: no pause",
        keeps: CLOSED,
        within: "gate_now",
        clause: "(paused_at IS NOT NULL) OR",
        missed_by: &["a_paused_step_does_not_wait_to_be_pushed"],
        ..NONE
    },
    Guard {
        name: "gates: no hold",
        keeps: CLOSED,
        within: "gate_now",
        clause: "COALESCE((hold_until > now()), false)",
        instead: "false",
        missed_by: &["nothing_waits_for_a_held_host_until_the_hold_is_over", "what_the_host_asks_for_holds_it"],
        ..NONE
    },
    Guard {
        name: "gates: no open breaker",
        keeps: CLOSED,
        within: "gate_now",
        clause: "OR (breaker = 'open'::text)) AS closed",
        instead: ") AS closed",
        missed_by: &["three_runs_that_fail_open_the_breaker"],
        ..NONE
    },
    Guard {
        name: "revive: only a dead run",
        keeps: "I6 who did it, once",
        within: "revive_run",
        clause: "and dead.state = 'dead'",
        missed_by: &["of_a_revival_and_a_discard_at_once_one_settles_the_dead_letter"],
        ..NONE
    },
    Guard {
        name: "revive: only the dead step",
        keeps: "I9 a stale move changes nothing",
        within: "revive_run",
        clause: "where run_id = revived.id\n    and state = 'dead'",
        instead: "where run_id = revived.id",
        missed_by: &["a_revived_run_keeps_its_outputs_and_gets_a_fresh_budget"],
        ..NONE
    },
    Guard {
        name: "revive: the dead letter is settled",
        keeps: "I6 who did it, once",
        within: "revive_run",
        clause: "set resolved_at = now(), resolution = 'revived', resolved_by = revive_run.actor, note = revive_run.note",
        instead: "set note = revive_run.note",
        missed_by: &["a_revived_run_keeps_its_outputs_and_gets_a_fresh_budget"],
        ..NONE
    },
    Guard {
        name: "cancel: only what has not ended",
        keeps: "I6 who did it, once",
        within: "cancel",
        clause: "ended.state <> 'active' or dead_only",
        instead: "false",
        missed_by: &["what_has_ended_cannot_be_cancelled"],
        ..NONE
    },
    Guard {
        name: "cancel: only steps that have not ended",
        keeps: "I6 who did it, once",
        within: "end_runs",
        clause: "and state in ('due', 'dead')",
        missed_by: &["an_inner_step_moves_as_the_state_machine_says"],
        ..NONE
    },
    Guard {
        name: "intake: a joined run does not end before that is written",
        keeps: "a row says how its run ended",
        within: "take_sign_up",
        clause: "for no key update skip locked;",
        instead: ";",
        missed_by: &["a_row_that_is_set_to_pending_while_its_run_ends_says_how_it_ended"],
        ..NONE
    },
    Guard {
        name: "cancel: the steps are locked first",
        keeps: "a cancellation ends its run",
        within: "cancel",
        clause: "order by position\n      for no key update",
        instead: "order by position",
        missed_by: &["a_cancellation_that_meets_a_claim_waits_for_its_settle"],
        ..NONE
    },
];
