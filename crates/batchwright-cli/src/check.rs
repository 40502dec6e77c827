//! `check`: every row against the provider's rules, and what the input comes to. Nothing is sent.

use crate::{
    args::CheckArgs,
    environment,
    exit::Exit,
    providers::{self, Connection},
    run, signals,
    terminal::{clean, count, print, rows},
};
use anyhow::Context;
use batchwright::{
    core::{Lane, Money, PriceTable, Usage},
    pipeline::{JobSpec, LaneProvider, ModelLoad, Preflight, PreflightReport, VendorRules},
};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) async fn check(args: Box<CheckArgs>) -> anyhow::Result<Exit> {
    let spec = run::spec(&args.settings)?;
    let prices = run::prices(args.prices.as_deref())?;
    let known = providers::known(&spec.provider)?;
    let mut pairs = environment::pairs(args.env_file.as_deref())?;
    let rules = VendorRules::of(&spec.provider).filter(|_| run::is_own_server(known, &pairs));
    // No key is needed, and the real one cannot be used: what is built here leads nowhere.
    providers::point_at(None, &mut pairs);
    let connection = Connection {
        concurrency: 1,
        timeout: None,
    };
    let lane = known.build(&pairs, spec.lane, &connection)?;
    let others = run::others(&spec, &pairs, &connection);
    let chunk_rows = args.settings.chunk_rows;
    let checking = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let scratch = tempfile::tempdir().context("make a folder for the hashes of ids")?;
        let report = Preflight::new(&spec, &lane)
            .with_chunk_rows(chunk_rows)
            .with_rules(rules)
            .with_others(&others)
            .run(scratch.path())?;
        Ok((report, spec, lane))
    });
    let (report, spec, lane) = signals::or_leave(checking).await??;
    let exit = match (
        report.is_ok(),
        args.settings.skip_invalid && report.can_skip(),
    ) {
        (true, _) => Exit::Done,
        (false, true) => Exit::Partial,
        (false, false) => Exit::Usage,
    };
    let estimate = Estimate::of(&report, &spec, &lane, &prices);
    if args.json {
        print(to_json(&report, &spec, &lane, rules, &estimate, exit));
    } else {
        show(&report, &spec, &lane, rules, &estimate);
    }
    Ok(exit)
}

/// The problems as lines, at most `most`, and how many there are besides.
pub(crate) fn problem_lines(report: &PreflightReport, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = report
        .problems
        .iter()
        .take(most)
        .map(|problem| format!("  {}", report.shown(problem)))
        .collect();
    let more = report.problem_count - lines.len() as u64;
    if more > 0 {
        lines.push(format!("  and {} more", count(more)));
    }
    lines
}

/// What may go wrong, or be meant otherwise, without being wrong.
pub(crate) fn warnings(report: &PreflightReport) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some((row, line, tokens, context)) = report.first_long {
        warnings.push(format!(
            "{} may be longer than the model's context; the first is row {row}, line {line}, with about {} of {} tokens",
            rows(report.long_rows),
            count(tokens),
            count(context)
        ));
    }
    warnings.extend(report.unknown_parameters.iter().map(|(name, number)| {
        format!(
            "the parameter {name:?} is not in the provider's documentation and is passed through, in {}",
            rows(*number)
        )
    }));
    warnings
}

/// What the rows that can be sent are expected to cost. Whatever is not known is left out and named.
struct Estimate {
    /// What the input of the models with a price costs.
    input: Option<Money>,
    /// What all answers cost at most, where every request bounds them.
    output_at_most: Option<Money>,
    /// The days the prices used were read, oldest first.
    as_of: Vec<String>,
    /// Whether a price of a batch was made of that of a direct call and the provider's discount.
    by_discount: Option<u8>,
    /// What is not known, in words.
    unknown: Vec<String>,
}

impl Estimate {
    fn of(
        report: &PreflightReport,
        spec: &JobSpec,
        lane: &LaneProvider,
        prices: &PriceTable,
    ) -> Self {
        let mut estimate = Self {
            input: None,
            output_at_most: None,
            as_of: Vec::new(),
            by_discount: None,
            unknown: Vec::new(),
        };
        let discount = match lane {
            LaneProvider::Batch(provider) => {
                let limits = provider.capability().batch.as_ref();
                limits.and_then(|limits| limits.discount_percent)
            }
            LaneProvider::Realtime(_) => None,
        };
        let mut is_bounded = report.good_rows() > 0;
        for (model, load) in report.models.iter().filter(|(_, load)| load.rows > 0) {
            let Some(price) = prices.price(&spec.provider, model) else {
                is_bounded = false;
                estimate.unknown.push(if model.is_empty() {
                    "prices of further models".to_owned()
                } else {
                    format!("the price of {}:{model}", spec.provider)
                });
                continue;
            };
            let mut cost = |usage: Usage| match (price.cost(&usage, spec.lane), discount) {
                (None, Some(percent)) if price.batch.is_none() => {
                    estimate.by_discount = Some(percent);
                    let full = price.cost(&usage, Lane::Realtime)?.as_picodollars();
                    let part = full / 100 * u64::from(100 - percent.min(100));
                    Some(Money::from_picodollars(part))
                }
                (cost, _) => cost,
            };
            let input = cost(Usage::of(load.tokens, 0));
            let output = load
                .max_output_tokens
                .and_then(|most| cost(Usage::of(0, most)));
            match input {
                Some(input) => {
                    estimate.input = Some(estimate.input.unwrap_or(Money::ZERO) + input);
                    if !estimate.as_of.contains(&price.as_of) {
                        estimate.as_of.push(price.as_of.clone());
                    }
                }
                None => estimate.unknown.push(format!(
                    "what input of {}:{model} costs on this lane",
                    spec.provider
                )),
            }
            match output {
                Some(output) => {
                    let before = estimate.output_at_most.unwrap_or(Money::ZERO);
                    estimate.output_at_most = Some(before + output);
                }
                None => is_bounded = false,
            }
        }
        estimate.as_of.sort();
        if !is_bounded {
            estimate.output_at_most = None;
            if report.good_rows() > 0 {
                estimate
                    .unknown
                    .push("how long the answers are, and so what they cost".to_owned());
            }
        }
        if report.media_rows > 0 {
            estimate.unknown.push(format!(
                "the tokens of what {} hold besides text",
                rows(report.media_rows)
            ));
        }
        estimate
    }
}

fn show(
    report: &PreflightReport,
    spec: &JobSpec,
    lane: &LaneProvider,
    rules: Option<&VendorRules>,
    estimate: &Estimate,
) {
    print(format_args!("input      {}", clean(&report.input)));
    print(format_args!(
        "rows       {}{}",
        count(report.rows),
        match report.bad_rows {
            0 => String::new(),
            bad => format!(", {} of them cannot be sent", count(bad)),
        }
    ));
    if let Some(model) = &spec.model {
        print(format_args!(
            "model      {}:{}",
            spec.provider,
            clean(model)
        ));
    } else {
        print(format_args!(
            "models     {}, named by the rows",
            spec.provider
        ));
        for (model, load) in &report.models {
            let ModelLoad { rows: number, .. } = load;
            let model = if model.is_empty() { "others" } else { model };
            print(format_args!(
                "           {}: {}",
                clean(model),
                rows(*number)
            ));
        }
    }
    print(format_args!("lane       {}", spec.lane));
    if let Some(batches) = report.batches {
        print(format_args!(
            "batches    {}{}, {} bytes together{}",
            if report.repeated_ids > 0 {
                "at most "
            } else {
                ""
            },
            count(batches),
            count(report.batch_bytes),
            limits_of(lane)
        ));
    }
    print(format_args!(
        "tokens     about {} of input: a quarter of the bytes",
        count(report.tokens())
    ));
    let cost = match estimate.input {
        Some(cost) => {
            let by = match estimate.by_discount {
                Some(percent) => format!(", less the batch discount of {percent} %"),
                None => String::new(),
            };
            format!(
                "about {cost} of input, by prices of {}{by}",
                estimate.as_of.join(", ")
            )
        }
        None => "unknown".to_owned(),
    };
    print(format_args!("price      {cost}"));
    if let Some(most) = estimate.output_at_most {
        print(format_args!(
            "           and at most {most} of answers, which --max-output-tokens bounds"
        ));
    }
    for unknown in &estimate.unknown {
        print(format_args!("unknown    {}", clean(unknown)));
    }
    match rules {
        Some(rules) => print(format_args!("rules      {}", rules.source)),
        None => print(format_args!(
            "rules      only limits of batches: no rules of this server for schemas and parameters are known"
        )),
    }
    for warning in warnings(report) {
        print(format_args!("warning    {}", clean(&warning)));
    }
    if report.rows == 0 {
        print("warning    the input has no rows");
    }
    if report.is_ok() {
        print("ok: every row can be sent");
        return;
    }
    for fault in &report.settings {
        print(format_args!("not ok: {}", clean(fault)));
    }
    if report.problem_count == 0 {
        return;
    }
    print(format_args!(
        "not ok: {} problems in {}{}",
        count(report.problem_count),
        rows(report.bad_rows),
        if report.is_cut {
            ", and the rest of the input cannot be read"
        } else {
            ""
        }
    ));
    for line in problem_lines(report, usize::MAX) {
        print(clean(&line));
    }
}

fn limits_of(lane: &LaneProvider) -> String {
    let LaneProvider::Batch(provider) = lane else {
        return String::new();
    };
    let Some(limits) = &provider.capability().batch else {
        return String::new();
    };
    format!(
        "; one takes {} and {} bytes{}",
        rows(limits.max_requests),
        count(limits.max_bytes),
        if limits.one_model {
            " of one model"
        } else {
            ""
        }
    )
}

fn to_json(
    report: &PreflightReport,
    spec: &JobSpec,
    lane: &LaneProvider,
    rules: Option<&VendorRules>,
    estimate: &Estimate,
    exit: Exit,
) -> Value {
    let problems: Vec<Value> = report
        .problems
        .iter()
        .map(|problem| {
            json!({
                "row": problem.row,
                "line": problem.line,
                "code": problem.code,
                "message": problem.message,
            })
        })
        .collect();
    let models: serde_json::Map<String, Value> = report
        .models
        .iter()
        .map(|(model, load)| {
            let load = json!({
                "rows": load.rows,
                "estimated_input_tokens": load.tokens,
                "max_output_tokens": load.max_output_tokens,
            });
            (model.clone(), load)
        })
        .collect();
    let limits = match lane {
        LaneProvider::Batch(provider) => provider.capability().batch.as_ref(),
        LaneProvider::Realtime(_) => None,
    };
    let window = limits.and_then(|limits| limits.windows.first().copied());
    json!({
        "ok": report.is_ok(),
        "input": report.input,
        "provider": spec.provider,
        "model": spec.model,
        "lane": spec.lane.as_str(),
        "rows": report.rows,
        "bad_rows": report.bad_rows,
        "input_cut": report.is_cut,
        "settings": report.settings,
        "problems": problems,
        "problem_count": report.problem_count,
        "models": models,
        "estimated_input_tokens": report.tokens(),
        "batches": report.batches,
        "repeated_ids": report.repeated_ids,
        "batch_bytes": report.batches.map(|_| report.batch_bytes),
        "batch_max_rows": limits.map(|limits| limits.max_requests),
        "batch_max_bytes": limits.map(|limits| limits.max_bytes),
        "batch_window_seconds": window.as_ref().map(Duration::as_secs),
        "estimated_input_cost": estimate.input.map(Money::as_dollars),
        "output_cost_at_most": estimate.output_at_most.map(Money::as_dollars),
        "prices_as_of": estimate.as_of,
        "by_batch_discount_percent": estimate.by_discount,
        "unknown": estimate.unknown,
        "unknown_parameters": report.unknown_parameters,
        "rows_longer_than_context": report.long_rows,
        "rules": rules.map(|rules| rules.source),
        "exit_code": exit.code(),
    })
}
