//! One suite for both ledgers: what a ledger must do, whatever it is made of. Each behaviour is a function over a `Bench`;
//! the list at the end runs it on the ledger in memory and on the one in Postgres, and through a transaction pooler a
//! behaviour or two of each verb (`make full`: all of them). Time is set, never slept through.

pub mod bench;
mod cancelling;
mod claiming;
mod comparison;
mod crashing;
mod deadlines;
mod dispatching;
mod doubting;
mod gates;
mod intake;
mod interleaving;
mod memory;
mod outage;
pub mod postgres;
mod retrying;
mod reviving;
mod sending_back;
mod settling;
mod starting;
mod taking_turns;
pub mod world;

/// Both ledgers run exactly the same list, Postgres also behind a transaction pooler: a macro, so that none can be left out. After the semicolon, what
/// only Postgres can meet: sessions that wait for each other's locks, and an outage.
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

        /// A behaviour by its name, for a ledger in Postgres that may lack a guard. Each begins in a function of its own:
        /// all of them in one would not fit on a stack.
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
        the_instance_keeps_the_token_that_was_drawn_first,
    ],
    taking_turns: [
        runs_on_one_resource_take_turns_in_order,
        a_dead_run_gives_up_its_turn,
        a_cancelled_run_gives_up_its_turn,
        a_run_that_is_cancelled_while_it_waits_disturbs_nobody,
    ],
    dispatching: [
        a_due_step_is_dispatched_once,
        a_queue_is_due_as_long_as_a_step_of_it_is,
        a_push_that_failed_puts_back_only_its_own_token,
        lost_steps_are_due_again,
        a_paused_step_is_not_dispatched,
        a_paused_workflow_is_not_dispatched_and_others_are,
        a_held_host_is_not_dispatched_to_until_the_hold_is_over,
        a_rate_bounds_the_starts_per_second,
        concurrency_counts_dispatched_and_running_steps,
        a_more_urgent_run_goes_first_then_the_one_due_longer,
    ],
    claiming: [
        a_claim_needs_the_token_of_its_dispatch,
        of_two_claims_of_one_step_one_wins,
        a_step_asked_for_twice_in_one_batch_is_claimed_once,
        a_claim_is_given_what_the_step_before_put_out,
        a_claim_at_a_closed_gate_goes_back_uncounted,
        a_claim_at_a_held_gate_goes_back_uncounted,
        an_exclusive_claim_keeps_the_resource_busy_until_its_lease_would_have_ended,
        a_renewal_keeps_the_resource_busy_longer,
        a_call_without_an_answer_keeps_the_resource_busy_for_as_long_as_a_call_takes,
        a_rescue_keeps_the_resource_busy_no_longer_than_the_lease,
        a_renewal_keeps_nothing_busy_that_another_attempt_made_busy,
        a_final_answer_frees_the_resource,
        a_late_final_answer_does_not_free_what_another_attempt_keeps_busy,
        a_create_counts_as_claimed_only_after_an_exclusive_claim,
        an_unknown_version_waits_longer_each_time,
        a_renewal_extends_the_lease_and_reports_a_lost_one,
        only_a_running_step_is_renewed,
        a_renewal_without_the_token_extends_nothing,
    ],
    settling: [
        a_success_makes_the_next_step_due_with_its_output_and_facts,
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
        defers_never_count,
        a_failed_step_waits_out_its_delay,
    ],
    crashing: [
        crashes_count_and_end_the_run_at_the_limit,
        a_lost_lease_whose_worker_lives_is_no_crash,
        a_lease_that_was_renewed_is_not_rescued,
        a_lease_that_has_not_ended_is_not_expired,
        a_rescued_attempt_cannot_settle,
    ],
    doubting: [
        a_doubted_instance_gets_another_run_when_the_first_has_succeeded,
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
        a_dispatched_run_is_cancelled_at_once,
        a_running_step_ends_its_cancelled_run_at_its_settle,
        a_cancelled_run_whose_worker_crashed_ends_at_the_rescue,
        a_cancelled_run_leaves_no_step_waiting,
        a_dead_run_is_discarded,
        what_has_ended_cannot_be_cancelled,
    ],
    reviving: [
        a_revived_run_keeps_its_outputs_and_gets_a_fresh_budget,
        a_revived_run_waits_for_its_turn,
        only_a_dead_run_is_revived,
        a_revived_run_leaves_its_trace_and_is_linked_to_it,
    ],
    deadlines: [
        a_due_run_past_its_deadline_dies,
        a_step_in_hand_is_not_judged_by_the_deadline,
        a_revived_run_has_a_fresh_deadline,
        a_step_behind_a_closed_gate_does_not_exceed,
        time_that_a_gate_held_does_not_count,
        time_that_a_breaker_held_does_not_count,
        a_step_that_waits_for_its_turn_behind_a_limit_does_not_exceed,
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
        only_the_answer_to_the_run_let_through_closes_it,
        a_run_let_through_that_is_put_back_makes_room_for_the_next,
        a_backlog_is_let_go_slowly,
        what_the_host_asks_for_holds_it,
        a_step_that_waits_for_the_api_says_why,
        a_limited_host_has_one_seconds_worth_outstanding,
    ],
    intake: [
        a_pending_row_starts_a_run_and_follows_it,
        intake_takes_no_more_than_its_limit,
        a_pending_row_of_a_dead_run_revives_it,
        a_pending_row_makes_a_delayed_step_due_now,
        retries_set_to_none_reset_the_failures,
        a_pending_row_of_a_step_in_hand_only_gets_its_status_back,
        a_pending_row_of_an_ended_run_starts_another,
        a_row_whose_name_is_taken_fails_and_harms_no_neighbour,
    ],
    comparison: [
        an_inner_step_moves_as_the_state_machine_says,
        a_step_without_budget_moves_as_the_state_machine_says,
        the_last_step_moves_as_the_state_machine_says,
        an_only_step_moves_as_the_state_machine_says,
    ];

    interleaving: [
        of_two_claims_at_once_one_wins,
        of_two_claims_at_once_the_loser_puts_nothing_back,
        a_claim_that_is_overtaken_takes_nothing,
        a_claim_that_is_overtaken_puts_nothing_back,
        failures_reported_at_once_are_all_heard,
        of_a_revival_and_a_discard_at_once_one_is_done,
        a_row_in_its_users_hands_is_passed_over,
        a_queue_in_another_relays_hands_is_passed_over,
        a_step_in_other_hands_is_not_dispatched,
        a_step_that_is_being_claimed_is_not_lost,
        of_two_relays_that_see_a_loss_one_handles_it,
    ],
    outage: [
        an_outage_of_postgres_is_no_crash_of_its_clients,
    ],
}
