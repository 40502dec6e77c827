//! Every case, and what it needs.

use crate::{
    Powers, Subject, create, endings, files, harness, life, lines,
    live::{CAP_VAR, Spend},
    realtime, secrets,
    subject::{Routes, Stage},
};
use batchwright_core::{BatchInput, BatchLimits, Capability, Money};
use futures::future::BoxFuture;
use std::{borrow::Cow, fmt, process::ExitCode};

/// One behaviour.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// Its module and function: `life::every_row_gets_its_own`.
    pub name: &'static str,
    lacks: fn(&Facts) -> Option<&'static str>,
    needs: &'static [Need],
    live: Option<Spend>,
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
    ///
    /// Over a live account that depends on what the cases before it may cost.
    pub fn ignored(&self, subject: &Subject) -> Option<Cow<'static, str>> {
        let facts = Facts::of(subject);
        let mut spent = Money::ZERO;
        for case in cases().iter().take_while(|case| case.name != self.name) {
            case.ignored_after(subject, &facts, &mut spent);
        }
        self.ignored_after(subject, &facts, &mut spent)
    }

    /// As [`ignored`](Self::ignored), after cases that may have cost `spent`; adds what this one may cost.
    fn ignored_after(
        &self,
        subject: &Subject,
        facts: &Facts,
        spent: &mut Money,
    ) -> Option<Cow<'static, str>> {
        let lacks = subject
            .left_out(self.name)
            .or_else(|| (self.lacks)(facts))
            .map(Cow::Borrowed);
        let Stage::Live(live) = &subject.stage else {
            return lacks.or_else(|| {
                let missing = self.needs.iter().find(|need| !facts.has(**need))?;
                Some(missing.reason().into())
            });
        };
        let Some(spend) = self.live else {
            return Some("not for a live account".into());
        };
        let cap = match live.cap() {
            Ok(cap) => cap,
            Err(reason) => return Some(reason),
        };
        if lacks.is_some() {
            return lacks;
        }
        match live.bound(spend, &facts.provider, subject.model) {
            Err(reason) => Some(reason),
            Ok(bound) if *spent + bound > cap => Some(
                format!("with up to {bound} it would go over {CAP_VAR}, after up to {spent}")
                    .into(),
            ),
            Ok(bound) => {
                *spent = *spent + bound;
                None
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn spend(&self) -> Option<Spend> {
        self.live
    }

    /// Whether it is told of at all: of a live account only what could run there is.
    fn is_for(&self, subject: &Subject) -> bool {
        self.live.is_some() || !matches!(subject.stage, Stage::Live(_))
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
    provider: String,
    /// `None` is the emulator, which can do everything.
    powers: Option<Powers>,
}

impl Facts {
    fn of(subject: &Subject) -> Self {
        let made = subject.offline();
        Self {
            provider: made.name(),
            powers: match subject.stage {
                Stage::Double(powers, _) => Some(powers),
                _ => None,
            },
            capability: made.capability(),
            has_batch: made.batch.is_some(),
            has_realtime: made.realtime.is_some(),
            routes: subject.routes,
        }
    }

    fn has(&self, need: Need) -> bool {
        self.powers.is_none_or(|powers| match need {
            Need::Emulator => false,
            Need::Clock => powers.clock,
            Need::Invoice => powers.invoice,
            Need::Marks => powers.marks,
            Need::Directives => powers.directives,
        })
    }

    fn batch(&self) -> Result<&BatchLimits, &'static str> {
        let limits = self.capability.batch.as_ref();
        match limits {
            Some(limits) if self.has_batch => Ok(limits),
            _ => Err("the provider has no batches"),
        }
    }
}

/// What a case needs of the server besides the protocol and faults on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Settings or faults inside the server that the emulator alone has.
    Emulator,
    Clock,
    Invoice,
    Marks,
    Directives,
}

impl Need {
    fn reason(self) -> &'static str {
        match self {
            Self::Emulator => "only the emulator can do this",
            Self::Clock => "its server's clock cannot be moved",
            Self::Invoice => "its server shows no invoice",
            Self::Marks => "its server's answers do not tell the prompt",
            Self::Directives => "its server obeys no directives",
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

    /// Where results can be made to go wrong: see `World::mutate`.
    pub(super) fn odd_results(facts: &Facts) -> Lacks {
        match facts.powers {
            Some(_) => results(facts),
            None => create(facts),
        }
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

    pub(super) fn stored(facts: &Facts) -> Lacks {
        match facts.batch() {
            Err(reason) => Some(reason),
            Ok(limits) => unless(
                limits.input == BatchInput::Uploaded,
                "the create carries the lines",
            ),
        }
    }

    pub(super) fn upload(facts: &Facts) -> Lacks {
        stored(facts).or_else(|| {
            unless(
                facts.routes.upload.is_some(),
                "its upload route is not named",
            )
        })
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
    ($($module:ident::$name:ident needs $needs:ident, [$($need:ident)*], $live:expr;)*) => {
        /// Every case, in the order they are told.
        pub fn cases() -> Vec<Case> {
            vec![$(Case {
                name: concat!(stringify!($module), "::", stringify!($name)),
                lacks: needs::$needs,
                needs: &[$(Need::$need),*],
                live: $live,
                run: |subject| Box::pin($module::$name(subject)),
            },)*]
        }
    };
}

cases! {
    lines::what_it_can_do_is_said_as_data needs nothing, [], Spend::NO;
    lines::another_attempt_is_a_copy_with_the_prefix_exchanged needs batch, [], Spend::NO;
    lines::f_176_our_ids_are_allowed needs batch, [], Spend::NO;
    lines::what_has_no_form_leaves_the_buffer needs batch, [], Spend::NO;
    lines::f_104_lines_that_are_none_name_nobody needs batch, [], Spend::NO;
    life::every_row_gets_its_own needs batch, [Clock Marks Directives], Spend::NO;
    life::f_063_a_refusal_is_an_answer needs batch, [Clock Directives], Spend::NO;
    life::one_row_is_a_batch needs batch, [Clock Marks], Spend::NO;
    life::thousands_of_rows_from_disk needs batch, [Clock Marks], Spend::NO;
    life::f_066_usage_is_what_is_billed needs batch, [Clock Invoice Directives], Spend::NO;
    life::the_list_shows_what_a_batch_is_known_by needs list, [], Spend::rows(2);
    life::f_089_a_poll_outlives_bad_answers needs status, [], Spend::NO;
    life::f_087_a_batch_that_is_not_there_is_not_found needs batch, [], Spend::rows(1);
    life::f_106_a_download_goes_on_or_says_that_it_cannot needs results, [Clock], Spend::NO;
    life::f_079_a_cancel_of_what_has_ended_is_a_conflict needs cancel, [Clock], Spend::NO;
    life::f_172_the_callers_id_stays_at_home needs batch, [], Spend::NO;
    endings::f_080_all_rows_bad_is_an_end_like_any_other needs batch, [Clock Directives], Spend::NO;
    endings::f_078_a_cancelled_batch_keeps_what_ran needs cancel, [Emulator], Spend::NO;
    endings::f_078_a_batch_cancelled_at_once_ends_as_cancelled needs cancel, [Clock], Spend::NO;
    endings::f_076_an_expired_batch_keeps_what_ran needs create, [Emulator], Spend::NO;
    endings::f_095_f_108_order_and_line_ends_change_nothing needs odd_results, [Clock Marks], Spend::NO;
    endings::f_097_a_missing_line_costs_one_row needs odd_results, [Clock Marks], Spend::NO;
    endings::f_098_an_unknown_id_takes_nobodys_place needs odd_results, [Clock Marks], Spend::NO;
    endings::f_099_a_double_line_says_the_same_twice needs odd_results, [Clock Marks], Spend::NO;
    endings::f_104_a_hollow_line_harms_its_own_row needs create, [Emulator], Spend::NO;
    endings::f_104_a_broken_line_harms_its_own_row needs odd_results, [Clock Marks], Spend::NO;
    create::f_110_f_112_a_lost_create_is_unknown_and_found needs list_and_create, [Clock], Spend::NO;
    create::f_110_f_116_a_lost_create_is_found_in_a_list_oldest_first needs list_and_create, [Emulator], Spend::NO;
    create::a_refused_create_bought_nothing needs create, [], Spend::NO;
    create::f_031_no_connection_is_not_sent needs batch, [], Spend::NO;
    create::f_116_the_list_is_read_page_by_page needs list, [], Spend::NO;
    files::f_119_an_upload_is_found_again_and_discarded needs stored, [], Spend::FREE;
    files::f_113_a_create_without_its_input_buys_nothing needs stored, [Clock Invoice], Spend::NO;
    files::an_upload_that_breaks_off_is_found needs upload, [], Spend::NO;
    files::f_118_an_upload_stored_short_is_an_error needs upload, [Emulator], Spend::NO;
    realtime::an_answer_to_the_prompt needs realtime, [Marks], Spend::calls(1);
    realtime::f_066_usage_is_what_is_billed needs realtime, [Invoice], Spend::NO;
    realtime::f_062_f_063_a_refusal_is_told needs realtime, [Directives], Spend::NO;
    realtime::f_062_a_filtered_answer_is_told needs realtime, [Directives], Spend::NO;
    realtime::f_061_a_cut_answer_is_told needs realtime, [Directives], Spend::NO;
    realtime::a_schema_is_obeyed needs json_schema, [], Spend::calls(1);
    realtime::failures_keep_their_class needs complete, [Directives], Spend::NO;
    realtime::f_008_an_unknown_model_stops needs realtime, [], Spend::calls(1);
    realtime::f_034_f_035_a_dropped_call_is_ambiguous_and_sent_once needs complete, [], Spend::NO;
    realtime::f_001_f_013_a_full_minute_says_how_long_to_wait needs realtime, [Emulator], Spend::NO;
    realtime::rate_limits_are_read_from_answers needs realtime, [Emulator], Spend::NO;
    secrets::f_192_f_203_the_key_shows_in_no_error needs nothing, [], Spend::NO;
}

/// Runs every case over every subject as a test program does: the `main` of a target with `harness = false`.
///
/// Takes the arguments of `cargo test` and of `cargo nextest`. A name in [`Subject::without`] that is no case is a
/// failure, so that none is left out by a typing error.
#[must_use = "it is the program's exit code"]
pub fn run(subjects: Vec<Subject>) -> ExitCode {
    let cases = cases();
    let mut tests = Vec::new();
    // Of all live subjects together.
    let mut spent = Money::ZERO;
    for subject in subjects {
        if let Some(unknown) = subject
            .left_out_names()
            .find(|name| cases.iter().all(|case| case.name != *name))
        {
            panic!("{}: no case is called {unknown}", subject.name);
        }
        let facts = Facts::of(&subject);
        for case in cases.iter().filter(|case| case.is_for(&subject)) {
            let (case, subject) = (*case, subject.clone());
            tests.push(harness::Test {
                name: format!("{}::{}", subject.name, case.name),
                ignored: case.ignored_after(&subject, &facts, &mut spent),
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
