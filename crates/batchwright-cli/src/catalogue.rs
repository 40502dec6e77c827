//! `providers` and `models`: what is known, and where it was read.

use crate::{
    args::{ModelsArgs, ProvidersArgs},
    exit::Exit,
    providers::{self, Connection, Known, Pairs},
    run,
    terminal::{clean, count, print},
};
use batchwright::{
    core::{Capability, Lane, Rates},
    pipeline::{LaneProvider, VendorRules},
};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) fn providers(args: &ProvidersArgs) -> anyhow::Result<Exit> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "provider",
        "lanes",
        "batch rows",
        "bytes",
        "window",
        "discount",
        "kept",
        "models",
        "schema",
        "tools",
        "key",
    ]);
    let mut notes = Vec::new();
    for entry in providers::all().iter().map(Entry::of) {
        if args.json {
            print(entry.to_json());
            continue;
        }
        table.add_row(entry.cells());
        notes.extend(entry.notes());
    }
    if !args.json {
        print(table);
        for note in notes {
            print(clean(&note));
        }
    }
    Ok(Exit::Done)
}

pub(crate) fn models(args: &ModelsArgs) -> anyhow::Result<Exit> {
    if let Some(name) = &args.provider {
        providers::known(name)?;
    }
    let prices = run::prices(args.prices.as_deref())?;
    let wanted = |name: &str| {
        let Some(provider) = &args.provider else {
            return true;
        };
        name.split_once(':').is_some_and(|(of, _)| of == provider)
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "model",
        "input",
        "cached",
        "output",
        "batch input",
        "batch cached",
        "batch output",
        "as of",
    ]);
    let mut sources: Vec<&str> = Vec::new();
    let mut known = 0;
    for (name, price) in prices.iter().filter(|(name, _)| wanted(name)) {
        known += 1;
        if args.json {
            let (provider, model) = name.split_once(':').unwrap_or((name, ""));
            print(json!({
                "provider": provider,
                "model": model,
                "usd_per_million_tokens": {"realtime": rates_json(&price.realtime), "batch": price.batch.as_ref().map(rates_json)},
                "as_of": price.as_of,
                "source": price.source,
            }));
            continue;
        }
        let batch = price.batch.unwrap_or_default();
        let mut cells = vec![clean(name)];
        for rates in [&price.realtime, &batch] {
            cells.extend([rates.input, rates.cache_read, rates.output].map(dollars));
        }
        cells.push(clean(&price.as_of));
        table.add_row(cells);
        if !sources.contains(&price.source.as_str()) {
            sources.push(&price.source);
        }
    }
    if args.json {
        return Ok(Exit::Done);
    }
    if known == 0 {
        print("no prices are known; any model can be used, and its cost is shown as unknown");
        return Ok(Exit::Done);
    }
    print(table);
    print(
        "USD for a million tokens; - is unknown. Any other model can be used too, its cost is then unknown.",
    );
    for source in sources {
        print(format_args!("source: {}", clean(source)));
    }
    Ok(Exit::Done)
}

fn dollars(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string())
}

fn rates_json(rates: &Rates) -> Value {
    json!({
        "input": rates.input,
        "output": rates.output,
        "cache_read": rates.cache_read,
        "cache_write": rates.cache_write,
        "reasoning": rates.reasoning,
    })
}

/// A provider, and what each lane of it says of itself.
struct Entry {
    known: &'static Known,
    realtime: Option<Capability>,
    batch: Option<Capability>,
}

impl Entry {
    /// Nothing is sent and no key is needed: what is built here leads nowhere.
    fn of(known: &'static Known) -> Self {
        let mut pairs = Pairs::new();
        providers::point_at(None, &mut pairs);
        let connection = Connection {
            concurrency: 1,
            timeout: None,
        };
        let capability = |lane| match known.build(&pairs, lane, &connection) {
            Ok(LaneProvider::Realtime(provider)) => Some(provider.capability().clone()),
            Ok(LaneProvider::Batch(provider)) => Some(provider.capability().clone()),
            // A lane it does not have.
            Err(_) => None,
        };
        Self {
            known,
            realtime: capability(Lane::Realtime)
                .filter(|found| !found.realtime_endpoints.is_empty()),
            batch: capability(Lane::Batch).filter(|found| found.batch.is_some()),
        }
    }

    fn lanes(&self) -> Vec<&'static str> {
        let lanes = [(Lane::Realtime, &self.realtime), (Lane::Batch, &self.batch)];
        let lanes = lanes.into_iter().filter(|(_, found)| found.is_some());
        lanes.map(|(lane, _)| lane.as_str()).collect()
    }

    fn any(&self) -> Option<&Capability> {
        self.realtime.as_ref().or(self.batch.as_ref())
    }

    fn cells(&self) -> Vec<String> {
        let batch = self.batch.as_ref().and_then(|found| found.batch.as_ref());
        let of_batch = |show: &dyn Fn(&batchwright::core::BatchLimits) -> String| {
            batch.map_or_else(|| "-".to_owned(), show)
        };
        let yes = |is: Option<bool>| match is {
            Some(true) => "yes".to_owned(),
            Some(false) => "no".to_owned(),
            None => "-".to_owned(),
        };
        vec![
            self.known.name.to_owned(),
            self.lanes().join(", "),
            of_batch(&|limits| count(limits.max_requests)),
            of_batch(&|limits| count(limits.max_bytes)),
            of_batch(&|limits| {
                let windows: Vec<String> = limits.windows.iter().map(hours).collect();
                windows.join(", ")
            }),
            of_batch(&|limits| match limits.discount_percent {
                Some(percent) => format!("{percent} %"),
                None => "-".to_owned(),
            }),
            of_batch(&|limits| hours(&limits.retention)),
            of_batch(&|limits| if limits.one_model { "one" } else { "any" }.to_owned()),
            yes(self.any().map(|found| found.json_schema)),
            yes(self.any().map(|found| found.tools)),
            self.known.key_place(),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let name = self.known.name;
        let mut notes = vec![format!(
            "\n{name}: key in {}, another base URL in {}",
            self.known.key_place(),
            self.known.base_url_variable()
        )];
        if let Some(found) = &self.realtime {
            notes.push(format!(
                "  direct calls: {}",
                found.realtime_endpoints.join(", ")
            ));
        }
        if let Some(limits) = self.batch.as_ref().and_then(|found| found.batch.as_ref()) {
            notes.push(format!("  batches:      {}", limits.endpoints.join(", ")));
            if !limits.unsupported.is_empty() {
                notes.push(format!("  not in those: {}", limits.unsupported.join(", ")));
            }
        }
        if let Some(found) = self.any().filter(|found| !found.source.is_empty()) {
            notes.push(format!("  source:       {}", found.source));
        }
        if let Some(rules) = VendorRules::of(name) {
            notes.push(format!("  rules:        {}", rules.source));
        }
        notes
    }

    fn to_json(&self) -> Value {
        let batch = self.batch.as_ref().and_then(|found| found.batch.as_ref());
        let batch = batch.map(|limits| {
            let windows: Vec<u64> = limits.windows.iter().map(Duration::as_secs).collect();
            json!({
                "endpoints": limits.endpoints,
                "max_rows": limits.max_requests,
                "max_bytes": limits.max_bytes,
                "one_model": limits.one_model,
                "unsupported_parameters": limits.unsupported,
                "window_seconds": windows,
                "discount_percent": limits.discount_percent,
                "retention_seconds": limits.retention.as_secs(),
                "cancel": limits.cancel,
            })
        });
        let any = self.any();
        json!({
            "provider": self.known.name,
            "lanes": self.lanes(),
            "realtime_endpoints": self.realtime.as_ref().map(|found| &found.realtime_endpoints),
            "batch": batch,
            "json_schema": any.map(|found| found.json_schema),
            "tools": any.map(|found| found.tools),
            "key_variables": self.known.key_variables(),
            "base_url_variable": self.known.base_url_variable(),
            "source": any.map(|found| found.source),
            "rules_source": VendorRules::of(self.known.name).map(|rules| rules.source),
        })
    }
}

/// A time in hours, and in days from two of them.
fn hours(time: &Duration) -> String {
    match time.as_secs() / 3600 {
        hours if hours > 48 && hours.is_multiple_of(24) => format!("{} d", hours / 24),
        hours => format!("{hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_has_a_lane_and_says_where_its_facts_were_read() {
        for entry in providers::all().iter().map(Entry::of) {
            assert!(!entry.lanes().is_empty(), "{}", entry.known.name);
            let source = entry.any().unwrap().source;
            assert!(
                source.starts_with("https://"),
                "{}: {source}",
                entry.known.name
            );
        }
    }

    #[test]
    fn times_read_well() {
        let shown = |hours: u64| super::hours(&Duration::from_secs(hours * 3600));
        assert_eq!(
            [shown(24), shown(48), shown(72), shown(720)],
            ["24 h", "48 h", "3 d", "30 d"]
        );
    }
}
