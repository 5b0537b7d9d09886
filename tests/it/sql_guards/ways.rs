//! What guards the way from Redis to a worker and back: claim, lease, put back, loss.

use super::{Guard, NONE};

pub const GUARDS: &[Guard] = &[
    Guard {
        name: "claim: the token, as it reads",
        keeps: "I9 a stale move changes nothing",
        statement: "for no key update of resource",
        clause: "step.token = asked.token",
        instead: "true",
        missed_by: &["a_claim_needs_the_token_of_its_dispatch"],
        ..NONE
    },
    Guard {
        name: "claim: the token, as it writes",
        keeps: "I9 a stale move changes nothing",
        statement: "set state = 'running'",
        clause: "step.token = asked.token",
        instead: "true",
        missed_by: &["a_claim_that_is_overtaken_takes_nothing"],
        ..NONE
    },
    Guard {
        name: "claim: dispatched, as it writes",
        keeps: "I9 a stale move changes nothing",
        statement: "set state = 'running'",
        clause: "step.state = 'dispatched'",
        instead: "true",
        missed_by: &["of_two_claims_at_once_one_wins"],
        ..NONE
    },
    Guard {
        name: "claim: the token, as it puts back",
        keeps: "I9 a stale move changes nothing",
        statement: "asked.unknown",
        clause: "step.token = asked.token",
        instead: "true",
        missed_by: &["a_claim_that_is_overtaken_puts_nothing_back"],
        ..NONE
    },
    Guard {
        name: "claim: dispatched, as it puts back",
        keeps: "I9 a stale move changes nothing",
        statement: "asked.unknown",
        clause: "step.state = 'dispatched'",
        instead: "true",
        missed_by: &["of_two_claims_at_once_the_loser_puts_nothing_back"],
        ..NONE
    },
    Guard {
        name: "claim: no pause",
        keeps: "a closed gate lets nothing through",
        statement: "for no key update of resource",
        clause: "paused_at is not null or",
        instead: "",
        missed_by: &["a_claim_at_a_closed_gate_goes_back_uncounted"],
        ..NONE
    },
    Guard {
        name: "claim: no hold",
        keeps: "a closed gate lets nothing through",
        statement: "for no key update of resource",
        clause: "or hold_until > now()",
        instead: "",
        missed_by: &["a_claim_at_a_held_gate_goes_back_uncounted"],
        ..NONE
    },
    Guard {
        name: "claim: no open breaker",
        keeps: "a closed gate lets nothing through",
        statement: "for no key update of resource",
        clause: "or breaker = 'open'",
        instead: "",
        missed_by: &["three_runs_that_fail_open_the_breaker"],
        ..NONE
    },
    Guard {
        name: "claim: the run let through",
        keeps: "a closed gate lets nothing through",
        statement: "for no key update of resource",
        clause: "probe_run is distinct from run.id",
        instead: "false",
        missed_by: &["a_half_open_breaker_lets_one_untried_run_through"],
        ..NONE
    },
    Guard {
        name: "claim: the resource is quiet",
        keeps: "I3 one create or delete in flight",
        statement: "for no key update of resource",
        clause: "coalesce(resource.busy_until > now(), false)",
        instead: "false",
        missed_by: &["an_exclusive_claim_keeps_the_resource_busy_until_its_lease_would_have_ended"],
        ..NONE
    },
    Guard {
        name: "claim: marks the resource busy",
        keeps: "I3 one create or delete in flight",
        statement: "set busy_token = held.token",
        clause: "busy_until = now() + make_interval(secs => held.lease)",
        instead: "busy_until = null",
        missed_by: &["an_exclusive_claim_keeps_the_resource_busy_until_its_lease_would_have_ended"],
        ..NONE
    },
    Guard {
        name: "claim: was a create ever claimed?",
        keeps: "I3 one instance per user",
        statement: "for no key update of resource",
        clause: "instance.create_claimed_at is not null",
        instead: "false",
        missed_by: &["a_create_counts_as_claimed_only_after_an_exclusive_claim"],
        ..NONE
    },
    Guard {
        name: "claim: a create is claimed",
        keeps: "I3 one instance per user",
        statement: "set busy_token = held.token",
        clause: "set create_claimed_at = now()",
        instead: "set create_claimed_at = null",
        missed_by: &["a_create_counts_as_claimed_only_after_an_exclusive_claim"],
        ..NONE
    },
    Guard {
        name: "renew: the token",
        keeps: "I9 a stale move changes nothing",
        statement: "with renewed as",
        clause: "step.token = held.token",
        instead: "true",
        missed_by: &["a_renewal_without_the_token_extends_nothing"],
        ..NONE
    },
    Guard {
        name: "renew: running",
        keeps: "I9 a stale move changes nothing",
        statement: "with renewed as",
        clause: "step.state = 'running'",
        instead: "true",
        missed_by: &["only_a_running_step_is_renewed"],
        ..NONE
    },
    Guard {
        name: "renew: keeps the resource busy",
        keeps: "I3 one create or delete in flight",
        statement: "with renewed as",
        clause: "set busy_until = renewed.lease_until",
        instead: "set busy_until = resource.busy_until",
        missed_by: &["a_renewal_keeps_the_resource_busy_longer"],
        ..NONE
    },
    Guard {
        name: "renew: only its own busy mark",
        keeps: "I3 one create or delete in flight",
        statement: "with renewed as",
        clause: "resource.busy_token = renewed.token",
        instead: "true",
        missed_by: &["a_renewal_keeps_nothing_busy_that_another_attempt_made_busy"],
        ..NONE
    },
    Guard {
        name: "put back: the token",
        keeps: "I9 a stale move changes nothing",
        statement: "as held (run_id, position, token)",
        clause: "step.token = held.token",
        instead: "true",
        missed_by: &["a_push_that_failed_puts_back_only_its_own_token"],
        ..NONE
    },
    Guard {
        name: "put back: dispatched",
        keeps: "I9 a stale move changes nothing",
        statement: "as held (run_id, position, token)",
        clause: "step.state = 'dispatched'",
        instead: "true",
        missed_by: &["an_inner_step_moves_as_the_state_machine_says"],
        ..NONE
    },
    Guard {
        name: "lose: dispatched",
        keeps: "I9 a stale move changes nothing",
        statement: "and dispatched_at <= now()\n",
        clause: "state = 'dispatched'",
        instead: "state <> 'cancelled'",
        missed_by: &["lost_steps_are_due_again"],
        ..NONE
    },
    Guard {
        name: "lose: steps in other hands",
        keeps: "I1 every sign-up reaches an end",
        statement: "and dispatched_at <= now()\n",
        clause: "skip locked",
        instead: "",
        missed_by: &["a_step_that_is_being_claimed_is_not_lost"],
        ..NONE
    },
    Guard {
        name: "loss of Redis: the epoch it saw",
        keeps: "I9 a stale move changes nothing",
        statement: "set epoch = $2",
        clause: "epoch is not distinct from $1",
        instead: "$1::bigint is null or true",
        missed_by: &["of_two_relays_that_see_a_loss_one_handles_it"],
        ..NONE
    },
    Guard {
        name: "loss of Redis: all dispatched is due",
        keeps: "I1 every sign-up reaches an end",
        statement: "with lost as (\n           select",
        clause: "where state = 'dispatched'",
        instead: "where false",
        missed_by: &["of_two_relays_that_see_a_loss_one_handles_it"],
        ..NONE
    },
];
