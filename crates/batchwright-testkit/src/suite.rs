//! Every case, and what it needs.

use crate::{
    Subject, create, endings, files, harness, life, lines, realtime, secrets, subject::Routes,
};
use batchwright_core::{BatchInput, BatchLimits, Capability};
use futures::future::BoxFuture;
use std::{fmt, process::ExitCode};

/// One behaviour.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// Its module and function: `life::every_row_gets_its_own`.
    pub name: &'static str,
    lacks: fn(&Facts) -> Option<&'static str>,
    run: for<'s> fn(&'s Subject) -> BoxFuture<'s, ()>,
}

impl Case {
    /// Proves it of `subject`.
    ///
    /// # Panics
    /// Where the provider behaves otherwise.
    ///
    /// # Cancel safety
    /// Dropping the future stops its emulator.
    pub async fn run(&self, subject: &Subject) {
        (self.run)(subject).await;
    }

    /// Why it does not apply to `subject`; `None` where it does.
    pub fn ignored(&self, subject: &Subject) -> Option<&'static str> {
        subject
            .left_out(self.name)
            .or_else(|| (self.lacks)(&Facts::of(subject)))
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

/// What decides whether a case applies.
struct Facts {
    capability: Capability,
    has_batch: bool,
    has_realtime: bool,
    routes: Routes,
}

impl Facts {
    fn of(subject: &Subject) -> Self {
        let made = subject.offline();
        Self {
            capability: made.capability(),
            has_batch: made.batch.is_some(),
            has_realtime: made.realtime.is_some(),
            routes: subject.routes,
        }
    }

    fn batch(&self) -> Result<&BatchLimits, &'static str> {
        let limits = self.capability.batch.as_ref();
        match limits {
            Some(limits) if self.has_batch => Ok(limits),
            _ => Err("the provider has no batches"),
        }
    }
}

/// The reasons cases are ignored for, each a function over the facts.
mod needs {
    use super::{BatchInput, Facts};

    type Lacks = Option<&'static str>;

    fn unless(holds: bool, reason: &'static str) -> Lacks {
        (!holds).then_some(reason)
    }

    pub(super) fn nothing(_: &Facts) -> Lacks {
        None
    }

    pub(super) fn batch(facts: &Facts) -> Lacks {
        facts.batch().err()
    }

    pub(super) fn create(facts: &Facts) -> Lacks {
        batch(facts).or_else(|| {
            unless(
                facts.routes.create.is_some(),
                "its create route is not named",
            )
        })
    }

    pub(super) fn status(facts: &Facts) -> Lacks {
        batch(facts).or_else(|| {
            unless(
                facts.routes.status.is_some(),
                "its status route is not named",
            )
        })
    }

    pub(super) fn results(facts: &Facts) -> Lacks {
        batch(facts).or_else(|| {
            unless(
                facts.routes.results.is_some(),
                "its results route is not named",
            )
        })
    }

    pub(super) fn list(facts: &Facts) -> Lacks {
        match facts.batch() {
            Err(reason) => Some(reason),
            Ok(limits) => unless(
                !limits.list_match.is_empty(),
                "its list cannot tell whose a batch is",
            ),
        }
    }

    pub(super) fn list_and_create(facts: &Facts) -> Lacks {
        list(facts).or_else(|| create(facts))
    }

    pub(super) fn cancel(facts: &Facts) -> Lacks {
        match facts.batch() {
            Err(reason) => Some(reason),
            Ok(limits) => unless(limits.cancel, "a batch cannot be cancelled"),
        }
    }

    pub(super) fn upload(facts: &Facts) -> Lacks {
        match facts.batch() {
            Err(reason) => Some(reason),
            Ok(limits) => unless(
                limits.input == BatchInput::Uploaded,
                "the create carries the lines",
            )
            .or_else(|| {
                unless(
                    facts.routes.upload.is_some(),
                    "its upload route is not named",
                )
            }),
        }
    }

    pub(super) fn realtime(facts: &Facts) -> Lacks {
        let has = facts.has_realtime && !facts.capability.realtime_endpoints.is_empty();
        unless(has, "the provider has no direct calls")
    }

    pub(super) fn complete(facts: &Facts) -> Lacks {
        realtime(facts).or_else(|| {
            unless(
                facts.routes.complete.is_some(),
                "its direct route is not named",
            )
        })
    }

    pub(super) fn json_schema(facts: &Facts) -> Lacks {
        realtime(facts).or_else(|| unless(facts.capability.json_schema, "it takes no schema"))
    }
}

macro_rules! cases {
    ($($module:ident::$name:ident needs $needs:ident;)*) => {
        /// Every case, in the order they are told.
        pub fn cases() -> Vec<Case> {
            vec![$(Case {
                name: concat!(stringify!($module), "::", stringify!($name)),
                lacks: needs::$needs,
                run: |subject| Box::pin($module::$name(subject)),
            },)*]
        }
    };
}

cases! {
    lines::what_it_can_do_is_said_as_data needs nothing;
    lines::another_attempt_is_a_copy_with_the_prefix_exchanged needs batch;
    lines::f_176_our_ids_are_allowed needs batch;
    lines::what_has_no_form_leaves_the_buffer needs batch;
    lines::f_104_lines_that_are_none_name_nobody needs batch;
    life::every_row_gets_its_own needs batch;
    life::f_063_a_refusal_is_an_answer needs batch;
    life::one_row_is_a_batch needs batch;
    life::thousands_of_rows_from_disk needs batch;
    life::f_066_usage_is_what_is_billed needs batch;
    life::the_list_shows_what_a_batch_is_known_by needs list;
    life::f_089_a_poll_outlives_bad_answers needs status;
    life::f_087_a_batch_that_is_not_there_is_not_found needs batch;
    life::f_106_a_download_goes_on_or_says_that_it_cannot needs results;
    life::f_079_a_cancel_of_what_has_ended_is_a_conflict needs cancel;
    life::f_172_the_callers_id_stays_at_home needs batch;
    endings::f_080_all_rows_bad_is_an_end_like_any_other needs batch;
    endings::f_078_a_cancelled_batch_keeps_what_ran needs cancel;
    endings::f_076_an_expired_batch_keeps_what_ran needs create;
    endings::f_095_f_108_order_and_line_ends_change_nothing needs create;
    endings::f_097_a_missing_line_costs_one_row needs create;
    endings::f_098_an_unknown_id_takes_nobodys_place needs create;
    endings::f_099_a_double_line_says_the_same_twice needs create;
    endings::f_104_an_odd_line_harms_its_own_row needs create;
    create::f_110_f_112_a_lost_create_is_unknown_and_found needs list_and_create;
    create::a_refused_create_bought_nothing needs create;
    create::f_031_no_connection_is_not_sent needs batch;
    create::f_116_the_list_is_read_page_by_page needs list;
    files::f_119_an_upload_is_found_again_and_discarded needs upload;
    files::f_113_a_create_without_its_input_buys_nothing needs upload;
    files::an_upload_that_breaks_off_is_found needs upload;
    files::f_118_an_upload_stored_short_is_an_error needs upload;
    realtime::an_answer_to_the_prompt needs realtime;
    realtime::f_062_f_063_a_refusal_is_told needs realtime;
    realtime::f_062_a_filtered_answer_is_told needs realtime;
    realtime::f_061_a_cut_answer_is_told needs realtime;
    realtime::a_schema_is_obeyed needs json_schema;
    realtime::failures_keep_their_class needs complete;
    realtime::f_008_an_unknown_model_stops needs realtime;
    realtime::f_034_f_035_a_dropped_call_is_ambiguous_and_sent_once needs complete;
    realtime::f_001_f_013_a_full_minute_says_how_long_to_wait needs realtime;
    realtime::rate_limits_are_read_from_answers needs realtime;
    secrets::f_192_f_203_the_key_shows_in_no_error needs nothing;
}

/// Runs every case over every subject as a test program does: the `main` of a target with `harness = false`.
///
/// Takes the arguments of `cargo test` and of `cargo nextest`. A name in [`Subject::without`] that is no case is a
/// failure, so that none is left out by a typing error.
#[must_use = "it is the program's exit code"]
pub fn run(subjects: Vec<Subject>) -> ExitCode {
    let cases = cases();
    let mut tests = Vec::new();
    for subject in subjects {
        if let Some(unknown) = subject
            .left_out_names()
            .find(|name| cases.iter().all(|case| case.name != *name))
        {
            panic!("{}: no case is called {unknown}", subject.name);
        }
        for case in &cases {
            let (case, subject) = (*case, subject.clone());
            tests.push(harness::Test {
                name: format!("{}::{}", subject.name, case.name),
                ignored: case.ignored(&subject),
                run: Box::new(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime can be built");
                    runtime.block_on(case.run(&subject));
                }),
            });
        }
    }
    harness::main(tests, std::env::args().skip(1))
}

#[cfg(test)]
mod tests;
