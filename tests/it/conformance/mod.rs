//! One suite for both ledgers: what a ledger must do, whatever it is made of. Each behaviour is a
//! function over a `Bench`; the list at the end runs it on the model, on the ledger in Postgres,
//! and on that one through a transaction pooler. Time is set, never slept through.

mod announcing;
pub mod bench;
mod cancelling;
mod carrying_on;
mod claiming;
mod comparison;
mod crashing;
mod deadlines;
mod doubting;
mod gates;
mod intake;
mod interleaving;
mod limits;
mod memory;
mod outage;
pub mod postgres;
mod requests;
mod retrying;
mod reviving;
mod sending_back;
mod sessions;
mod settling;
mod starting;
mod stress;
mod taking_turns;
mod traces;
mod waiting;
pub mod world;

/// Both ledgers run exactly the same list, Postgres also behind a transaction pooler: a macro, so
/// that none can be left out. After the semicolon, what only Postgres can meet: sessions that wait
/// for each other's locks, its SQL, and an outage.
macro_rules! conformance {
    ($($module:ident: [$($behaviour:ident),* $(,)?]),*; $($own:ident: [$($ours:ident),* $(,)?]),* $(,)?) => {
        mod in_memory {
            $($(
                #[tokio::test]
                async fn $behaviour() {
                    let bench = super::memory::bench();
                    super::$module::$behaviour(&bench).await;
                    bench.assert_sound().await;
                }
            )*)*
        }

        mod in_postgres {
            $($(
                #[tokio::test]
                async fn $behaviour() {
                    let bench = super::postgres::bench().await;
                    super::$module::$behaviour(&bench).await;
                    bench.assert_sound().await;
                }
            )*)*

            $($(
                #[tokio::test]
                async fn $ours() {
                    let bench = super::postgres::bench().await;
                    super::$own::$ours(&bench).await;
                    bench.assert_sound().await;
                }
            )*)*
        }

        /// Those that Postgres meets, by their names.
        pub const BEHAVIOURS: &[&str] = &[
            $($(stringify!($behaviour),)*)*
            $($(stringify!($ours),)*)*
        ];

        /// A behaviour by its name, on a database that may lack a guard. Each begins in a function
        /// of its own: all of them in one would not fit on a stack.
        #[cfg(feature = "mutants")]
        pub async fn behave(name: &str, bench: &bench::Bench<postgres::InPostgres>) {
            type Subject = bench::Bench<postgres::InPostgres>;
            type Behaves<'a> = futures::future::LocalBoxFuture<'a, ()>;
            let begin: fn(&Subject) -> Behaves<'_> = match name {
                $($(stringify!($behaviour) => |bench| Box::pin($module::$behaviour(bench)),)*)*
                $($(stringify!($ours) => |bench| Box::pin($own::$ours(bench)),)*)*
                _ => panic!("no behaviour is called {name}"),
            };
            begin(bench).await;
            bench.assert_sound().await;
        }

        mod through_a_pooler {
            $($(
                #[tokio::test]
                async fn $behaviour() {
                    let bench = super::postgres::bench_through_a_pooler().await;
                    super::$module::$behaviour(&bench).await;
                    bench.assert_sound().await;
                }
            )*)*
        }
    };
}

conformance! {
    starting: [
        starting_again_joins_the_run_that_is_there,
        starting_twice_in_one_batch_starts_one_run,
        starting_again_joins_a_dead_run_and_does_not_revive_it,
        a_subject_may_have_runs_of_several_workflows,
        a_name_of_another_subject_is_refused,
        an_unknown_workflow_is_refused_and_harms_no_neighbour,
        a_resource_keeps_the_secret_that_was_drawn_first,
        each_resource_has_a_secret_of_its_own,
    ],
    taking_turns: [
        runs_on_one_resource_take_turns_in_order,
        a_dead_run_gives_up_its_turn,
        a_cancelled_run_gives_up_its_turn,
        a_run_that_is_cancelled_while_it_waits_disturbs_nobody,
    ],
    waiting: [
        a_due_step_waits_until_it_is_claimed,
        a_queue_waits_as_long_as_a_step_of_it_is_due,
        no_more_of_a_queue_is_named_than_was_asked_for,
        what_waits_says_whose_it_is,
        a_paused_step_does_not_wait_to_be_pushed,
        a_paused_workflow_does_not_wait_and_others_do,
        nothing_waits_for_a_held_host_until_the_hold_is_over,
        a_more_urgent_run_goes_first_then_the_one_due_longer,
    ],
    limits: [
        a_rate_bounds_the_starts_per_second,
        two_workers_share_a_rate_to_the_step,
        a_refused_claim_spends_no_allowance,
        concurrency_bounds_the_running_steps,
        a_crash_and_a_defer_make_room_behind_a_concurrency,
        a_hosts_limit_counts_the_steps_of_all_its_queues,
        a_limit_says_how_many_hints_may_lie_about,
        a_limited_queue_is_named_by_no_settle,
    ],
    carrying_on: [
        a_worker_that_would_go_on_has_the_next_step_in_hand,
        what_was_carried_on_is_what_a_claim_would_have_brought,
        a_step_that_was_carried_on_is_settled_and_renewed_like_a_claimed_one,
        a_step_that_was_carried_on_comes_back_when_its_lease_is_over,
        nobody_goes_on_while_a_gate_counts,
        nobody_goes_on_while_a_limit_counts,
        nobody_goes_on_while_a_call_may_be_under_way,
        nobody_goes_on_with_a_step_that_was_there_already,
        nobody_goes_on_with_a_run_whose_end_was_asked_for,
        nobody_goes_on_by_a_stale_settle,
    ],
    claiming: [
        a_claim_needs_the_generation_that_is_due,
        a_hint_of_an_earlier_generation_claims_nothing,
        a_claim_before_its_moment_takes_nothing,
        a_step_that_waits_for_its_turn_is_not_claimed,
        of_two_claims_of_one_step_one_wins,
        a_step_asked_for_twice_in_one_batch_is_claimed_once,
        each_claim_of_a_batch_has_its_own_answer,
        each_claim_draws_another_token,
        a_claim_is_given_what_the_step_before_put_out,
        a_claim_is_given_what_is_kept_of_the_resource,
        a_claim_at_a_closed_gate_writes_nothing,
        a_claim_at_a_held_gate_writes_nothing,
        a_claim_of_a_busy_resource_writes_nothing,
        a_step_that_somebody_makes_due_waits_for_a_busy_resource,
        an_exclusive_claim_keeps_the_resource_busy_until_its_lease_would_have_ended,
        a_new_run_waits_until_its_resource_is_quiet,
        a_run_whose_turn_comes_waits_until_its_resource_is_quiet,
        a_renewal_keeps_the_resource_busy_longer,
        a_call_without_an_answer_keeps_the_resource_busy_for_as_long_as_a_call_takes,
        a_rescue_keeps_the_resource_busy_no_longer_than_the_lease,
        a_renewal_keeps_nothing_busy_that_another_attempt_made_busy,
        a_final_answer_frees_the_resource,
        a_late_final_answer_does_not_free_what_another_attempt_keeps_busy,
        an_exclusive_step_counts_as_claimed_only_after_an_exclusive_claim,
        an_unknown_version_waits_longer_each_time,
        a_renewal_extends_the_lease_and_reports_a_lost_one,
        an_earlier_renewal_that_comes_late_takes_nothing_back,
        a_lease_that_no_renewal_has_made_is_taken_back,
        only_a_running_step_is_renewed,
        a_renewal_without_the_token_extends_nothing,
    ],
    settling: [
        a_success_makes_the_next_step_due_with_its_output_and_memory,
        what_a_step_keeps_is_merged_into_what_was_kept,
        what_a_settle_makes_due_is_named_and_is_what_waits,
        a_step_that_is_due_later_is_named_by_no_settle,
        a_step_behind_a_closed_gate_is_named_by_no_settle,
        a_run_whose_turn_a_settle_brings_is_due,
        the_last_success_ends_the_run,
        a_late_settle_changes_nothing,
        a_late_settle_beside_the_right_one_changes_nothing,
        a_settle_twice_in_one_batch_is_written_once,
        a_permanent_failure_ends_the_run_at_once,
        a_bad_settlement_harms_only_itself,
    ],
    retrying: [
        failures_count_and_end_the_run_at_the_limit,
        a_success_forgets_no_failures,
        a_row_counts_its_retries_alike_while_its_run_is_under_way_and_after,
        defers_never_count,
        a_failed_step_waits_out_its_delay,
    ],
    crashing: [
        crashes_count_and_end_the_run_at_the_limit,
        a_lost_lease_whose_worker_lives_is_no_crash,
        a_beat_right_after_a_claim_does_not_say_that_its_worker_lives,
        a_rescued_step_is_due_at_once_and_once_more,
        what_ran_out_says_whose_attempt_it_was,
        a_lease_that_was_renewed_is_not_rescued,
        a_lease_that_has_not_ended_is_not_expired,
        a_rescued_attempt_cannot_settle,
        one_look_tells_what_upkeep_has_to_do,
    ],
    doubting: [
        a_doubted_instance_gets_another_run_when_the_first_has_succeeded,
        a_second_look_has_the_input_of_the_run_before,
        a_second_look_that_needs_a_person_is_shown,
        a_second_look_that_a_person_revives_is_shown_to_its_end,
        a_second_look_that_a_user_asks_for_is_shown,
        an_instance_is_not_looked_at_while_a_call_may_be_under_way_there,
        whoever_looks_first_starts_the_only_run,
        after_a_cancelled_run_nobody_looks,
        after_a_dead_run_nobody_looks_for_its_revival_does,
        after_a_run_of_another_workflow_nobody_looks,
    ],
    sending_back: [
        a_send_back_runs_the_earlier_step_and_those_between_again,
        a_send_back_keeps_failures,
        a_run_that_is_sent_back_too_often_dies_and_can_be_revived_to_its_end,
    ],
    cancelling: [
        a_due_run_is_cancelled_at_once,
        a_run_whose_hint_is_out_is_cancelled_at_once,
        a_running_step_ends_its_cancelled_run_at_its_settle,
        a_cancelled_run_whose_worker_crashed_ends_at_the_rescue,
        a_cancelled_run_leaves_no_step_waiting,
        a_dead_run_is_discarded,
        what_has_ended_cannot_be_cancelled,
        a_run_whose_subject_is_gone_is_cancelled_before_it_makes_anything,
    ],
    reviving: [
        a_revived_run_keeps_its_outputs_and_gets_a_fresh_budget,
        a_revived_run_waits_for_its_turn,
        a_revived_step_is_due_under_another_generation,
        only_a_dead_run_is_revived,
        a_revived_run_leaves_its_trace_and_is_linked_to_it,
    ],
    deadlines: [
        a_due_run_past_its_deadline_dies,
        a_run_that_dies_by_its_deadline_says_what_its_step_last_failed_with,
        a_step_in_hand_is_not_judged_by_the_deadline,
        a_revived_run_has_a_fresh_deadline,
        a_step_behind_a_closed_gate_does_not_exceed,
        time_that_a_gate_held_does_not_count,
        time_that_a_breaker_held_does_not_count,
        a_step_that_waits_for_its_turn_behind_a_limit_does_not_exceed,
        a_hosts_limit_holds_no_step_that_does_not_call_it,
        a_hosts_limit_that_was_taken_away_excuses_no_step_that_does_not_call_it,
        time_that_a_limit_held_does_not_count,
        time_behind_a_limit_that_was_taken_away_does_not_count,
    ],
    gates: [
        a_gate_says_whether_a_change_changed_it,
        three_runs_that_fail_open_the_breaker,
        a_good_answer_in_between_keeps_it_closed,
        one_process_at_a_time_may_probe,
        a_probe_that_came_too_late_changes_nothing,
        a_half_open_breaker_lets_one_untried_run_through,
        a_half_open_breaker_names_few_to_be_pushed,
        where_only_failing_runs_wait_one_of_them_is_let_through,
        the_next_run_is_let_through_when_the_first_ones_answer_was_reported,
        the_run_let_through_goes_on_with_its_next_step,
        only_the_answer_to_the_run_let_through_closes_it,
        a_run_let_through_that_says_nothing_makes_room_for_the_next,
        a_backlog_is_let_go_slowly,
        what_the_host_asks_for_holds_it,
        a_step_that_waits_for_the_api_says_why,
        a_step_that_waited_for_the_api_is_due_at_once_when_it_answers,
        why_a_step_waited_is_forgotten_once_it_was_worked_on,
    ],
    intake: [
        a_pending_row_starts_a_run_and_follows_it,
        intake_takes_no_more_than_its_limit,
        a_pending_row_of_a_dead_run_revives_it,
        a_pending_row_makes_a_delayed_step_due_now,
        retries_set_to_none_reset_the_failures,
        a_pending_row_of_a_step_in_hand_only_gets_its_status_back,
        a_hint_that_is_out_survives_a_pending_row,
        what_intake_makes_due_is_named_and_is_what_waits,
        what_a_closed_gate_holds_is_named_by_no_intake,
        a_limited_queue_is_named_by_no_intake,
        a_pending_row_of_an_ended_run_starts_another,
        a_row_whose_name_is_taken_fails_and_harms_no_neighbour,
        a_row_past_its_deadline_says_so,
    ],
    comparison: [
        an_inner_step_moves_as_the_state_machine_says,
        a_step_without_budget_moves_as_the_state_machine_says,
        the_last_step_moves_as_the_state_machine_says,
        an_only_step_moves_as_the_state_machine_says,
    ],
    traces: [
        what_ran_out_says_which_span_it_was,
        whoever_ends_a_run_is_told_of_the_whole,
        a_revived_run_begins_anew_and_below_nothing,
        a_deadline_tells_of_the_whole_run,
        a_run_that_a_person_ended_is_told_of_once,
    ];

    interleaving: [
        of_two_claims_at_once_one_wins,
        of_two_claims_at_once_the_loser_writes_nothing,
        of_two_claims_at_once_one_spends_the_allowance,
        of_two_claims_at_a_gate_with_one_place_one_wins,
        of_two_claims_at_a_half_open_breaker_one_wins,
        a_claim_that_is_overtaken_takes_nothing,
        a_claim_that_is_overtaken_behind_a_limit_spends_nothing,
        a_claim_that_is_overtaken_at_a_closed_gate_writes_nothing,
        a_cancellation_and_a_settle_at_once_end_the_run,
        a_cancellation_that_meets_a_claim_waits_for_its_settle,
        failures_reported_at_once_are_all_heard,
        of_a_revival_and_a_discard_at_once_one_settles_the_dead_letter,
        of_two_starts_at_once_one_is_new,
        a_run_that_starts_while_the_one_before_it_ends_has_its_turn,
        a_turn_is_not_given_to_a_run_that_is_cancelled_meanwhile,
        a_row_in_its_users_hands_is_passed_over,
        a_row_that_is_set_to_pending_while_its_run_ends_says_how_it_ended,
        what_waits_is_seen_past_locks,
    ],
    requests: [
        a_request_becomes_a_run_that_may_be_pushed,
        a_request_joins_the_run_that_is_there,
        a_request_never_revives_a_dead_run,
        a_request_for_an_unknown_workflow_is_refused_at_once,
        a_subject_whose_own_resource_would_be_too_long_is_refused_at_once,
        a_request_that_cannot_be_taken_says_why_and_harms_no_neighbour,
        a_request_in_another_relays_hands_is_passed_over,
        of_two_relays_each_takes_other_requests,
        a_name_that_belongs_to_a_neighbour_in_the_batch_is_refused,
    ],
    announcing: [
        the_next_event_of_a_run_waits_until_the_one_before_it_is_confirmed,
        a_claim_of_an_event_is_one_publishers_until_it_ends,
        an_event_that_the_broker_refuses_stands_in_no_others_way,
    ],
    stress: [
        settles_renewals_cancellations_and_claims_at_once_never_deadlock,
    ],
    traces: [
        a_claim_in_a_trace_says_what_the_step_waited_for,
        a_claim_in_a_trace_says_how_long_its_runs_turn_took,
    ],
    outage: [
        an_outage_of_postgres_is_no_crash_of_its_clients,
    ],
    sessions: [
        a_worker_whose_session_has_ended_loses_its_steps_before_their_leases_end,
        a_call_that_creates_has_its_time_though_its_session_has_ended,
        a_call_that_creates_has_its_time_after_a_renewal_too,
        a_worker_that_claims_lives_though_it_cannot_renew,
        a_worker_whose_connection_was_cut_keeps_its_steps,
        a_worker_without_a_session_keeps_its_steps_until_their_leases_end,
    ],
}
