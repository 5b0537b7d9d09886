//! What guards the way of a step into a worker's hands, and keeps it there: claim, gates, lease.

use super::{Guard, NONE};

const STALE: &str = "I9 a stale move changes nothing";
const QUIET: &str = "I3 one create or delete in flight";
const CLOSED: &str = "a closed gate lets nothing through";
const EXACTLY: &str = "limits hold exactly";

pub const GUARDS: &[Guard] = &[
    Guard {
        name: "claim: the generation",
        keeps: STALE,
        within: "claim",
        clause: "and due.generation = given.generation",
        missed_by: &[
            "a_claim_needs_the_generation_that_is_due",
            "a_hint_of_an_earlier_generation_claims_nothing",
            "a_claim_that_is_overtaken_takes_nothing",
        ],
        ..NONE
    },
    Guard {
        name: "claim: the generation, at a gate",
        keeps: EXACTLY,
        within: "claim",
        clause: "and due.generation = generations[lowest]",
        missed_by: &["a_claim_that_is_overtaken_behind_a_limit_spends_nothing"],
        ..NONE
    },
    Guard {
        name: "claim: the generation, as it says why",
        keeps: STALE,
        within: "why_not",
        clause: "\n    and due.generation = why_not.step_generation",
        missed_by: &["a_claim_that_is_overtaken_at_a_closed_gate_writes_nothing"],
        ..NONE
    },
    Guard {
        name: "claim: due",
        keeps: STALE,
        within: "claim",
        clause: "\n          and due.state = awaited",
        missed_by: &["of_two_claims_at_once_one_wins"],
        ..NONE
    },
    Guard {
        name: "claim: due, at a gate",
        keeps: EXACTLY,
        within: "claim",
        clause: "\n        and due.state = awaited",
        missed_by: &["of_two_claims_at_once_one_spends_the_allowance"],
        ..NONE
    },
    Guard {
        name: "claim: its moment has come",
        keeps: "I5 budgets",
        within: "claim",
        clause: "\n          and due.due_at <= now()",
        missed_by: &["a_claim_before_its_moment_takes_nothing"],
        ..NONE
    },
    Guard {
        name: "claim: the resource is quiet",
        keeps: QUIET,
        within: "claim",
        clause: "\n          and (held.busy_until is null or held.busy_until <= now())",
        missed_by: &[
            "a_claim_of_a_busy_resource_writes_nothing",
            "a_step_that_somebody_makes_due_waits_for_a_busy_resource",
        ],
        ..NONE
    },
    Guard {
        name: "claim: a definition that is known",
        keeps: "I1 every sign-up reaches an end",
        within: "claim",
        clause: "\n          and run.workflow || ':' || run.version = any (known)",
        missed_by: &["an_unknown_version_waits_longer_each_time"],
        ..NONE
    },
    Guard {
        name: "claim: an unknown definition is new",
        keeps: "a hint is good once",
        within: "why_not",
        clause: ", generation = due.generation + 1",
        missed_by: &["an_unknown_version_waits_longer_each_time"],
        ..NONE
    },
    Guard {
        name: "claim: marks the resource busy",
        keeps: QUIET,
        within: "claim",
        clause: "busy_until = taken.lease_until",
        instead: "busy_until = null",
        missed_by: &["an_exclusive_claim_keeps_the_resource_busy_until_its_lease_would_have_ended"],
        ..NONE
    },
    Guard {
        name: "claim: only exclusive ones do",
        keeps: "a shared step holds nobody up",
        within: "claim",
        clause: "where taken.exclusive\n          and",
        instead: "where",
        missed_by: &["a_renewal_keeps_nothing_busy_that_another_attempt_made_busy"],
        ..NONE
    },
    Guard {
        name: "claim: was an exclusive step claimed?",
        keeps: "I3 one instance per user",
        within: "claim",
        clause: "held.exclusive_at is not null",
        instead: "false",
        missed_by: &["an_exclusive_step_counts_as_claimed_only_after_an_exclusive_claim"],
        ..NONE
    },
    Guard {
        name: "claim: an exclusive step is claimed",
        keeps: "I3 one instance per user",
        within: "claim",
        clause: "exclusive_at = coalesce(held.exclusive_at, now())",
        instead: "exclusive_at = held.exclusive_at",
        missed_by: &["an_exclusive_step_counts_as_claimed_only_after_an_exclusive_claim"],
        ..NONE
    },
    Guard {
        name: "claim: sees closed gates",
        keeps: CLOSED,
        within: "claim",
        clause: "where gate.closed or",
        instead: "where",
        missed_by: &["a_claim_at_a_closed_gate_writes_nothing", "three_runs_that_fail_open_the_breaker"],
        ..NONE
    },
    Guard {
        name: "claim: sees half-open breakers",
        keeps: CLOSED,
        within: "claim",
        clause: "or gate.half_open",
        missed_by: &["a_half_open_breaker_lets_one_untried_run_through"],
        ..NONE
    },
    Guard {
        name: "claim: sees limits",
        keeps: EXACTLY,
        within: "claim",
        clause: "or gate.limited",
        missed_by: &["a_rate_bounds_the_starts_per_second", "concurrency_bounds_the_running_steps"],
        ..NONE
    },
    Guard {
        name: "claim: sees a host's slow start",
        keeps: EXACTLY,
        within: "gate_now",
        clause: "(scope = 'host'::text) AND",
        instead: "false AND",
        missed_by: &["a_backlog_is_let_go_slowly"],
        ..NONE
    },
    Guard {
        name: "gate: no pause",
        keeps: CLOSED,
        within: "admit",
        clause: "gate.paused_at is not null or",
        missed_by: &["a_claim_at_a_closed_gate_writes_nothing"],
        ..NONE
    },
    Guard {
        name: "gate: no hold",
        keeps: CLOSED,
        within: "admit",
        clause: "gate.hold_until > clock_timestamp()",
        instead: "false",
        missed_by: &["a_claim_at_a_held_gate_writes_nothing"],
        ..NONE
    },
    Guard {
        name: "gate: no open breaker",
        keeps: CLOSED,
        within: "admit",
        clause: "gate.breaker = 'open'",
        instead: "false",
        missed_by: &["three_runs_that_fail_open_the_breaker"],
        ..NONE
    },
    Guard {
        name: "gate: the workflow's",
        keeps: CLOSED,
        within: "admit",
        clause: "where (before.scope = 'workflow' and before.name = admit.workflow)",
        instead: "where false",
        missed_by: &["a_claim_at_a_closed_gate_writes_nothing"],
        ..NONE
    },
    Guard {
        name: "gate: the run let through",
        keeps: CLOSED,
        within: "admit",
        clause: "gate.probe_run is distinct from admit.run and (",
        instead: "false and (",
        missed_by: &["a_half_open_breaker_lets_one_untried_run_through"],
        ..NONE
    },
    Guard {
        name: "gate: while it is under way",
        keeps: CLOSED,
        within: "admit",
        clause: "other.run_id = gate.probe_run and other.state = 'running'",
        instead: "false",
        missed_by: &["a_half_open_breaker_lets_one_untried_run_through"],
        ..NONE
    },
    Guard {
        name: "gate: until its answer was reported",
        keeps: CLOSED,
        within: "admit",
        clause: "gate.probe_at > clock_timestamp()",
        instead: "false",
        missed_by: &["the_next_run_is_let_through_when_the_first_ones_answer_was_reported"],
        ..NONE
    },
    Guard {
        name: "gate: untried runs first",
        keeps: CLOSED,
        within: "admit",
        clause: "admit.run = any (gate.failing_runs)",
        instead: "false",
        missed_by: &[
            "a_half_open_breaker_lets_one_untried_run_through",
            "where_only_failing_runs_wait_one_of_them_is_let_through",
        ],
        ..NONE
    },
    Guard {
        name: "gate: one claim after another",
        keeps: CLOSED,
        within: "admit",
        clause: "for no key update",
        missed_by: &["of_two_claims_at_a_half_open_breaker_one_wins"],
        ..NONE
    },
    Guard {
        name: "gate: the rate",
        keeps: EXACTLY,
        within: "admit",
        clause: "sluice.allowance_now(gate) < 1",
        instead: "false",
        missed_by: &["a_rate_bounds_the_starts_per_second", "two_workers_share_a_rate_to_the_step"],
        ..NONE
    },
    Guard {
        name: "gate: a start is charged",
        keeps: EXACTLY,
        within: "admit",
        clause: "else sluice.allowance_now(before) - 1",
        instead: "else sluice.allowance_now(before)",
        missed_by: &["a_rate_bounds_the_starts_per_second", "two_workers_share_a_rate_to_the_step"],
        ..NONE
    },
    Guard {
        name: "gate: one second's worth in store",
        keeps: EXACTLY,
        within: "allowance_now",
        clause: "greatest(rate, 1)",
        instead: "'infinity'",
        missed_by: &["a_rate_bounds_the_starts_per_second", "two_workers_share_a_rate_to_the_step"],
        ..NONE
    },
    Guard {
        name: "gate: one without a rate has no store",
        keeps: "a limit holds nobody else up",
        within: "allowance_now",
        clause: "where rate is not null",
        missed_by: &["a_limit_says_how_many_hints_may_lie_about"],
        ..NONE
    },
    Guard {
        name: "gate: the concurrency",
        keeps: EXACTLY,
        within: "admit",
        clause: "sluice.running_behind(gate.scope, gate.name) >= gate.concurrency",
        instead: "false",
        missed_by: &["concurrency_bounds_the_running_steps", "of_two_claims_at_a_gate_with_one_place_one_wins"],
        ..NONE
    },
    Guard {
        name: "gate: what runs at the host",
        keeps: EXACTLY,
        within: "running_behind",
        clause: "running_behind.scope = 'host' and",
        instead: "false and",
        missed_by: &["a_hosts_limit_counts_the_steps_of_all_its_queues"],
        ..NONE
    },
    Guard {
        name: "gate: the slow start",
        keeps: EXACTLY,
        within: "rate_now",
        clause: "gate.scope = 'host' and",
        instead: "false and",
        missed_by: &["a_backlog_is_let_go_slowly"],
        ..NONE
    },
    Guard {
        name: "renew: the token",
        keeps: STALE,
        within: "renew",
        clause: "and running.token = tokens[i]",
        missed_by: &["a_renewal_without_the_token_extends_nothing"],
        ..NONE
    },
    Guard {
        name: "renew: keeps the resource busy",
        keeps: QUIET,
        within: "renew",
        clause: "set busy_until = lease_end,",
        instead: "set busy_until = held.busy_until,",
        missed_by: &["a_renewal_keeps_the_resource_busy_longer"],
        ..NONE
    },
    Guard {
        name: "renew: only its own busy mark",
        keeps: QUIET,
        within: "renew",
        clause: "and held.busy_token = tokens[i]",
        missed_by: &["a_renewal_keeps_nothing_busy_that_another_attempt_made_busy"],
        ..NONE
    },
];
